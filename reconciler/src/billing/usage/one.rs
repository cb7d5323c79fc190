//! What one workload used, without reading the rows of others.

use std::collections::{BTreeMap, BTreeSet};

use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, QUARTER_HOUR_US, Timestamp};

use super::{Sums, UsageRow, add_quarter, add_quarters, read_meter, unrolled};
use crate::rollup::{Cell, Cells, Quarters};
use crate::store::nodes::Node;
use crate::store::sql::{self, Row};
use crate::store::streams::Stream;
use crate::store::{Connection, StoreError};

/// The hour comes first in the key of rollups: each hour is looked up by itself.
const ONE: &str = "WITH RECURSIVE hours (hour) AS \
    (SELECT $1 UNION ALL SELECT hour + 1 FROM hours WHERE hour + 1 < $2) \
    SELECT r.hour, r.workload, r.meter, \
    quantity0, quantity1, quantity2, quantity3, max0, max1, max2, max3, \
    measured0, measured1, measured2, measured3, exact0, exact1, exact2, exact3, \
    interpolated0, interpolated1, interpolated2, interpolated3, \
    unmeasured0, unmeasured1, unmeasured2, unmeasured3 \
    FROM hours h CROSS JOIN rollups r WHERE r.hour = h.hour AND r.workload = $3";

/// What is stored of a node's streams and not in the rollups yet.
#[derive(Debug, Default)]
pub struct Tails(Vec<Cells>);

impl Tails {
    /// Reads them, of one node's streams.
    ///
    /// # Errors
    /// When the database fails or a segment cannot be read.
    pub async fn read(
        conn: &mut Connection,
        streams: &[Stream],
        span: Period,
    ) -> Result<Self, StoreError> {
        let mut tails = Vec::new();
        for stream in streams {
            tails.extend(unrolled(conn, stream, span).await?);
        }
        Ok(Self(tails))
    }

    /// The workloads in them, and when the first usage of each begins, to the quarter-hour.
    #[must_use]
    pub fn workloads(&self) -> BTreeMap<&WorkloadName, Timestamp> {
        let mut first = BTreeMap::new();
        for ((name, _), quarters) in self.0.iter().flat_map(|cells| &cells.cells) {
            let at = quarters.keys().next().map_or(0, |at| at * QUARTER_HOUR_US);
            let at = Timestamp::from_micros(at).unwrap_or(Timestamp::EPOCH);
            let held = first.entry(name).or_insert(at);
            *held = at.min(*held);
        }
        first
    }
}

/// What is known of a workload in a span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// By meter.
    pub rows: Vec<UsageRow>,
    /// Quarter-hours since 1970 in which the time of some meter is not all exact.
    pub vague: BTreeSet<u64>,
}

impl Known {
    /// Takes in what is known of another part of the time.
    ///
    /// # Errors
    /// When a sum exceeds 128 bits.
    pub fn join(&mut self, other: Self) -> Result<(), StoreError> {
        self.vague.extend(other.vague);
        for row in other.rows {
            match self.rows.iter_mut().find(|held| held.meter == row.meter) {
                Some(held) => held.add(&row)?,
                None => self.rows.push(row),
            }
        }
        Ok(())
    }
}

/// What one workload of a node used in a span between two quarter-hours. It is given by its
/// short name in the store, if it has one, and its name.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn of_workload(
    conn: &mut Connection,
    node: &Node,
    workload: (Option<i64>, &WorkloadName),
    tails: &Tails,
    span: Period,
) -> Result<Known, StoreError> {
    let (short, name) = workload;
    let mut known = Known::default();
    let mut sums: BTreeMap<Meter, UsageRow> = BTreeMap::new();
    let rows = match short {
        Some(short) => rolled(conn, short, span).await?,
        None => Vec::new(),
    };
    for row in &rows {
        let meter = read_meter(row.try_get(2)?)?;
        let none = || UsageRow::none(node.id, node.name.clone(), name.clone(), meter);
        add_hour(
            &mut known.vague,
            sums.entry(meter).or_insert_with(none),
            row,
            span,
        )?;
    }
    let mut tail = Sums::new();
    for (meter, quarters) in tails.0.iter().flat_map(|cells| cells.cells.of(name)) {
        let none = UsageRow::none(node.id, node.name.clone(), name.clone(), meter);
        add_quarters(&mut tail, &none, quarters, span)?;
        known.vague.extend(vague(quarters, span));
    }
    for row in tail.into_values() {
        match sums.get_mut(&row.meter) {
            Some(sum) => sum.add(&row)?,
            None => drop(sums.insert(row.meter, row)),
        }
    }
    known.rows = sums.into_values().collect();
    Ok(known)
}

/// The quarter-hours of the span that are not all exact.
fn vague(quarters: &Quarters, span: Period) -> impl Iterator<Item = u64> {
    let quarter = |at: u64| at / QUARTER_HOUR_US;
    let within = quarters.range(quarter(span.from.as_micros())..quarter(span.to.as_micros()));
    let is_vague = |cell: &Cell| cell.interpolated > 0 || cell.unmeasured > 0;
    within
        .filter(move |(_, cell)| is_vague(cell))
        .map(|(at, _)| *at)
}

async fn rolled(conn: &mut Connection, short: i64, span: Period) -> Result<Vec<Row>, StoreError> {
    let hour = |at: u64| i64::try_from(at / HOUR_US).unwrap_or(i64::MAX);
    Ok(sql::query(ONE)
        .bind(hour(span.from.as_micros()))
        .bind(hour(span.to.as_micros().saturating_add(HOUR_US - 1)))
        .bind(short)
        .fetch_all(conn)
        .await?)
}

/// Adds the quarter-hours of an hour that lie in the span, and notes those that are not all exact.
fn add_hour(
    vague: &mut BTreeSet<u64>,
    sum: &mut UsageRow,
    row: &Row,
    span: Period,
) -> Result<(), StoreError> {
    let hour: i64 = row.try_get(0)?;
    let begin = u64::try_from(hour).unwrap_or(0).saturating_mul(HOUR_US);
    for quarter in 0..4 {
        let at = begin.saturating_add(quarter as u64 * QUARTER_HOUR_US);
        if at < span.from.as_micros() || at >= span.to.as_micros() {
            continue;
        }
        let before = (sum.interpolated, sum.unmeasured);
        if add_quarter(sum, row, quarter)? && before != (sum.interpolated, sum.unmeasured) {
            vague.insert(at / QUARTER_HOUR_US);
        }
    }
    Ok(())
}
