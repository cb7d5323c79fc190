//! Rollup rows, workloads and registers, as the rollup task writes them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::reading::Reading;
use tallystick_common::segment::{Basis, CloseReason};
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};

use super::bulk::{Bulk, Values};
use super::column::number;
use super::nodes::NodeRow;
use super::sql;
use super::streams::StreamRow;
use super::{Connection, StoreError};
use crate::rollup::{Advance, Cell, Cells, Labels, Quarters, RegisterEnd, place};

mod hours;
mod rows;

pub use hours::replace_hours;
pub use rows::{Difference, Rows, Scope, differences, due, held, replace};

/// The columns of a row that come in fours, in the order of the table.
const GROUPS: [(&str, bool); 6] = [
    ("quantity", false),
    ("max", true),
    ("measured", false),
    ("exact", false),
    ("interpolated", false),
    ("unmeasured", false),
];

/// Short names of workloads inside the store.
type Names<'a> = HashMap<(NodeRow, &'a WorkloadName), i64>;

/// An hour of one (workload, meter).
struct Row {
    hour: u64,
    workload: i64,
    meter: Meter,
    cells: [Cell; 4],
    last: (Timestamp, Reading),
}

impl Row {
    fn key(&self) -> (u64, i64, u16) {
        (self.hour, self.workload, self.meter.code())
    }

    /// Takes in what the next row of the same key adds; always `true`.
    fn absorb(&mut self, other: &Self) -> bool {
        for (cell, more) in self.cells.iter_mut().zip(&other.cells) {
            cell.add(more);
        }
        self.last = self.last.max(other.last);
        true
    }
}

/// About how many rows cells are written to.
#[must_use]
pub fn rows(cells: &Cells) -> usize {
    let hours = |quarters: &Quarters| quarters.len().div_ceil(4);
    let cells_rows: usize = cells
        .cells
        .into_iter()
        .map(|(_, quarters)| hours(quarters))
        .sum();
    cells_rows + cells.registers.len()
}

/// Adds what segments of some streams come to: workloads, rows and registers.
///
/// # Errors
/// When the database fails, or a cell exceeds a BIGINT (which admission rules out).
pub async fn add(conn: &mut Connection, advances: &[Advance]) -> Result<(), StoreError> {
    let names = names(conn, advances).await?;
    let mut rows: Vec<Row> = Vec::new();
    for advance in advances {
        rows.append(&mut hours(advance, &names)?);
    }
    put_rows(conn, &merged(rows)).await?;
    put_registers(conn, advances, &names).await?;
    put_labels(conn, advances, &names).await?;
    close_left_out(conn, advances).await
}

fn named(names: &Names<'_>, node: NodeRow, workload: &WorkloadName) -> Result<i64, StoreError> {
    let row = names.get(&(node, workload)).copied();
    row.ok_or_else(|| StoreError::damaged("workloads", format!("{workload} has no row")))
}

fn hours(advance: &Advance, names: &Names<'_>) -> Result<Vec<Row>, StoreError> {
    let mut rows = Vec::new();
    for (name, meter, metered) in advance.cells.cells.metered() {
        let workload = named(names, advance.stream.node_row, name)?;
        for (hour, cells) in by_hour(&metered.quarters) {
            let last = metered.lasts.get(&hour).copied();
            rows.push(Row {
                hour,
                workload,
                meter,
                cells,
                last: last.unwrap_or((Timestamp::EPOCH, Reading(0))),
            });
        }
    }
    Ok(rows)
}

/// In the order of the key, so that neighbours on disk are written together, and each key once: streams
/// of one node may share rows, and one statement takes a key once.
fn merged(mut rows: Vec<Row>) -> Vec<Row> {
    rows.sort_by_key(Row::key);
    rows.dedup_by(|row, before| before.key() == row.key() && before.absorb(row));
    rows
}

