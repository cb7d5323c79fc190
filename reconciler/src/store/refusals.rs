//! What was sent and not counted: kept whole under a budget, counted always (I11).

use tallystick_common::ids::{Seq, StreamId};
use tallystick_common::time::Timestamp;
use tallystick_common::wire::RefusalReason;

use super::column::{self, number};
use super::nodes::NodeRow;
use super::sql;
use super::{Connection, StoreError};

/// Bytes of refused material that are kept of one node and reason; what exceeds it is only counted, and
/// `refusal_counts` shows how much.
pub const BUDGET_BYTES: u64 = 16 << 20;
/// Refusals that are kept whole of one node and reason.
pub const BUDGET_COUNT: u64 = 1000;

/// Something to be refused.
#[derive(Debug)]
pub struct NewRefusal<'a> {
    /// Who sent it; none for strangers.
    pub node: Option<NodeRow>,
    /// Why.
    pub reason: RefusalReason,
    /// For people.
    pub detail: &'a str,
    /// From where.
    pub peer: &'a str,
    /// The stream it claims.
    pub stream: Option<StreamId>,
    /// The number it claims.
    pub seq: Option<Seq>,
    /// When it arrived.
    pub at: Timestamp,
    /// All of it.
    pub bytes: &'a [u8],
}

/// Counts a refusal, and keeps its bytes while the budget lasts.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Connection, new: &NewRefusal<'_>) -> Result<(), StoreError> {
    super::take_turn(conn).await?;
    let node = new.node.map_or(0, |node| node.0);
    let size = number(new.bytes.len() as u64, "refused bytes")?;
    let keeps = within_budget(conn, node, new.reason, size).await?;
    sql::query(
        "INSERT INTO refusal_counts (node, reason, count, byte_count, kept_count, kept_bytes, first_at, last_at) \
         VALUES ($1, $2, 1, $3, $4, $5, $6, $6) ON CONFLICT (node, reason) DO UPDATE SET \
         count = refusal_counts.count + 1, byte_count = refusal_counts.byte_count + excluded.byte_count, \
         kept_count = refusal_counts.kept_count + excluded.kept_count, \
         kept_bytes = refusal_counts.kept_bytes + excluded.kept_bytes, last_at = excluded.last_at",
    )
    .bind(node)
    .bind(new.reason.as_str())
    .bind(size)
    .bind(i64::from(keeps))
    .bind(if keeps { size } else { 0 })
    .bind(new.at.as_i64())
    .execute(&mut *conn)
    .await?;
    if keeps {
        keep(conn, new, size).await
    } else {
        Ok(())
    }
}

async fn within_budget(
    conn: &mut Connection,
    node: i64,
    reason: RefusalReason,
    size: i64,
) -> Result<bool, StoreError> {
    let kept: Option<(i64, i64)> = sql::query_as(
        "SELECT kept_count, kept_bytes FROM refusal_counts WHERE node = $1 AND reason = $2",
    )
    .bind(node)
    .bind(reason.as_str())
    .fetch_optional(conn)
    .await?;
    let (count, bytes) = kept.unwrap_or((0, 0));
    let room = number(BUDGET_BYTES, "budget")?.saturating_sub(bytes);
    Ok(count < number(BUDGET_COUNT, "budget")? && size <= room)
}

async fn keep(conn: &mut Connection, new: &NewRefusal<'_>, size: i64) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO refusals (id, node, reason, detail, peer, stream, seq, received_at, byte_count, bytes) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM refusals",
    )
    .bind(new.node.map(|node| node.0))
    .bind(new.reason.as_str())
    .bind(new.detail)
    .bind(new.peer)
    .bind(new.stream.map(|stream| stream.0.to_vec()))
    .bind(new.seq.map(column::seq).transpose()?)
    .bind(new.at.as_i64())
    .bind(size)
    .bind(new.bytes)
    .execute(conn)
    .await?;
    Ok(())
}
