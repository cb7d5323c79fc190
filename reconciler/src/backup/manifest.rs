//! What a backup says of itself.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tallystick_common::ids::{Hash, StoreEpoch};
use tallystick_common::time::Timestamp;

use super::BackupError;
use crate::store::moving::Copied;

/// Its file in the folder.
pub(super) const FILE_NAME: &str = "manifest.json";
/// The store's file in the folder.
pub(super) const STORE: &str = "store.sqlite";
/// The authority's folder in it.
pub(super) const AUTHORITY: &str = "authority";
/// The only form there is.
const FORMAT: u32 = 1;

/// What a backup is of, and all that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of the folder.
    pub format: u32,
    /// Version of the program that made it.
    pub made_by: String,
    /// When.
    pub made_at: Timestamp,
    /// The life of the store.
    pub epoch: StoreEpoch,
    /// Version of its schema.
    pub schema: i64,
    /// Where the audit log stood, as `audit verify --since` takes it.
    pub audit: String,
    /// Every file but this one.
    pub files: Vec<Listed>,
    /// Every table of the store.
    pub tables: Vec<Copied>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its path in the folder.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, hexadecimal.
    pub blake3: String,
}

impl Manifest {
    /// That of a folder, and its digest.
    pub(super) fn read(backup: &Path) -> Result<(Self, Hash), BackupError> {
        let unfit = |why: String| BackupError::Unfit {
            path: backup.to_owned(),
            why,
        };
        let bytes = std::fs::read(backup.join(FILE_NAME)).map_err(|error| {
            unfit(format!(
                "{FILE_NAME} cannot be read ({error}): it is no complete backup"
            ))
        })?;
        let digest = Hash(blake3::hash(&bytes).into());
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let form = serde_json::from_slice::<Form>(&bytes).map(|form| form.format);
        if matches!(form, Ok(form) if form > FORMAT) {
            return Err(unfit("a newer program made it; use that one".to_owned()));
        }
        let manifest = serde_json::from_slice(&bytes)
            .map_err(|error| unfit(format!("{FILE_NAME} is damaged ({error})")))?;
        Ok((manifest, digest))
    }

    pub(super) fn new(made_at: Timestamp, epoch: StoreEpoch) -> Self {
        Self {
            format: FORMAT,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            made_at,
            epoch,
            schema: crate::store::SCHEMA_VERSION,
            audit: String::new(),
            files: Vec::new(),
            tables: Vec::new(),
        }
    }
}