fn by_hour(quarters: &Quarters) -> BTreeMap<u64, [Cell; 4]> {
    let mut hours: BTreeMap<u64, [Cell; 4]> = BTreeMap::new();
    for (quarter, cell) in quarters {
        let (hour, place) = place(*quarter);
        hours.entry(hour).or_default()[place] = *cell;
    }
    hours
}

async fn put_rows(conn: &mut Connection, rows: &[Row]) -> Result<(), StoreError> {
    let (before, after) = upsert();
    let bulk = Bulk {
        before: &before,
        columns: 29,
        after: &after,
    };
    bulk.execute(conn, rows, bind_row).await.map(drop)
}

/// Of equal ends the higher reading holds, so that the order of writing does not matter.
const LATER: &str = "excluded.last_at > rollups.last_at OR \
                     (excluded.last_at = rollups.last_at AND excluded.last_reading > rollups.last_reading)";

fn upsert() -> (String, String) {
    let mut columns = String::from("hour, workload, meter");
    let mut updates = String::new();
    for (group, greatest) in GROUPS {
        for quarter in 0..4 {
            let name = format!("{group}{quarter}");
            let _ = write!(columns, ", {name}");
            let _ = if greatest {
                write!(
                    updates,
                    "{name} = CASE WHEN excluded.{name} > rollups.{name} THEN excluded.{name} ELSE rollups.{name} END, "
                )
            } else {
                write!(updates, "{name} = rollups.{name} + excluded.{name}, ")
            };
        }
    }
    (
        format!("INSERT INTO rollups ({columns}, last_at, last_reading)"),
        format!(
            "ON CONFLICT (hour, workload, meter) DO UPDATE SET {updates}\
             last_reading = CASE WHEN {LATER} THEN excluded.last_reading ELSE rollups.last_reading END, \
             last_at = CASE WHEN excluded.last_at > rollups.last_at THEN excluded.last_at ELSE rollups.last_at END"
        ),
    )
}

fn bind_row(values: &mut Values, row: &Row) -> Result<(), StoreError> {
    values.add(number(row.hour, "an hour")?)?;
    values.add(row.workload)?;
    values.add(i64::from(row.meter.code()))?;
    let wide = |value: u128| {
        i64::try_from(value).map_err(|_| StoreError::TooLarge {
            what: "a rollup cell",
            value,
        })
    };
    let fields: [fn(&Cell) -> u128; 6] = [
        |cell| cell.quantity,
        |cell| cell.max,
        |cell| u128::from(cell.measured),
        |cell| u128::from(cell.exact),
        |cell| u128::from(cell.interpolated),
        |cell| u128::from(cell.unmeasured),
    ];
    for field in fields {
        for cell in &row.cells {
            values.add(wide(field(cell))?)?;
        }
    }
    values.add(row.last.0.as_i64())?;
    values.add(row.last.1.0.to_be_bytes().as_slice())
}

/// When each workload was first seen in these segments: by its registers or, where a segment that is not
/// counted left its register with another workload, by what was counted of it.
fn firsts(advances: &[Advance]) -> BTreeMap<(NodeRow, &WorkloadName), Timestamp> {
    let mut firsts = BTreeMap::new();
    for advance in advances {
        let node = advance.stream.node_row;
        for end in advance.cells.registers.values() {
            let held = firsts.entry((node, &end.workload)).or_insert(end.since);
            *held = end.since.min(*held);
        }
        for ((name, _), quarters) in &advance.cells.cells {
            let first = quarters
                .keys()
                .next()
                .map_or(0, |quarter| quarter * QUARTER_HOUR_US);
            let first = Timestamp::from_micros(first).unwrap_or(Timestamp::EPOCH);
            firsts.entry((node, name)).or_insert(first);
        }
    }
    firsts
}

