//! Where registers stood: which counted segments hold the bounds of a span, and what the store knows
//! of registers that came and went between them.

use tallystick_common::ids::{RegisterId, Seq, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::reading::Reading;
use tallystick_common::time::Timestamp;

use super::column::{self, instant, reading, unsigned};
use super::sql::{self, Row};
use super::streams::{StoredSegment, StreamRow, meter, read_segment, workload};
use super::{Connection, StoreError};

/// Counted segments that follow one another without a quarantined one between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The first of them.
    pub first: Seq,
    /// The last of them.
    pub last: Seq,
}

/// A register from its opening to its last reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// What it is of.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Since when.
    pub opened_at: Timestamp,
    /// Up to when.
    pub last_at: Timestamp,
    /// Its reading then.
    pub reading: Reading,
    /// Whether it was closed, by a run that says so.
    pub closed: bool,
}

/// The stretches of a stream that account for time in `span`.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn stretches(
    conn: &mut Connection,
    stream: StreamRow,
    span: Period,
) -> Result<Vec<Stretch>, StoreError> {
    let Some(first) = ending_after(conn, stream, span.from).await? else {
        return Ok(Vec::new());
    };
    // The one that reaches the end of the span, else the last that ends within it.
    let last = match ending_after(conn, stream, span.to).await? {
        Some(last) if last.1 < span.to => Some(last),
        _ => ending_within(conn, stream, span).await?,
    };
    let (Some(last), true) = (last, first.1 < span.to) else {
        return Ok(Vec::new());
    };
    let doubted = quarantined(conn, stream, first.0, last.0).await?;
    Ok(split(first.0, last.0, &doubted))
}

/// The first counted segment that ends after an instant, and where it begins.
async fn ending_after(
    conn: &mut Connection,
    stream: StreamRow,
    at: Timestamp,
) -> Result<Option<(Seq, Timestamp)>, StoreError> {
    let row = sql::query(
        "SELECT seq, covered_from FROM segments \
         WHERE stream = $1 AND covered_through > $2 AND verdict = 'counted' \
         ORDER BY covered_through LIMIT 1",
    )
    .bind(stream.0)
    .bind(at.as_i64())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(place).transpose()
}

/// The last counted segment that ends within a span.
async fn ending_within(
    conn: &mut Connection,
    stream: StreamRow,
    span: Period,
) -> Result<Option<(Seq, Timestamp)>, StoreError> {
    let row = sql::query(
        "SELECT seq, covered_from FROM segments \
         WHERE stream = $1 AND covered_through > $2 AND covered_through <= $3 AND verdict = 'counted' \
         ORDER BY covered_through DESC LIMIT 1",
    )
    .bind(stream.0)
    .bind(span.from.as_i64())
    .bind(span.to.as_i64())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(place).transpose()
}

fn place(row: &Row) -> Result<(Seq, Timestamp), StoreError> {
    Ok((
        Seq(unsigned(row, "seq", "segments.seq")?),
        instant(row, "covered_from", "segments.covered_from")?,
    ))
}

async fn quarantined(
    conn: &mut Connection,
    stream: StreamRow,
    first: Seq,
    last: Seq,
) -> Result<Vec<Seq>, StoreError> {
    let rows = sql::query(
        "SELECT seq FROM segments \
         WHERE stream = $1 AND seq > $2 AND seq < $3 AND verdict = 'quarantined' ORDER BY seq",
    )
    .bind(stream.0)
    .bind(column::seq(first)?)
    .bind(column::seq(last)?)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| unsigned(row, "seq", "segments.seq").map(Seq))
        .collect()
}

/// Segments of a stream that account for time after an instant, and are quarantined.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn quarantined_after(
    conn: &mut Connection,
    stream: StreamRow,
    at: Timestamp,
) -> Result<Vec<Seq>, StoreError> {
    let rows = sql::query(
        "SELECT seq FROM segments \
         WHERE stream = $1 AND covered_through > $2 AND verdict = 'quarantined' ORDER BY seq",
    )
    .bind(stream.0)
    .bind(at.as_i64())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| unsigned(row, "seq", "segments.seq").map(Seq))
        .collect()
}

