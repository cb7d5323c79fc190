//! Files and folders that survive a power cut: what is written here is on the disk when the call
//! returns, whole or not at all.
//!
//! Owns the order write, sync, rename, sync of the folder. Does not know what the files mean.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Makes `dir` and what is missing above it, readable by the owner only (0700).
///
/// # Errors
/// When the folder cannot be made or synced.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Makes the names in `dir` durable: a file that was created, renamed or removed stays so.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces `path` by `bytes`, readable by the owner only (0600). After a crash at any instant the
/// file has its old or its new content, never a mixture.
///
/// # Errors
/// When writing fails; the old content is untouched then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_then_rename(path, bytes, true)
}

/// As [`replace_file`], without waiting for the disk: for what is only of use while it is fresh.
///
/// # Errors
/// When writing fails; the old content is untouched then.
pub fn replace_file_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_then_rename(path, bytes, false)
}

fn write_then_rename(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let draft = draft_of(path);
    let written = write_draft(&draft, bytes, sync).and_then(|()| fs::rename(&draft, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    match path.parent() {
        Some(parent) if sync => sync_dir(parent),
        _ => Ok(()),
    }
}

fn write_draft(draft: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(draft)?;
    file.write_all(bytes)?;
    if sync { file.sync_all() } else { Ok(()) }
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Bytes of all files below `dir`, as their lengths say. What cannot be read counts as nothing.
#[must_use]
pub fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, facts)| {
            if facts.is_dir() {
                bytes_below(&path)
            } else {
                facts.len()
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_replaced_file_is_private_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        create_private_dir(&dir).unwrap();
        let path = dir.join("key");
        replace_file(&path, b"old").unwrap();
        replace_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(bytes_below(folder.path()), 3);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        replace_file(&path, b"old").unwrap();
        fs::create_dir(folder.path().join("key.tmp")).unwrap();
        assert!(replace_file(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
