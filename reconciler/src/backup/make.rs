//! Making a backup, while others work on the store.

use std::path::{Path, PathBuf};

use tallystick_common::ids::Hash;
use tallystick_common::time::Timestamp;

use super::manifest::{AUTHORITY, FILE_NAME, Manifest, STORE};
use super::verify::checked_log;
use super::{BackupError, folder};
use crate::authority::{Authority, AuthorityError, files};
use crate::config::{self, Config};
use crate::store::{Location, Store, moving};

/// Makes a backup of a reconciler in `to`, where nothing may be yet. `config_file` is kept if it is there.
///
/// # Errors
/// When it cannot be written, the audit log is broken, or a table that was read back is not what was written. Then
/// nothing has that name.
pub async fn make(
    config: &Config,
    config_file: &Path,
    store: &Store,
    to: &Path,
    now: Timestamp,
) -> Result<(Manifest, Hash), BackupError> {
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let part = part_of(to);
    files::begin_folder(&part)?;
    let mut manifest = Manifest::new(now, store.epoch());
    let mut tx = store.read().await?;
    manifest.audit = checked_log(to, &mut tx).await?;
    let file = Location::File(part.join(STORE));
    manifest.tables = moving::arrive(&mut tx, &file).await?;
    drop(tx);
    // After the store: an authority that came later is good for whatever an earlier one signed.
    keep_authority(config, &part, now)?;
    if config_file.exists() {
        let text = files::read(config_file)?;
        files::write_private(&part.join(config::FILE_NAME), &text)?;
    }
    manifest.files = folder::list(&part)?;
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| folder::failed("write", &part, error.into()))?;
    files::write_private(&part.join(FILE_NAME), &text)?;
    files::finish_folder(&part, to)?;
    Ok((manifest, Hash(blake3::hash(&text).into())))
}

/// Copies keys and certificates. What cannot be opened was changed while it was copied, or before.
fn keep_authority(config: &Config, part: &Path, now: Timestamp) -> Result<(), AuthorityError> {
    let held = config.data.join(AUTHORITY);
    if !held.is_dir() {
        return Err(AuthorityError::Missing(held));
    }
    folder::copy(&held, &part.join(AUTHORITY))?;
    Authority::open_with(part, config.lives, now).map(drop)
}

fn part_of(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    name.into()
}
