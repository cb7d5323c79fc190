//! One stream followed segment by segment: links (I6), odometers (I3), tiling (I5).
//!
//! Owns what must be remembered of a stream to judge its next segment: where it stands and its open
//! registers. Admission, a verifier and a replayed journal ask the same questions here. What to do with
//! a segment that does not fit is theirs to decide: [`StreamState::advance`] goes on over any verified
//! segment, so that one doubtful segment does not make all later ones doubtful.

use std::collections::BTreeMap;

use crate::ids::{Hash, RegisterId, Seq, StreamId, WorkloadName};
use crate::meter::Meter;
use crate::odometer::{self, OdometerError};
use crate::reading::Reading;
use crate::seal::VerifiedSegment;
use crate::segment::{Block, Previous, Run};
use crate::tiling::{self, TilingError};
use crate::time::Timestamp;

/// A register that has been opened and not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRegister {
    /// What it is of.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Its reading at `through`.
    pub reading: Reading,
    /// Up to when it is accounted for.
    pub through: Timestamp,
}

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
    pub open: BTreeMap<RegisterId, OpenRegister>,
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
    #[error("register {0} is not open")]
    NotOpen(RegisterId),
    /// A register opened under a number that is not new.
    #[error("register {register} is opened, but numbers below {next} are taken")]
    NotNew {
        /// The register.
        register: RegisterId,
        /// The lowest free number.
        next: RegisterId,
    },
    /// A register that changed what it measures.
    #[error("register {0} was opened for another workload or meter")]
    Moved(RegisterId),
    /// An open register without a run.
    #[error("{0} open registers are not accounted for")]
    Missing(usize),
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
        let mut continued = 0;
        let mut opened = std::collections::BTreeSet::new();
        for (block, run) in runs(segment) {
            if run.opened.is_some() {
                self.check_new(run, opened.insert(run.register))?;
                odometer::close(block, run, Reading(0))?;
                tiling::check(header, block, run, None)?;
            } else {
                let register = self
                    .open
                    .get(&run.register)
                    .ok_or(Break::NotOpen(run.register))?;
                if register.workload != block.workload || register.meter != run.meter {
                    return Err(Break::Moved(run.register));
                }
                odometer::close(block, run, register.reading)?;
                tiling::check(header, block, run, Some(register.through))?;
                continued += 1;
            }
        }
        match self.open.len() - continued {
            0 => Ok(()),
            missing => Err(Break::Missing(missing)),
        }
    }

    fn check_new(&self, run: &Run, first: bool) -> Result<(), Break> {
        let register = run.register;
        if first && register >= self.next_register {
            return Ok(());
        }
        Err(Break::NotNew {
            register,
            next: self.next_register,
        })
    }

    /// Goes on past `segment`, taking what it says of itself.
    pub fn advance(&mut self, segment: &VerifiedSegment) {
        let header = segment.header();
        self.next = header.seq.next();
        self.head = Some(segment.hash());
        self.covered_through = Some(header.covered_through);
        for (block, run) in runs(segment) {
            self.next_register = self
                .next_register
                .max(RegisterId(run.register.0.saturating_add(1)));
            if run.closed.is_some() {
                self.open.remove(&run.register);
            } else {
                self.continue_register(block, run);
            }
        }
    }

    fn continue_register(&mut self, block: &Block, run: &Run) {
        // A sum beyond 128 bits is a break that `check` reports; going on from the opening is harmless.
        let reading = odometer::closing(block, run).unwrap_or(run.opening);
        let through = block.shape(run).end();
        match self.open.get_mut(&run.register) {
            Some(register)
                if register.meter == run.meter && register.workload == block.workload =>
            {
                register.reading = reading;
                register.through = through;
            }
            _ => {
                let workload = block.workload.clone();
                let register = OpenRegister {
                    workload,
                    meter: run.meter,
                    reading,
                    through,
                };
                self.open.insert(run.register, register);
            }
        }
    }
}

fn runs(segment: &VerifiedSegment) -> impl Iterator<Item = (&Block, &Run)> {
    segment
        .blocks()
        .iter()
        .flat_map(|block| block.runs().iter().map(move |run| (block, run)))
}

#[cfg(test)]
mod tests;
