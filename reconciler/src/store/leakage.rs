//! The leakage account's hours, what each came to, and what issued documents hold of each meter.

use std::collections::BTreeMap;

use tallystick_common::ids::Seq;
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Timestamp};

use super::bulk::{Bulk, Values};
use super::column::{self, instant, number, optional_instant, unsigned};
use super::sql::{self, Row};
use super::streams::{StreamRow, meter};
use super::{Connection, StoreError};
use crate::billing::leakage::{Charged, Tally};

/// An hour that is to be tallied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueHour {
    /// Hours since 1970.
    pub hour: u64,
    /// What it was marked with when it was read.
    pub marked: i64,
}

impl DueHour {
    /// Its time.
    #[must_use]
    pub fn span(self) -> Period {
        let at = |hour: u64| {
            Timestamp::from_micros(hour.saturating_mul(HOUR_US)).unwrap_or(Timestamp::MAX)
        };
        Period {
            from: at(self.hour),
            to: at(self.hour.saturating_add(1)),
        }
    }
}

/// A stream with segments whose hours were not marked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmarked {
    /// The stream.
    pub stream: StreamRow,
    /// The first segment after all that were admitted.
    pub next: Seq,
    /// From the beginning of the first of them to where the stream has got.
    pub counted: Option<Period>,
    /// Time that quarantined ones among them claim, which may be far off.
    pub doubted: Option<Period>,
}

/// Streams that went on since their hours were marked.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn unmarked(conn: &mut Connection) -> Result<Vec<Unmarked>, StoreError> {
    let rows = sql::query(
        "SELECT t.id AS stream, t.next_seq AS next_seq, t.covered_through AS covered_through, \
         (SELECT s.covered_from FROM segments s WHERE s.stream = t.id AND s.seq = COALESCE(p.next_seq, 0)) AS begins, \
         (SELECT MIN(s.covered_from) FROM segments s WHERE s.stream = t.id AND s.seq >= COALESCE(p.next_seq, 0) \
         AND s.verdict = 'quarantined') AS doubted_from, \
         (SELECT MAX(s.covered_through) FROM segments s WHERE s.stream = t.id AND s.seq >= COALESCE(p.next_seq, 0) \
         AND s.verdict = 'quarantined') AS doubted_to \
         FROM streams t LEFT JOIN leakage_positions p ON p.stream = t.id \
         WHERE t.next_seq > COALESCE(p.next_seq, 0) ORDER BY t.id",
    )
    .fetch_all(conn)
    .await?;
    rows.iter().map(read_unmarked).collect()
}

fn read_unmarked(row: &Row) -> Result<Unmarked, StoreError> {
    let optional = |name| optional_instant(row, name, "segments");
    let to = instant(row, "covered_through", "streams.covered_through")?;
    let period = |(from, to)| Period { from, to };
    Ok(Unmarked {
        stream: StreamRow(row.try_get("stream")?),
        next: Seq(unsigned(row, "next_seq", "streams.next_seq")?),
        counted: optional("begins")?.map(|from| Period { from, to }),
        doubted: optional("doubted_from")?
            .zip(optional("doubted_to")?)
            .map(period),
    })
}

/// Notes that all segments of streams before a position have their hours marked.
///
/// # Errors
/// When the database fails.
pub async fn put_positions(conn: &mut Connection, streams: &[Unmarked]) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "INSERT INTO leakage_positions (stream, next_seq)",
        columns: 2,
        after: "ON CONFLICT (stream) DO UPDATE SET next_seq = excluded.next_seq",
    };
    let bind = |values: &mut Values, of: &Unmarked| {
        values.add(of.stream.0)?;
        values.add(column::seq(of.next)?)
    };
    bulk.execute(conn, streams, bind).await.map(drop)
}

