//! One agent a data folder.
//!
//! Owns the lock file. The kernel gives the lock back when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Why the data folder cannot be had alone.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "another agent works in {0}: stop it, or give this one a data folder of its own (two would break one stream)"
    )]
    Held(PathBuf),
    /// The lock file cannot be made.
    #[error("cannot lock the data folder by {path}: check its owner and permissions")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The data folder is ours as long as this lives.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Takes the lock of `dir`, which must exist.
    ///
    /// # Errors
    /// [`LockError::Held`] at once when another process has it.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join("lock");
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(LockError::Held(dir.to_owned())),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    /// Whether a process has the lock of `dir`, without keeping it.
    #[must_use]
    pub fn is_held(dir: &Path) -> bool {
        dir.join("lock").exists() && matches!(Self::acquire(dir), Err(LockError::Held(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_agents_never_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataLock::acquire(folder.path()).unwrap();
        let second = DataLock::acquire(folder.path()).unwrap_err();
        assert!(second.to_string().contains("another agent"), "{second}");
        assert!(DataLock::is_held(folder.path()));
        drop(first);
        assert!(!DataLock::is_held(folder.path()));
        DataLock::acquire(folder.path()).unwrap();
    }
}
