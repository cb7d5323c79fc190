//! `correction draft|issue|show|list|policy`.

use clap::Subcommand;
use tallystick_common::period::Month;

use super::Session;
use super::invoice::statement;
use super::output::say;
use crate::api::corrections::{
    CorrectionDraft, CorrectionSummary, IssuedCorrection, PolicyDocument,
};
use crate::billing::correction::issue::{Corrected, CorrectionOrder, IssueAs, issue_correction};
use crate::billing::correction::propose;
use crate::billing::document::InvoiceDocument;
use crate::billing::draft::Which;
use crate::catalog::CatalogError;
use crate::catalog::account::CorrectionPolicy;
use crate::catalog::change::{known_account, set_correction_policy};
use crate::console::view::correction::{kind_told, told};
use crate::{clock, store};

const COLUMNS: [&str; 7] = [
    "number",
    "kind",
    "account",
    "invoice",
    "total",
    "issued_at",
    "carried_by",
];

/// What is known of issued periods otherwise than was said: late usage, decisions, changed assignments.
#[derive(Debug, Subcommand)]
pub(super) enum CorrectionCommand {
    /// What correcting an issued period would say now, and why.
    Draft {
        /// The account's id.
        account: String,
        /// The month in which the period begins, such as 2026-11.
        #[arg(long, value_name = "MONTH")]
        period: Month,
    },
    /// Issue it. Asking again, when nothing else has become known, changes nothing.
    Issue {
        /// The account's id.
        account: String,
        /// The month in which the period begins, such as 2026-11.
        #[arg(long, value_name = "MONTH")]
        period: Month,
        /// As what; by the account's policy if not given. What is less is a credit note always.
        #[arg(long = "as", value_enum)]
        issue_as: Option<IssueAs>,
    },
    /// An issued correction, as it was issued.
    Show {
        /// Such as CN-2026-000001.
        number: String,
    },
    /// Issued corrections.
    List {
        /// Only of this account.
        #[arg(long)]
        account: Option<String>,
    },
    /// What becomes of corrections by which an account owes more; without a policy, which holds.
    Policy {
        /// The account's id.
        account: String,
        /// From now on.
        #[arg(value_enum)]
        policy: Option<CorrectionPolicy>,
    },
}

impl CorrectionCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Draft { account, period } => draft(session, &account, period).await,
            Self::Issue {
                account,
                period,
                issue_as,
            } => issue(session, &account, period, issue_as).await,
            Self::Show { number } => show(session, &number).await,
            Self::List { account } => list(session, account.as_deref()).await,
            Self::Policy { account, policy } => set_policy(session, &account, policy).await,
        }
    }
}

async fn draft(session: &Session, account: &str, period: Month) -> anyhow::Result<()> {
    let now = clock::now();
    let mut tx = session.store.read().await?;
    let proposal = propose(&mut tx, account, Which::Month(period), now).await?;
    if session.output.json {
        return session.output.value(&CorrectionDraft::new(proposal, now));
    }
    say(&format!(
        "Draft as of {now}\n{}",
        told(&proposal.correction)
    ))
}

async fn issue(
    session: &Session,
    account: &str,
    period: Month,
    issue_as: Option<IssueAs>,
) -> anyhow::Result<()> {
    let order = CorrectionOrder {
        account,
        which: Which::Month(period),
        issue_as,
        actor: &session.actor,
    };
    let corrected = issue_correction(&session.store, &order, clock::now()).await?;
    if session.output.json {
        return session.output.value(&IssuedCorrection::from(corrected));
    }
    say(&match corrected {
        Corrected::Now(row) => format!(
            "issued as {} {}: {}\n",
            kind_told(row.kind),
            row.issued.number,
            row.issued.total
        ),
        Corrected::Before(row) => format!(
            "nothing differs from {} {}: {}\n",
            kind_told(row.kind),
            row.issued.number,
            row.issued.total
        ),
        Corrected::Nothing => "nothing differs from the invoice\n".to_owned(),
    })
}

async fn show(session: &Session, number: &str) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let row = store::corrections::numbered(&mut tx, number).await?;
    let row = row.ok_or_else(|| CatalogError::Unknown {
        what: "correction",
        name: number.to_owned(),
        hint: "see `correction list`",
    })?;
    let issued = row.issued;
    if session.output.json {
        // The very bytes that the digest is of, and a line's end.
        return say(&format!("{}\n", issued.document));
    }
    let document: InvoiceDocument = serde_json::from_str(&issued.document)?;
    let kind = kind_told(row.kind);
    let correction = document.correction.as_ref().map(told).unwrap_or_default();
    say(&format!(
        "{kind} {} of {}, digest {}\n{correction}",
        issued.number, issued.issued_at, issued.digest
    ))?;
    if let Some(invoice) = row.carried_by {
        say(&format!("Carried by {invoice}\n"))?;
    }
    let statement = statement::told(&document.statement);
    say(&format!("\nThe period as it was known then:\n{statement}"))
}

async fn list(session: &Session, account: Option<&str>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    if let Some(account) = account {
        known_account(&mut tx, account).await?;
    }
    let rows = store::corrections::all(&mut tx, account).await?;
    let rows: Vec<CorrectionSummary> = rows.into_iter().map(Into::into).collect();
    session.output.list(&rows, &COLUMNS)
}

async fn set_policy(
    session: &Session,
    account: &str,
    policy: Option<CorrectionPolicy>,
) -> anyhow::Result<()> {
    if let Some(policy) = policy {
        let (store, actor) = (&session.store, &session.actor);
        set_correction_policy(store, account, policy, actor, clock::now()).await?;
    }
    let mut tx = session.store.read().await?;
    let account = known_account(&mut tx, account).await?;
    let policy = store::corrections::policy(&mut tx, &account.id).await?;
    session.output.one(&PolicyDocument { policy }, &["policy"])
}