/// The time that each segment of a range of a stream accounts for, or claims to.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn spans(
    conn: &mut Connection,
    stream: StreamRow,
    first: Seq,
    last: Option<Seq>,
) -> Result<Vec<Period>, StoreError> {
    let rows = sql::query(
        "SELECT covered_from, covered_through FROM segments \
         WHERE stream = $1 AND seq >= $2 AND ($3 = 0 OR seq <= $4) ORDER BY seq",
    )
    .bind(stream.0)
    .bind(column::seq(first)?)
    .bind(i64::from(last.is_some()))
    .bind(column::seq(last.unwrap_or(first))?)
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        Ok(Period {
            from: instant(row, "covered_from", "segments.covered_from")?,
            to: instant(row, "covered_through", "segments.covered_through")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Makes hours due, each given once.
///
/// # Errors
/// When the database fails.
pub async fn mark(conn: &mut Connection, hours: &[u64]) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "INSERT INTO leakage_hours (hour, marked)",
        columns: 2,
        after: "ON CONFLICT (hour) DO UPDATE SET marked = leakage_hours.marked + 1",
    };
    let bind = |values: &mut Values, hour: &u64| {
        values.add(number(*hour, "an hour")?)?;
        values.add(1_i64)
    };
    bulk.execute(conn, hours, bind).await.map(drop)
}

/// The first hour before `before` that is due; else the one tallied longest ago, if that was before
/// `since`.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn next(
    conn: &mut Connection,
    before: u64,
    since: Timestamp,
) -> Result<Option<DueHour>, StoreError> {
    let due = "SELECT hour, marked FROM leakage_hours WHERE tallied < marked AND hour < $1 ORDER BY hour LIMIT 1";
    let due = sql::query(due)
        .bind(number(before, "an hour")?)
        .fetch_optional(&mut *conn)
        .await?;
    let row = match due {
        Some(row) => Some(row),
        None => {
            let old = "SELECT hour, marked FROM leakage_hours WHERE tallied_at < $1 AND tallied >= marked \
                       ORDER BY tallied_at, hour LIMIT 1";
            sql::query(old)
                .bind(since.as_i64())
                .fetch_optional(conn)
                .await?
        }
    };
    row.as_ref().map(read_hour).transpose()
}

/// Hours that are due, the latest first, at most `most`; and how many there are.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn due(conn: &mut Connection, most: u32) -> Result<(Vec<DueHour>, u64), StoreError> {
    let count = "SELECT COUNT(*) FROM leakage_hours WHERE tallied < marked";
    let count: i64 = sql::query_scalar(count).fetch_one(&mut *conn).await?;
    let rows =
        "SELECT hour, marked FROM leakage_hours WHERE tallied < marked ORDER BY hour DESC LIMIT $1";
    let rows = sql::query(rows)
        .bind(i64::from(most))
        .fetch_all(conn)
        .await?;
    let hours = rows.iter().map(read_hour).collect::<Result<_, _>>()?;
    Ok((hours, u64::try_from(count).unwrap_or(0)))
}

fn read_hour(row: &Row) -> Result<DueHour, StoreError> {
    Ok(DueHour {
        hour: unsigned(row, "hour", "leakage_hours.hour")?,
        marked: row.try_get("marked")?,
    })
}

/// Keeps what an hour came to. Marks made since it was read keep it due.
///
/// # Errors
/// When the database fails.
pub async fn put(
    conn: &mut Connection,
    hour: DueHour,
    tallies: &BTreeMap<Meter, Tally>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let key = number(hour.hour, "an hour")?;
    sql::query("DELETE FROM leakage WHERE hour = $1")
        .bind(key)
        .execute(&mut *conn)
        .await?;
    let bulk = Bulk {
        before: "INSERT INTO leakage (hour, meter, received, counted, quarantined, written_off, differs)",
        columns: 7,
        after: "",
    };
    let rows: Vec<_> = tallies.iter().collect();
    let bind = |values: &mut Values, (meter, tally): &(&Meter, &Tally)| {
        values.add(key)?;
        values.add(i64::from(meter.code()))?;
        for figure in [
            tally.received,
            tally.counted,
            tally.quarantined,
            tally.written_off,
        ] {
            values.add(figure.to_be_bytes().as_slice())?;
        }
        values.add(i64::from(tally.difference() != 0))
    };
    bulk.execute(&mut *conn, &rows, bind).await?;
    sql::query("UPDATE leakage_hours SET tallied = $2, tallied_at = $3 WHERE hour = $1")
        .bind(key)
        .bind(hour.marked)
        .bind(now.as_i64())
        .execute(conn)
        .await?;
    Ok(())
}

