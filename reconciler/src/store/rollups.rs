//! Rollup rows, workloads and registers, as the rollup task writes them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use sqlx::sqlite::SqliteArguments;
use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::segment::{Basis, CloseReason};
use tallystick_common::time::Timestamp;

use super::column::number;
use super::streams::Stream;
use super::{Connection, StoreError};
use crate::rollup::{Cell, Cells, Labels, RegisterEnd, place};

/// The columns of a row that come in fours, in the order of the table.
const GROUPS: [(&str, bool); 6] = [
    ("quantity", false),
    ("max", true),
    ("measured", false),
    ("exact", false),
    ("interpolated", false),
    ("unmeasured", false),
];

/// Adds what segments of `stream` come to: workloads, rows and registers.
///
/// # Errors
/// When the database fails, or a cell exceeds a BIGINT (which admission rules out).
pub async fn add(conn: &mut Connection, stream: &Stream, cells: &Cells) -> Result<(), StoreError> {
    let mut workloads = HashMap::new();
    for register in cells.registers.values() {
        if !workloads.contains_key(&register.workload) {
            let (row, held) = workload(conn, stream, register).await?;
            if let Some((labels, at)) = cells.labels.get(&register.workload) {
                label(conn, row, &held, labels, *at).await?;
            }
            workloads.insert(register.workload.clone(), row);
        }
    }
    let upsert = upsert();
    for ((name, meter), quarters) in &cells.cells {
        let last = last_of(cells, name, *meter);
        for (hour, row) in by_hour(quarters) {
            let mut arguments = SqliteArguments::default();
            bind_row(
                &mut arguments,
                hour,
                workloads[name],
                i64::from(meter.code()),
                &row,
                &last,
            )?;
            sqlx::query_with(sqlx::AssertSqlSafe(upsert.clone()), arguments)
                .execute(&mut *conn)
                .await?;
        }
    }
    for (id, register) in &cells.registers {
        put_register(conn, stream, id.0, workloads[&register.workload], register).await?;
    }
    close_left_out(conn, stream, &cells.open).await
}

