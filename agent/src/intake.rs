//! The local intake: what applications of this host report of their own usage.
//!
//! Owns the Unix socket, the forms in which usage may be reported, who may report for whom, and what has been
//! counted already. Does not own the registers: what comes in goes into [`crate::accrue`] at once, as usage
//! of the current interval; when an event happened is a note of its sender's.
//!
//! ```text
//!  socket ─▶ server ─▶ event │ otlp ─┐                        ┌─▶ log (what was counted, synced)
//!  targets ─▶ scrape ─▶ exposition ──┴─▶ queue ─▶ desk ───────┴─▶ station (registers: journal and sled) ─▶ answers
//! ```
//!
//! An answer of success means that the register's increase and the memory of having counted it are on the
//! disk. What cannot be taken is answered so, with the reason; nothing is dropped in silence.

use std::path::PathBuf;

use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;
use tokio::sync::oneshot;

pub mod client;
#[cfg(feature = "decoders")]
pub mod decoders;
pub mod desk;
pub mod event;
mod exposition;
mod ledger;
mod log;
pub mod otlp;
mod peer;
mod protobuf;
mod quantity;
mod reply;
pub mod report;
pub mod scrape;
mod series;
pub mod server;

pub use quantity::NotWhole;

/// Sixteen bytes that stand for one event or one series.
pub type Key = [u8; 16];

/// The key of what these parts name together.
fn key(kind: &str, parts: &[&[u8]]) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut key = Key::default();
    hasher.finalize_xof().fill(&mut key);
    key
}

/// One event: so much, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its sender's name for it.
    pub key: Key,
    /// Stands for what it says.
    pub content: u64,
    /// The register it adds to.
    pub register: (WorkloadName, Meter),
    /// How much.
    pub quantity: u128,
}

/// One cumulative count of a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The series.
    pub key: Key,
    /// Since when and up to when it counts.
    pub point: series::Point,
    /// The register its increase adds to.
    pub register: (WorkloadName, Meter),
}

/// What came in together.
#[derive(Debug)]
pub enum Content {
    /// Counted whole or not at all.
    Events(Vec<Event>),
    /// Each counted by itself.
    Counts(Vec<Count>),
}

/// What came in, and who waits for its answer.
#[derive(Debug)]
pub struct Request {
    /// What.
    pub content: Content,
    /// Told what became of it, when that is on the disk.
    pub answer: oneshot::Sender<Answer>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// On the disk.
    Counted {
        /// Newly counted.
        new: usize,
        /// Counted before.
        known: usize,
        /// Not counted, by place: it is not clear which part is new.
        unclear: Vec<(usize, String)>,
    },
    /// Nothing was counted: the event at this place was counted before, with other content.
    Conflict(usize),
    /// Nothing was counted; the same may be taken later.
    Later(String),
}

/// What is wrong with something that was reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Wrong {
    /// Which field of it.
    pub field: String,
    /// What is wrong there, and the remedy.
    pub why: String,
}

impl Wrong {
    fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

/// Why the intake does not work.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The socket or its folder.
    #[error("cannot {action} {path}: {source}; set intake.socket, or intake.enabled = false")]
    Socket {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log of what was counted.
    #[error("cannot {action} {path}: {source}")]
    Log {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A glob of the configuration.
    #[error(transparent)]
    Selection(#[from] crate::config::GlobError),
}
