//! `assign ACCOUNT …`, `assign end ACCOUNT …` and `assign list`.

use clap::{Args, Subcommand};
use tallystick_common::time::Timestamp;

use super::Session;
use super::instant::instant;
use crate::catalog::assignment::NewAssignment;
use crate::catalog::change;
use crate::{clock, store};

const FIELDS: [&str; 6] = ["id", "account", "node", "workload", "from", "ends"];

/// Assign workloads of nodes to an account (`assign ACCOUNT …`), end that (`assign end ACCOUNT …`), or list
/// assignments
///
/// The latest effective assignment that matches wins. What is ended is nobody's until it is assigned again.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(super) struct Assign {
    #[command(subcommand)]
    other: Option<AssignCommand>,
    #[command(flatten)]
    new: Option<AssignArgs>,
}

#[derive(Debug, Subcommand)]
enum AssignCommand {
    /// From an instant on, what is the account's of what these selectors match is nobody's.
    End(AssignArgs),
    /// Every assignment, in the order of making.
    List {
        /// Only to this account.
        #[arg(long)]
        account: Option<String>,
    },
}

#[derive(Debug, Args)]
struct AssignArgs {
    /// The account's id.
    account: String,
    /// A node's id, or a pattern on nodes' names (* and ?).
    #[arg(long, value_name = "SELECTOR")]
    node: String,
    /// A pattern on workloads' names (* and ?), never `host`; `host/other` only by a pattern that begins with host/.
    #[arg(long, value_name = "GLOB")]
    workload: String,
    /// From when: a quarter-hour such as 2026-11-01T00:00:00Z, or now for the present one's beginning.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Timestamp,
    /// Say it also of a time that was invoiced, or in place of an assignment from the same instant. What was
    /// issued stays as it is: `correction draft` shows what follows.
    #[arg(long)]
    correct: bool,
}

impl Assign {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match (self.other, self.new) {
            (Some(AssignCommand::List { account }), _) => list(session, account).await,
            (Some(AssignCommand::End(new)), _) => assign(session, &new, true).await,
            (None, Some(new)) => assign(session, &new, false).await,
            (None, None) => list(session, None).await,
        }
    }
}

async fn assign(session: &Session, new: &AssignArgs, ends: bool) -> anyhow::Result<()> {
    let account = new.account.parse()?;
    let rule = NewAssignment::new(account, &new.node, &new.workload, new.from)?;
    let rule = if ends { rule.ending() } else { rule }.correcting(new.correct);
    let made = change::assign(&session.store, &rule, &session.actor, clock::now()).await?;
    session.output.one(&made, &FIELDS)
}

async fn list(session: &Session, account: Option<String>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    if let Some(account) = &account {
        change::known_account(&mut tx, account).await?;
    }
    let rules = store::catalog::assignments(&mut tx).await?;
    let wanted = rules.iter().filter(|rule| {
        account
            .as_ref()
            .is_none_or(|id| rule.account.as_str() == id)
    });
    let wanted: Vec<_> = wanted.cloned().collect();
    session.output.list(&wanted, &FIELDS)
}
