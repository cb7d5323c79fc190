//! `account`, `assign`, `plan`, `subscribe`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use tallystick_common::time::Timestamp;

use super::Session;
use crate::api::catalog::PlanView;
use crate::catalog::assignment::NewAssignment;
use crate::catalog::change::{self, NewAccount};
use crate::{clock, store};

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
        /// ISO 4217 code.
        #[arg(long)]
        currency: String,
        /// IANA name of the zone whose calendar bounds billing periods.
        #[arg(long, default_value = "UTC")]
        time_zone: String,
        /// Day of the month on which periods begin.
        #[arg(long, default_value_t = 1)]
        anchor_day: u8,
    },
    /// Every account.
    List,
    /// One account.
    Show {
        /// Its id.
        id: String,
    },
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
                let made =
                    change::create_account(&session.store, &new, &session.actor, clock::now())
                        .await?;
                session.output.one(&made)
            }
            Self::List => {
                let accounts = store::catalog::accounts(&mut *session.store.read().await?).await?;
                let columns = ["id", "name", "currency", "time_zone", "anchor_day"];
                session.output.list(&accounts, &columns)
            }
            Self::Show { id } => {
                let account = change::known_account(&mut *session.store.read().await?, &id).await?;
                session.output.one(&account)
            }
        }
    }
}

/// Assign workloads of nodes to an account from a quarter-hour on. The latest effective assignment
/// that matches wins.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Assign {
    #[command(subcommand)]
    list: Option<AssignCommand>,
    #[command(flatten)]
    new: Option<AssignArgs>,
}

#[derive(Debug, Subcommand)]
enum AssignCommand {
    /// Every assignment.
    List,
}

#[derive(Debug, Args)]
struct AssignArgs {
    /// The account's id.
    account: String,
    /// A node's id, or a pattern on nodes' names (* and ?).
    #[arg(long)]
    node: String,
    /// A pattern on workloads' names (* and ?), never `host`; `host/other` only by name.
    #[arg(long)]
    workload: String,
    /// From when: a quarter-hour, such as 2026-11-01T00:00:00Z.
    #[arg(long)]
    from: Timestamp,
}

impl Assign {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let Some(new) = self.new.filter(|_| self.list.is_none()) else {
            return list_assignments(session).await;
        };
        let account = new.account.parse()?;
        let rule = NewAssignment::new(account, &new.node, &new.workload, new.from)?;
        let made = change::assign(&session.store, &rule, &session.actor, clock::now()).await?;
        session.output.one(&made)
    }
}

async fn list_assignments(session: &Session) -> anyhow::Result<()> {
    let rules = store::catalog::assignments(&mut *session.store.read().await?).await?;
    let rules: Vec<_> = rules.iter().cloned().collect();
    session
        .output
        .list(&rules, &["id", "account", "node", "workload", "from"])
}

/// What usage costs: TOML documents.
#[derive(Debug, Subcommand)]
pub(super) enum PlanCommand {
    /// Say everything that is wrong with a document.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Apply a document: a new version, unless the latest means the same.
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// Every version of every plan, or one: NAME for the latest, NAME@VERSION.
    Show {
        /// NAME or NAME@VERSION.
        plan: Option<String>,
    },
}

impl PlanCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Check { file } => {
                let plan = change::check_plan(&file.display().to_string(), &read(&file)?)?;
                let digest = plan.digest();
                session
                    .output
                    .one(&serde_json::json!({ "plan": plan.name, "digest": digest }))
            }
            Self::Apply { file } => {
                let (origin, text) = (file.display().to_string(), read(&file)?);
                let (store, actor) = (&session.store, &session.actor);
                let made = change::apply_plan(store, &origin, &text, actor, clock::now()).await?;
                session.output.one(&serde_json::json!({
                    "plan": made.plan, "version": made.version, "digest": made.digest,
                }))
            }
            Self::Show { plan: None } => {
                let plans =
                    store::catalog::plan_versions(&mut *session.store.read().await?).await?;
                let plans: Vec<PlanView> = plans.into_iter().map(PlanView::from).collect();
                let columns = ["plan", "version", "currency", "applied_at", "digest"];
                session.output.list(&plans, &columns)
            }
            Self::Show { plan: Some(plan) } => {
                let plan = change::known_plan(&mut *session.store.read().await?, &plan).await?;
                if session.output.json {
                    return session.output.value(&PlanView::from(plan));
                }
                println!(
                    "# {} version {}, digest {}",
                    plan.plan, plan.version, plan.digest
                );
                print!("{}", plan.source);
                Ok(())
            }
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read plan {}", file.display()))
}

/// Let a plan price an account's usage from a quarter-hour on, until its next subscription.
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// The account's id.
    account: String,
    /// NAME for the latest version, or NAME@VERSION.
    plan: String,
    /// From when: a quarter-hour, such as 2026-11-01T00:00:00Z.
    #[arg(long)]
    from: Timestamp,
}

impl Subscribe {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (store, actor, now) = (&session.store, &session.actor, clock::now());
        let made =
            change::subscribe(store, &self.account, &self.plan, self.from, actor, now).await?;
        session.output.one(&made)
    }
}
