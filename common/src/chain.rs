//! One stream followed segment by segment: links (I6), odometers (I3), tiling (I5).
//!
//! Owns what must be remembered of a stream to judge its next segment: where it stands and its open
//! registers. Admission, a verifier and a replayed journal ask the same questions here; admission keeps
//! more of a stream than [`StreamState`], so it uses the rules for registers alone. What to do with a
//! segment that does not fit is theirs to decide: registers go on over any verified segment, so that
//! one doubtful segment does not make all later ones doubtful.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::failpoint::is_removed;
use crate::ids::{Hash, RegisterId, Seq, StreamId, WorkloadName};
use crate::meter::Meter;
use crate::odometer::{self, OdometerError};
use crate::reading::Reading;
use crate::seal::VerifiedSegment;
use crate::segment::{Block, Header, Previous, Run};
use crate::tiling::{self, TilingError};
use crate::time::Timestamp;

/// A register that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRegister {
    /// What it measures on.
    pub workload: Arc<WorkloadName>,
    /// What it measures.
    pub meter: Meter,
    /// Where it stands.
    pub reading: Reading,
    /// Up to when it accounts for time.
    pub end: Timestamp,
}

/// The registers of a stream that have been opened and not closed.
pub type OpenRegisters = BTreeMap<RegisterId, OpenRegister>;

/// What is remembered of a stream. Its size is that of the stream's open registers, whatever its
/// history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The stream.
    pub stream: StreamId,
    /// The number of the next segment.
    pub next: Seq,
    /// The hash of the one before it.
    pub head: Option<Hash>,
    /// Up to when time is accounted for; `None` before the first segment.
    pub covered_through: Option<Timestamp>,
    /// Registers by number.
    pub open: OpenRegisters,
    /// The lowest number that a new register may have.
    pub next_register: RegisterId,
}

/// How a segment stands to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It is the next one.
    Next,
    /// Its number has been passed: the same segment again, or a fork.
    Earlier,
    /// Segments are missing before it.
    Ahead,
    /// It has the next number, but names another predecessor.
    Broken,
}

