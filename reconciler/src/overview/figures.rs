//! Brings the figures of the first page together.

use std::collections::BTreeMap;

use tallystick_common::meter::Meter;
use tallystick_common::money::Money;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US, SECOND_US, Timestamp};

use super::{
    AccountSoFar, Chart, Coverage, LastSegment, LeakageNow, LineSoFar, NamedGap, NodeToday,
    Overview, UsageToday, coverage, silence::Silence,
};
use crate::billing::draft::{Which, draft};
use crate::billing::list_price::ListPrice;
use crate::billing::usage::{AssignedUsage, UsageRow, assigned};
use crate::billing::{BillingError, Draft};
use crate::catalog::Account;
use crate::config::Rules;
use crate::store::billing::StreamPosition;
use crate::store::imbalances;
use crate::store::inspect::{self, Count, GapRow, SegmentRow};
use crate::store::leakage;
use crate::store::nodes::{Node, NodeRow};
use crate::store::{self, Connection, StoreError};

/// How far back the chart goes.
pub const CHART_SPAN: Micros = Micros(5 * 60 * SECOND_US);

/// Most points of a series.
const POINTS: u64 = 300;

/// All figures as of `now`; read in one transaction, they fit together.
///
/// # Errors
/// When the database fails, or an account's statement cannot be computed.
pub async fn overview(
    conn: &mut Connection,
    seller: &str,
    rules: &Rules,
    now: Timestamp,
) -> Result<Overview, BillingError> {
    let today = now.floor_to(24 * HOUR_US);
    let span = Period {
        from: today,
        to: now.next_multiple(QUARTER_HOUR_US),
    };
    let usage = assigned(conn, span).await?;
    let mut nodes = store::nodes::all(conn).await?;
    nodes.sort_by(|left, right| (&left.name, left.id).cmp(&(&right.name, right.id)));
    let silence = Silence::read(conn, rules.silent_after).await?;
    let nodes = nodes_today(conn, nodes, &usage, &silence, now).await?;
    let unassigned_value = match &rules.list_plan {
        Some(plan) => unassigned_value(conn, plan, &usage, span).await?,
        None => None,
    };
    let mut accounts = Vec::new();
    for account in store::catalog::accounts(conn).await? {
        let draft = draft(conn, account.id.as_str(), Which::At(now), seller, now).await?;
        accounts.push(so_far(&account, &draft));
    }
    Ok(Overview {
        at: now,
        today,
        usage: usage.into_iter().map(usage_today).collect(),
        chart: chart(conn, now).await?,
        accounts,
        nodes,
        leakage: leakage_now(conn).await?,
        unassigned_value,
    })
}

