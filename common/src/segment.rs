//! The content of a segment: header, and one block of register runs per workload.
//!
//! Owns the logical form. Intervals are kept as columns: registers whose intervals have the same
//! times and qualities share a *shape*, so that the only thing written per interval is its quantity.
//! The bytes are in [`crate::seal`]; whether a segment fits what came before it is judged in
//! [`crate::tiling`] and [`crate::odometer`].

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{BootId, Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use crate::meter::Meter;
use crate::reading::{Gap, Interval, Quality, Reading};
use crate::time::{Micros, Timestamp};

mod packed;

pub use packed::BlockError;

/// A place in a stream: the segment there, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct StreamPosition {
    /// The stream.
    pub stream: StreamId,
    /// The sequence number.
    pub seq: Seq,
    /// The hash of the segment with that number.
    pub hash: Hash,
}

/// What stands before a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Previous {
    /// Nothing: the first segment of its stream. `after` is the last known position of the stream
    /// that this one replaces, where there was one.
    Opens {
        /// Where the replaced stream ended.
        after: Option<StreamPosition>,
    },
    /// The segment with this hash.
    Follows(Hash),
}

/// What a segment does besides carrying readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Purpose {
    /// Nothing.
    Readings,
    /// From the next segment on, this Ed25519 public key signs.
    RotateKey([u8; 32]),
    /// The last one of its node: every register is closed in it.
    Final,
}

/// What a segment says about itself as a whole, as its author fills it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderDraft {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// Place in the stream.
    pub seq: Seq,
    /// What stands before it.
    pub previous: Previous,
    /// First instant it accounts for: the predecessor's `covered_through`.
    pub from: Timestamp,
    /// First instant it does not account for.
    pub covered_through: Timestamp,
    /// The boot it was sealed in.
    pub boot: BootId,
    /// Digest of the configuration in force.
    pub config: Hash,
    /// What it does besides.
    pub purpose: Purpose,
    /// Whole-node gaps: time in which no `host` register was open. In order, not overlapping.
    pub gaps: Vec<Gap>,
}

/// A segment's header as sealed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// Place in the stream.
    pub seq: Seq,
    /// What stands before it.
    pub previous: Previous,
    /// First instant it accounts for.
    pub from: Timestamp,
    /// First instant it does not account for.
    pub covered_through: Timestamp,
    /// The boot it was sealed in.
    pub boot: BootId,
    /// Digest of the configuration in force.
    pub config: Hash,
    /// What it does besides.
    pub purpose: Purpose,
    /// Whole-node gaps.
    pub gaps: Vec<Gap>,
    /// Commitment to the seed of the block salts.
    pub salt_commitment: Hash,
    /// Number of Merkle leaves: the header's and one per block.
    pub leaves: u32,
}

/// How a register came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Born after the last sample, provably: usage since birth is its own, from zero.
    Birth,
    /// First seen at this raw value of its source; what was used before is not in it.
    FirstSeen {
        /// The source's raw value then, in the meter's base unit (for a level: the level).
        raw: u128,
    },
}

/// Why a register ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// Its source is gone.
    Vanished,
    /// Its source began anew.
    Reset,
    /// The kernel was booted again.
    Reboot,
    /// The configuration no longer selects it.
    Deselected,
    /// The stream ends here.
    StreamEnd,
}

impl CloseReason {
    /// Every reason; the place in this list plus one is the code in sealed bytes.
    pub(crate) const ALL: [Self; 5] = [
        Self::Vanished,
        Self::Reset,
        Self::Reboot,
        Self::Deselected,
        Self::StreamEnd,
    ];
}

/// One interval's time and quality, without its quantity and start (which is the end before it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// First instant after it.
    pub end: Timestamp,
    /// Time for which a value was really held or counted.
    pub measured: Micros,
    /// How well the quantity is known.
    pub quality: Quality,
}

/// Times and qualities of consecutive intervals, shared by the registers that have them alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Where the first interval starts.
    pub start: Timestamp,
    /// The intervals, in order; ends rise strictly.
    pub spans: Vec<Span>,
}

impl Shape {
    /// Where the last interval ends (`start` when there is none).
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.spans.last().map_or(self.start, |span| span.end)
    }
}

/// One register's part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The register.
    pub register: RegisterId,
    /// What it measures.
    pub meter: Meter,
    /// Set when it was opened in this segment.
    pub opened: Option<Basis>,
    /// Set when it was closed in this segment, at the end of its last interval.
    pub closed: Option<CloseReason>,
    /// Its reading at the start of its first interval here (zero when opened here).
    pub opening: Reading,
    shape: u32,
    first_quantity: u32,
}

/// A register's part of a segment as its author gives it.
#[derive(Debug, Clone, Copy)]
pub struct RunDraft<'a> {
    /// The register; ids rise within a block.
    pub register: RegisterId,
    /// What it measures.
    pub meter: Meter,
    /// Set when it was opened in this segment.
    pub opened: Option<Basis>,
    /// Set when it was closed in this segment.
    pub closed: Option<CloseReason>,
    /// Its reading at `start`.
    pub opening: Reading,
    /// Start of the first interval (the instant itself when there is none).
    pub start: Timestamp,
    /// Its intervals: each starts where the one before ended.
    pub intervals: &'a [Interval],
}

