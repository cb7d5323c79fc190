//! Makes several drafts into one with fewer intervals, and drops no quantity.
//!
//! Pure: what is to be sealed in place of what was sealed, or could not be sealed, is computed here;
//! who signs it is `station`, where it is kept is `buffer`. For each register the sum of quantities
//! (for a peak, the maximum), the readings at both ends and the time accounted for are the same
//! before and after.
//!
//! | grain | intervals end up as | a segment holds |
//! |---|---|---|
//! | quarter-hour | one per quarter-hour and quality, quality kept: rating sees no difference | an hour |
//! | hour, six hours, day | one per cell, `interpolated` (thinned) where it spans quarter-hours | six hours, a day, a day |
//!
//! Unmeasured time never becomes part of a measured interval. Drafts are not joined across a boot,
//! another configuration, or other labels of a workload, for each segment states these once.

use std::collections::BTreeMap;

use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::reading::{Cause, Interval, Quality, Reading};
use tallystick_common::segment::{Basis, Block, CloseReason, Run, RunDraft, RunError};
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US, Timestamp};

use crate::accrue::Draft;

/// How coarse time becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// Nothing is lost that is rated: cells of rating stay apart.
    QuarterHour,
    /// Known per hour.
    Hour,
    /// Known per six hours.
    SixHours,
    /// Known per day.
    Day,
}

impl Grain {
    /// Each, from fine to coarse.
    pub const ALL: [Self; 4] = [Self::QuarterHour, Self::Hour, Self::SixHours, Self::Day];

    /// Width of a cell: no two intervals of one register and quality stay in one.
    fn cell_us(self) -> u64 {
        match self {
            Self::QuarterHour => QUARTER_HOUR_US,
            Self::Hour => HOUR_US,
            Self::SixHours => 6 * HOUR_US,
            Self::Day => 24 * HOUR_US,
        }
    }

    /// Width of what one segment holds.
    fn segment_us(self) -> u64 {
        match self {
            Self::QuarterHour => HOUR_US,
            Self::Hour => 6 * HOUR_US,
            Self::SixHours | Self::Day => 24 * HOUR_US,
        }
    }
}

/// Drafts that follow one another, on their way to becoming one.
#[derive(Debug, Clone)]
pub struct Thinning {
    grain: Grain,
    whole: Draft,
    blocks: BTreeMap<WorkloadName, Part>,
}

#[derive(Debug, Clone)]
struct Part {
    labels: Vec<(String, String)>,
    runs: BTreeMap<RegisterId, Joined>,
}

#[derive(Debug, Clone)]
struct Joined {
    meter: Meter,
    opened: Option<Basis>,
    closed: Option<CloseReason>,
    opening: Reading,
    start: Timestamp,
    intervals: Vec<Interval>,
}

impl Thinning {
    /// Begins with one draft.
    #[must_use]
    pub fn of(mut draft: Draft, grain: Grain) -> Self {
        let blocks = std::mem::take(&mut draft.blocks);
        let mut thinning = Self {
            grain,
            whole: draft,
            blocks: BTreeMap::new(),
        };
        thinning.add_blocks(&blocks);
        thinning
    }

    /// Takes the draft that follows, or gives it back where it has to stay apart.
    ///
    /// # Errors
    /// The draft, unchanged.
    pub fn join(&mut self, mut next: Draft) -> Result<(), Box<Draft>> {
        if !self.accepts(&next) {
            return Err(Box::new(next));
        }
        let blocks = std::mem::take(&mut next.blocks);
        self.add_blocks(&blocks);
        self.whole.covered_through = next.covered_through;
        self.whole.gaps.append(&mut next.gaps);
        Ok(())
    }

    fn accepts(&self, next: &Draft) -> bool {
        let whole = &self.whole;
        let same_segment = same_cell(whole.from, next.covered_through, self.grain.segment_us());
        let same_labels = |block: &Block| {
            self.blocks
                .get(&block.workload)
                .is_none_or(|part| part.labels == block.labels)
        };
        same_segment
            && next.from == whole.covered_through
            && (next.boot, next.config) == (whole.boot, whole.config)
            && next.blocks.iter().all(same_labels)
    }

    fn add_blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            let part = self
                .blocks
                .entry(block.workload.clone())
                .or_insert_with(|| Part {
                    labels: block.labels.clone(),
                    runs: BTreeMap::new(),
                });
            for run in block.runs() {
                part.add(block, run, self.grain);
            }
        }
    }

    /// What came of it.
    ///
    /// # Errors
    /// When a run breaks a rule of blocks, which those of sealed segments do not.
    pub fn finish(mut self) -> Result<Draft, RunError> {
        let blocks = std::mem::take(&mut self.blocks);
        self.whole.blocks = blocks
            .into_iter()
            .map(|(workload, part)| part.block(workload))
            .collect::<Result<_, _>>()?;
        Ok(self.whole)
    }
}

impl Part {
    fn add(&mut self, block: &Block, run: &Run, grain: Grain) {
        let joined = self.runs.entry(run.register).or_insert_with(|| Joined {
            meter: run.meter,
            opened: run.opened,
            closed: None,
            opening: run.opening,
            start: block.shape(run).start,
            intervals: Vec::new(),
        });
        joined.closed = run.closed;
        for interval in block.intervals(run) {
            joined.push(interval, grain);
        }
    }

    fn block(self, workload: WorkloadName) -> Result<Block, RunError> {
        let mut block = Block::new(workload, self.labels);
        for (register, joined) in &self.runs {
            block.push(&RunDraft {
                register: *register,
                meter: joined.meter,
                opened: joined.opened,
                closed: joined.closed,
                opening: joined.opening,
                start: joined.start,
                intervals: &joined.intervals,
            })?;
        }
        Ok(block)
    }
}

impl Joined {
    fn push(&mut self, next: Interval, grain: Grain) {
        let kind = self.meter.kind();
        match self
            .intervals
            .last_mut()
            .and_then(|last| Some((joined(last, &next, kind, grain)?, last)))
        {
            Some((both, last)) => *last = both,
            None => self.intervals.push(next),
        }
    }
}

/// Two neighbours as one interval; `None` where they have to stay apart.
fn joined(first: &Interval, next: &Interval, kind: Kind, grain: Grain) -> Option<Interval> {
    let together = |width| same_cell(first.start, next.end, width);
    let quality = match (first.quality, next.quality) {
        (one, other) if one == other && together(QUARTER_HOUR_US) => one,
        (Quality::Unmeasured(one), Quality::Unmeasured(other)) => {
            (one == other && together(grain.cell_us())).then_some(first.quality)?
        }
        (Quality::Unmeasured(_), _) | (_, Quality::Unmeasured(_)) => return None,
        _ if grain > Grain::QuarterHour && together(grain.cell_us()) => {
            Quality::Interpolated(Cause::Thinned)
        }
        _ => return None,
    };
    let quantity = match kind {
        Kind::Peak => first.quantity.max(next.quantity),
        Kind::Counter | Kind::Integral => first.quantity.checked_add(next.quantity)?,
    };
    Some(Interval {
        start: first.start,
        end: next.end,
        quantity,
        quality,
        measured: Micros(first.measured.0.checked_add(next.measured.0)?),
    })
}

/// Whether `[start, end)` lies within one multiple of `width`.
fn same_cell(start: Timestamp, end: Timestamp, width: u64) -> bool {
    end <= start.next_multiple(width)
}

#[cfg(test)]
mod tests;
