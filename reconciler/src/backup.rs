//! Backups of a reconciler, and restoring one.
//!
//! ```text
//! DIR/                 0700; has its name only when it is complete, DIR.part before
//!   manifest.json      what it is of, when, every file and table with its BLAKE3
//!   store.sqlite       every table, whatever engine it came from, as one transaction saw them
//!   authority/         keys and certificates: whoever has them is the reconciler
//!   reconciler.toml    if there was one
//! ```
//!
//! Made while a server runs. What a backup is restored as is another life of the store ([`restore`]): what the
//! life before did after the backup is unknown, and must neither be repeated nor undone. Which processes owned
//! which nodes is not in it.

use std::path::{Path, PathBuf};

use crate::auth::AuthError;
use crate::authority::AuthorityError;
use crate::bans::BansError;
use crate::catalog::change::ChangeError;
use crate::decision::DecisionError;
use crate::store::{Location, StoreError};

mod exclusion;
mod folder;
mod make;
pub mod manifest;
pub mod restore;
mod verify;

pub use exclusion::Exclusions;
pub use make::make;
pub use manifest::Manifest;
pub use restore::{Restored, restore};
pub use verify::{Verified, verify};

/// Where in a data folder a restore is prepared.
const RESTORING: &str = "restoring";

/// A data folder that is of no use before a restore was finished.
#[derive(Debug, thiserror::Error)]
#[error("use data folder {0}: a restore was cut off; run `restore` with the same backup again")]
pub struct HalfRestored(PathBuf);

/// Why a backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Something of that name is there.
    #[error("make a backup in {0}: it is there already; choose another name")]
    Exists(PathBuf),
    /// It is no complete backup.
    #[error("read backup {path}: {why}")]
    Unfit {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A file or table is not what the manifest says.
    #[error("verify backup {path}: {what} is not what was backed up: {why}; use another backup")]
    Differs {
        /// The folder.
        path: PathBuf,
        /// A file or a table.
        what: String,
        /// How it differs.
        why: String,
    },
    /// There is something where it would go.
    #[error("restore into {0}: it is there already, nothing was changed; {1}")]
    Taken(String, &'static str),
    /// Another one was begun there.
    #[error(
        "restore into {0}: the restore of another backup was cut off there when its store had arrived; finish that one \
         first"
    )]
    Begun(PathBuf),
    /// Nobody says who was shut out after the backup.
    #[error(
        "restore the backup of {made_at}: {why}, so nodes banned after the backup would be let in again; give the \
         bans.log of each data folder that was in use (--bans FILE), or name the nodes (--ban NODE), or say that \
         there were none (--accept-unknown-bans)"
    )]
    UnknownBans {
        /// When the backup was made.
        made_at: tallystick_common::time::Timestamp,
        /// What is not known.
        why: String,
    },
    /// Rollups are not what segments make them.
    #[error(
        "check the rollups of the backup: {differing} rows are not what their segments make them, first {first}; \
         restore it without --check-rollups, then run `rollup rebuild`"
    )]
    Rollups {
        /// How many.
        differing: u64,
        /// The first one.
        first: String,
    },
    /// Files.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record of who is shut out.
    #[error(transparent)]
    Bans(#[from] BansError),
    /// Shutting a node out.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Revoking a key.
    #[error(transparent)]
    Decision(Box<DecisionError>),
    /// The new token.
    #[error(transparent)]
    Token(#[from] AuthError),
}

impl From<crate::catalog::CatalogError> for BackupError {
    fn from(error: crate::catalog::CatalogError) -> Self {
        Self::Change(error.into())
    }
}

impl From<DecisionError> for BackupError {
    fn from(error: DecisionError) -> Self {
        Self::Decision(Box::new(error))
    }
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Refuses a data folder in which a restore was cut off.
///
/// # Errors
/// When one was.
pub fn refuse_half_restored(data: &Path) -> Result<(), HalfRestored> {
    if data.join(RESTORING).exists() {
        return Err(HalfRestored(data.to_owned()));
    }
    Ok(())
}

fn taken(store: &Location) -> BackupError {
    let why = "restore into an empty data folder (--data), and a file or database without a store (--store)";
    BackupError::Taken(store.to_string(), why)
}

#[cfg(test)]
mod tests;
