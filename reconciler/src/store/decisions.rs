//! Decisions of persons on stored segments, the verdicts that they change, and revoked keys.

use tallystick_common::decision::DecisionKind;
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::keys::PublicKey;
use tallystick_common::reading::Gap;
use tallystick_common::time::Timestamp;

use super::column::{self, bytes, id, instant, unsigned};
use super::nodes::NodeRow;
use super::sql::{self, Row};
use super::streams::StreamRow;
use super::{Connection, StoreError};
use crate::ingest::admit::StreamStatus;

/// A decision as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRow {
    /// 1, 2, 3 in the order of deciding.
    pub number: u64,
    /// What was decided.
    pub kind: DecisionKind,
    /// Whose segments.
    pub node: NodeId,
    /// Their stream.
    pub stream: StreamId,
    /// The first of them.
    pub first: Seq,
    /// The last of them; none: everything from the first on.
    pub last: Option<Seq>,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A key that signs nothing new any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The stream of which nothing from [`Self::from`] on counts.
    pub stream: StreamId,
    /// From which number on.
    pub from: Seq,
    /// The key that signed there.
    pub key: PublicKey,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// How many decisions there were: verdicts that were read before it rose may have changed.
///
/// # Errors
/// When the database fails.
pub async fn version(conn: &mut Connection) -> Result<i64, StoreError> {
    let query = "SELECT COALESCE(MAX(id), 0) FROM decisions";
    Ok(sql::query_scalar(query).fetch_one(conn).await?)
}

/// The number of the next decision. Nobody else draws it before this transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn next_number(conn: &mut Connection) -> Result<u64, StoreError> {
    super::take_turn(conn).await?;
    let held = version(conn).await?;
    Ok(u64::try_from(held).unwrap_or(0).saturating_add(1))
}

/// Writes a decision, with its signed statement.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Connection,
    stream: StreamRow,
    new: &DecisionRow,
    signed: &[u8],
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO decisions (id, kind, stream, first_seq, last_seq, reason, decided_by, decided_at, signed) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(column::number(new.number, "a decision")?)
    .bind(new.kind.as_str())
    .bind(stream.0)
    .bind(column::seq(new.first)?)
    .bind(new.last.map(column::seq).transpose()?)
    .bind(&new.reason)
    .bind(&new.by)
    .bind(new.at.as_i64())
    .bind(signed)
    .execute(conn)
    .await?;
    Ok(())
}

const DECISION: &str = "SELECT d.*, s.stream AS stream_id, n.node AS node_id FROM decisions d \
                        JOIN streams s ON s.id = d.stream JOIN nodes n ON n.id = s.node";

/// Up to `limit` decisions after a number, on one node's segments or on all.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn list(
    conn: &mut Connection,
    node: Option<NodeRow>,
    after: u64,
    limit: u32,
) -> Result<Vec<DecisionRow>, StoreError> {
    let text =
        format!("{DECISION} WHERE ($1 = 0 OR s.node = $1) AND d.id > $2 ORDER BY d.id LIMIT $3");
    let rows = sql::query(sqlx::AssertSqlSafe(text))
        .bind(node.map_or(0, |node| node.0))
        .bind(column::number(after, "a decision")?)
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

/// The decisions on a stream's segments, oldest first.
///
/// # Errors
/// As [`list`].
pub async fn of_stream(
    conn: &mut Connection,
    stream: StreamRow,
) -> Result<Vec<DecisionRow>, StoreError> {
    let text = format!("{DECISION} WHERE d.stream = $1 ORDER BY d.id");
    let rows = sql::query(sqlx::AssertSqlSafe(text))
        .bind(stream.0)
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<DecisionRow, StoreError> {
    let kind: &str = row.try_get("kind")?;
    let last: Option<i64> = row.try_get("last_seq")?;
    let last = last.map(|_| unsigned(row, "last_seq", "decisions.last_seq").map(Seq));
    Ok(DecisionRow {
        number: unsigned(row, "id", "decisions.id")?,
        kind: DecisionKind::from_name(kind)
            .ok_or_else(|| StoreError::damaged("decisions.kind", kind))?,
        node: NodeId(id(row, "node_id", "nodes.node")?),
        stream: StreamId(id(row, "stream_id", "streams.stream")?),
        first: Seq(unsigned(row, "first_seq", "decisions.first_seq")?),
        last: last.transpose()?,
        reason: row.try_get("reason")?,
        by: row.try_get("decided_by")?,
        at: instant(row, "decided_at", "decisions.decided_at")?,
    })
}

impl DecisionRow {
    /// Whether it is about segments from `first` on up to `last`.
    #[must_use]
    pub fn concerns(&self, first: Seq, last: Seq) -> bool {
        self.first <= last && self.last.is_none_or(|end| end >= first)
    }

    /// Whether it is about exactly these.
    #[must_use]
    pub fn is_of(&self, first: Seq, last: Option<Seq>) -> bool {
        (self.first, self.last) == (first, last)
    }
}

/// Lets a segment count.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Connection, stream: StreamRow, seq: Seq) -> Result<(), StoreError> {
    sql::query("UPDATE segments SET verdict = 'counted' WHERE stream = $1 AND seq = $2")
        .bind(stream.0)
        .bind(column::seq(seq)?)
        .execute(conn)
        .await?;
    Ok(())
}

/// Lets a segment count no longer, for a reason (a word, and words) if it is not the one that stands there.
///
/// # Errors
/// When the database fails.
pub async fn uncount(
    conn: &mut Connection,
    stream: StreamRow,
    seq: Seq,
    doubt: Option<(&str, &str)>,
) -> Result<(), StoreError> {
    let (code, words) = doubt.unzip();
    sql::query(
        "UPDATE segments SET verdict = 'quarantined', doubt_code = COALESCE($3, doubt_code), \
         doubt = COALESCE($4, doubt) WHERE stream = $1 AND seq = $2",
    )
    .bind(stream.0)
    .bind(column::seq(seq)?)
    .bind(code)
    .bind(words)
    .execute(conn)
    .await?;
    Ok(())
}

/// The first segment of a range that was never in doubt.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn undoubted(
    conn: &mut Connection,
    stream: StreamRow,
    first: Seq,
    last: Seq,
) -> Result<Option<Seq>, StoreError> {
    let query = "SELECT MIN(seq) AS seq FROM segments \
                 WHERE stream = $1 AND seq >= $2 AND seq <= $3 AND doubt_code IS NULL";
    let row = sql::query(query)
        .bind(stream.0)
        .bind(column::seq(first)?)
        .bind(column::seq(last)?)
        .fetch_one(conn)
        .await?;
    let seq: Option<i64> = row.try_get("seq")?;
    seq.map(|_| unsigned(&row, "seq", "segments.seq").map(Seq))
        .transpose()
}

