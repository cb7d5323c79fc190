//! Who is asking: API tokens, one-time login links and console sessions.
//!
//! A secret is 32 random bytes as text with a prefix that says what it is. Only its BLAKE3 hash is
//! kept, and it is looked up by that hash: what an attacker could learn from timing is about the
//! hash of a guess, not about a secret. The cookie of a session is never accepted by the API, so a
//! page of somebody else cannot make a browser change anything.

use data_encoding::BASE64URL_NOPAD;
use tallystick_common::time::{Micros, Timestamp};

use crate::audit::{self, Note};
use crate::store::{self, Store, StoreError};

/// How long a login link holds unless said otherwise.
pub const LOGIN_LIFE: Micros = Micros::from_seconds(15 * 60);

/// How long a session of the console holds.
pub const SESSION_LIFE: Micros = Micros::from_seconds(12 * 3600);

/// Name of the session's cookie.
pub const COOKIE: &str = "tallystick_session";

/// A secret that is told once.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Draws one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    fn draw(prefix: &str) -> Result<Self, AuthError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| AuthError::Random(error.to_string()))?;
        Ok(Self(format!("{prefix}{}", BASE64URL_NOPAD.encode(&bytes))))
    }

    /// The text, to be told once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a secret could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No random bytes.
    #[error("draw a secret: {0}")]
    Random(String),
    /// Two tokens in use would have one name, and the audit log could not tell them apart.
    #[error(
        "create API token {0}: one of that name is in use; choose another name, or revoke it first with `api-token revoke {0}`"
    )]
    Taken(String),
    /// Nothing to revoke.
    #[error("revoke API token {0}: none has that name; see `api-token list`")]
    Unknown(String),
    /// Not kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The form in which a secret is kept.
