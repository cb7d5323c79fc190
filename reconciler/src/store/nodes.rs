//! Enrolled hosts: their names, keys, states and the signed records of their keys. They come to be in
//! [`super::enrolment`].

use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::keys::{KeyRing, PublicKey};
use tallystick_common::time::Timestamp;

use super::column::{bytes, id, instant, optional_instant};
use super::sql::{self, Row};
use super::{Connection, StoreError};

/// The short name of a node inside the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRow(pub i64);

/// Whether a node's segments are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// They are.
    Active,
    /// Not any more: somebody forbade it.
    Banned {
        /// Since when.
        at: Timestamp,
        /// Why.
        reason: String,
    },
    /// Not any more: its final segment has come, or somebody said that it never will.
    Retired {
        /// Up to when its final segment accounts for time, else when it was given up.
        at: Timestamp,
        /// Why it was given up, if it was: what it had not shipped is missing for good.
        lost: Option<String>,
    },
}

impl NodeState {
    /// The name in stores, API and pages.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Banned { .. } => "banned",
            Self::Retired { .. } => "retired",
        }
    }
}

/// Rows of nodes, each with when the last segment of its streams came.
macro_rules! nodes {
    ($which:literal) => {
        concat!(
            "SELECT nodes.*, (SELECT MAX(s.received_at) FROM streams t JOIN segments s \
             ON s.stream = t.id AND s.seq = t.next_seq - 1 WHERE t.node = nodes.id) \
             AS last_seen_at FROM nodes",
            $which
        )
    };
}

/// A node as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its short name inside the store.
    pub row: NodeRow,
    /// Its id.
    pub id: NodeId,
    /// What people call it; not unique.
    pub name: String,
    /// Whether its segments are taken.
    pub state: NodeState,
    /// The key that it enrolled with, which signs its segments until a rotation.
    pub signing_key: PublicKey,
    /// BLAKE3 of its TLS public key.
    pub tls_fingerprint: [u8; 32],
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// When the last segment of one of its streams was admitted.
    pub last_seen_at: Option<Timestamp>,
}

impl Node {
    /// Up to when it has to account for time that ends at `to`: one that ended in good order to its end.
    #[must_use]
    pub fn owes_through(&self, to: Timestamp) -> Timestamp {
        match self.state {
            NodeState::Retired { at, lost: None } => at.min(to),
            _ => to,
        }
    }
}

/// Appends a signed record to a node's history.
///
/// # Errors
/// When the database fails.
pub async fn add_record(
    conn: &mut Connection,
    node: NodeRow,
    record: &[u8],
    at: Timestamp,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO node_records (node, number, record, added_at) \
         SELECT $1, COALESCE(MAX(number), -1) + 1, $2, $3 FROM node_records WHERE node = $1",
    )
    .bind(node.0)
    .bind(record)
    .bind(at.as_i64())
    .execute(conn)
    .await?;
    Ok(())
}

/// A node's signed records, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn records(conn: &mut Connection, node: NodeRow) -> Result<Vec<Vec<u8>>, StoreError> {
    let query = "SELECT record FROM node_records WHERE node = $1 ORDER BY number";
    Ok(sql::query_scalar(query)
        .bind(node.0)
        .fetch_all(conn)
        .await?)
}

/// The node with that id.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn by_id(conn: &mut Connection, node: NodeId) -> Result<Option<Node>, StoreError> {
    let row = sql::query(nodes!(" WHERE node = $1"))
        .bind(node.0.to_vec())
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The nodes with that name.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn by_name(conn: &mut Connection, name: &str) -> Result<Vec<Node>, StoreError> {
    let query = nodes!(" WHERE name = $1 ORDER BY id");
    let rows = sql::query(query).bind(name).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// Every node, in the order of enrolment.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn all(conn: &mut Connection) -> Result<Vec<Node>, StoreError> {
    let rows = sql::query(nodes!(" ORDER BY id")).fetch_all(conn).await?;
    rows.iter().map(read).collect()
}

/// Changes a node's state. Ingest sees it in its next transaction. `false` when there is no such node.
///
/// # Errors
/// When the database fails.
pub async fn set_state(
    conn: &mut Connection,
    node: NodeId,
    state: &NodeState,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (at, reason) = match state {
        NodeState::Active => (now, None),
        NodeState::Banned { at, reason } => (*at, Some(reason.as_str())),
        NodeState::Retired { at, lost } => (*at, lost.as_deref()),
    };
    let changed =
        sql::query("UPDATE nodes SET state = $1, state_at = $2, state_reason = $3 WHERE node = $4")
            .bind(state.as_str())
            .bind(at.as_i64())
            .bind(reason)
            .bind(node.0.to_vec())
            .execute(&mut *conn)
            .await?;
    sql::query("UPDATE meta SET node_states = node_states + 1")
        .execute(conn)
        .await?;
    Ok(changed.rows_affected() > 0)
}

/// Notes that from `from` on `key` signs the segments of `stream`.
///
/// # Errors
/// When the database fails.
pub async fn rotate(
    conn: &mut Connection,
    node: NodeRow,
    stream: StreamId,
    from: Seq,
    key: PublicKey,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO rotations (node, stream, from_seq, key) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (node, stream, from_seq) DO NOTHING",
    )
    .bind(node.0)
    .bind(stream.0.to_vec())
    .bind(super::column::seq(from)?)
    .bind(key.0.to_vec())
    .execute(conn)
    .await?;
    Ok(())
}

/// The keys that sign a node's segments.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn key_ring(conn: &mut Connection, node: &Node) -> Result<KeyRing, StoreError> {
    let mut ring = KeyRing::new(node.id, node.signing_key);
    let query = "SELECT stream, from_seq, key FROM rotations WHERE node = $1 ORDER BY from_seq";
    for row in sql::query(query).bind(node.row.0).fetch_all(conn).await? {
        let stream = StreamId(bytes(&row, "stream", "rotations.stream")?);
        let from = Seq(super::column::unsigned(
            &row,
            "from_seq",
            "rotations.from_seq",
        )?);
        ring.rotate(
            stream,
            from,
            PublicKey(bytes(&row, "key", "rotations.key")?),
        );
    }
    Ok(ring)
}

fn read(row: &Row) -> Result<Node, StoreError> {
    let state: String = row.try_get("state")?;
    let state_at = instant(row, "state_at", "nodes.state_at")?;
    let state = match state.as_str() {
        "active" => NodeState::Active,
        "banned" => {
            let reason: Option<String> = row.try_get("state_reason")?;
            NodeState::Banned {
                at: state_at,
                reason: reason.unwrap_or_default(),
            }
        }
        "retired" => NodeState::Retired {
            at: state_at,
            lost: row.try_get("state_reason")?,
        },
        other => return Err(StoreError::damaged("nodes.state", other)),
    };
    Ok(Node {
        row: NodeRow(row.try_get("id")?),
        id: NodeId(id(row, "node", "nodes.node")?),
        name: row.try_get("name")?,
        state,
        signing_key: PublicKey(bytes(row, "signing_key", "nodes.signing_key")?),
        tls_fingerprint: bytes(row, "tls_fingerprint", "nodes.tls_fingerprint")?,
        enrolled_at: instant(row, "enrolled_at", "nodes.enrolled_at")?,
        last_seen_at: optional_instant(row, "last_seen_at", "nodes.last_seen_at")?,
    })
}
