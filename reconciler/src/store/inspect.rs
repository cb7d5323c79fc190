//! What people look at beside totals: segments, quarantine, gaps, workloads, refusals, counts for
//! metrics.

use std::collections::BTreeMap;

use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::period::Period;
use tallystick_common::reading::Cause;
use tallystick_common::time::Timestamp;

use super::column::{bytes, id, instant, unsigned};
use super::nodes::NodeRow;
use super::sql::{self, Row};
use super::{Connection, StoreError};

/// A segment as stored, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its stream.
    pub stream: StreamId,
    /// Short name of the stream inside the store: the first part of the list's order.
    pub stream_row: i64,
    /// Its number.
    pub seq: Seq,
    /// Its hash.
    pub hash: Hash,
    /// First instant it accounts for.
    pub covered_from: Timestamp,
    /// First instant after it.
    pub covered_through: Timestamp,
    /// When it was committed.
    pub received_at: Timestamp,
    /// `counted` or `quarantined`.
    pub verdict: String,
    /// Why quarantined: a word, and in words.
    pub doubt: Option<(String, String)>,
    /// How many intervals it holds.
    pub intervals: u64,
}

/// Up to `limit` segments of a node after a position, by stream and number.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn segments(
    conn: &mut Connection,
    node: NodeRow,
    quarantined_only: bool,
    after: (i64, i64),
    limit: u32,
) -> Result<Vec<SegmentRow>, StoreError> {
    let rows = sql::query(
        "SELECT s.stream AS stream_row, t.stream AS stream, s.seq AS seq, s.hash AS hash, \
         s.covered_from AS covered_from, s.covered_through AS covered_through, \
         s.received_at AS received_at, s.verdict AS verdict, s.doubt_code AS doubt_code, \
         s.doubt AS doubt, s.interval_count AS interval_count \
         FROM segments s JOIN streams t ON t.id = s.stream WHERE t.node = $1 \
         AND ($2 = 0 OR s.verdict = 'quarantined') \
         AND (s.stream > $3 OR (s.stream = $3 AND s.seq > $4)) \
         ORDER BY s.stream, s.seq LIMIT $5",
    )
    .bind(node.0)
    .bind(i64::from(quarantined_only))
    .bind(after.0)
    .bind(after.1)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    rows.iter().map(segment_row).collect()
}

/// Up to `limit` quarantined segments of a node, the last received first.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn latest_quarantined(
    conn: &mut Connection,
    node: NodeRow,
    limit: u32,
) -> Result<Vec<SegmentRow>, StoreError> {
    let rows = sql::query(
        "SELECT s.stream AS stream_row, t.stream AS stream, s.seq AS seq, s.hash AS hash, \
         s.covered_from AS covered_from, s.covered_through AS covered_through, \
         s.received_at AS received_at, s.verdict AS verdict, s.doubt_code AS doubt_code, \
         s.doubt AS doubt, s.interval_count AS interval_count \
         FROM segments s JOIN streams t ON t.id = s.stream \
         WHERE t.node = $1 AND s.verdict = 'quarantined' \
         ORDER BY s.received_at DESC, s.stream DESC, s.seq DESC LIMIT $2",
    )
    .bind(node.0)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    rows.iter().map(segment_row).collect()
}

/// The last segment that a node's newest stream admitted.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn last_segment(
    conn: &mut Connection,
    node: NodeRow,
) -> Result<Option<SegmentRow>, StoreError> {
    let row = sql::query(
        "SELECT s.stream AS stream_row, t.stream AS stream, s.seq AS seq, s.hash AS hash, \
         s.covered_from AS covered_from, s.covered_through AS covered_through, \
         s.received_at AS received_at, s.verdict AS verdict, s.doubt_code AS doubt_code, \
         s.doubt AS doubt, s.interval_count AS interval_count \
         FROM streams t JOIN segments s ON s.stream = t.id AND s.seq = t.next_seq - 1 \
         WHERE t.node = $1 ORDER BY s.received_at DESC, t.id DESC LIMIT 1",
    )
    .bind(node.0)
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(segment_row).transpose()
}

fn segment_row(row: &Row) -> Result<SegmentRow, StoreError> {
    let code: Option<String> = row.try_get("doubt_code")?;
    let words: Option<String> = row.try_get("doubt")?;
    Ok(SegmentRow {
        stream: StreamId(id(row, "stream", "streams.stream")?),
        stream_row: row.try_get("stream_row")?,
        seq: Seq(unsigned(row, "seq", "segments.seq")?),
        hash: Hash(bytes(row, "hash", "segments.hash")?),
        covered_from: instant(row, "covered_from", "segments.covered_from")?,
        covered_through: instant(row, "covered_through", "segments.covered_through")?,
        received_at: instant(row, "received_at", "segments.received_at")?,
        verdict: row.try_get("verdict")?,
        doubt: code.map(|code| (code, words.unwrap_or_default())),
        intervals: unsigned(row, "interval_count", "segments.interval_count")?,
    })
}

