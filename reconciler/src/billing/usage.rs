//! What billing reads of usage: quantities by node, workload and meter in a span of quarter-hours.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tallystick_common::ids::{NodeId, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::period::Period;
use tallystick_common::reading::{Interval, Quality};
use tallystick_common::statement::{RegisterSpan, UsageItem};
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US, Timestamp, share_until};

use crate::catalog::AccountId;
use crate::catalog::assignment::NodeNames;
use crate::overview::Series;
use crate::rollup::{Cells, Quarters};
use crate::store::column::id;
use crate::store::sql::{self, Row};
use crate::store::streams::{self, Stream};
use crate::store::{Connection, StoreError};

mod one;

pub use one::{Known, Tails, of_workload};

/// Segments of the stored tail read at once.
const TAIL_PAGE: u32 = 256;

/// Usage of one meter by one workload of one node in a span. `host` is among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The workload.
    pub workload: WorkloadName,
    /// What was measured.
    pub meter: Meter,
    /// In the meter's base unit; for a peak the maximum.
    pub quantity: u128,
    /// Time really measured, added over registers.
    pub measured: Micros,
    /// Time of exact intervals, added over registers.
    pub exact: Micros,
    /// Time whose quantity is known but not its spread.
    pub interpolated: Micros,
    /// Time without a value.
    pub unmeasured: Micros,
}

impl UsageRow {
    /// No usage at all.
    #[must_use]
    pub fn none(node: NodeId, node_name: String, workload: WorkloadName, meter: Meter) -> Self {
        Self {
            node,
            node_name,
            workload,
            meter,
            quantity: 0,
            measured: Micros(0),
            exact: Micros(0),
            interpolated: Micros(0),
            unmeasured: Micros(0),
        }
    }

    /// As an item of a statement, with the registers that counted it.
    #[must_use]
    pub fn into_item(self, span: Period, registers: Vec<RegisterSpan>) -> UsageItem {
        UsageItem {
            node: self.node,
            node_name: self.node_name,
            workload: self.workload,
            meter: self.meter,
            from: span.from,
            to: span.to,
            quantity: self.quantity,
            registers,
            measured: self.measured,
            interpolated: self.interpolated,
            unmeasured: self.unmeasured,
        }
    }
}

/// What every node used in a span between two quarter-hours, by node, workload and meter.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn usage(conn: &mut Connection, span: Period) -> Result<Vec<UsageRow>, StoreError> {
    let mut sums = Sums::new();
    add_rolled(conn, &mut sums, span).await?;
    add_tail(conn, &mut sums, span).await?;
    Ok(sums.into_values().collect())
}

/// Adds what the rollups hold.
async fn add_rolled(
    conn: &mut Connection,
    sums: &mut Sums,
    span: Period,
) -> Result<(), StoreError> {
    let hour = |at: u64| i64::try_from(at / HOUR_US).unwrap_or(i64::MAX);
    let rows = sql::query(ROLLED)
        .bind(hour(span.from.as_micros()))
        .bind(hour(span.to.as_micros().saturating_add(HOUR_US - 1)))
        .fetch_all(&mut *conn)
        .await?;
    // Names are looked up once for each sum: there are many more rows than sums.
    let mut rolled: HashMap<(i64, i64), UsageRow> = HashMap::new();
    let names = names(conn).await?;
    for row in &rows {
        let (workload, meter): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        match rolled.entry((workload, meter)) {
            Entry::Occupied(mut sum) => {
                add_row(sum.get_mut(), row, span)?;
            }
            Entry::Vacant(place) => {
                let (node, node_name, workload) =
                    names.get(&workload).cloned().ok_or_else(|| {
                        StoreError::damaged("rollups.workload", format!("no workload {workload}"))
                    })?;
                let mut sum = UsageRow::none(node, node_name, workload, read_meter(meter)?);
                if add_row(&mut sum, row, span)? {
                    place.insert(sum);
                }
            }
        }
    }
    let key = |row: &UsageRow| (row.node, row.workload.clone(), row.meter);
    sums.extend(rolled.into_values().map(|row| (key(&row), row)));
    Ok(())
}

