//! Rollups and registers counted again from the stored segments: to be held against the derived rows, or
//! put in their place.
//!
//! Hour by hour, and for registers stream by stream. Each is counted in one view of the store, up to where
//! the rollups of each stream stand in it, so that this may be done beside a running server. A part that
//! differs is replaced in a transaction of its own, which first goes on to where rollups have got
//! meanwhile: readers see it as it was or as it should be, and segments are added once (I1).

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tallystick_common::ids::Seq;
use tallystick_common::time::{HOUR_US, Timestamp};

use super::{Advance, Cells};
use crate::audit::{self, Note};
use crate::store::again::again;
use crate::store::decisions;
use crate::store::rollups::{self, Difference, Rows, Scope};
use crate::store::sql::{self, Value};
use crate::store::streams::{self, StoredSegment, Stream, StreamRow};
use crate::store::{Connection, Store, StoreError};

/// Segments of one stream read at once.
const PAGE: u32 = 256;

/// What counting again found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Recounted {
    /// Rows of rollups that segments make.
    pub rows: u64,
    /// Registers that segments make.
    pub registers: u64,
    /// Rows that were not as segments make them.
    pub differing: u64,
    /// The first of them, in words.
    pub first: Option<String>,
}

/// What the segments of every stream come to in a scope, and up to where they were read.
struct Recount {
    scope: Scope,
    streams: BTreeMap<StreamRow, Advance>,
    /// Verdicts are as of so many decisions.
    decisions: Option<i64>,
}

impl Recount {
    fn new(scope: Scope) -> Self {
        let (streams, decisions) = (BTreeMap::new(), None);
        Self {
            scope,
            streams,
            decisions,
        }
    }

    /// Reads on to where the rollups of each stream stand; from the beginning, if it was decided since that
    /// segments count or not.
    async fn reach(&mut self, conn: &mut Connection) -> Result<(), StoreError> {
        let decisions = Some(decisions::version(conn).await?);
        if self.decisions != decisions {
            self.streams.clear();
            self.decisions = decisions;
        }
        for stream in streams::all(conn).await? {
            if self.concerns(&stream) {
                self.reach_one(conn, stream).await?;
            }
        }
        Ok(())
    }

    fn concerns(&self, stream: &Stream) -> bool {
        match self.scope {
            Scope::Stream(row) => stream.row == row,
            Scope::Hour(hour) => {
                let (from, to) = bounds(hour);
                stream.covered_from < to && stream.covered_through > from
            }
        }
    }

    async fn reach_one(&mut self, conn: &mut Connection, stream: Stream) -> Result<(), StoreError> {
        let (row, rolled) = (stream.row, stream.rolled);
        let advance = self.streams.entry(row).or_insert_with(|| Advance {
            to: Seq::FIRST,
            cells: Cells::default(),
            stream,
        });
        if let (Scope::Hour(hour), Seq::FIRST) = (self.scope, advance.to) {
            let (from, to) = bounds(hour);
            for segment in streams::segments_between(conn, row, from, to).await? {
                if segment.seq < rolled && segment.counted {
                    advance.cells.add(&segment.read()?.1, true);
                }
            }
            advance.to = rolled;
        }
        while advance.to < rolled {
            let page = streams::segments_from(conn, row, advance.to, PAGE).await?;
            if page.is_empty() {
                let missing = format!("segment {} is missing", advance.to);
                return Err(StoreError::damaged("segments", missing));
            }
            for segment in page.into_iter().filter(|segment| segment.seq < rolled) {
                advance.to = segment.seq.next();
                add(self.scope, &mut advance.cells, segment)?;
            }
        }
        Ok(())
    }

    /// Keeps other writers from moving the positions before this transaction is over. `false` when one moved.
    async fn hold(&mut self, conn: &mut Connection) -> Result<bool, StoreError> {
        let mut positions: Vec<Advance> = std::mem::take(&mut self.streams).into_values().collect();
        for advance in &mut positions {
            advance.stream.rolled = advance.to;
        }
        let held = streams::roll(conn, &positions).await?;
        let by_row = positions
            .into_iter()
            .map(|advance| (advance.stream.row, advance));
        self.streams = by_row.collect();
        Ok(held)
    }

