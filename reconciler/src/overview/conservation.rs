//! Conservation (I4): of each additive meter, what the host counted is what its control groups and `host/other`
//! counted, but for what the node says is not settled between them.
//!
//! Labels of `host/other` say at the end of each segment what workloads used beyond the host's own reading
//! (`excess`) and what of the host's is not divided yet (`undivided`). So the sum is held over whole segments: those that
//! end within an hour. Readings, not rollups, are compared, at the bounds of that time. Where a segment of it is quarantined
//! or the node started anew, what was unsettled before is not known, and the hour says so.

use std::collections::BTreeMap;

use serde::Serialize;
use tallystick_common::ids::{BootId, NodeId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::{Kind, Meter, Unit};
use tallystick_common::period::Period;
use tallystick_common::statement::RegisterSpan;
use tallystick_common::time::{HOUR_US, Timestamp};
use utoipa::ToSchema;

use crate::billing::registers;
use crate::store::again::again;
use crate::store::imbalances::{self, Bound, Imbalance};
use crate::store::nodes::{self, Node, NodeRow};
use crate::store::streams::{self, Stream};
use crate::store::{Connection, Store, StoreError, readings};

/// What the sum of an hour came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Holds,
    /// It is not.
    Broken,
    /// A segment of it is quarantined: nobody can say.
    Quarantined,
    /// The node started anew within it: nobody can say.
    Restarted,
}

/// A meter of a node in an hour; whole numbers of the base unit, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Balance {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The hour in which these segments end.
    #[schema(value_type = String, format = DateTime)]
    pub hour: Timestamp,
    /// The first of them.
    #[schema(value_type = u64)]
    pub first: Seq,
    /// The last of them.
    #[schema(value_type = u64)]
    pub last: Seq,
    /// First instant of them.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First instant after them.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// What is measured.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// Its base unit.
    #[schema(value_type = String)]
    pub unit: Unit,
    /// What the host counted.
    pub host: String,
    /// What its control groups counted.
    pub workloads: String,
    /// What `host/other` counted.
    pub other: String,
    /// By how much `excess` rose; below zero when it fell.
    pub excess: String,
    /// By how much `undivided` rose; below zero when it fell.
    pub undivided: String,
    /// host + excess − workloads − `host/other` − undivided.
    pub difference: String,
    /// Whether that is as it should be.
    pub verdict: Verdict,
}

/// What registers of one meter counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    host: Option<u128>,
    workloads: u128,
    other: u128,
    registers: u128,
}

impl Sums {
    fn add(&mut self, workload: &WorkloadName, spans: &[RegisterSpan]) {
        let rose = |sum: u128, of: &RegisterSpan| {
            sum.saturating_add(of.closing.0.saturating_sub(of.opening.0))
        };
        let sum = spans.iter().fold(0, rose);
        let into = match workload.as_str() {
            WorkloadName::HOST => self.host.get_or_insert(0),
            WorkloadName::HOST_OTHER => &mut self.other,
            name if name.starts_with("cgroup/") => &mut self.workloads,
            _ => return,
        };
        *into = into.saturating_add(sum);
        self.registers += spans.len() as u128;
    }
}

/// What is not settled at the end of a segment, by meter: `excess`, `undivided`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Unsettled(BTreeMap<Meter, (u128, u128)>);

impl Unsettled {
    /// As the labels of `host/other` have it.
    fn of(labels: &[(String, String)]) -> Self {
        let mut unsettled = Self::default();
        for (key, value) in labels {
            let Some((what, meter)) = key.split_once('.') else {
                continue;
            };
            if let (Ok(meter), Ok(amount)) = (meter.parse::<Meter>(), value.parse::<u128>()) {
                let held = unsettled.0.entry(meter).or_default();
                match what {
                    "excess" => held.0 = amount,
                    "undivided" => held.1 = amount,
                    _ => {}
                }
            }
        }
        unsettled
    }

    fn at(&self, meter: Meter) -> (i128, i128) {
        let (excess, undivided) = self.0.get(&meter).copied().unwrap_or_default();
        (signed(excess), signed(undivided))
    }
}

fn signed(amount: u128) -> i128 {
    i128::try_from(amount).unwrap_or(i128::MAX)
}

/// What a difference means. Of an integral each register that was closed, and each label, may hide less than
/// one unit.
fn verdict(meter: Meter, difference: i128, registers: u128) -> Verdict {
    let hidden = match meter.kind() {
        Kind::Integral => registers + 2,
        Kind::Counter | Kind::Peak => 0,
    };
    if difference.unsigned_abs() <= hidden {
        Verdict::Holds
    } else {
        Verdict::Broken
    }
}

/// The balances of a node in every hour of a span, by hour, stream and meter.
///
/// # Errors
/// When the database fails or a segment cannot be read.
pub async fn balances(
    conn: &mut Connection,
    node: &Node,
    span: Period,
) -> Result<Vec<Balance>, StoreError> {
    let streams = streams::of_node(conn, node.row).await?;
    let (first, end) = (
        span.from.as_micros() / HOUR_US,
        span.to.as_micros().div_ceil(HOUR_US),
    );
    let mut balances = Vec::new();
    for hour in first..end {
        for stream in &streams {
            balances.extend(of_hour(conn, node, stream, hour).await?);
        }
    }
    Ok(balances)
}

