//! `plan check|apply|show|list`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::Session;
use super::output::{Output, say};
use crate::api::catalog::PlanView;
use crate::catalog::change;
use crate::{clock, store};

/// What usage costs: TOML documents.
#[derive(Debug, Subcommand)]
pub(super) enum PlanCommand {
    /// Say everything that is wrong with a document. Needs no data folder.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Apply a document: a new version, unless the latest means the same.
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// A version of a plan, as it was applied.
    Show {
        /// Its name (or NAME@VERSION).
        plan: String,
        /// Which version; the latest if not given.
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
    /// Every version of every plan.
    List,
}

impl PlanCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Check { file } => check(session.output, &file),
            Self::Apply { file } => apply(session, &file).await,
            Self::Show { plan, version } => {
                let plan = version.map_or(plan.clone(), |version| format!("{plan}@{version}"));
                show(session, &plan).await
            }
            Self::List => {
                let plans =
                    store::catalog::plan_versions(&mut *session.store.read().await?).await?;
                let plans: Vec<PlanView> = plans.into_iter().map(PlanView::from).collect();
                let columns = ["plan", "version", "currency", "applied_at", "digest"];
                session.output.list(&plans, &columns)
            }
        }
    }
}

/// Checks a document without any store.
pub(super) fn check(output: Output, file: &Path) -> anyhow::Result<()> {
    let plan = change::check_plan(&file.display().to_string(), &read(file)?)?;
    let told = serde_json::json!({
        "plan": plan.name, "currency": plan.currency, "prices": plan.prices.len(), "digest": plan.digest(),
    });
    output.one(&told, &["plan", "currency", "prices", "digest"])
}

async fn apply(session: &Session, file: &Path) -> anyhow::Result<()> {
    let (origin, text) = (file.display().to_string(), read(file)?);
    let (store, actor) = (&session.store, &session.actor);
    let made = change::apply_plan(store, &origin, &text, actor, clock::now()).await?;
    let told = serde_json::json!({
        "plan": made.plan, "version": made.version, "currency": made.currency, "digest": made.digest,
    });
    session
        .output
        .one(&told, &["plan", "version", "currency", "digest"])
}

async fn show(session: &Session, plan: &str) -> anyhow::Result<()> {
    let plan = change::known_plan(&mut *session.store.read().await?, plan).await?;
    if session.output.json {
        return session.output.value(&PlanView::from(plan));
    }
    say(&format!(
        "# {} version {}, applied {}, digest {}\n{}\n",
        plan.plan,
        plan.version,
        plan.applied_at,
        plan.digest,
        plan.source.trim_end()
    ))
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| {
        format!(
            "read plan {}: give the path of a TOML document",
            file.display()
        )
    })
}
