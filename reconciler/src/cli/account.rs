//! `account create|list|show`.

use clap::Subcommand;
use serde::Serialize;

use super::Session;
use super::output::{say, table_of};
use crate::catalog::change::{self, NewAccount};
use crate::catalog::{Account, Assignment, Subscription};
use crate::{clock, store};

const FIELDS: [&str; 6] = [
    "id",
    "name",
    "currency",
    "time_zone",
    "anchor_day",
    "created_at",
];

/// Who is billed.
#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Make an account.
    Create {
        /// Slug: a-z, 0-9 and -.
        id: String,
        /// Name on documents.
        #[arg(long)]
        name: String,
        /// ISO 4217 code, such as EUR.
        #[arg(long, value_name = "CODE")]
        currency: String,
        /// IANA name of the zone whose calendar bounds billing periods, such as Europe/Berlin.
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        time_zone: String,
        /// Day of the month on which periods begin, 1 to 31.
        #[arg(long, value_name = "DAY", default_value_t = 1)]
        anchor_day: u8,
    },
    /// Every account.
    List,
    /// One account with its subscriptions and assignments.
    Show {
        /// Its id.
        id: String,
    },
}

/// An account and what was agreed for it.
#[derive(Debug, Serialize)]
struct AccountDetail {
    #[serde(flatten)]
    account: Account,
    subscriptions: Vec<Subscription>,
    assignments: Vec<Assignment>,
}

impl AccountCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Create {
                id,
                name,
                currency,
                time_zone,
                anchor_day,
            } => {
                let new = NewAccount {
                    id: &id,
                    name: &name,
                    currency: &currency,
                    time_zone: &time_zone,
                    anchor_day,
                };
                let (store, actor) = (&session.store, &session.actor);
                let made = change::create_account(store, &new, actor, clock::now()).await?;
                session.output.one(&made, &FIELDS)
            }
            Self::List => {
                let accounts = store::catalog::accounts(&mut *session.store.read().await?).await?;
                session.output.list(&accounts, &FIELDS)
            }
            Self::Show { id } => show(session, &id).await,
        }
    }
}

async fn show(session: &Session, id: &str) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let account = change::known_account(&mut tx, id).await?;
    let rules = store::catalog::assignments(&mut tx).await?;
    let mine = rules.iter().filter(|rule| rule.account == account.id);
    let detail = AccountDetail {
        subscriptions: store::catalog::subscriptions(&mut tx, Some(&account.id)).await?,
        assignments: mine.cloned().collect(),
        account,
    };
    session.output.one(&detail, &FIELDS)?;
    if session.output.json {
        return Ok(());
    }
    let held = table_of(&detail.subscriptions, &["plan", "plan_version", "from"])?;
    let rules = table_of(&detail.assignments, &["id", "node", "workload", "from"])?;
    say(&format!("\nSubscriptions\n{held}\nAssignments\n{rules}"))
}