/// A segment that follows, but does not continue what the one before left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// Time between two segments.
    #[error("it accounts for time from {found}, but the segment before ended at {expected}")]
    From {
        /// Where it should start.
        expected: Timestamp,
        /// Where it starts.
        found: Timestamp,
    },
    /// A run of a register that is not open.
    #[error("register {0} goes on without having been opened")]
    NotOpen(RegisterId),
    /// A register opened under a number that is not new.
    #[error("register {register} is opened, but numbers below {next} are taken")]
    NotNew {
        /// The register.
        register: RegisterId,
        /// The lowest free number.
        next: RegisterId,
    },
    /// A register that stands twice in one segment.
    #[error("register {0} stands there twice")]
    Twice(RegisterId),
    /// A register that changed what it measures.
    #[error("register {0} moved to another workload or meter")]
    Moved(RegisterId),
    /// An open register without a run.
    #[error("register {0} is open but missing")]
    Missing(RegisterId),
    /// A reading that jumps.
    #[error(transparent)]
    Odometer(#[from] OdometerError),
    /// Time counted twice or not at all.
    #[error(transparent)]
    Tiling(#[from] TilingError),
}

impl StreamState {
    /// Before the first segment.
    #[must_use]
    pub fn new(stream: StreamId) -> Self {
        Self {
            stream,
            next: Seq::FIRST,
            head: None,
            covered_through: None,
            open: BTreeMap::new(),
            next_register: RegisterId(0),
        }
    }

    /// How `segment` stands to the stream.
    #[must_use]
    pub fn link(&self, segment: &VerifiedSegment) -> Link {
        let header = segment.header();
        match header.seq.cmp(&self.next) {
            std::cmp::Ordering::Less => Link::Earlier,
            std::cmp::Ordering::Greater => Link::Ahead,
            std::cmp::Ordering::Equal => match (header.previous, self.head) {
                (Previous::Opens { .. }, None) => Link::Next,
                (Previous::Follows(hash), Some(head)) if hash == head => Link::Next,
                _ => Link::Broken,
            },
        }
    }

    /// Whether `segment`, which is the next one, continues every register where it stood.
    ///
    /// # Errors
    /// The first break found.
    pub fn check(&self, segment: &VerifiedSegment) -> Result<(), Break> {
        let header = segment.header();
        if let Some(expected) = self
            .covered_through
            .filter(|through| *through != header.from)
        {
            return Err(Break::From {
                expected,
                found: header.from,
            });
        }
        let mut seen = HashSet::new();
        for (block, run) in runs(segment.blocks()) {
            if !seen.insert(run.register) {
                return Err(Break::Twice(run.register));
            }
            continues(&self.open, self.next_register, header, block, run)?;
        }
        missing(&self.open, &seen).map_or(Ok(()), |register| Err(Break::Missing(register)))
    }

    /// Goes on past `segment`, taking what it says of itself.
    pub fn advance(&mut self, segment: &VerifiedSegment) {
        let header = segment.header();
        self.next = header.seq.next();
        self.head = Some(segment.hash());
        self.covered_through = self.covered_through.max(Some(header.covered_through));
        advance(&mut self.open, &mut self.next_register, segment.blocks());
    }
}

/// Whether a run goes on where its register stood, or opens a new one: numbers below `next` are taken.
///
/// # Errors
/// The first break found.
pub fn continues(
    open: &OpenRegisters,
    next: RegisterId,
    header: &Header,
    block: &Block,
    run: &Run,
) -> Result<(), Break> {
    let register = run.register;
    let before = open.get(&register);
    match before {
        _ if run.opened.is_some() && (before.is_some() || register < next) => {
            return Err(Break::NotNew { register, next });
        }
        None if run.opened.is_none() => return Err(Break::NotOpen(register)),
        Some(held) if *held.workload != block.workload || held.meter != run.meter => {
            return Err(Break::Moved(register));
        }
        _ => {}
    }
    if !is_removed("I3") {
        odometer::close(block, run, before.map_or(Reading(0), |held| held.reading))?;
    }
    if !is_removed("I5") {
        tiling::check(header, block, run, before.map(|held| held.end))?;
    }
    Ok(())
}

/// An open register that is not among those `seen`.
#[must_use]
pub fn missing(open: &OpenRegisters, seen: &HashSet<RegisterId>) -> Option<RegisterId> {
    let missing = |register: &&RegisterId| !seen.contains(register);
    open.keys().find(missing).copied()
}

/// Moves registers on past a segment, whether it fits or not: they stand where it says, only the time
/// they account for never goes back. One that is open and left out is over.
pub fn advance(open: &mut OpenRegisters, next: &mut RegisterId, blocks: &[Block]) {
    for (block, run) in runs(blocks) {
        *next = (*next).max(RegisterId(run.register.0.saturating_add(1)));
        if run.closed.is_some() {
            open.remove(&run.register);
        } else {
            advance_register(open, block, run);
        }
    }
    let named = left_open(blocks);
    if open.len() > named.len() {
        open.retain(|register, _| named.binary_search(register).is_ok());
    }
}

fn advance_register(open: &mut OpenRegisters, block: &Block, run: &Run) {
    // A sum beyond 128 bits is a break that the check reports; going on from the opening is harmless.
    let reading = odometer::closing(block, run).unwrap_or(run.opening);
    let end = block.shape(run).end();
    match open.get_mut(&run.register) {
        Some(held) if *held.workload == block.workload && held.meter == run.meter => {
            held.reading = reading;
            held.end = held.end.max(end);
        }
        _ => {
            let register = OpenRegister {
                workload: Arc::new(block.workload.clone()),
                meter: run.meter,
                reading,
                end,
            };
            open.insert(run.register, register);
        }
    }
}

/// The registers that a segment leaves open, sorted, each once.
#[must_use]
pub fn left_open(blocks: &[Block]) -> Vec<RegisterId> {
    let mut open: Vec<RegisterId> = runs(blocks)
        .filter(|(_, run)| run.closed.is_none())
        .map(|(_, run)| run.register)
        .collect();
    open.sort_unstable();
    open.dedup();
    open
}

fn runs(blocks: &[Block]) -> impl Iterator<Item = (&Block, &Run)> {
    blocks
        .iter()
        .flat_map(|block| block.runs().iter().map(move |run| (block, run)))
}

#[cfg(test)]
mod tests;