    /// The rows that are there, those that should be, and where they differ.
    async fn compare(
        &mut self,
        conn: &mut Connection,
        naming: bool,
    ) -> Result<(Rows, Vec<Difference>), StoreError> {
        self.reach(conn).await?;
        let advances: Vec<Advance> = std::mem::take(&mut self.streams).into_values().collect();
        let due = rollups::due(conn, self.scope, &advances, naming).await?;
        let by_row = advances
            .into_iter()
            .map(|advance| (advance.stream.row, advance));
        self.streams = by_row.collect();
        let held = rollups::held(conn, self.scope).await?;
        let differing = rollups::differences(self.scope, &held, &due);
        Ok((due, differing))
    }
}

fn add(scope: Scope, cells: &mut Cells, segment: StoredSegment) -> Result<(), StoreError> {
    let counted = segment.counted;
    match scope {
        Scope::Stream(_) => cells.add(&segment.read()?.1, false),
        Scope::Hour(_) if counted => cells.add(&segment.read()?.1, true),
        Scope::Hour(_) => {}
    }
    Ok(())
}

pub(super) fn bounds(hour: u64) -> (Timestamp, Timestamp) {
    let at = |hour: u64| {
        Timestamp::from_micros(hour.saturating_mul(HOUR_US)).unwrap_or(Timestamp::EPOCH)
    };
    (at(hour), at(hour.saturating_add(1)))
}

/// Holds every derived row against the segments.
///
/// # Errors
/// When the database fails or a segment cannot be read.
pub async fn check(store: &Store) -> Result<Recounted, StoreError> {
    let mut found = Recounted::default();
    for scope in scopes(store).await? {
        let mut tx = store.read().await?;
        let (due, differing) = Recount::new(scope).compare(&mut tx, false).await?;
        found.take(&mut tx, scope, &due, &differing).await?;
    }
    Ok(found)
}

/// Puts rows as segments make them in place of those that are not so, and notes in the audit log that it did.
///
/// # Errors
/// As [`check`]; what was replaced stays replaced.
pub async fn rebuild(store: &Store, actor: &str, now: Timestamp) -> Result<Recounted, StoreError> {
    let mut found = Recounted::default();
    for scope in scopes(store).await? {
        let mut recount = Recount::new(scope);
        let seen = {
            let mut tx = store.read().await?;
            recount.compare(&mut tx, false).await
        };
        match seen {
            Ok((due, differing)) if differing.is_empty() => found.count(scope, &due),
            // A workload without a short name is damage that the rebuilding transaction repairs.
            Ok(_)
            | Err(StoreError::Damaged {
                what: "workloads", ..
            }) => {
                found.join(again!(put(store, &mut recount))?);
            }
            Err(error) => return Err(error),
        }
    }
    if found.differing > 0 {
        again!(note(store, &found, actor, now))?;
    }
    Ok(found)
}

/// Replaces what differs in the scope, in one transaction that only reads what came since it was counted.
async fn put(store: &Store, recount: &mut Recount) -> Result<Recounted, StoreError> {
    let (scope, mut found) = (recount.scope, Recounted::default());
    let mut tx = store.write().await?;
    let (due, differing) = recount.compare(&mut tx, true).await?;
    if !recount.hold(&mut tx).await? {
        return Err(StoreError::Moved);
    }
    found.take(&mut tx, scope, &due, &differing).await?;
    rollups::replace(&mut tx, scope, &differing, &due).await?;
    tx.commit().await?;
    Ok(found)
}

async fn note(
    store: &Store,
    found: &Recounted,
    actor: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    let note = Note {
        at: now,
        actor,
        action: "rollup.rebuild",
        subject: "rollups",
        detail: serde_json::json!({ "replaced": found.differing, "first": found.first }),
    };
    audit::append(&mut tx, &note).await?;
    Ok(tx.commit().await?)
}