/// Forgets the whole-node gaps that a segment names which counts no longer.
///
/// # Errors
/// When the database fails.
pub async fn forget_gaps(
    conn: &mut Connection,
    node: NodeRow,
    stream: StreamRow,
    gaps: &[Gap],
) -> Result<(), StoreError> {
    for gap in gaps {
        sql::query(
            "DELETE FROM gaps WHERE node = $1 AND from_at = $2 AND to_at = $3 AND stream = $4",
        )
        .bind(node.0)
        .bind(gap.from.as_i64())
        .bind(gap.to.as_i64())
        .bind(stream.0)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Takes the time up to `through` as accounted for: the clock has passed it by now.
///
/// # Errors
/// When the database fails.
pub async fn prove(
    conn: &mut Connection,
    stream: StreamRow,
    through: Timestamp,
) -> Result<(), StoreError> {
    sql::query(
        "UPDATE streams SET proved_through = $2 \
         WHERE id = $1 AND (proved_through IS NULL OR proved_through < $2)",
    )
    .bind(stream.0)
    .bind(through.as_i64())
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets a stream go on, or not.
///
/// # Errors
/// When the database fails.
pub async fn set_status(
    conn: &mut Connection,
    stream: StreamRow,
    status: StreamStatus,
) -> Result<(), StoreError> {
    sql::query("UPDATE streams SET state = $2 WHERE id = $1")
        .bind(stream.0)
        .bind(status.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// Where the other branch of a stream's latest fork begins, and with which segment.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn latest_fork(
    conn: &mut Connection,
    stream: StreamRow,
) -> Result<Option<(Seq, Hash)>, StoreError> {
    let query =
        "SELECT seq, hash FROM forks WHERE stream = $1 ORDER BY received_at DESC, seq DESC LIMIT 1";
    let row = sql::query(query)
        .bind(stream.0)
        .fetch_optional(conn)
        .await?;
    let read = |row: Row| {
        let hash = Hash(bytes(&row, "hash", "forks.hash")?);
        Ok((Seq(unsigned(&row, "seq", "forks.seq")?), hash))
    };
    row.map(read).transpose()
}

/// Whether a segment is of a branch whose fork was resolved: it begins one that is kept, or follows such a segment.
///
/// # Errors
/// When the database fails.
pub async fn is_of_resolved_fork(
    conn: &mut Connection,
    stream: StreamRow,
    hash: Hash,
    previous: Option<Hash>,
) -> Result<bool, StoreError> {
    let query = "SELECT COUNT(*) FROM forks WHERE stream = $1 AND (hash = $2 OR hash = $3)";
    let count: i64 = sql::query_scalar(query)
        .bind(stream.0)
        .bind(hash.0.as_slice())
        .bind(previous.unwrap_or(hash).0.as_slice())
        .fetch_one(conn)
        .await?;
    Ok(count > 0)
}

/// Notes that a key is revoked, unless it was from that very place on. Ingest sees it in its next transaction.
///
/// # Errors
/// When the database fails.
pub async fn revoke(
    conn: &mut Connection,
    node: NodeRow,
    new: &Revocation,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO revocations (node, stream, from_seq, key, reason, revoked_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (node, stream, from_seq) DO NOTHING",
    )
    .bind(node.0)
    .bind(new.stream.0.as_slice())
    .bind(column::seq(new.from)?)
    .bind(new.key.0.as_slice())
    .bind(&new.reason)
    .bind(new.at.as_i64())
    .execute(&mut *conn)
    .await?;
    sql::query("UPDATE meta SET node_states = node_states + 1")
        .execute(conn)
        .await?;
    Ok(())
}

/// The revoked keys of a node, by stream and number.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn revocations(
    conn: &mut Connection,
    node: NodeRow,
) -> Result<Vec<Revocation>, StoreError> {
    let query = "SELECT * FROM revocations WHERE node = $1 ORDER BY stream, from_seq";
    let rows = sql::query(query).bind(node.0).fetch_all(conn).await?;
    let read = |row: &Row| {
        Ok(Revocation {
            stream: StreamId(id(row, "stream", "revocations.stream")?),
            from: Seq(unsigned(row, "from_seq", "revocations.from_seq")?),
            key: PublicKey(bytes(row, "key", "revocations.key")?),
            reason: row.try_get("reason")?,
            at: instant(row, "revoked_at", "revocations.revoked_at")?,
        })
    };
    rows.iter().map(read).collect()
}