/// The first segment of a stream that accounts for time after an instant.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn first_after(
    conn: &mut Connection,
    stream: StreamRow,
    at: Timestamp,
) -> Result<Option<Seq>, StoreError> {
    let row = sql::query(
        "SELECT MIN(seq) AS seq FROM segments WHERE stream = $1 AND covered_through > $2",
    )
    .bind(stream.0)
    .bind(at.as_i64())
    .fetch_one(conn)
    .await?;
    let seq: Option<i64> = row.try_get("seq")?;
    seq.map(|_| unsigned(&row, "seq", "segments.seq").map(Seq))
        .transpose()
}

/// `first` to `last` without the numbers in `doubted`, which lie between them and rise.
fn split(first: Seq, last: Seq, doubted: &[Seq]) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut begin = first;
    for seq in doubted {
        if begin < *seq {
            let last = Seq(seq.0 - 1);
            stretches.push(Stretch { first: begin, last });
        }
        begin = seq.next();
    }
    stretches.push(Stretch { first: begin, last });
    stretches
}

/// One stored segment.
///
/// # Errors
/// When it is not there, the database fails or bytes do not decompress.
pub async fn segment(
    conn: &mut Connection,
    stream: StreamRow,
    seq: Seq,
) -> Result<StoredSegment, StoreError> {
    let row = sql::query("SELECT seq, verdict, bytes FROM segments WHERE stream = $1 AND seq = $2")
        .bind(stream.0)
        .bind(column::seq(seq)?)
        .fetch_optional(conn)
        .await?;
    let row =
        row.ok_or_else(|| StoreError::damaged("segments", format!("segment {seq} is missing")))?;
    read_segment(&row)
}

const LIFE: &str = "SELECT r.*, w.name AS workload_name FROM registers r JOIN workloads w ON w.id = r.workload \
                    WHERE r.stream = $1 AND ";

/// What the derived rows say of one register, as of the stream's `rolled` position.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn life(
    conn: &mut Connection,
    stream: StreamRow,
    register: RegisterId,
) -> Result<Option<Life>, StoreError> {
    let query = sqlx::AssertSqlSafe(format!("{LIFE} r.register = $2"));
    let row = sql::query(query)
        .bind(stream.0)
        .bind(column::number(register.0, "a register")?)
        .fetch_optional(conn)
        .await?;
    Ok(row.as_ref().map(read).transpose()?.map(|(_, life)| life))
}

/// The same of every register with a number above `register` that was opened before an instant.
///
/// # Errors
/// As [`life`].
pub async fn lives_above(
    conn: &mut Connection,
    stream: StreamRow,
    register: RegisterId,
    before: Timestamp,
) -> Result<Vec<(RegisterId, Life)>, StoreError> {
    let query = sqlx::AssertSqlSafe(format!("{LIFE} r.register > $2 AND r.opened_at < $3"));
    let rows = sql::query(query)
        .bind(stream.0)
        .bind(column::number(register.0, "a register")?)
        .bind(before.as_i64())
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<(RegisterId, Life), StoreError> {
    let closed: Option<String> = row.try_get("closed")?;
    let life = Life {
        workload: workload(row)?,
        meter: meter(row)?,
        opened_at: instant(row, "opened_at", "registers.opened_at")?,
        last_at: instant(row, "last_at", "registers.last_at")?,
        reading: reading(row, "last_reading", "registers.last_reading")?,
        closed: closed.is_some_and(|reason| reason != "left_out"),
    };
    let register = RegisterId(unsigned(row, "register", "registers.register")?);
    Ok((register, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(doubted: &[u64]) -> Vec<(u64, u64)> {
        let doubted: Vec<Seq> = doubted.iter().copied().map(Seq).collect();
        split(Seq(3), Seq(9), &doubted)
            .iter()
            .map(|stretch| (stretch.first.0, stretch.last.0))
            .collect()
    }

    #[test]
    fn quarantined_segments_part_the_counted_ones() {
        assert_eq!(stretches(&[]), [(3, 9)]);
        assert_eq!(stretches(&[5, 6]), [(3, 4), (7, 9)]);
        assert_eq!(stretches(&[4, 6, 8]), [(3, 3), (5, 5), (7, 7), (9, 9)]);
    }
}