/// Keeps what a workload calls itself where that is not what is held, unless a later segment said that.
async fn label(
    conn: &mut Connection,
    workload: i64,
    held: &str,
    labels: &Labels,
    at: Timestamp,
) -> Result<(), StoreError> {
    let labels: BTreeMap<&String, &String> =
        labels.iter().map(|(key, value)| (key, value)).collect();
    let labels = serde_json::to_string(&labels)
        .map_err(|error| StoreError::damaged("workloads.labels", error))?;
    if labels == held {
        return Ok(());
    }
    sqlx::query(
        "UPDATE workloads SET labels = $2, labelled_at = $3 WHERE id = $1 AND labelled_at <= $3",
    )
    .bind(workload)
    .bind(labels)
    .bind(at.as_i64())
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends registers that a doubtful segment left out, as admission does.
async fn close_left_out(
    conn: &mut Connection,
    stream: &Stream,
    open: &[RegisterId],
) -> Result<(), StoreError> {
    let query = "SELECT register FROM registers WHERE stream = $1 AND closed IS NULL";
    let held: Vec<i64> = sqlx::query_scalar(query)
        .bind(stream.row.0)
        .fetch_all(&mut *conn)
        .await?;
    let is_open = |register: &i64| {
        u64::try_from(*register).is_ok_and(|id| open.binary_search(&RegisterId(id)).is_ok())
    };
    for register in held.into_iter().filter(|register| !is_open(register)) {
        sqlx::query("UPDATE registers SET closed = 'left_out' WHERE stream = $1 AND register = $2")
            .bind(stream.row.0)
            .bind(register)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

fn last_of(
    cells: &Cells,
    name: &WorkloadName,
    meter: tallystick_common::meter::Meter,
) -> (i64, Vec<u8>) {
    let own = |register: &&RegisterEnd| register.workload == *name && register.meter == meter;
    cells
        .registers
        .values()
        .filter(own)
        .max_by_key(|register| register.at)
        .map_or((0, vec![0; 16]), |register| {
            (
                register.at.as_i64(),
                register.reading.0.to_be_bytes().to_vec(),
            )
        })
}

fn by_hour(quarters: &BTreeMap<u64, Cell>) -> BTreeMap<u64, [Cell; 4]> {
    let mut hours: BTreeMap<u64, [Cell; 4]> = BTreeMap::new();
    for (quarter, cell) in quarters {
        let (hour, place) = place(*quarter);
        hours.entry(hour).or_default()[place] = *cell;
    }
    hours
}

fn upsert() -> String {
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
    let places: Vec<String> = (1..=29).map(|place| format!("${place}")).collect();
    format!(
        "INSERT INTO rollups ({columns}, last_at, last_reading) VALUES ({}) \
         ON CONFLICT (hour, workload, meter) DO UPDATE SET {updates}\
         last_reading = CASE WHEN excluded.last_at >= rollups.last_at THEN excluded.last_reading ELSE rollups.last_reading END, \
         last_at = CASE WHEN excluded.last_at >= rollups.last_at THEN excluded.last_at ELSE rollups.last_at END",
        places.join(", ")
    )
}

fn bind_row(
    arguments: &mut SqliteArguments,
    hour: u64,
    workload: i64,
    meter: i64,
    row: &[Cell; 4],
    last: &(i64, Vec<u8>),
) -> Result<(), StoreError> {
    use sqlx::Arguments as _;
    let mut bind = |value: i64| {
        arguments
            .add(value)
            .map_err(|error| StoreError::Sql(sqlx::Error::Encode(error)))
    };
    bind(number(hour, "an hour")?)?;
    bind(workload)?;
    bind(meter)?;
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
        for cell in row {
            bind(wide(field(cell))?)?;
        }
    }
    bind(last.0)?;
    arguments
        .add(last.1.clone())
        .map_err(|error| StoreError::Sql(sqlx::Error::Encode(error)))
}

/// The row of a register's workload and the labels it holds.
async fn workload(
    conn: &mut Connection,
    stream: &Stream,
    register: &RegisterEnd,
) -> Result<(i64, String), StoreError> {
    let known = "SELECT id, labels FROM workloads WHERE node = $1 AND name = $2";
    let known: Option<(i64, String)> = sqlx::query_as(known)
        .bind(stream.node_row.0)
        .bind(register.workload.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    if let Some(known) = known {
        return Ok(known);
    }
    let first_seen = register.opened.map_or(register.at, |(_, at)| at);
    let new = sqlx::query_as(
        "INSERT INTO workloads (id, node, name, first_seen_at) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3 FROM workloads RETURNING id, labels",
    )
    .bind(stream.node_row.0)
    .bind(register.workload.as_str())
    .bind(first_seen.as_i64())
    .fetch_one(conn)
    .await?;
    Ok(new)
}

async fn put_register(
    conn: &mut Connection,
    stream: &Stream,
    register: u64,
    workload: i64,
    end: &RegisterEnd,
) -> Result<(), StoreError> {
    let basis = match end.opened {
        Some((Basis::Birth, _)) => "birth",
        Some((Basis::FirstSeen { .. }, _)) | None => "first_seen",
    };
    sqlx::query(
        "INSERT INTO registers (stream, register, workload, meter, basis, opened_at, last_at, last_reading, closed) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (stream, register) DO UPDATE SET \
         workload = excluded.workload, meter = excluded.meter, \
         last_at = CASE WHEN excluded.last_at > registers.last_at THEN excluded.last_at ELSE registers.last_at END, \
         last_reading = excluded.last_reading, closed = excluded.closed",
    )
    .bind(stream.row.0)
    .bind(number(register, "a register")?)
    .bind(workload)
    .bind(i64::from(end.meter.code()))
    .bind(basis)
    .bind(end.opened.map_or(end.at, |(_, at)| at).as_i64())
    .bind(end.at.as_i64())
    .bind(end.reading.0.to_be_bytes().to_vec())
    .bind(end.closed.map(close_name))
    .execute(conn)
    .await?;
    Ok(())
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
