//! What makes a restored store another one than the store that its backup was made of.
//!
//! A new life ([`StoreEpoch`]), which agents see; a new series for the numbers of documents; nothing in force that
//! let anybody in. Which nodes were banned meanwhile is [`crate::backup::standing`]'s.

use tallystick_common::ids::StoreEpoch;
use tallystick_common::time::Timestamp;

use super::sql;
use super::{Connection, StoreError};

/// A life that begins.
#[derive(Debug, Clone)]
pub struct Renewal<'a> {
    /// The life that the backup is of.
    pub before: StoreEpoch,
    /// The new one.
    pub epoch: StoreEpoch,
    /// Stands in the numbers of its documents.
    pub series: &'a str,
    /// When the backup was made.
    pub backup_made_at: Timestamp,
    /// Who restores it.
    pub actor: &'a str,
    /// When.
    pub at: Timestamp,
}

/// What held in the backup and holds no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Voided {
    /// Join tokens that had not been used.
    pub join_tokens: u64,
    /// API tokens.
    pub api_tokens: u64,
    /// Sessions of the console.
    pub sessions: u64,
}

/// Begins the new life.
///
/// # Errors
/// When the database fails.
pub async fn renew(conn: &mut Connection, renewal: &Renewal<'_>) -> Result<Voided, StoreError> {
    sql::query(
        "INSERT INTO restores (number, epoch_before, epoch, series, backup_made_at, restored_at, restored_by) \
         SELECT COALESCE(MAX(number), 0) + 1, $1, $2, $3, $4, $5, $6 FROM restores",
    )
    .bind(renewal.before.as_bytes().to_vec())
    .bind(renewal.epoch.as_bytes().to_vec())
    .bind(renewal.series)
    .bind(renewal.backup_made_at.as_i64())
    .bind(renewal.at.as_i64())
    .bind(renewal.actor)
    .execute(&mut *conn)
    .await?;
    let text = "UPDATE meta SET store_epoch = $1, series = $2, node_states = node_states + 1 WHERE single = 1";
    sql::query(text)
        .bind(renewal.epoch.as_bytes().to_vec())
        .bind(renewal.series)
        .execute(&mut *conn)
        .await?;
    for text in [
        "DELETE FROM invoice_series",
        "DELETE FROM correction_series",
        "DELETE FROM login_codes",
        // Answers to requests that may never have been made in this life; tokens are among them.
        "DELETE FROM idempotency_keys",
    ] {
        sql::query(text).execute(&mut *conn).await?;
    }
    void(conn, renewal.at).await
}

/// Lets nobody in by what let them in before.
async fn void(conn: &mut Connection, now: Timestamp) -> Result<Voided, StoreError> {
    let text = "UPDATE join_tokens SET uses_left = 0 WHERE uses_left > 0";
    let join_tokens = sql::query(text).execute(&mut *conn).await?.rows_affected();
    let text = "DELETE FROM console_sessions";
    let sessions = sql::query(text).execute(&mut *conn).await?.rows_affected();
    Ok(Voided {
        join_tokens,
        api_tokens: void_api_tokens(conn, now).await?,
        sessions,
    })
}

/// Revokes every API token in use: how many.
///
/// # Errors
/// When the database fails.
pub async fn void_api_tokens(conn: &mut Connection, now: Timestamp) -> Result<u64, StoreError> {
    let text = "UPDATE api_tokens SET revoked_at = $1 WHERE revoked_at IS NULL";
    let done = sql::query(text).bind(now.as_i64()).execute(conn).await?;
    Ok(done.rows_affected())
}