#[must_use]
pub fn hash(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

/// Makes an API token for an administrator. The audit log learns its name.
///
/// # Errors
/// When it cannot be drawn or kept.
pub async fn create_token(
    store: &Store,
    name: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Secret, AuthError> {
    let mut tx = store.write().await?;
    let secret = add_token(&mut tx, name, actor, now).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(secret)
}

/// As [`create_token`], for a name that no token in use has.
///
/// # Errors
/// When the name is taken, or the token cannot be drawn or kept.
pub async fn create_named_token(
    store: &Store,
    name: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Secret, AuthError> {
    let mut tx = store.write().await?;
    let tokens = store::auth::api_tokens(&mut tx).await?;
    if tokens
        .iter()
        .any(|token| token.name == name && token.revoked_at.is_none())
    {
        return Err(AuthError::Taken(name.to_owned()));
    }
    let secret = add_token(&mut tx, name, actor, now).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(secret)
}

async fn add_token(
    tx: &mut store::Tx,
    name: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Secret, AuthError> {
    let secret = Secret::draw("tsk_")?;
    store::auth::insert_api_token(tx, &hash(secret.reveal()), name, now).await?;
    let note = Note {
        at: now,
        actor,
        action: "api_token.create",
        subject: name,
        detail: serde_json::json!({}),
    };
    audit::append(tx, &note).await?;
    Ok(secret)
}

/// Revokes what goes by a name, and ends the console sessions begun with it. A running server takes
/// it no more from its next request on. When it was revoked: before, if it had been already.
///
/// # Errors
/// When no token has or had the name, or the database fails.
pub async fn revoke_token(
    store: &Store,
    name: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Timestamp, AuthError> {
    let mut tx = store.write().await?;
    let count = store::auth::revoke_api_tokens(&mut tx, name, now).await?;
    if count == 0 {
        let tokens = store::auth::api_tokens(&mut tx).await?.into_iter();
        let revoked = tokens.filter(|token| token.name == name);
        let last = revoked.filter_map(|token| token.revoked_at).max();
        return last.ok_or_else(|| AuthError::Unknown(name.to_owned()));
    }
    store::auth::delete_sessions_of(&mut tx, &format!("api:{name}")).await?;
    let note = Note {
        at: now,
        actor,
        action: "api_token.revoke",
        subject: name,
        detail: serde_json::json!({ "count": count }),
    };
    audit::append(&mut tx, &note).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(now)
}

/// Makes a one-time login code for the console.
///
/// # Errors
/// When it cannot be drawn or kept.
pub async fn create_login(store: &Store, name: &str, now: Timestamp) -> Result<Secret, AuthError> {
    let secret = Secret::draw("tsl_")?;
    let expires_at = now.saturating_add(LOGIN_LIFE);
    let mut tx = store.write().await?;
    store::auth::insert_login_code(&mut tx, &hash(secret.reveal()), name, expires_at).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(secret)
}

/// The actor that an API token stands for: `api:NAME`.
///
/// # Errors
/// When the database fails.
pub async fn token_actor(store: &Store, token: &str) -> Result<Option<String>, StoreError> {
    let mut tx = store.read().await?;
    let name = store::auth::api_token(&mut tx, &hash(token)).await?;
    Ok(name.map(|name| format!("api:{name}")))
}

/// Uses up a login code and begins a session.
///
/// # Errors
/// When the database fails or no secret can be drawn.
pub async fn login_by_code(
    store: &Store,
    code: &str,
    now: Timestamp,
) -> Result<Option<Secret>, AuthError> {
    let mut tx = store.write().await?;
    let Some(name) = store::auth::take_login_code(&mut tx, &hash(code), now).await? else {
        return Ok(None);
    };
    let session = begin(&mut tx, &name, now).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Some(session))
}

/// Begins a session for the holder of an API token.
///
/// # Errors
/// When the database fails or no secret can be drawn.
pub async fn login_by_token(
    store: &Store,
    token: &str,
    now: Timestamp,
) -> Result<Option<Secret>, AuthError> {
    let Some(actor) = token_actor(store, token).await? else {
        return Ok(None);
    };
    let mut tx = store.write().await?;
    let session = begin(&mut tx, &actor, now).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Some(session))
}

async fn begin(tx: &mut store::Tx, name: &str, now: Timestamp) -> Result<Secret, AuthError> {
    let session = Secret::draw("tss_")?;
    let ends = now.saturating_add(SESSION_LIFE);
    store::auth::insert_session(tx, &hash(session.reveal()), name, now, ends).await?;
    Ok(session)
}

/// The actor of a session that has not ended.
///
/// # Errors
/// When the database fails.
pub async fn session_actor(
    store: &Store,
    cookie: &str,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let mut tx = store.read().await?;
    store::auth::session(&mut tx, &hash(cookie), now).await
}

/// Ends a session.
///
/// # Errors
/// When the database fails.
pub async fn logout(store: &Store, cookie: &str) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    store::auth::delete_session(&mut tx, &hash(cookie)).await?;
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{ENGINES, store};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    #[tokio::test]
    async fn a_login_link_works_once_and_not_for_long() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            let code = create_login(&store, "console", at(0)).await.unwrap();
            assert!(
                login_by_code(&store, "tsl_guess", at(1))
                    .await
                    .unwrap()
                    .is_none()
            );
            let session = login_by_code(&store, code.reveal(), at(1))
                .await
                .unwrap()
                .unwrap();
            assert!(
                login_by_code(&store, code.reveal(), at(2))
                    .await
                    .unwrap()
                    .is_none(),
                "used"
            );
            assert!(
                session_actor(&store, session.reveal(), at(3))
                    .await
                    .unwrap()
                    .is_some()
            );
            let over = at(2 + SESSION_LIFE.0 / 1_000_000);
            assert!(
                session_actor(&store, session.reveal(), over)
                    .await
                    .unwrap()
                    .is_none()
            );
            logout(&store, session.reveal()).await.unwrap();
            assert!(
                session_actor(&store, session.reveal(), at(3))
                    .await
                    .unwrap()
                    .is_none()
            );

            let late = create_login(&store, "console", at(0)).await.unwrap();
            assert!(
                login_by_code(&store, late.reveal(), at(901))
                    .await
                    .unwrap()
                    .is_none()
            );
        }
    }

    #[tokio::test]
    async fn a_revoked_token_opens_nothing_and_ends_its_sessions() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            let token = create_named_token(&store, "export", "cli:anna", at(0))
                .await
                .unwrap();
            let taken = create_named_token(&store, "export", "cli:anna", at(1)).await;
            assert!(matches!(taken, Err(AuthError::Taken(_))), "{taken:?}");
            let session = login_by_token(&store, token.reveal(), at(1))
                .await
                .unwrap()
                .unwrap();
            revoke_token(&store, "export", "cli:anna", at(2))
                .await
                .unwrap();
            assert_eq!(token_actor(&store, token.reveal()).await.unwrap(), None);
            assert_eq!(
                session_actor(&store, session.reveal(), at(3))
                    .await
                    .unwrap(),
                None
            );
            let again = revoke_token(&store, "export", "cli:anna", at(3)).await;
            assert_eq!(again.unwrap(), at(2), "it had been done");
            let unknown = revoke_token(&store, "exprot", "cli:anna", at(3)).await;
            assert!(matches!(unknown, Err(AuthError::Unknown(_))), "{unknown:?}");
            create_named_token(&store, "export", "cli:anna", at(4))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_token_is_known_by_its_hash_alone() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            let token = create_token(&store, "admin", "cli:anna", at(0))
                .await
                .unwrap();
            let actor = token_actor(&store, token.reveal()).await.unwrap();
            assert_eq!(actor.as_deref(), Some("api:admin"));
            assert_eq!(
                token_actor(&store, &hash(token.reveal())).await.unwrap(),
                None
            );
            assert_eq!(token_actor(&store, "").await.unwrap(), None);
        }
    }
}