/// Columns of [`ROLLED`] from this one on come in fours, one for each quarter-hour.
const QUARTERS: usize = 3;

const ROLLED: &str = "SELECT hour, workload, meter, \
    quantity0, quantity1, quantity2, quantity3, max0, max1, max2, max3, \
    measured0, measured1, measured2, measured3, exact0, exact1, exact2, exact3, \
    interpolated0, interpolated1, interpolated2, interpolated3, \
    unmeasured0, unmeasured1, unmeasured2, unmeasured3 \
    FROM rollups WHERE hour >= $1 AND hour < $2";

/// Workloads by their short name in the store: node, its name, and their own.
async fn names(
    conn: &mut Connection,
) -> Result<HashMap<i64, (NodeId, String, WorkloadName)>, StoreError> {
    let rows = sql::query(
        "SELECT w.id AS id, w.name AS workload_name, n.node AS node_id, n.name AS node_name \
         FROM workloads w JOIN nodes n ON n.id = w.node",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let node = NodeId(id(row, "node_id", "nodes.node")?);
            let name = (node, row.try_get("node_name")?, streams::workload(row)?);
            Ok((row.try_get("id")?, name))
        })
        .collect()
}

fn read_meter(code: i64) -> Result<Meter, StoreError> {
    u16::try_from(code)
        .ok()
        .and_then(Meter::from_code)
        .ok_or_else(|| StoreError::damaged("rollups.meter", code))
}

/// Adds committed segments that are not in the rollups yet, by the same cells.
async fn add_tail(conn: &mut Connection, sums: &mut Sums, span: Period) -> Result<(), StoreError> {
    for stream in streams::all(conn).await? {
        if let Some(cells) = unrolled(conn, &stream, span).await? {
            let name = node_name(conn, &stream).await?;
            add_cells(sums, &cells, stream.node, &name, span)?;
        }
    }
    Ok(())
}

/// What the counted segments of a stream come to that rollups do not hold yet; none when no time of the
/// span is among it.
async fn unrolled(
    conn: &mut Connection,
    stream: &Stream,
    span: Period,
) -> Result<Option<Cells>, StoreError> {
    if stream.rolled >= stream.next || stream.covered_through <= span.from {
        return Ok(None);
    }
    let mut cells = Cells::default();
    let mut rolled = stream.rolled;
    while rolled < stream.next {
        let page = streams::segments_from(conn, stream.row, rolled, TAIL_PAGE).await?;
        let Some(last) = page.last() else { break };
        rolled = last.seq.next();
        for segment in page.into_iter().filter(|segment| segment.counted) {
            cells.add(&segment.read()?.1, true);
        }
    }
    Ok(Some(cells))
}

async fn node_name(conn: &mut Connection, stream: &Stream) -> Result<String, StoreError> {
    Ok(sql::query_scalar("SELECT name FROM nodes WHERE id = $1")
        .bind(stream.node_row.0)
        .fetch_one(conn)
        .await?)
}

fn add_cells(
    sums: &mut Sums,
    cells: &Cells,
    node: NodeId,
    node_name: &str,
    span: Period,
) -> Result<(), StoreError> {
    for ((workload, meter), quarters) in &cells.cells {
        let none = UsageRow::none(node, node_name.to_owned(), workload.clone(), *meter);
        add_quarters(sums, &none, quarters, span)?;
    }
    Ok(())
}

