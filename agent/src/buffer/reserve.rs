//! Room on the disk that is ours already, for when there is no other.
//!
//! Owns the file `reserve`: blocks that are given back to the file system, a little at a time, when a
//! record of the journal found the disk full. Others who fill the disk get at most one step of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// What is given back at a time.
const STEP_BYTES: u64 = 64 << 10;
/// The last steps are for receipts and marks: receipts are what frees the disk again.
const RECEIPT_BYTES: u64 = 2 * STEP_BYTES;

/// For what room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Segments.
    Seal,
    /// Registers between two segments: whoever moved them is told, and does it again.
    State,
    /// Receipts and marks.
    Receipt,
}

/// The file and how much of it is left.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    left: u64,
}

impl Reserve {
    /// Sets `bytes` aside below `dir`, or as much as an earlier agent left of it.
    pub(super) fn open(dir: &Path, bytes: u64) -> Self {
        let path = dir.join("reserve");
        let left = path.metadata().map_or(0, |facts| facts.len());
        let mut reserve = Self { path, bytes, left };
        if left > bytes && reserve.shrink_to(bytes).is_ok() {
            reserve.left = bytes;
        }
        reserve.restore();
        reserve
    }

    /// Gives a step back. False when nothing is left for this need.
    pub(super) fn release(&mut self, need: Need) -> bool {
        let floor = match need {
            Need::Seal => RECEIPT_BYTES,
            Need::Receipt => 0,
            Need::State => return false,
        };
        if self.left <= floor {
            return false;
        }
        let left = self.left.saturating_sub(STEP_BYTES).max(floor);
        if let Err(error) = self.shrink_to(left) {
            tracing::warn!(%error, path = %self.path.display(), "the reserve cannot be used");
            return false;
        }
        if self.is_whole() {
            tracing::error!(
                reserve_bytes = self.bytes,
                "the disk is full: sealing goes on into the reserve"
            );
        }
        self.left = left;
        true
    }

    /// Sets aside again what was given back, where the disk has room. True when it is whole.
    pub(super) fn restore(&mut self) -> bool {
        if self.is_whole() {
            return true;
        }
        match self.fill() {
            Ok(()) => self.left = self.bytes,
            // What a failed attempt took is given back at once.
            Err(_) => drop(self.shrink_to(self.left)),
        }
        self.is_whole()
    }

    /// Whether all of it is there: the disk was not full lately.
    pub(super) fn is_whole(&self) -> bool {
        self.left >= self.bytes
    }

    fn fill(&self) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        let missing = self.bytes - self.left;
        match fallocate(&file, FallocateFlags::empty(), self.left, missing) {
            Ok(()) => Ok(()),
            // A file system without it: then with zeros.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                io::copy(&mut io::Read::take(io::repeat(0), missing), &mut file)?;
                file.flush()
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn shrink_to(&self, bytes: u64) -> io::Result<()> {
        match File::options().write(true).open(&self.path) {
            Ok(file) => file.set_len(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_back_in_steps_and_seals_leave_something_for_receipts() {
        let folder = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::open(folder.path(), 5 * STEP_BYTES);
        let length = || folder.path().join("reserve").metadata().unwrap().len();
        assert!(reserve.is_whole());
        assert_eq!(length(), 5 * STEP_BYTES);
        assert!(!reserve.release(Need::State) && reserve.is_whole());
        let steps = std::iter::repeat_with(|| reserve.release(Need::Seal))
            .take_while(|released| *released)
            .count();
        assert_eq!((steps, length()), (3, RECEIPT_BYTES));
        assert!(reserve.release(Need::Receipt) && reserve.release(Need::Receipt));
        assert!(!reserve.release(Need::Receipt));
        assert_eq!(length(), 0);
        drop(reserve);
        let mut reserve = Reserve::open(folder.path(), 5 * STEP_BYTES);
        assert!(reserve.restore(), "there is room again");
        assert_eq!(length(), 5 * STEP_BYTES);
    }
}