/// What hours came to, by hour and meter: all of them, or only those that do not add up.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn tallies(
    conn: &mut Connection,
    differing_only: bool,
) -> Result<Vec<(u64, Meter, Tally)>, StoreError> {
    let query = match differing_only {
        true => "SELECT * FROM leakage WHERE differs = 1 ORDER BY hour, meter",
        false => "SELECT * FROM leakage ORDER BY hour, meter",
    };
    let rows = sql::query(query).fetch_all(conn).await?;
    let read = |row: &Row| {
        let figure = |name| column::reading(row, name, "leakage").map(|reading| reading.0);
        let tally = Tally {
            received: figure("received")?,
            counted: figure("counted")?,
            quarantined: figure("quarantined")?,
            written_off: figure("written_off")?,
        };
        Ok((unsigned(row, "hour", "leakage.hour")?, meter(row)?, tally))
    };
    rows.iter().map(read).collect()
}

/// Invoices and corrections whose usage was not noted yet, by number, at most `most`. With `latest_only`, no
/// document that was corrected.
///
/// # Errors
/// When the database fails.
pub async fn unread_documents(
    conn: &mut Connection,
    latest_only: bool,
    most: u32,
) -> Result<Vec<(String, String)>, StoreError> {
    let query = "SELECT d.number, d.document FROM (SELECT number, document FROM invoices \
                 UNION ALL SELECT number, document FROM corrections) d WHERE NOT EXISTS \
                 (SELECT 1 FROM document_usage u WHERE u.document = d.number AND u.meter = 0) \
                 AND ($1 = 0 OR NOT EXISTS (SELECT 1 FROM corrections c WHERE c.base = d.number)) \
                 ORDER BY d.number LIMIT $2";
    Ok(sql::query_as(query)
        .bind(i64::from(latest_only))
        .bind(i64::from(most))
        .fetch_all(conn)
        .await?)
}

/// Notes what an issued document holds of each meter.
///
/// # Errors
/// When the database fails.
pub async fn put_charged(
    conn: &mut Connection,
    document: &str,
    charged: &BTreeMap<Meter, Charged>,
) -> Result<(), StoreError> {
    let bulk = Bulk {
        before: "INSERT INTO document_usage (document, meter, billed, unpriced)",
        columns: 4,
        after: "ON CONFLICT (document, meter) DO NOTHING",
    };
    let mut rows: Vec<(i64, Charged)> = charged
        .iter()
        .map(|(meter, charged)| (i64::from(meter.code()), *charged))
        .collect();
    rows.push((0, Charged::default()));
    let bind = |values: &mut Values, (meter, charged): &(i64, Charged)| {
        values.add(document)?;
        values.add(*meter)?;
        values.add(charged.billed.to_be_bytes().as_slice())?;
        values.add(charged.unpriced.to_be_bytes().as_slice())
    };
    bulk.execute(conn, &rows, bind).await.map(drop)
}

/// What is billed of each meter by the documents that were noted: of each invoice and its corrections, the latest
/// states the period's quantities.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn charged(conn: &mut Connection) -> Result<BTreeMap<Meter, Charged>, StoreError> {
    let query = "SELECT u.meter, u.billed, u.unpriced FROM document_usage u WHERE u.meter > 0 \
                 AND NOT EXISTS (SELECT 1 FROM corrections c WHERE c.base = u.document)";
    let rows = sql::query(query).fetch_all(conn).await?;
    let mut sums: BTreeMap<Meter, Charged> = BTreeMap::new();
    for row in &rows {
        let figure = |name| column::reading(row, name, "document_usage").map(|reading| reading.0);
        let more = Charged {
            billed: figure("billed")?,
            unpriced: figure("unpriced")?,
        };
        sums.entry(meter(row)?).or_default().add(more);
    }
    Ok(sums)
}

/// When the hours up to now were last looked at, and how many are due.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn tallied_at(conn: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    let query = "SELECT MAX(tallied_at) AS at FROM leakage_hours";
    let row = sql::query(query).fetch_one(conn).await?;
    let at = optional_instant(&row, "at", "leakage_hours.tallied_at")?;
    Ok(at.filter(|at| *at > Timestamp::EPOCH))
}
