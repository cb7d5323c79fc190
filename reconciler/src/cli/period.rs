//! `period list|show|close`.

use clap::Subcommand;
use tallystick_common::period::Month;

use super::Session;
use super::output::{say, sheet, table, table_of};
use crate::billing::closing::{self, Close, PeriodView};
use crate::clock;

/// Billing periods: who is complete, who waits for which node.
#[derive(Debug, Subcommand)]
pub(super) enum PeriodCommand {
    /// Periods up to the present ones.
    List {
        /// Only of this account.
        #[arg(long)]
        account: Option<String>,
    },
    /// One period, with the nodes whose time it needs.
    Show {
        /// The account's id.
        account: String,
        /// The month in which it begins, such as 2026-11.
        #[arg(value_name = "MONTH")]
        period: Month,
    },
    /// Close a period that has ended although nodes are outstanding; the invoice, once issued, names the gaps.
    Close {
        /// The account's id.
        account: String,
        /// The month in which it begins, such as 2026-11.
        #[arg(value_name = "MONTH")]
        period: Month,
        /// Why.
        #[arg(long, value_name = "REASON")]
        accept_gaps: String,
    },
}

impl PeriodCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (rules, now) = (&session.config.rules.closing, clock::now());
        let view = match self {
            Self::List { account } => {
                let mut tx = session.store.read().await?;
                let views = closing::periods(&mut tx, account.as_deref(), rules, now).await?;
                return match session.output.json {
                    true => session.output.value(&views),
                    false => say(&listed(&views)),
                };
            }
            Self::Show { account, period } => {
                let mut tx = session.store.read().await?;
                closing::period(&mut tx, &account, period, rules, now).await?
            }
            Self::Close {
                account,
                period,
                accept_gaps,
            } => {
                let order = Close {
                    account: &account,
                    month: period,
                    reason: &accept_gaps,
                    actor: &session.actor,
                };
                closing::close(&session.store, &order, rules, now).await?
            }
        };
        match session.output.json {
            true => session.output.value(&view),
            false => say(&told(&view)?),
        }
    }
}

fn word(view: &PeriodView) -> String {
    let state = serde_json::to_value(view.state).unwrap_or_default();
    state.as_str().unwrap_or_default().to_owned()
}

fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

fn listed(views: &[PeriodView]) -> String {
    let columns = ["account", "period", "state", "to", "waits_for", "invoice"];
    let cells = |view: &PeriodView| {
        vec![
            view.account.to_string(),
            view.period.to_string(),
            word(view),
            view.to.to_string(),
            or_dash(Some(view.waits_for().join(", "))),
            or_dash(view.invoice.clone()),
        ]
    };
    let cells: Vec<_> = views.iter().map(cells).collect();
    table(&columns, &cells)
}

fn told(view: &PeriodView) -> anyhow::Result<String> {
    let head = sheet(&[
        ("account", view.account.to_string()),
        ("period", format!("{} ({})", view.period, view.span())),
        ("state", word(view)),
        ("deadline", view.deadline.to_string()),
        ("closed_by", or_dash(view.closed_by.clone())),
        ("reason", or_dash(view.reason.clone())),
        ("invoice", or_dash(view.invoice.clone())),
    ]);
    let columns = ["node_name", "standing", "covered_through", "node"];
    Ok(format!("{head}\n{}", table_of(&view.nodes, &columns)?))
}
