//! The first start of a data folder: authority, store, the first API token.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tallystick_common::ids::StoreEpoch;
use tallystick_common::time::Timestamp;

use crate::auth::{self, AuthError, Secret};
use crate::authority::{Authority, AuthorityError};
use crate::backup::{HalfRestored, refuse_half_restored};
use crate::config::Config;
use crate::store::{Store, StoreError};

/// Why a data folder could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder could not be made.
    #[error(
        "create data folder {path}: {source}; choose another with --data, or run as a user who may write there"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// No random bytes.
    #[error("draw a store epoch: {0}")]
    Random(String),
    /// A restore was cut off.
    #[error(transparent)]
    HalfRestored(#[from] HalfRestored),
    /// Keys and certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token.
    #[error(transparent)]
    Token(#[from] AuthError),
}

/// Makes a data folder ready; the administrator's API token is told once.
///
/// # Errors
/// When the folder has an authority or a store already, or cannot be written.
pub async fn init(data: &Path, actor: &str, now: Timestamp) -> Result<Secret, InitError> {
    init_with(&Config::of(data), actor, now).await
}

/// As [`init`], as a configuration says.
///
/// # Errors
/// As [`init`].
pub async fn init_with(config: &Config, actor: &str, now: Timestamp) -> Result<Secret, InitError> {
    make_folder(&config.data)?;
    if Store::is_at(&config.store).await? {
        let store = config.store.clone();
        return Err(StoreError::Exists { store }.into());
    }
    Authority::create_with(&config.data, config.lives, now)?;
    let store = Store::create(&config.store, epoch()?, now).await?;
    let store = store
        .begin_bans(&config.data, now)
        .map_err(StoreError::from)?;
    let token = auth::create_token(&store, "admin", actor, now).await?;
    store.close().await;
    Ok(token)
}

/// Opens a data folder's authority and store, making what is not there yet.
///
/// # Errors
/// When the folder cannot be used.
pub async fn open_or_init(data: &Path, now: Timestamp) -> Result<(Authority, Store), InitError> {
    refuse_half_restored(data)?;
    make_folder(data)?;
    let authority = Authority::open_or_create(data, now)?;
    let store = Store::open_or_create(&Config::of(data).store, epoch()?, now).await?;
    let store = store.begin_bans(data, now).map_err(StoreError::from)?;
    Ok((authority, store))
}

fn make_folder(data: &Path) -> Result<(), InitError> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data);
    made.map_err(|source| InitError::Folder {
        path: data.to_owned(),
        source,
    })
}

pub(crate) fn epoch() -> Result<StoreEpoch, InitError> {
    let mut bytes = [0; StoreEpoch::LEN];
    getrandom::fill(&mut bytes).map_err(|error| InitError::Random(error.to_string()))?;
    Ok(StoreEpoch(bytes))
}