/// Looks at every node in an hour, and keeps what is not conserved in place of what was kept of it.
///
/// # Errors
/// As [`balances`].
pub async fn keep(store: &Store, hour: u64) -> Result<Vec<Balance>, StoreError> {
    let mut broken = Vec::new();
    {
        let mut tx = store.read().await?;
        let nodes = nodes::all(&mut tx).await?;
        for stream in streams::all(&mut tx).await? {
            let Some(node) = nodes.iter().find(|node| node.row == stream.node_row) else {
                continue;
            };
            let balances = of_hour(&mut tx, node, &stream, hour).await?;
            let is_broken = |balance: &Balance| balance.verdict == Verdict::Broken;
            let of_node = balances.into_iter().filter(is_broken);
            broken.extend(of_node.map(|balance| (node.row, balance)));
        }
    }
    let row = |(node, balance): &(NodeRow, Balance)| Imbalance {
        node: *node,
        meter: balance.meter,
        difference: balance.difference.clone(),
    };
    let rows: Vec<Imbalance> = broken.iter().map(row).collect();
    again!(put(store, hour, &rows))?;
    Ok(broken.into_iter().map(|(_, balance)| balance).collect())
}

async fn put(store: &Store, hour: u64, rows: &[Imbalance]) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    imbalances::replace(&mut tx, hour, rows).await?;
    Ok(tx.commit().await?)
}

fn instant(hour: u64) -> Timestamp {
    Timestamp::from_micros(hour.saturating_mul(HOUR_US)).unwrap_or(Timestamp::MAX)
}

/// The balances of the segments of a stream that end within an hour.
///
/// # Errors
/// As [`balances`].
pub async fn of_hour(
    conn: &mut Connection,
    node: &Node,
    stream: &Stream,
    hour: u64,
) -> Result<Vec<Balance>, StoreError> {
    let (from, to) = (instant(hour), instant(hour.saturating_add(1)));
    if stream.covered_from >= to || stream.covered_through <= from {
        return Ok(Vec::new());
    }
    let before = imbalances::ending_by(conn, stream.row, from).await?;
    let last = imbalances::ending_by(conn, stream.row, to).await?;
    let first = before.map_or(Seq::FIRST, |before| before.seq.next());
    let Some(last) = last.filter(|last| last.seq >= first) else {
        return Ok(Vec::new());
    };
    let ends = Ends::read(conn, stream, before, first, last.seq).await?;
    let span = Period {
        from: before.map_or(stream.covered_from, |before| before.ends),
        to: last.ends,
    };
    let counted = registers::counted(conn, std::iter::once(stream), span).await?;
    let mut sums: BTreeMap<Meter, Sums> = BTreeMap::new();
    for ((_, workload, meter), spans) in &counted {
        if meter.is_additive() {
            sums.entry(*meter).or_default().add(workload, spans);
        }
    }
    let balance = |(meter, sums): (Meter, Sums)| {
        let host = sums.host?;
        let (before, after) = (ends.before.at(meter), ends.after.at(meter));
        let (excess, undivided) = (after.0 - before.0, after.1 - before.1);
        let used = signed(sums.workloads.saturating_add(sums.other));
        let difference = signed(host)
            .saturating_add(excess)
            .saturating_sub(used)
            .saturating_sub(undivided);
        let told = ends.unclear;
        Some(Balance {
            node: node.id,
            node_name: node.name.clone(),
            stream: stream.stream,
            hour: from,
            first,
            last: last.seq,
            from: span.from,
            to: span.to,
            meter,
            unit: meter.unit(),
            host: host.to_string(),
            workloads: sums.workloads.to_string(),
            other: sums.other.to_string(),
            excess: excess.to_string(),
            undivided: undivided.to_string(),
            difference: difference.to_string(),
            verdict: told.unwrap_or_else(|| verdict(meter, difference, sums.registers)),
        })
    };
    Ok(sums.into_iter().filter_map(balance).collect())
}

/// What was unsettled before some segments and after them.
struct Ends {
    before: Unsettled,
    after: Unsettled,
    unclear: Option<Verdict>,
}

impl Ends {
    async fn read(
        conn: &mut Connection,
        stream: &Stream,
        before: Option<Bound>,
        first: Seq,
        last: Seq,
    ) -> Result<Self, StoreError> {
        let (after, boot) = end(conn, stream, last).await?;
        let (before, first_boot) = match before {
            Some(before) => end(conn, stream, before.seq).await?,
            // Nothing is carried into a stream.
            None => (Unsettled::default(), end(conn, stream, first).await?.1),
        };
        let unclear = if imbalances::is_doubted(conn, stream.row, first, last).await? {
            Some(Verdict::Quarantined)
        } else {
            (boot != first_boot).then_some(Verdict::Restarted)
        };
        Ok(Self {
            before,
            after,
            unclear,
        })
    }
}

/// What is unsettled at the end of a segment, and its boot.
async fn end(
    conn: &mut Connection,
    stream: &Stream,
    seq: Seq,
) -> Result<(Unsettled, BootId), StoreError> {
    let segment = readings::segment(conn, stream.row, seq).await?;
    let (sealed, blocks) = segment.read()?;
    let other = blocks
        .iter()
        .find(|block| block.workload.as_str() == WorkloadName::HOST_OTHER);
    let unsettled = other.map_or_else(Unsettled::default, |block| Unsettled::of(&block.labels));
    Ok((unsettled, sealed.header().boot))
}

#[cfg(test)]
mod tests;
