//! Which nodes and keys were shut out, in a plain file beside the authority.
//!
//! ```text
//! DATA/bans.log    one JSON object a line: {"what":"ban","at":"…","node":"…","reason":"…"}
//! ```
//!
//! A store that is restored from a backup knows nothing of what was decided after the backup; this file does.
//! A line is on disk before the store's transaction commits, so it may tell of a ban that failed at the last
//! moment, and never lacks one that holds. A last line without its end was cut off before that, and is none.
//! Each data folder has its own: of several replicas, each tells of what was asked of it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::keys::PublicKey;
use tallystick_common::time::Timestamp;

use crate::store::nodes::NodeState;

/// Name of the file in the data folder.
pub const FILE_NAME: &str = "bans.log";

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// From here on the file tells of everything; of what was before, the store does.
    Begun {
        /// Since when.
        at: Timestamp,
    },
    /// A node is banned.
    Ban {
        /// When.
        at: Timestamp,
        /// Which.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// A node was given up.
    Retire {
        /// When.
        at: Timestamp,
        /// Which.
        node: NodeId,
        /// Why.
        lost: Option<String>,
    },
    /// A node's segments are taken again.
    Activate {
        /// When.
        at: Timestamp,
        /// Which.
        node: NodeId,
    },
    /// A key signs nothing new.
    Revoke {
        /// When.
        at: Timestamp,
        /// Whose.
        node: NodeId,
        /// Nothing of this stream counts …
        stream: StreamId,
        /// … from here on.
        from_seq: Seq,
        /// The key.
        key: PublicKey,
        /// Why.
        reason: String,
    },
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BansError {
    /// The system said no.
    #[error(
        "write down in {path} who is shut out: {source}; nothing was changed: run as a user who may write there"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// It cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// A line is not one.
    #[error("read {path}: line {line} cannot be read ({why}); correct it by hand")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

impl Entry {
    /// What is to be written of a node's new state.
    #[must_use]
    pub fn of_state(node: NodeId, state: &NodeState, now: Timestamp) -> Self {
        match state {
            NodeState::Active => Self::Activate { at: now, node },
            NodeState::Banned { at, reason } => Self::Ban {
                at: *at,
                node,
                reason: reason.clone(),
            },
            NodeState::Retired { at, lost } => Self::Retire {
                at: *at,
                node,
                lost: lost.clone(),
            },
        }
    }

    /// Which node it is about.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Begun { .. } => None,
            Self::Ban { node, .. }
            | Self::Retire { node, .. }
            | Self::Activate { node, .. }
            | Self::Revoke { node, .. } => Some(*node),
        }
    }

    /// When it was.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Begun { at }
            | Self::Ban { at, .. }
            | Self::Retire { at, .. }
            | Self::Activate { at, .. }
            | Self::Revoke { at, .. } => *at,
        }
    }
}

/// The file of a data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bans(PathBuf);

impl Bans {
    /// That of a data folder. None where there is no such folder: the command line may work on a server's store
    /// from anywhere.
    #[must_use]
    pub fn of(data: &Path) -> Option<Self> {
        data.is_dir().then(|| Self(data.join(FILE_NAME)))
    }

    /// Makes the file, unless it is there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, now: Timestamp) -> Result<(), BansError> {
        if self.0.exists() {
            return Ok(());
        }
        self.append(&[Entry::Begun { at: now }])
    }

    /// Writes at the end, on disk when this returns.
    ///
    /// # Errors
    /// When that fails; then the end may be cut off, and is none.
    pub fn append(&self, entries: &[Entry]) -> Result<(), BansError> {
        self.write(entries).map_err(|source| BansError::Write {
            path: self.0.clone(),
            source,
        })
    }

    fn write(&self, entries: &[Entry]) -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.mode(0o600).open(&self.0)?;
        flock(&file, FlockOperation::LockExclusive)?;
        let mut held = Vec::new();
        file.read_to_end(&mut held)?;
        let whole = whole_lines(&held);
        file.set_len(whole.len() as u64)?;
        file.seek(SeekFrom::End(0))?;
        let mut lines = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_all()?;
        self.0
            .parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

/// What a file tells, in the order of writing.
///
/// # Errors
/// When it cannot be read, or a line of it.
pub fn read(path: &Path) -> Result<Vec<Entry>, BansError> {
    let held = std::fs::read(path).map_err(|source| BansError::Read {
        path: path.to_owned(),
        source,
    })?;
    let lines = whole_lines(&held).split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let read = |(place, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| BansError::Line {
            path: path.to_owned(),
            line: place + 1,
            why: error.to_string(),
        })
    };
    lines.map(read).collect()
}

/// Without a last line that was cut off.
fn whole_lines(held: &[u8]) -> &[u8] {
    let end = held.iter().rposition(|byte| *byte == b'\n');
    end.map_or(&[], |end| &held[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(number: u8) -> Entry {
        Entry::Ban {
            at: Timestamp::EPOCH,
            node: NodeId([number; 16]),
            reason: "sold\nand gone".to_owned(),
        }
    }

    #[test]
    fn what_was_cut_off_is_none_and_what_follows_stands() {
        let folder = tempfile::tempdir().unwrap();
        let bans = Bans::of(folder.path()).unwrap();
        bans.begin(Timestamp::EPOCH).unwrap();
        bans.append(&[ban(1)]).unwrap();
        let path = folder.path().join(FILE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let held = read(&path).unwrap();
            bans.append(&[ban(2)]).unwrap();
            let then = read(&path).unwrap();
            assert_eq!(then, [&held[..], &[ban(2)]].concat(), "{length}");
        }
        std::fs::write(&path, "{\"what\":\"pardon\"}\n").unwrap();
        let told = read(&path).unwrap_err().to_string();
        assert!(told.contains("line 1"), "{told}");
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Bans::of(&folder.path().join("none")), None);
    }
}