/// Finds the short names of all workloads, making those that are new.
async fn names<'a>(
    conn: &mut Connection,
    advances: &'a [Advance],
) -> Result<Names<'a>, StoreError> {
    let firsts = firsts(advances);
    let wanted: Vec<_> = firsts.keys().copied().collect();
    let mut names = Names::with_capacity(wanted.len());
    find_names(conn, &wanted, &mut names).await?;
    if names.len() < wanted.len() {
        super::take_turn(conn).await?;
        // Another may have made some of them until now.
        find_names(conn, &wanted, &mut names).await?;
        let new: Vec<_> = firsts
            .into_iter()
            .filter(|(key, _)| !names.contains_key(key))
            .collect();
        let bulk = Bulk {
            before: "INSERT INTO workloads (id, node, name, first_seen_at) \
                     SELECT (SELECT COALESCE(MAX(id), 0) FROM workloads) + ROW_NUMBER() OVER (), \
                     v.column1, v.column2, v.column3 FROM (",
            columns: 3,
            after: ") AS v",
        };
        let bind = |values: &mut Values, (key, first): &((NodeRow, &WorkloadName), Timestamp)| {
            values.add(key.0.0)?;
            values.add(key.1.as_str())?;
            values.add(first.as_i64())
        };
        bulk.execute(conn, &new, bind).await?;
        let made: Vec<_> = new.iter().map(|(key, _)| *key).collect();
        find_names(conn, &made, &mut names).await?;
    }
    Ok(names)
}

async fn find_names<'a>(
    conn: &mut Connection,
    wanted: &[(NodeRow, &'a WorkloadName)],
    names: &mut Names<'a>,
) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "SELECT v.column3 AS place, w.id AS id FROM (",
        columns: 3,
        after: ") AS v JOIN workloads w ON w.node = v.column1 AND w.name = v.column2",
    };
    let numbered: Vec<_> = wanted.iter().enumerate().collect();
    let bind = |values: &mut Values, (place, key): &(usize, &(NodeRow, &WorkloadName))| {
        values.add(key.0.0)?;
        values.add(key.1.as_str())?;
        values.add(number(*place as u64, "a place")?)
    };
    for row in bulk.fetch(conn, &numbered, bind).await? {
        let place: i64 = row.try_get("place")?;
        let key = usize::try_from(place)
            .ok()
            .and_then(|place| wanted.get(place));
        if let Some(key) = key {
            names.insert(*key, row.try_get("id")?);
        }
    }
    Ok(())
}

/// Keeps what workloads call themselves where that is not what is held, unless a later segment said that.
async fn put_labels(
    conn: &mut Connection,
    advances: &[Advance],
    names: &Names<'_>,
) -> Result<(), StoreError> {
    let mut newest = BTreeMap::new();
    for advance in advances {
        for (name, (labels, at)) in &advance.cells.labels {
            // A workload without a register has no row.
            if let Some(row) = names.get(&(advance.stream.node_row, name)) {
                let held = newest.entry(*row).or_insert((labels, *at));
                if *at >= held.1 {
                    *held = (labels, *at);
                }
            }
        }
    }
    let newest: Vec<_> = newest.into_iter().collect();
    let bulk = Bulk {
        before: "UPDATE workloads SET labels = v.column2, labelled_at = v.column3 FROM (",
        columns: 3,
        after: ") AS v WHERE workloads.id = v.column1 AND workloads.labels <> v.column2 \
                AND workloads.labelled_at <= v.column3",
    };
    let bind = |values: &mut Values, (row, (labels, at)): &(i64, (&Labels, Timestamp))| {
        values.add(*row)?;
        values.add(object(labels)?)?;
        values.add(at.as_i64())
    };
    bulk.execute(conn, &newest, bind).await.map(drop)
}

/// Labels as a JSON object, its keys in order.
fn object(labels: &Labels) -> Result<String, StoreError> {
    let labels: BTreeMap<&String, &String> =
        labels.iter().map(|(key, value)| (key, value)).collect();
    serde_json::to_string(&labels).map_err(|error| StoreError::damaged("workloads.labels", error))
}