/// A whole-node gap that a counted segment names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// The node.
    pub node: NodeRow,
    /// When.
    pub span: Period,
    /// Why.
    pub cause: Cause,
}

/// Gaps of every node that share time with a span, cut at its bounds, by node and time.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn gaps(conn: &mut Connection, span: Period) -> Result<Vec<GapRow>, StoreError> {
    let rows = sql::query(
        "SELECT node, from_at, to_at, cause FROM gaps WHERE from_at < $2 AND to_at > $1 \
         ORDER BY node, from_at, to_at",
    )
    .bind(span.from.as_i64())
    .bind(span.to.as_i64())
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        let words: &str = row.try_get("cause")?;
        Ok(GapRow {
            node: NodeRow(row.try_get("node")?),
            span: shared(row, ("from_at", "to_at"), span)?,
            cause: Cause::from_words(words)
                .ok_or_else(|| StoreError::damaged("gaps.cause", words))?,
        })
    };
    rows.iter().map(read).collect()
}

/// Time of quarantined segments that lies in a span, cut at its bounds, by node.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn quarantined_time(
    conn: &mut Connection,
    span: Period,
) -> Result<Vec<(NodeRow, Period)>, StoreError> {
    let rows = sql::query(
        "SELECT t.node AS node, s.covered_from AS covered_from, s.covered_through AS covered_through \
         FROM segments s JOIN streams t ON t.id = s.stream \
         WHERE s.verdict = 'quarantined' AND s.covered_from < $2 AND s.covered_through > $1 \
         ORDER BY t.node, s.covered_from",
    )
    .bind(span.from.as_i64())
    .bind(span.to.as_i64())
    .fetch_all(conn)
    .await?;
    let read = |row: &Row| {
        let time = shared(row, ("covered_from", "covered_through"), span)?;
        Ok((NodeRow(row.try_get("node")?), time))
    };
    rows.iter().map(read).collect()
}

/// The part of a row's time that lies in a span.
pub(super) fn shared(row: &Row, columns: (&str, &str), span: Period) -> Result<Period, StoreError> {
    Ok(Period {
        from: instant(row, columns.0, "a beginning")?.max(span.from),
        to: instant(row, columns.1, "an end")?.min(span.to),
    })
}

/// A workload of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRow {
    /// Its name.
    pub name: String,
    /// What it calls itself, as its newest counted segment says.
    pub labels: BTreeMap<String, String>,
    /// When its first register began.
    pub first_seen_at: Timestamp,
}

