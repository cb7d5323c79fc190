//! Files of a backup: copied, listed, digested.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::manifest::Listed;
use crate::authority::AuthorityError;
use crate::authority::files;

/// Bytes digested at once.
const CHUNK: usize = 1 << 20;

/// Copies a folder with all that is in it, for its owner alone.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), AuthorityError> {
    make(to)?;
    for entry in entries(from)? {
        let (from, to) = (from.join(&entry), to.join(&entry));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            files::write_private(&to, &files::read(&from)?)?;
        }
    }
    files::sync_folder(to)
}

/// A folder for its owner alone, unless it is there.
pub(super) fn make(path: &Path) -> Result<(), AuthorityError> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed("create", path, error))
}

/// A large file, for its owner alone, on disk when this returns.
pub(super) fn copy_large(from: &Path, to: &Path) -> Result<(), AuthorityError> {
    files::write_private(to, &[])?;
    fs::copy(from, to).map_err(|error| failed("copy to", to, error))?;
    let synced = File::open(to).and_then(|file| file.sync_all());
    synced.map_err(|error| failed("sync", to, error))
}

/// Every file in a folder and those below it, by their paths in it.
pub(super) fn list(folder: &Path) -> Result<Vec<Listed>, AuthorityError> {
    let mut found = Vec::new();
    walk(folder, Path::new(""), &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, below: &Path, found: &mut Vec<Listed>) -> Result<(), AuthorityError> {
    for entry in entries(&folder.join(below))? {
        let (path, full) = (below.join(&entry), folder.join(below).join(&entry));
        if full.is_dir() {
            walk(folder, &path, found)?;
        } else {
            found.push(listed(&full, &path)?);
        }
    }
    Ok(())
}

fn listed(full: &Path, path: &Path) -> Result<Listed, AuthorityError> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    let mut file = File::open(full).map_err(|error| failed("read", full, error))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = file.read(&mut chunk);
        match read.map_err(|error| failed("read", full, error))? {
            0 => break,
            length => {
                hasher.update(&chunk[..length]);
                bytes += length as u64;
            }
        }
    }
    Ok(Listed {
        path: path.display().to_string(),
        bytes,
        blake3: hasher.finalize().to_hex().to_string(),
    })
}

/// Names in a folder, in order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, AuthorityError> {
    let failed = |error| failed("read", folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().into());
    }
    names.sort();
    Ok(names)
}

pub(super) fn failed(action: &'static str, path: &Path, error: std::io::Error) -> AuthorityError {
    AuthorityError::File {
        action,
        path: path.to_owned(),
        error,
    }
}
