//! API tokens, one-time login codes and console sessions, hashed; answers kept for idempotency.

use tallystick_common::time::Timestamp;

use super::column::{instant, optional_instant};
use super::sql;
use super::{Connection, StoreError};

/// Keeps the hash of an API token.
///
/// # Errors
/// When the database fails.
pub async fn insert_api_token(
    conn: &mut Connection,
    hash: &str,
    name: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let text = "INSERT INTO api_tokens (hash, name, role, created_at) VALUES ($1, $2, 'admin', $3)";
    sql::query(text)
        .bind(hash)
        .bind(name)
        .bind(now.as_i64())
        .execute(conn)
        .await?;
    Ok(())
}

/// Name of the token with that hash, unless revoked.
///
/// # Errors
/// When the database fails.
pub async fn api_token(conn: &mut Connection, hash: &str) -> Result<Option<String>, StoreError> {
    let text = "SELECT name FROM api_tokens WHERE hash = $1 AND revoked_at IS NULL";
    Ok(sql::query_scalar(text)
        .bind(hash)
        .fetch_optional(conn)
        .await?)
}

/// An API token as the store has it, without its hash.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ApiToken {
    /// Its name; several may have had it, one after another.
    pub name: String,
    /// What its holder may do.
    pub role: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// Every API token ever made, by time of making.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn api_tokens(conn: &mut Connection) -> Result<Vec<ApiToken>, StoreError> {
    let text =
        "SELECT name, role, created_at, revoked_at FROM api_tokens ORDER BY created_at, name";
    let rows = sql::query(text).fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            Ok(ApiToken {
                name: row.try_get("name")?,
                role: row.try_get("role")?,
                created_at: instant(row, "created_at", "api_tokens.created_at")?,
                revoked_at: optional_instant(row, "revoked_at", "api_tokens.revoked_at")?,
            })
        })
        .collect()
}

/// Revokes the tokens in use that have a name; how many.
///
/// # Errors
/// When the database fails.
pub async fn revoke_api_tokens(
    conn: &mut Connection,
    name: &str,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let text = "UPDATE api_tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL";
    let done = sql::query(text)
        .bind(name)
        .bind(now.as_i64())
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// Ends every session of an actor.
///
/// # Errors
/// When the database fails.
pub async fn delete_sessions_of(conn: &mut Connection, actor: &str) -> Result<(), StoreError> {
    sql::query("DELETE FROM console_sessions WHERE name = $1")
        .bind(actor)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps the hash of a one-time login code.
///
/// # Errors
/// When the database fails.
pub async fn insert_login_code(
    conn: &mut Connection,
    hash: &str,
    name: &str,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    let text = "INSERT INTO login_codes (hash, name, expires_at) VALUES ($1, $2, $3)";
    sql::query(text)
        .bind(hash)
        .bind(name)
        .bind(expires_at.as_i64())
        .execute(conn)
        .await?;
    Ok(())
}

/// Uses a login code up; the actor's name if it was good.
///
/// # Errors
/// When the database fails.
pub async fn take_login_code(
    conn: &mut Connection,
    hash: &str,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let text = "UPDATE login_codes SET used_at = $2 \
                WHERE hash = $1 AND used_at IS NULL AND expires_at > $2 RETURNING name";
    Ok(sql::query_scalar(text)
        .bind(hash)
        .bind(now.as_i64())
        .fetch_optional(conn)
        .await?)
}

/// Keeps the hash of a session and forgets those that have ended.
///
/// # Errors
/// When the database fails.
pub async fn insert_session(
    conn: &mut Connection,
    hash: &str,
    name: &str,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    sql::query("DELETE FROM console_sessions WHERE expires_at <= $1")
        .bind(now.as_i64())
        .execute(&mut *conn)
        .await?;
    let text =
        "INSERT INTO console_sessions (hash, name, created_at, expires_at) VALUES ($1, $2, $3, $4)";
    sql::query(text)
        .bind(hash)
        .bind(name)
        .bind(now.as_i64())
        .bind(expires_at.as_i64())
        .execute(conn)
        .await?;
    Ok(())
}

/// The actor's name of a session that has not ended.
///
/// # Errors
/// When the database fails.
pub async fn session(
    conn: &mut Connection,
    hash: &str,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let text = "SELECT name FROM console_sessions WHERE hash = $1 AND expires_at > $2";
    Ok(sql::query_scalar(text)
        .bind(hash)
        .bind(now.as_i64())
        .fetch_optional(conn)
        .await?)
}

/// Ends a session.
///
/// # Errors
/// When the database fails.
pub async fn delete_session(conn: &mut Connection, hash: &str) -> Result<(), StoreError> {
    sql::query("DELETE FROM console_sessions WHERE hash = $1")
        .bind(hash)
        .execute(conn)
        .await?;
    Ok(())
}

/// What an `Idempotency-Key` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nothing yet: the caller may go on, and the key is now taken.
    New,
    /// The same request, answered before.
    Answered {
        /// HTTP status.
        status: u16,
        /// Body.
        body: String,
    },
    /// The same request, still being worked on (or cut off by a crash less than a minute ago).
    Busy,
    /// Another request.
    Other,
}

/// Takes a key for a request, or says what it stands for.
///
/// # Errors
/// When the database fails.
pub async fn take_key(
    conn: &mut Connection,
    actor: &str,
    key: &str,
    request: &str,
    now: Timestamp,
) -> Result<Kept, StoreError> {
    const DAY_US: i64 = 86_400_000_000;
    const MINUTE_US: i64 = 60_000_000;
    sql::query(
        "DELETE FROM idempotency_keys WHERE created_at < $1 OR (status = 0 AND created_at < $2)",
    )
    .bind(now.as_i64().saturating_sub(DAY_US))
    .bind(now.as_i64().saturating_sub(MINUTE_US))
    .execute(&mut *conn)
    .await?;
    let held = sql::query(
        "SELECT request, status, body FROM idempotency_keys WHERE actor = $1 AND key = $2",
    )
    .bind(actor)
    .bind(key)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = held else {
        sql::query(
            "INSERT INTO idempotency_keys (actor, key, request, status, body, created_at) \
             VALUES ($1, $2, $3, 0, '', $4)",
        )
        .bind(actor)
        .bind(key)
        .bind(request)
        .bind(now.as_i64())
        .execute(conn)
        .await?;
        return Ok(Kept::New);
    };
    let (for_request, status): (String, i64) = (row.try_get("request")?, row.try_get("status")?);
    if for_request != request {
        return Ok(Kept::Other);
    }
    match u16::try_from(status) {
        Ok(0) | Err(_) => Ok(Kept::Busy),
        Ok(status) => Ok(Kept::Answered {
            status,
            body: row.try_get("body")?,
        }),
    }
}

/// Keeps the answer for a key; a failure of ours (5xx) frees it instead, so that a retry works.
///
/// # Errors
/// When the database fails.
pub async fn keep_answer(
    conn: &mut Connection,
    actor: &str,
    key: &str,
    status: u16,
    body: &str,
) -> Result<(), StoreError> {
    let text = if status >= 500 {
        "DELETE FROM idempotency_keys WHERE actor = $1 AND key = $2"
    } else {
        "UPDATE idempotency_keys SET status = $3, body = $4 WHERE actor = $1 AND key = $2"
    };
    sql::query(text)
        .bind(actor)
        .bind(key)
        .bind(i64::from(status))
        .bind(body)
        .execute(conn)
        .await?;
    Ok(())
}
