//! How a host becomes a node: join tokens, the node's row, the first record of its keys.

use tallystick_common::ids::{Hash, NodeId};
use tallystick_common::keys::PublicKey;
use tallystick_common::time::Timestamp;

use super::sql;
use super::{Connection, StoreError};

/// A join token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Hash of its secret half.
    pub hash: Hash,
    /// What a person wrote about it.
    pub note: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when it no longer holds.
    pub expires_at: Timestamp,
}

/// A node as enrolment writes it.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The key that signs its segments.
    pub signing_key: PublicKey,
    /// BLAKE3 of its TLS public key.
    pub tls_fingerprint: Hash,
    /// The CA's record of it, as signed.
    pub record: Vec<u8>,
    /// When.
    pub at: Timestamp,
}

/// Whether a token may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    /// It was, by this call.
    Now,
    /// It was used up before.
    UsedUp,
    /// It no longer holds.
    Expired,
    /// There is none with that hash.
    Unknown,
}

/// Keeps a token that may be used once.
///
/// # Errors
/// When the database fails.
pub async fn add_token(connection: &mut Connection, token: &TokenRow) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO join_tokens (hash, note, created_at, expires_at, uses_left) \
         VALUES ($1, $2, $3, $4, 1)",
    )
    .bind(token.hash.as_bytes().to_vec())
    .bind(token.note.as_str())
    .bind(token.created_at.as_i64())
    .bind(token.expires_at.as_i64())
    .execute(connection)
    .await?;
    Ok(())
}

/// Uses a token, if it may be. Nothing has happened unless the answer is [`Redeemed::Now`].
///
/// # Errors
/// When the database fails.
pub async fn redeem_token(
    connection: &mut Connection,
    hash: &Hash,
    now: Timestamp,
) -> Result<Redeemed, StoreError> {
    let row: Option<(i64, i64)> =
        sql::query_as("SELECT expires_at, uses_left FROM join_tokens WHERE hash = $1")
            .bind(hash.as_bytes().to_vec())
            .fetch_optional(&mut *connection)
            .await?;
    match row {
        None => return Ok(Redeemed::Unknown),
        Some((expires_at, _)) if expires_at <= now.as_i64() => return Ok(Redeemed::Expired),
        Some((_, 0)) => return Ok(Redeemed::UsedUp),
        Some(_) => {}
    }
    sql::query("UPDATE join_tokens SET uses_left = uses_left - 1 WHERE hash = $1")
        .bind(hash.as_bytes().to_vec())
        .execute(connection)
        .await?;
    Ok(Redeemed::Now)
}

/// Writes a node and the first record of its keys.
///
/// # Errors
/// When the database fails.
pub async fn add_node(connection: &mut Connection, new: &NewNode) -> Result<(), StoreError> {
    let id: i64 = sql::query_scalar(
        "INSERT INTO nodes (id, node, name, state, state_at, signing_key, tls_fingerprint, enrolled_at) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, 'active', $3, $4, $5, $3 FROM nodes RETURNING id",
    )
    .bind(new.node.as_bytes().to_vec())
    .bind(new.name.as_str())
    .bind(new.at.as_i64())
    .bind(new.signing_key.0.to_vec())
    .bind(new.tls_fingerprint.as_bytes().to_vec())
    .fetch_one(&mut *connection)
    .await?;
    sql::query("INSERT INTO node_records (node, number, record, added_at) VALUES ($1, 0, $2, $3)")
        .bind(id)
        .bind(new.record.as_slice())
        .bind(new.at.as_i64())
        .execute(connection)
        .await?;
    Ok(())
}

/// The node that enrolled with these very keys, and its first record: the answer to its request may
/// have been lost on the way.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn enrolled_with(
    connection: &mut Connection,
    signing_key: &PublicKey,
    tls_fingerprint: &Hash,
) -> Result<Option<(NodeId, Vec<u8>)>, StoreError> {
    let row: Option<(Vec<u8>, Vec<u8>)> = sql::query_as(
        "SELECT n.node, r.record FROM nodes n JOIN node_records r ON r.node = n.id AND r.number = 0 \
         WHERE n.signing_key = $1 AND n.tls_fingerprint = $2",
    )
    .bind(signing_key.0.to_vec())
    .bind(tls_fingerprint.as_bytes().to_vec())
    .fetch_optional(connection)
    .await?;
    row.map(|(node, record)| {
        NodeId::from_slice(&node)
            .map(|node| (node, record))
            .ok_or_else(|| StoreError::damaged("nodes.node", format!("{} bytes", node.len())))
    })
    .transpose()
}
