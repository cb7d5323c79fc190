//! What was found out of order when a buffer was opened, in words.

use std::fmt;
use std::path::PathBuf;

use tallystick_common::ids::{Seq, StreamId};

/// Something that was found out of order on opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The last record was not finished when the agent or the machine went down.
    TornTail {
        /// Bytes cut off.
        bytes: u64,
    },
    /// Parts of the journal are no records.
    JournalDamaged {
        /// Where the damaged files are kept.
        kept_in: PathBuf,
    },
    /// The journal was written anew.
    JournalRebuilt {
        /// Segments in it.
        segments: u64,
    },
    /// sled could not be used; it was set aside and filled from the journal.
    StoreSetAside {
        /// What was wrong.
        why: String,
        /// Where it is kept.
        kept_in: PathBuf,
    },
    /// sled cannot be used, nor made anew: the journal works alone.
    StoreUnusable {
        /// What is wrong.
        why: String,
    },
    /// Something sealed is lost, or the open registers are: a new stream was begun.
    StreamEnded {
        /// The old stream.
        stream: StreamId,
        /// The first segment that is lost; the next one to seal when only the registers are.
        lost_from: Seq,
        /// Where what is left of it is kept.
        kept_in: PathBuf,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { bytes } => {
                write!(
                    f,
                    "the last journal record was not finished; cut off {bytes} bytes"
                )
            }
            Self::JournalDamaged { kept_in } => {
                write!(
                    f,
                    "parts of the journal were damaged; the files are kept in {}",
                    kept_in.display()
                )
            }
            Self::JournalRebuilt { segments } => {
                write!(f, "the journal was written anew with {segments} segments")
            }
            Self::StoreSetAside { why, kept_in } => write!(
                f,
                "the store was set aside in {} and filled from the journal: {why}",
                kept_in.display()
            ),
            Self::StoreUnusable { why } => write!(f, "the journal works without the store: {why}"),
            Self::StreamEnded {
                stream,
                lost_from,
                kept_in,
            } => write!(
                f,
                "stream {stream} could not go on (lost from segment {lost_from}); what is left is kept in {}, a new stream began",
                kept_in.display()
            ),
        }
    }
}
