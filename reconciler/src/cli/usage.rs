//! `usage`.

use clap::Args;
use tallystick_common::period::Period;
use tallystick_common::time::{Micros, Timestamp};

use super::Session;
use super::instant::instant;
use super::output::{duration, say, table};
use crate::api::usage::{UsageParams, UsageView};
use crate::billing::list_price::ListPrice;
use crate::billing::usage::{AssignedUsage, UsageRow, assigned};
use crate::catalog::change::{known_account, known_node};
use crate::clock;
use crate::store::Connection;

/// What was used, by node, workload, meter and account.
#[derive(Debug, Args)]
pub(super) struct Usage {
    /// Only of this account.
    #[arg(long)]
    account: Option<String>,
    /// Only of the node with this id or name.
    #[arg(long)]
    node: Option<String>,
    /// Only of workloads that this pattern stands for.
    #[arg(long, value_name = "GLOB")]
    workload: Option<String>,
    /// Only of this meter, such as cpu.time.
    #[arg(long)]
    meter: Option<String>,
    /// From when: a quarter-hour, or now for the present one's beginning; midnight UTC if not given.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Option<Timestamp>,
    /// Until when: a quarter-hour; the end of the present one if not given.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    to: Option<Timestamp>,
    /// Only what no assignment gives to an account: nobody pays for it.
    #[arg(long, conflicts_with = "account")]
    unassigned: bool,
}

impl Usage {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let params = UsageParams {
            account: self.account,
            node: self.node,
            workload: self.workload,
            meter: self.meter,
            from: self.from,
            to: self.to,
            ..UsageParams::default()
        };
        let (span, filter) = (params.span(clock::now())?, params.filter()?);
        let mut tx = session.store.read().await?;
        if let Some(account) = &params.account {
            known_account(&mut tx, account).await?;
        }
        if let Some(node) = &params.node {
            known_node(&mut tx, node).await?;
        }
        let mut rows = assigned(&mut tx, span).await?;
        rows.retain(|usage| filter.keeps(usage));
        if self.unassigned {
            return unassigned(session, &mut tx, rows, span).await;
        }
        let rows = rows.into_iter();
        let rows: Vec<_> = rows.map(|usage| UsageView::new(usage, &span)).collect();
        if session.output.json {
            return session.output.value(&rows);
        }
        say(&format!("{span}\n{}", told(&rows)))
    }
}

/// What nobody pays for, with its value where there is a list price.
async fn unassigned(
    session: &Session,
    conn: &mut Connection,
    mut rows: Vec<AssignedUsage>,
    span: Period,
) -> anyhow::Result<()> {
    rows.retain(AssignedUsage::is_unassigned);
    let list = match &session.config.rules.list_plan {
        Some(plan) => Some(ListPrice::read(conn, plan).await?),
        None => None,
    };
    let all: Vec<UsageRow> = rows.iter().map(|usage| usage.row.clone()).collect();
    let view = |usage| UsageView::unassigned(usage, &span, list.as_ref());
    let rows: Vec<UsageView> = rows.into_iter().map(view).collect::<Result<_, _>>()?;
    if session.output.json {
        return session.output.value(&rows);
    }
    let value = match &list {
        Some(list) => format!("At list price: {}\n", list.total(&all, span)?),
        None => "Set list_plan in reconciler.toml to see its value.\n".to_owned(),
    };
    say(&format!("{span}\n{}{value}", told(&rows)))
}

fn told(rows: &[UsageView]) -> String {
    let columns = [
        "node",
        "workload",
        "account",
        "meter",
        "quantity",
        "unit",
        "interpolated",
        "unmeasured",
        "value",
    ];
    let cells = |row: &UsageView| {
        let account = row.account.clone();
        vec![
            row.node_name.clone(),
            row.workload.clone(),
            account.unwrap_or_else(|| "-".to_owned()),
            row.meter.clone(),
            row.quantity.clone(),
            row.unit.to_string(),
            duration(Micros(row.interpolated)),
            duration(Micros(row.unmeasured)),
            row.value
                .map_or_else(|| "-".to_owned(), |value| value.to_string()),
        ]
    };
    let cells: Vec<_> = rows.iter().map(cells).collect();
    table(&columns, &cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::testing::{self, at};
    use crate::store::testing::{ENGINES, store};

    #[tokio::test]
    async fn quantities_are_told_to_the_last_digit() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            let hour = at("2026-11-22T12:00:00Z");
            testing::node(&store, at("2026-11-22T13:00:00Z")).await;
            testing::acme(&store, hour).await;
            testing::cpu(&store, 3, hour, [1, 2, 3, 9_007_199_254_740_993]).await;
            let span = Period {
                from: hour,
                to: at("2026-11-22T13:00:00Z"),
            };
            let mut tx = store.read().await.unwrap();
            let rows = assigned(&mut tx, span).await.unwrap().into_iter();
            let rows: Vec<_> = rows.map(|row| UsageView::new(row, &span)).collect();
            let text = told(&rows);
            let line = text
                .lines()
                .find(|line| line.contains("cgroup/acme"))
                .unwrap();
            let cells: Vec<_> = line.split_whitespace().take(5).collect();
            let expected = [
                "web-1",
                "cgroup/acme",
                "acme",
                "cpu.time",
                "9007199254740999",
            ];
            assert_eq!(cells, expected);
            let json = serde_json::to_value(&rows).unwrap();
            assert_eq!(json[0]["quantity"], "9007199254740999");
        }
    }
}