/// The value of usage of nobody. A plan that is not there (yet) gives none: the page is shown all the same.
async fn unassigned_value(
    conn: &mut Connection,
    plan: &str,
    usage: &[AssignedUsage],
    span: Period,
) -> Result<Option<Money>, BillingError> {
    let list = match ListPrice::read(conn, plan).await {
        Ok(list) => list,
        Err(BillingError::Catalog(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let rows: Vec<UsageRow> = usage
        .iter()
        .filter(|usage| usage.is_unassigned())
        .map(|usage| usage.row.clone())
        .collect();
    list.total(&rows, span).map(Some)
}

async fn leakage_now(conn: &mut Connection) -> Result<LeakageNow, StoreError> {
    let differing = leakage::tallies(conn, true).await?;
    let first = differing.first().map(|(hour, ..)| hour * HOUR_US);
    Ok(LeakageNow {
        tallied_at: leakage::tallied_at(conn).await?,
        differing: differing.len() as u64,
        first: first.and_then(Timestamp::from_micros),
    })
}

fn usage_today(usage: AssignedUsage) -> UsageToday {
    let AssignedUsage { row, account } = usage;
    UsageToday {
        node: row.node,
        node_name: row.node_name,
        workload: row.workload,
        account: account.map(|account| account.to_string()),
        meter: row.meter,
        unit: row.meter.unit(),
        quantity: row.quantity.to_string(),
        interpolated: row.interpolated,
        unmeasured: row.unmeasured,
    }
}

fn so_far(account: &Account, draft: &Draft) -> AccountSoFar {
    let statement = &draft.statement;
    let line = |line: &tallystick_common::statement::Line| LineSoFar {
        title: line.title.clone(),
        workload: line.workload.as_ref().map(|of| of.workload.clone()),
        quantity: line.units.cut(6),
        unit: line.per.name().to_owned(),
        amount: line.amount.amount(),
        unrounded: line.unrounded.cut(6),
    };
    AccountSoFar {
        account: account.id.to_string(),
        name: account.name.clone(),
        currency: statement.currency.code().to_owned(),
        period_from: statement.period.from,
        period_to: statement.period.to,
        total: statement.total.amount(),
        unrounded_total: statement.unrounded_total.cut(6),
        lines: statement.lines.iter().map(line).collect(),
    }
}

/// How one node stands as of `now`.
///
/// # Errors
/// When the database fails.
pub async fn node_today(
    conn: &mut Connection,
    node: Node,
    rules: &Rules,
    now: Timestamp,
) -> Result<Option<NodeToday>, StoreError> {
    let today = now.floor_to(24 * HOUR_US);
    let span = Period {
        from: today,
        to: now.next_multiple(QUARTER_HOUR_US),
    };
    let usage = assigned(conn, span).await?;
    let silence = Silence::read(conn, rules.silent_after).await?;
    Ok(nodes_today(conn, vec![node], &usage, &silence, now)
        .await?
        .pop())
}

async fn nodes_today(
    conn: &mut Connection,
    nodes: Vec<Node>,
    usage: &[AssignedUsage],
    silence: &Silence,
    now: Timestamp,
) -> Result<Vec<NodeToday>, StoreError> {
    let facts = Facts::read(conn, now.floor_to(24 * HOUR_US), now).await?;
    let mut figures = Vec::new();
    for node in nodes {
        let last = inspect::last_segment(conn, node.row).await?;
        let silent_since = silence.since(&node, now);
        figures.push(NodeToday {
            silent_since,
            ..facts.node(node, last, usage)
        });
    }
    Ok(figures)
}

/// What is read once for all nodes.
struct Facts {
    now: Timestamp,
    today: Timestamp,
    refused: Vec<Count>,
    quarantined: Vec<Count>,
    gaps: Vec<GapRow>,
    doubted: Vec<(NodeRow, Period)>,
    positions: Vec<StreamPosition>,
    unbalanced: BTreeMap<NodeRow, u64>,
}

impl Facts {
    async fn read(
        conn: &mut Connection,
        today: Timestamp,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let span = Period {
            from: today,
            to: now,
        };
        Ok(Self {
            now,
            today,
            refused: inspect::refusal_counts(conn).await?,
            quarantined: inspect::quarantine_counts(conn).await?,
            gaps: inspect::gaps(conn, span).await?,
            doubted: inspect::quarantined_time(conn, span).await?,
            positions: store::billing::stream_positions(conn).await?,
            unbalanced: imbalances::counts(conn).await?.into_iter().collect(),
        })
    }

    fn node(&self, node: Node, last: Option<SegmentRow>, usage: &[AssignedUsage]) -> NodeToday {
        let proved = store::billing::proved_through(&self.positions, node.id);
        NodeToday {
            coverage: self.coverage(&node, usage),
            gaps: self.gaps_of(node.row).map(named).collect(),
            node: node.id,
            state: node.state.as_str().to_owned(),
            silent_since: None,
            lag: proved.map(|through| node.owes_through(self.now).since(through)),
            last_segment: last.map(|row| LastSegment {
                stream: row.stream,
                seq: row.seq,
                received_at: row.received_at,
                covered_through: row.covered_through,
            }),
            refused: of(&self.refused, node.row),
            quarantined: of(&self.quarantined, node.row),
            unbalanced: self.unbalanced.get(&node.row).copied().unwrap_or(0),
            name: node.name,
        }
    }

    fn gaps_of(&self, node: NodeRow) -> impl Iterator<Item = &GapRow> {
        self.gaps.iter().filter(move |gap| gap.node == node)
    }

    /// How the node's time of today is accounted for, from its enrolment on.
    fn coverage(&self, node: &Node, usage: &[AssignedUsage]) -> Coverage {
        let own = usage.iter().map(|usage| &usage.row);
        let control = coverage::control(own.filter(|row| row.node == node.id));
        let gaps = self.gaps_of(node.row).map(|gap| gap.span).collect();
        let doubted = self.doubted.iter().filter(|(of, _)| *of == node.row);
        let doubted = doubted.map(|(_, time)| *time).collect();
        let through = node.owes_through(self.now);
        let length = through.since(self.today.max(node.enrolled_at));
        coverage::of(control, gaps, doubted, length)
    }
}

fn named(gap: &GapRow) -> NamedGap {
    NamedGap {
        from: gap.span.from,
        to: gap.span.to,
        cause: gap.cause,
    }
}

fn of(counts: &[Count], node: NodeRow) -> u64 {
    counts
        .iter()
        .filter(|count| count.node == Some(node))
        .map(|count| count.count)
        .sum()
}

/// CPU time of every workload over the last minutes.
///
/// # Errors
/// When the database fails.
pub async fn chart(conn: &mut Connection, now: Timestamp) -> Result<Chart, StoreError> {
    recent(conn, Meter::CPU_TIME, CHART_SPAN, now).await
}

/// A meter of every workload but `host` over the last `span`, in steps of a second or more.
///
/// # Errors
/// When the database fails.
pub async fn recent(
    conn: &mut Connection,
    meter: Meter,
    span: Micros,
    now: Timestamp,
) -> Result<Chart, StoreError> {
    let step = Micros((span.0 / POINTS / SECOND_US).max(1) * SECOND_US);
    let to = now.floor_to(step.0);
    let from = to.saturating_sub(span);
    let series = crate::billing::usage::recent(conn, meter, Period { from, to }, step).await?;
    Ok(Chart {
        meter,
        from,
        to,
        step,
        series,
    })
}
