//! What the store knows of how a node's time is accounted for: by node, so that one node's answer reads
//! nothing of others.

use tallystick_common::ids::{Seq, WorkloadName};
use tallystick_common::period::Period;
use tallystick_common::reading::Cause;
use tallystick_common::time::Timestamp;

use super::column::{instant, unsigned};
use super::inspect::shared;
use super::nodes::NodeRow;
use super::sql::{self, Row};
use super::streams::{StreamRow, workload};
use super::{Connection, StoreError};

/// A whole-node gap, and the segment that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedBy {
    /// When, cut at the span's bounds.
    pub span: Period,
    /// Why.
    pub cause: Cause,
    /// The segment's stream.
    pub stream: StreamRow,
    /// The segment; none when it is no longer here.
    pub seq: Option<Seq>,
}

/// A quarantined segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubted {
    /// Its number.
    pub seq: Seq,
    /// Its time, cut at the span's bounds.
    pub span: Period,
    /// Why it is not counted, as a word.
    pub code: String,
    /// Whether a person decided that it does not count.
    pub written_off: bool,
}

/// A workload by its short name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// The short name inside the store; none before rollups reach its first segment.
    pub row: Option<i64>,
    /// Its name.
    pub name: WorkloadName,
    /// When its first register began.
    pub first_seen_at: Timestamp,
}

/// The gaps that counted segments of a node name, which share time with a span, by time.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn gaps(
    conn: &mut Connection,
    node: NodeRow,
    span: Period,
) -> Result<Vec<NamedBy>, StoreError> {
    let rows = sql::query(
        "SELECT g.from_at AS from_at, g.to_at AS to_at, g.cause AS cause, g.stream AS stream, \
         (SELECT s.seq FROM segments s WHERE s.stream = g.stream AND s.covered_through >= g.to_at \
         ORDER BY s.covered_through LIMIT 1) AS seq \
         FROM gaps g WHERE g.node = $1 AND g.from_at < $3 AND g.to_at > $2 ORDER BY g.from_at, g.to_at",
    )
    .bind(node.0)
    .bind(span.from.as_i64())
    .bind(span.to.as_i64())
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        let words: &str = row.try_get("cause")?;
        let seq: Option<i64> = row.try_get("seq")?;
        Ok(NamedBy {
            span: shared(row, ("from_at", "to_at"), span)?,
            cause: Cause::from_words(words)
                .ok_or_else(|| StoreError::damaged("gaps.cause", words))?,
            stream: StreamRow(row.try_get("stream")?),
            seq: seq.and_then(|seq| u64::try_from(seq).ok()).map(Seq),
        })
    };
    rows.iter().map(read).collect()
}

/// The quarantined segments of a stream that account for time in a span, in order.
///
/// # Errors
/// As [`gaps`].
pub async fn doubted(
    conn: &mut Connection,
    stream: StreamRow,
    span: Period,
) -> Result<Vec<Doubted>, StoreError> {
    let rows = sql::query(
        // Whatever was accepted after such a decision counts.
        "SELECT s.seq AS seq, s.covered_from AS covered_from, s.covered_through AS covered_through, \
         s.doubt_code AS doubt_code, (SELECT COUNT(*) FROM decisions d WHERE d.stream = s.stream \
         AND d.kind IN ('reject', 'keep_other', 'revoke') AND d.first_seq <= s.seq \
         AND (d.last_seq IS NULL OR d.last_seq >= s.seq)) AS decided FROM segments s \
         WHERE s.stream = $1 AND s.verdict = 'quarantined' AND s.covered_from < $3 AND s.covered_through > $2 \
         ORDER BY s.seq",
    )
    .bind(stream.0)
    .bind(span.from.as_i64())
    .bind(span.to.as_i64())
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        let code: Option<String> = row.try_get("doubt_code")?;
        Ok(Doubted {
            seq: Seq(unsigned(row, "seq", "segments.seq")?),
            span: shared(row, ("covered_from", "covered_through"), span)?,
            code: code.unwrap_or_else(|| "doubtful".to_owned()),
            written_off: row.try_get::<i64, _>("decided")? > 0,
        })
    };
    rows.iter().map(read).collect()
}

/// What is metered on a node, by name.
///
/// # Errors
/// As [`gaps`].
pub async fn metered(conn: &mut Connection, node: NodeRow) -> Result<Vec<Metered>, StoreError> {
    let query = "SELECT id, name AS workload_name, first_seen_at FROM workloads WHERE node = $1 ORDER BY name";
    let rows = sql::query(query).bind(node.0).fetch_all(conn).await?;
    let read = |row: &Row| {
        Ok(Metered {
            row: Some(row.try_get("id")?),
            name: workload(row)?,
            first_seen_at: instant(row, "first_seen_at", "workloads.first_seen_at")?,
        })
    };
    rows.iter().map(read).collect()
}