/// Adds the cells in the span; `none` says of what they are.
fn add_quarters(
    sums: &mut Sums,
    none: &UsageRow,
    quarters: &Quarters,
    span: Period,
) -> Result<(), StoreError> {
    let first = span.from.as_micros() / QUARTER_HOUR_US;
    let end = span.to.as_micros() / QUARTER_HOUR_US;
    for (_, cell) in quarters.range(first..end) {
        let row = UsageRow {
            quantity: match none.meter.kind() {
                Kind::Peak => cell.max,
                Kind::Counter | Kind::Integral => cell.quantity,
            },
            measured: Micros(cell.measured),
            exact: Micros(cell.exact),
            interpolated: Micros(cell.interpolated),
            unmeasured: Micros(cell.unmeasured),
            ..none.clone()
        };
        match sums.get_mut(&(row.node, row.workload.clone(), row.meter)) {
            Some(sum) => sum.add(&row)?,
            None => drop(sums.insert((row.node, row.workload.clone(), row.meter), row)),
        }
    }
    Ok(())
}

type Sums = BTreeMap<(NodeId, WorkloadName, Meter), UsageRow>;

/// Adds the quarter-hours of an hour that lie in the span. Whether anything was said of them.
fn add_row(sum: &mut UsageRow, row: &Row, span: Period) -> Result<bool, StoreError> {
    let hour: i64 = row.try_get(0)?;
    let begin = u64::try_from(hour).unwrap_or(0).saturating_mul(HOUR_US);
    let mut said = false;
    for quarter in 0..4 {
        let at = begin.saturating_add(quarter as u64 * QUARTER_HOUR_US);
        if at >= span.from.as_micros() && at < span.to.as_micros() {
            said |= add_quarter(sum, row, quarter)?;
        }
    }
    Ok(said)
}

fn add_quarter(sum: &mut UsageRow, row: &Row, quarter: usize) -> Result<bool, StoreError> {
    let cell = |group: usize| -> Result<u64, StoreError> {
        let value: i64 = row.try_get(QUARTERS + 4 * group + quarter)?;
        u64::try_from(value).map_err(|_| StoreError::damaged("rollups", value))
    };
    let (exact, interpolated, unmeasured) = (cell(3)?, cell(4)?, cell(5)?);
    // Every interval has length: a quarter-hour without time is one that nothing was said of.
    if exact == 0 && interpolated == 0 && unmeasured == 0 {
        return Ok(false);
    }
    match sum.meter.kind() {
        Kind::Peak => sum.quantity = sum.quantity.max(u128::from(cell(1)?)),
        Kind::Counter | Kind::Integral => {
            sum.quantity = sum
                .quantity
                .checked_add(u128::from(cell(0)?))
                .ok_or_else(|| StoreError::damaged("rollups", "a sum beyond 128 bits"))?;
        }
    }
    for (sum, more) in [
        (&mut sum.measured, cell(2)?),
        (&mut sum.exact, exact),
        (&mut sum.interpolated, interpolated),
        (&mut sum.unmeasured, unmeasured),
    ] {
        sum.0 = sum.0.saturating_add(more);
    }
    Ok(true)
}

/// How many segments with time in the span are quarantined: stored, and not counted.
///
/// # Errors
/// When the database fails.
pub async fn quarantined(conn: &mut Connection, span: Period) -> Result<u64, StoreError> {
    let count: i64 = sql::query_scalar(
        "SELECT COUNT(*) FROM segments \
         WHERE verdict = 'quarantined' AND covered_from < $2 AND covered_through > $1",
    )
    .bind(span.from.as_i64())
    .bind(span.to.as_i64())
    .fetch_one(conn)
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Usage of a workload and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedUsage {
    /// How much, added over the part of the span in which it was this account's.
    pub row: UsageRow,
    /// Whose; none for `host` and for what no assignment matches.
    pub account: Option<AccountId>,
}

impl AssignedUsage {
    /// Whether it could be billed and is nobody's.
    #[must_use]
    pub fn is_unassigned(&self) -> bool {
        self.account.is_none() && !self.row.workload.is_host()
    }
}

/// What every node used in a span, by node, workload, meter and account.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn assigned(
    conn: &mut Connection,
    span: Period,
) -> Result<Vec<AssignedUsage>, StoreError> {
    let rules = crate::store::catalog::assignments(conn).await?;
    let mut cuts = rules.changes(span.from, span.to);
    cuts.extend([span.from, span.to]);
    let cuts: Vec<_> = cuts.into_iter().collect();
    let mut sums: BTreeMap<(NodeId, WorkloadName, Meter, Option<AccountId>), AssignedUsage> =
        BTreeMap::new();
    for pair in cuts.windows(2) {
        for row in usage(
            conn,
            Period {
                from: pair[0],
                to: pair[1],
            },
        )
        .await?
        {
            let node = NodeNames {
                id: row.node,
                name: row.node_name.clone(),
            };
            let rule = rules.owner(&node, row.workload.as_str(), pair[0]);
            let account = rule.map(|rule| rule.account.clone());
            let key = (row.node, row.workload.clone(), row.meter, account.clone());
            match sums.get_mut(&key) {
                Some(sum) => sum.row.add(&row)?,
                None => drop(sums.insert(key, AssignedUsage { row, account })),
            }
        }
    }
    Ok(sums.into_values().collect())
}