/// Every hour with a counted segment or a row, then every stream.
async fn scopes(store: &Store) -> Result<impl Iterator<Item = Scope>, StoreError> {
    let mut tx = store.read().await?;
    let mut hours = BTreeMap::new();
    let held: Vec<(i64, i64)> =
        sql::query_as("SELECT MIN(hour), MAX(hour) FROM rollups HAVING COUNT(*) > 0")
            .fetch_all(&mut tx)
            .await?;
    let counted: Vec<(i64, i64)> = sql::query_as(
        "SELECT MIN(covered_from), MAX(covered_through) FROM segments WHERE verdict = 'counted' HAVING COUNT(*) > 0",
    )
    .fetch_all(&mut tx)
    .await?;
    let hour = |value: i64| u64::try_from(value).unwrap_or(0);
    for (first, last) in held {
        hours.insert(hour(first), hour(last).saturating_add(1));
    }
    for (from, through) in counted {
        let (first, end) = (hour(from) / HOUR_US, hour(through).div_ceil(HOUR_US));
        let held = hours.entry(first).or_insert(end);
        *held = end.max(*held);
    }
    let (first, end) = (hours.keys().min().copied(), hours.values().max().copied());
    let hours = first.unwrap_or(0)..end.unwrap_or(0);
    let streams = streams::all(&mut tx).await?.into_iter();
    Ok(hours
        .map(Scope::Hour)
        .chain(streams.map(|stream| Scope::Stream(stream.row))))
}

impl Recounted {
    fn join(&mut self, other: Self) {
        self.rows += other.rows;
        self.registers += other.registers;
        self.differing += other.differing;
        self.first = self.first.take().or(other.first);
    }

    fn count(&mut self, scope: Scope, due: &Rows) {
        match scope {
            Scope::Hour(_) => self.rows += due.len() as u64,
            Scope::Stream(_) => self.registers += due.len() as u64,
        }
    }

    async fn take(
        &mut self,
        conn: &mut Connection,
        scope: Scope,
        due: &Rows,
        differing: &[Difference],
    ) -> Result<(), StoreError> {
        self.count(scope, due);
        self.differing += differing.len() as u64;
        if let (None, Some(first)) = (&self.first, differing.first()) {
            self.first = Some(words(conn, first).await?);
        }
        Ok(())
    }
}

/// A difference as people read it: which row by its names, which column, what it holds and should.
async fn words(conn: &mut Connection, of: &Difference) -> Result<String, StoreError> {
    let place = match of.key.as_slice() {
        [hour, workload, meter] => {
            let (begin, _) = bounds(u64::try_from(*hour).unwrap_or(0));
            let query = "SELECT n.name, w.name FROM workloads w JOIN nodes n ON n.id = w.node WHERE w.id = $1";
            let names: Option<(String, String)> = sql::query_as(query)
                .bind(*workload)
                .fetch_optional(conn)
                .await?;
            let meter_name = u16::try_from(*meter)
                .ok()
                .and_then(tallystick_common::meter::Meter::from_code);
            let meter_name = meter_name
                .map_or_else(|| format!("meter {meter}"), |meter| meter.name().to_owned());
            match names {
                Some((node, name)) => {
                    format!("node {node}, {name}, {meter_name}, the hour from {begin}")
                }
                None => format!(
                    "workload {workload} without a name, {meter_name}, the hour from {begin}"
                ),
            }
        }
        [stream, register] => {
            let all = streams::all(conn).await?;
            let stream = all.iter().find(|held| held.row.0 == *stream);
            let stream = stream.map_or_else(String::new, |held| {
                format!(" of stream {} of node {}", held.stream, held.node)
            });
            format!("register {register}{stream}")
        }
        other => format!("row {other:?}"),
    };
    Ok(match &of.column {
        Some((column, held, due)) => format!(
            "{}: {place}: {column} holds {}, its segments make it {}",
            of.table,
            Shown(held),
            Shown(due)
        ),
        None if of.held => format!("{}: {place}: no segment makes this row", of.table),
        None => format!("{}: {place}: the row is missing", of.table),
    })
}

struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Number(Some(number)) => number.fmt(f),
            Value::Text(Some(text)) => text.fmt(f),
            Value::Bytes(Some(bytes)) => data_encoding::HEXLOWER.encode(bytes).fmt(f),
            Value::Number(None) | Value::Text(None) | Value::Bytes(None) => f.write_str("nothing"),
        }
    }
}

#[cfg(test)]
mod tests;