/// Ends registers that a doubtful segment left out, as admission does.
async fn close_left_out(conn: &mut Connection, advances: &[Advance]) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "SELECT v.column2 AS place FROM (",
        columns: 3,
        after: ") AS v WHERE v.column3 <> \
                (SELECT COUNT(*) FROM registers r WHERE r.stream = v.column1 AND r.closed IS NULL)",
    };
    let numbered: Vec<_> = advances.iter().enumerate().collect();
    let bind = |values: &mut Values, (place, advance): &(usize, &Advance)| {
        values.add(advance.stream.row.0)?;
        values.add(number(*place as u64, "a place")?)?;
        values.add(number(advance.cells.open.len() as u64, "registers")?)
    };
    // Every register in `open` was just written as open, so equal numbers are equal sets.
    for row in bulk.fetch(conn, &numbered, bind).await? {
        let place: i64 = row.try_get("place")?;
        let advance = usize::try_from(place)
            .ok()
            .and_then(|place| advances.get(place));
        if let Some(advance) = advance {
            close_all_but(conn, advance.stream.row, &advance.cells.open).await?;
        }
    }
    Ok(())
}

async fn close_all_but(
    conn: &mut Connection,
    stream: StreamRow,
    open: &[RegisterId],
) -> Result<(), StoreError> {
    let query = "SELECT register FROM registers WHERE stream = $1 AND closed IS NULL";
    let held: Vec<i64> = sql::query_scalar(query)
        .bind(stream.0)
        .fetch_all(&mut *conn)
        .await?;
    let is_open = |register: &i64| {
        u64::try_from(*register).is_ok_and(|id| open.binary_search(&RegisterId(id)).is_ok())
    };
    for register in held.into_iter().filter(|register| !is_open(register)) {
        sql::query("UPDATE registers SET closed = 'left_out' WHERE stream = $1 AND register = $2")
            .bind(stream.0)
            .bind(register)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

async fn put_registers(
    conn: &mut Connection,
    advances: &[Advance],
    names: &Names<'_>,
) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "INSERT INTO registers \
                 (stream, register, workload, meter, basis, opened_at, last_at, last_reading, closed)",
        columns: 9,
        after: "ON CONFLICT (stream, register) DO UPDATE SET \
                workload = excluded.workload, meter = excluded.meter, \
                last_at = CASE WHEN excluded.last_at > registers.last_at THEN excluded.last_at ELSE registers.last_at END, \
                last_reading = excluded.last_reading, closed = excluded.closed",
    };
    let ends: Vec<_> = advances
        .iter()
        .flat_map(|advance| {
            let ends = advance.cells.registers.iter();
            ends.map(move |(register, end)| (advance, *register, end))
        })
        .collect();
    let bind = |values: &mut Values, (advance, register, end): &(&Advance, _, &RegisterEnd)| {
        let workload = named(names, advance.stream.node_row, &end.workload)?;
        bind_register(values, advance.stream.row, *register, workload, end)
    };
    bulk.execute(conn, &ends, bind).await.map(drop)
}

fn bind_register(
    values: &mut Values,
    stream: StreamRow,
    register: RegisterId,
    workload: i64,
    end: &RegisterEnd,
) -> Result<(), StoreError> {
    let basis = match end.basis {
        Some(Basis::Birth) => "birth",
        Some(Basis::FirstSeen { .. }) | None => "first_seen",
    };
    values.add(stream.0)?;
    values.add(number(register.0, "a register")?)?;
    values.add(workload)?;
    values.add(i64::from(end.meter.code()))?;
    values.add(basis)?;
    values.add(end.since.as_i64())?;
    values.add(end.at.as_i64())?;
    values.add(end.reading.0.to_be_bytes().as_slice())?;
    values.add(end.closed.map(close_name))
}

fn close_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Vanished => "vanished",
        CloseReason::Reset => "reset",
        CloseReason::Reboot => "reboot",
        CloseReason::Deselected => "deselected",
        CloseReason::StreamEnd => "stream_end",
    }
}