impl UsageRow {
    fn add(&mut self, other: &Self) -> Result<(), StoreError> {
        self.quantity = match self.meter.kind() {
            Kind::Peak => self.quantity.max(other.quantity),
            Kind::Counter | Kind::Integral => self
                .quantity
                .checked_add(other.quantity)
                .ok_or_else(|| StoreError::damaged("rollups", "a sum beyond 128 bits"))?,
        };
        self.measured.0 = self.measured.0.saturating_add(other.measured.0);
        self.exact.0 = self.exact.0.saturating_add(other.exact.0);
        self.interpolated.0 = self.interpolated.0.saturating_add(other.interpolated.0);
        self.unmeasured.0 = self.unmeasured.0.saturating_add(other.unmeasured.0);
        Ok(())
    }
}

/// A meter of every workload but `host` in steps; both ends of the span are multiples of `step`.
///
/// # Errors
/// When the database fails or a segment cannot be read.
pub async fn recent(
    conn: &mut Connection,
    meter: Meter,
    span: Period,
    step: Micros,
) -> Result<Vec<Series>, StoreError> {
    let count = usize::try_from(span.to.since(span.from).0 / step.0.max(1)).unwrap_or(0);
    let mut series: BTreeMap<(String, WorkloadName), Vec<Option<u64>>> = BTreeMap::new();
    for stream in streams::all(conn).await? {
        if stream.covered_through <= span.from {
            continue;
        }
        let name = node_name(conn, &stream).await?;
        let stored = streams::segments_between(conn, stream.row, span.from, span.to).await?;
        for segment in stored.into_iter().filter(|segment| segment.counted) {
            for block in segment
                .read()?
                .1
                .iter()
                .filter(|block| !block.workload.is_host())
            {
                for run in block.runs().iter().filter(|run| run.meter == meter) {
                    let points = series
                        .entry((name.clone(), block.workload.clone()))
                        .or_insert_with(|| vec![None; count]);
                    for interval in block.intervals(run) {
                        draw(points, &interval, span.from, step);
                    }
                }
            }
        }
    }
    let series = series
        .into_iter()
        .map(|((node_name, workload), points)| Series {
            node_name,
            workload,
            points,
        });
    Ok(series.collect())
}

/// Spreads an interval's quantity over the steps it lies in.
fn draw(points: &mut [Option<u64>], interval: &Interval, from: Timestamp, step: Micros) {
    if matches!(interval.quality, Quality::Unmeasured(_)) {
        return;
    }
    let share = |at| share_until(interval.quantity, interval.start, interval.end, at);
    let mut at = interval.start.max(from);
    while at < interval.end {
        let until = at.next_multiple(step.0).min(interval.end);
        let place = usize::try_from(at.since(from).0 / step.0.max(1)).unwrap_or(usize::MAX);
        let Some(point) = points.get_mut(place) else {
            return;
        };
        let more = u64::try_from(share(until) - share(at)).unwrap_or(u64::MAX);
        *point = Some(point.unwrap_or(0).saturating_add(more));
        at = until;
    }
}
