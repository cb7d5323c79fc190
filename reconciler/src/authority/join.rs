//! Join tokens: drawing one and saying for how long it holds.
//!
//! The text goes to a person once; the store keeps the hash of the secret half
//! ([`crate::store::enrolment`]).

use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::JoinToken;

use super::{Authority, AuthorityError, random};
use crate::store::enrolment::{self, TokenRow};
use crate::store::{Store, StoreError};

/// How long a token holds unless said otherwise.
pub const DEFAULT_LIFE: Micros = Micros::from_seconds(24 * 3600);

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A token must say where the reconciler is.
    #[error(
        "create a join token: it needs an address (host:port) that nodes can reach; give it, or set listen.addresses in reconciler.toml"
    )]
    NoAddress,
    /// No random bytes.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Not kept.
    #[error("keep the join token: {0}")]
    Store(#[from] StoreError),
}

/// Draws a one-time token for nodes that reach the reconciler at `addresses`, and keeps its hash.
///
/// # Errors
/// When no address is given or the store cannot keep it.
pub async fn create(
    authority: &Authority,
    store: &Store,
    addresses: Vec<String>,
    note: &str,
    life: Micros,
    now: Timestamp,
) -> Result<JoinToken, JoinError> {
    if addresses.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let token = JoinToken {
        addresses,
        ca: authority.ca_fingerprint(),
        id: random()?,
        secret: random()?,
    };
    let row = TokenRow {
        hash: JoinToken::secret_hash(&token.secret),
        note: note.to_owned(),
        created_at: now,
        expires_at: now.saturating_add(life),
    };
    let mut tx = store.write().await?;
    enrolment::add_token(&mut tx, &row).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(token)
}