/// The workloads of a node, by name.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn workloads(
    conn: &mut Connection,
    node: NodeRow,
) -> Result<Vec<WorkloadRow>, StoreError> {
    let query = "SELECT name, labels, first_seen_at FROM workloads WHERE node = $1 ORDER BY name";
    let rows = sql::query(query).bind(node.0).fetch_all(conn).await?;
    let read = |row: &Row| {
        let labels: &str = row.try_get("labels")?;
        Ok(WorkloadRow {
            name: row.try_get("name")?,
            labels: serde_json::from_str(labels)
                .map_err(|error| StoreError::damaged("workloads.labels", error))?,
            first_seen_at: instant(row, "first_seen_at", "workloads.first_seen_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// Something refused, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRow {
    /// Its number.
    pub id: u64,
    /// Who sent it; none for strangers.
    pub node: Option<NodeId>,
    /// A word.
    pub reason: String,
    /// In words.
    pub detail: String,
    /// The stream and number it claimed, where they could be read.
    pub claimed: Option<(StreamId, u64)>,
    /// When.
    pub received_at: Timestamp,
    /// How many bytes it had.
    pub byte_count: u64,
}

/// Up to `limit` refusals after a number, of one node or of all.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn refusals(
    conn: &mut Connection,
    node: Option<NodeRow>,
    after: u64,
    limit: u32,
) -> Result<Vec<RefusalRow>, StoreError> {
    let rows = sql::query(
        "SELECT r.id AS id, n.node AS node, r.reason AS reason, r.detail AS detail, \
         r.stream AS stream, r.seq AS seq, r.received_at AS received_at, r.byte_count AS byte_count \
         FROM refusals r LEFT JOIN nodes n ON n.id = r.node \
         WHERE ($1 = 0 OR r.node = $1) AND r.id > $2 ORDER BY r.id LIMIT $3",
    )
    .bind(node.map_or(0, |node| node.0))
    .bind(super::column::number(after, "a refusal")?)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    rows.iter().map(refusal_row).collect()
}

/// Up to `limit` refusals of a node, the last first.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn latest_refusals(
    conn: &mut Connection,
    node: NodeRow,
    limit: u32,
) -> Result<Vec<RefusalRow>, StoreError> {
    let rows = sql::query(
        "SELECT r.id AS id, n.node AS node, r.reason AS reason, r.detail AS detail, \
         r.stream AS stream, r.seq AS seq, r.received_at AS received_at, r.byte_count AS byte_count \
         FROM refusals r JOIN nodes n ON n.id = r.node \
         WHERE r.node = $1 ORDER BY r.id DESC LIMIT $2",
    )
    .bind(node.0)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    rows.iter().map(refusal_row).collect()
}

fn refusal_row(row: &Row) -> Result<RefusalRow, StoreError> {
    let node: Option<Vec<u8>> = row.try_get("node")?;
    let stream: Option<Vec<u8>> = row.try_get("stream")?;
    let seq: Option<i64> = row.try_get("seq")?;
    let stream = stream.and_then(|bytes| StreamId::from_slice(&bytes));
    Ok(RefusalRow {
        id: unsigned(row, "id", "refusals.id")?,
        node: node.and_then(|bytes| NodeId::from_slice(&bytes)),
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        claimed: stream.zip(seq.and_then(|seq| u64::try_from(seq).ok())),
        received_at: instant(row, "received_at", "refusals.received_at")?,
        byte_count: unsigned(row, "byte_count", "refusals.byte_count")?,
    })
}

/// How often something happened, ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Whose: the short name of a node; none for strangers and for sums over nodes.
    pub node: Option<NodeRow>,
    /// What: a verdict, a reason or a state.
    pub what: String,
    /// How often.
    pub count: u64,
}

fn counts(rows: &[Row]) -> Result<Vec<Count>, StoreError> {
    rows.iter()
        .map(|row| {
            let node: i64 = row.try_get("node")?;
            Ok(Count {
                node: (node != 0).then_some(NodeRow(node)),
                what: row.try_get("what")?,
                count: unsigned(row, "count", "a count")?,
            })
        })
        .collect()
}

/// Refusals by node and reason.
///
/// # Errors
/// When the database fails.
pub async fn refusal_counts(conn: &mut Connection) -> Result<Vec<Count>, StoreError> {
    let query = "SELECT node, reason AS what, count FROM refusal_counts ORDER BY node, reason";
    counts(&sql::query(query).fetch_all(conn).await?)
}

/// Quarantined segments by node.
///
/// # Errors
/// When the database fails.
pub async fn quarantine_counts(conn: &mut Connection) -> Result<Vec<Count>, StoreError> {
    let query = "SELECT t.node AS node, 'quarantined' AS what, COUNT(*) AS count FROM segments s \
                 JOIN streams t ON t.id = s.stream WHERE s.verdict = 'quarantined' GROUP BY t.node";
    counts(&sql::query(query).fetch_all(conn).await?)
}

/// Streams by state.
///
/// # Errors
/// When the database fails.
pub async fn stream_counts(conn: &mut Connection) -> Result<Vec<Count>, StoreError> {
    let query = "SELECT CAST(0 AS BIGINT) AS node, state AS what, COUNT(*) AS count FROM streams GROUP BY state";
    counts(&sql::query(query).fetch_all(conn).await?)
}

/// Nodes by state.
///
/// # Errors
/// When the database fails.
pub async fn node_counts(conn: &mut Connection) -> Result<Vec<Count>, StoreError> {
    let query = "SELECT CAST(0 AS BIGINT) AS node, state AS what, COUNT(*) AS count FROM nodes GROUP BY state";
    counts(&sql::query(query).fetch_all(conn).await?)
}

/// Segments admitted, ever: the sum of all streams' positions.
///
/// # Errors
/// When the database fails.
pub async fn admitted(conn: &mut Connection) -> Result<u64, StoreError> {
    let rows: Vec<i64> = sql::query_scalar("SELECT next_seq FROM streams")
        .fetch_all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|next| u64::try_from(next).ok())
        .sum())
}

/// Segments stored that rollups do not hold yet.
///
/// # Errors
/// When the database fails.
pub async fn rollup_lag(conn: &mut Connection) -> Result<u64, StoreError> {
    let query = "SELECT next_seq - rolled_seq FROM streams WHERE next_seq > rolled_seq";
    let rows: Vec<i64> = sql::query_scalar(query).fetch_all(conn).await?;
    Ok(rows
        .into_iter()
        .filter_map(|lag| u64::try_from(lag).ok())
        .sum())
}
