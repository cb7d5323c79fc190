//! Why the buffer did not do what was asked.

use std::io;
use std::path::{Path, PathBuf};

use tallystick_common::ids::Seq;
use tallystick_common::time::Timestamp;

/// Why the buffer did not do what was asked. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// The disk is full, so nothing is taken that can be given again.
    #[error("the disk is full: free some space, and report it again")]
    NoRoom,
    /// The disk is full. Accrual goes on; the same segment is to be offered again.
    #[error(
        "cannot {action} {path}: the disk is full; metering goes on in memory, free some space"
    )]
    Full {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a newer version.
    #[error(
        "{path} has a record (kind {kind}, version {version}) of a newer agent: install that version again, nothing was changed"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Kind of the record.
        kind: u8,
        /// Version of its body.
        version: u8,
    },
    /// A segment that does not follow the head.
    #[error("segment {given} does not follow the head: {expected} is next")]
    NotNext {
        /// What would be next.
        expected: Seq,
        /// What was given.
        given: Seq,
    },
    /// A replacement that does not account for all the time of what it is to replace.
    #[error("what is to replace unsent segments accounts for time up to {through}, not {expected}")]
    NotAll {
        /// Up to when it does.
        through: Timestamp,
        /// Up to when it should.
        expected: Timestamp,
    },
    /// Neither thinning nor forgetting makes room. Accrual goes on; the same segment is to be offered
    /// again.
    #[error(
        "the buffer is at its limit of {limit_bytes} bytes and cannot be thinned further; metering goes on in memory, raise buffer.limit_bytes or connect the reconciler"
    )]
    AtLimit {
        /// `buffer.limit_bytes`.
        limit_bytes: u64,
    },
    /// Longer than a record may be.
    #[error("a record of more than 64 MiB cannot be journaled: meter fewer workloads")]
    TooLarge,
    /// Neither sled nor the journal has it.
    #[error(
        "segment {0} is no longer in the buffer: it is receipted and was removed, or it is lost"
    )]
    Gone(Seq),
    /// A receipt for something that was not sealed, or was sealed differently.
    #[error("the receipt through {through} is not for this stream: {why}")]
    ForeignReceipt {
        /// What the receipt is for.
        through: Seq,
        /// What does not fit.
        why: &'static str,
    },
    /// The thread that did the work ended without an answer.
    #[error("the buffer's worker stopped: {0}")]
    Worker(String),
}

impl BufferError {
    /// Names `action` on `path` in an error of the system; tells a full disk from the rest.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}
