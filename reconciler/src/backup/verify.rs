//! Whether a backup is what its manifest says.

use std::path::Path;

use tallystick_common::ids::Hash;

use super::manifest::{FILE_NAME, Manifest, STORE};
use super::{BackupError, folder};
use crate::audit::{self, Verification};
use crate::store::{Connection, Store, moving};

/// A backup that was found whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it says.
    pub manifest: Manifest,
    /// BLAKE3 of the manifest: whoever keeps it elsewhere knows the backup again.
    pub digest: Hash,
}

/// Checks every file and table of a backup, and the chain of its audit log. Changes nothing.
///
/// # Errors
/// The first that is not what was backed up.
pub async fn verify(backup: &Path) -> Result<Verified, BackupError> {
    let (manifest, digest) = Manifest::read(backup)?;
    check_files(backup, &manifest)?;
    let store = Store::archived(&backup.join(STORE)).await?;
    let checked = check_store(backup, &manifest, &store).await;
    store.close().await;
    checked.map(|()| Verified { manifest, digest })
}

fn check_files(backup: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let found = folder::list(backup)?;
    for expected in &manifest.files {
        let there = found.iter().find(|file| file.path == expected.path);
        if there != Some(expected) {
            let why = there.map_or("it is missing", |_| "its bytes are others");
            return Err(differs(backup, &expected.path, why));
        }
    }
    let known = |path: &str| {
        path == FILE_NAME || manifest.files.iter().any(|expected| expected.path == path)
    };
    match found.iter().find(|file| !known(&file.path)) {
        Some(file) => Err(differs(backup, &file.path, "it was not there")),
        None => Ok(()),
    }
}

async fn check_store(backup: &Path, manifest: &Manifest, store: &Store) -> Result<(), BackupError> {
    if store.epoch() != manifest.epoch {
        return Err(differs(backup, STORE, "it is of another store"));
    }
    let mut tx = store.read().await?;
    let found = moving::digests(&mut tx).await?;
    for expected in &manifest.tables {
        if !found.contains(expected) {
            let table = format!("table {}", expected.table);
            return Err(differs(backup, &table, "its rows are others"));
        }
    }
    if checked_log(backup, &mut tx).await? != manifest.audit {
        return Err(differs(backup, "the audit log", "it stands elsewhere"));
    }
    Ok(())
}

/// Where the audit log stands, if it is whole.
pub(super) async fn checked_log(
    backup: &Path,
    conn: &mut Connection,
) -> Result<String, BackupError> {
    match audit::verify(conn).await? {
        Verification::Whole(checkpoint) => Ok(checkpoint.to_string()),
        Verification::Broken { seq, why } => {
            let why = format!("it breaks at entry {seq}: {why}");
            Err(differs(backup, "the audit log", &why))
        }
    }
}

fn differs(backup: &Path, what: &str, why: &str) -> BackupError {
    BackupError::Differs {
        path: backup.to_owned(),
        what: what.to_owned(),
        why: why.to_owned(),
    }
}
