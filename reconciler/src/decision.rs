//! Decisions of persons on segments that are stored: quarantine, forks, revoked keys.
//!
//! A decision is a row that is never changed, with a statement signed by the receipt key, and a note in the
//! audit log (I12). Verdicts, rollups, gaps and claims change in the same transaction ([`hearing`]), so that a
//! segment changes totals at most once (I1), and whoever remembers something of the node forgets it. Issued
//! invoices stay as they are (I10): what they counted is their cut, which names the decisions it was made by.
//!
//! What a decision may do is admission's to say ([`crate::ingest::admit::appeal`]); who is billed for it is the
//! catalog's. Asking twice for the same thing changes nothing the second time.

use tallystick_common::decision::DecisionKind;
use tallystick_common::ids::{Seq, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::period::PeriodError;
use tallystick_common::time::Timestamp;

use crate::catalog::CatalogError;
use crate::catalog::change::ChangeError;
use crate::ingest::admit::Doubt;
use crate::store::StoreError;
use crate::store::again::Passing;
use crate::store::decisions::DecisionRow;

mod fork;
mod hearing;
mod quarantine;
mod revocation;
mod touched;

pub use fork::{Keep, resolve};
pub use quarantine::{Judgement, decide};
pub use revocation::revoke;
pub use touched::Touched;

/// Who decides, on which stream, and why.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The node, by id or name.
    pub node: &'a str,
    /// Its stream.
    pub stream: StreamId,
    /// Why, for the audit log and whoever asks later.
    pub reason: &'a str,
    /// Who.
    pub actor: &'a str,
    /// Signs the statement.
    pub signer: &'a SecretKey,
}

impl Order<'_> {
    fn check(&self) -> Result<(), CatalogError> {
        if !self.reason.trim().is_empty() {
            return Ok(());
        }
        Err(CatalogError::Invalid {
            what: "reason",
            value: self.reason.to_owned(),
            why: "write why it is decided so: the audit log keeps it".to_owned(),
        })
    }
}

/// What was decided, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The decision; none when it was only asked what it would do.
    pub decision: Option<DecisionRow>,
    /// Whether it had been decided so before: nothing changed then.
    pub before: bool,
    /// Segments that count, or count no longer, by it.
    pub changed: u64,
    /// Doubts that it sets aside, in words.
    pub set_aside: Vec<String>,
    /// Whose bills it changes, or would have changed.
    pub touched: Vec<Touched>,
}

impl Decided {
    fn before(decision: DecisionRow) -> Self {
        Self {
            decision: Some(decision),
            before: true,
            changed: 0,
            set_aside: Vec::new(),
            touched: Vec::new(),
        }
    }
}

/// Why a decision was not made.
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// Something named does not exist or is not usable.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A change was refused.
    #[error(transparent)]
    Change(ChangeError),
    /// The stream has no such segment.
    #[error(
        "stream {stream} has no segment {seq}: its last one is {last}; see `quarantine list`",
        last = last.map_or_else(|| "still to come".to_owned(), |last| last.to_string())
    )]
    NoSegment {
        /// The stream.
        stream: StreamId,
        /// The number asked for.
        seq: Seq,
        /// Its last segment.
        last: Option<Seq>,
    },
    /// Nothing there is in quarantine.
    #[error("no segment from {first} to {last} is quarantined: they count; see `quarantine list`")]
    Counted {
        /// The first one asked for.
        first: Seq,
        /// The last one asked for.
        last: Seq,
    },
    /// A segment that counts and was never in doubt.
    #[error(
        "segment {seq} counts and was never quarantined: nobody rejects it; if the node's key is lost, see `node revoke`"
    )]
    NotQuarantined {
        /// Its number.
        seq: Seq,
    },
    /// What is in doubt is not for a person to judge, or not yet.
    #[error(
        "segment {seq} cannot count: {doubt}; nothing was changed{}",
        hint(doubt)
    )]
    Doubtful {
        /// Its number.
        seq: Seq,
        /// What is in doubt.
        doubt: Doubt,
    },
    /// The key of a segment is revoked.
    #[error("segment {seq} cannot count: its key was revoked at {at}")]
    Revoked {
        /// Its number.
        seq: Seq,
        /// When.
        at: Timestamp,
    },
    /// There is no fork to be resolved.
    #[error("stream {stream} is not forked: there is nothing to resolve; see `node show`")]
    NotForked {
        /// The stream.
        stream: StreamId,
    },
    /// An account's periods cannot be told.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What may help.
fn hint(doubt: &Doubt) -> &'static str {
    match doubt {
        Doubt::Future { .. } => ", ask again when that time has passed",
        Doubt::Overlap { .. } | Doubt::SharedKernel { .. } => {
            ", for what the other counted would count twice: first let that count no longer"
        }
        _ => "",
    }
}

impl Passing for DecisionError {
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Change(error) => error.is_passing(),
            _ => false,
        }
    }
}

impl From<ChangeError> for DecisionError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Catalog(error) => Self::Catalog(error),
            ChangeError::Store(error) => Self::Store(error),
            other @ ChangeError::Plan { .. } => Self::Change(other),
        }
    }
}

impl From<sqlx::Error> for DecisionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What the audit log calls it.
fn action(kind: DecisionKind) -> &'static str {
    match kind {
        DecisionKind::Accept => "quarantine.accept",
        DecisionKind::Reject => "quarantine.reject",
        DecisionKind::KeepAdmitted | DecisionKind::KeepOther => "node.resolve",
        DecisionKind::Revoke => "node.revoke",
    }
}

#[cfg(test)]
mod tests;