/// One workload's part of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The workload.
    pub workload: WorkloadName,
    /// What it calls itself, sorted by key, keys unique.
    pub labels: Vec<(String, String)>,
    shapes: Vec<Shape>,
    runs: Vec<Run>,
    quantities: Vec<u128>,
}

/// A run that cannot stand in a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Registers of a block rise strictly.
    #[error("register {0} does not follow the one before it in its block")]
    Order(RegisterId),
    /// Intervals follow one another and have length.
    #[error(
        "interval {index} of register {register} does not start where the one before ended, or has no length"
    )]
    NotTiled {
        /// The register.
        register: RegisterId,
        /// Which of its intervals.
        index: usize,
    },
    /// An unmeasured interval has neither quantity nor measured time.
    #[error(
        "interval {index} of register {register} is unmeasured but has a quantity or measured time"
    )]
    Unmeasured {
        /// The register.
        register: RegisterId,
        /// Which of its intervals.
        index: usize,
    },
    /// More than 2³² runs, shapes or intervals.
    #[error("the block is too large")]
    TooLarge,
}

impl Block {
    /// An empty block. Labels are put in order.
    #[must_use]
    pub fn new(workload: WorkloadName, mut labels: Vec<(String, String)>) -> Self {
        labels.sort();
        labels.dedup_by(|later, earlier| later.0 == earlier.0);
        Self {
            workload,
            labels,
            shapes: Vec::new(),
            runs: Vec::new(),
            quantities: Vec::new(),
        }
    }

    /// Adds a register's part.
    ///
    /// # Errors
    /// When it breaks the order of registers or its intervals do not tile; the block is unchanged.
    pub fn push(&mut self, draft: &RunDraft<'_>) -> Result<(), RunError> {
        if self
            .runs
            .last()
            .is_some_and(|last| last.register >= draft.register)
        {
            return Err(RunError::Order(draft.register));
        }
        let shape = Shape {
            start: draft.start,
            spans: spans(draft)?,
        };
        let first_quantity =
            u32::try_from(self.quantities.len()).map_err(|_| RunError::TooLarge)?;
        let shape = self.intern(shape)?;
        self.quantities
            .extend(draft.intervals.iter().map(|interval| interval.quantity));
        self.runs.push(Run {
            register: draft.register,
            meter: draft.meter,
            opened: draft.opened,
            closed: draft.closed,
            opening: draft.opening,
            shape,
            first_quantity,
        });
        Ok(())
    }

    fn intern(&mut self, shape: Shape) -> Result<u32, RunError> {
        let index = self
            .shapes
            .iter()
            .position(|known| *known == shape)
            .unwrap_or_else(|| {
                self.shapes.push(shape);
                self.shapes.len() - 1
            });
        u32::try_from(index).map_err(|_| RunError::TooLarge)
    }

    /// The runs, by rising register.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Number of intervals of all runs.
    #[must_use]
    pub fn interval_count(&self) -> usize {
        self.quantities.len()
    }

    /// When a run's intervals are, and how good.
    #[must_use]
    pub fn shape(&self, run: &Run) -> &Shape {
        &self.shapes[run.shape as usize]
    }

    /// Quantities of a run's intervals, one per span of its shape.
    #[must_use]
    pub fn quantities(&self, run: &Run) -> &[u128] {
        let first = run.first_quantity as usize;
        &self.quantities[first..first + self.shape(run).spans.len()]
    }

    /// A run's intervals, put together.
    pub fn intervals(&self, run: &Run) -> impl Iterator<Item = Interval> + '_ {
        let shape = self.shape(run);
        let starts = std::iter::once(shape.start).chain(shape.spans.iter().map(|span| span.end));
        starts
            .zip(&shape.spans)
            .zip(self.quantities(run))
            .map(|((start, span), quantity)| Interval {
                start,
                end: span.end,
                quantity: *quantity,
                quality: span.quality,
                measured: span.measured,
            })
    }
}

fn spans(draft: &RunDraft<'_>) -> Result<Vec<Span>, RunError> {
    let register = draft.register;
    let mut at = draft.start;
    let mut spans = Vec::with_capacity(draft.intervals.len());
    for (index, interval) in draft.intervals.iter().enumerate() {
        if interval.start != at || interval.end <= interval.start {
            return Err(RunError::NotTiled { register, index });
        }
        let unmeasured = matches!(interval.quality, Quality::Unmeasured(_));
        if unmeasured && (interval.quantity != 0 || interval.measured != Micros(0)) {
            return Err(RunError::Unmeasured { register, index });
        }
        at = interval.end;
        spans.push(Span {
            end: interval.end,
            measured: interval.measured,
            quality: interval.quality,
        });
    }
    Ok(spans)
}
