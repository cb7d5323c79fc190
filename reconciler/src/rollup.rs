//! Rollups: counted usage by UTC hour, workload and meter, derived from segments by position.
//!
//! Owns how intervals fall into quarter-hour cells ([`Cells`]) and the task that lets the stored rows
//! follow the streams. Rows, registers and the position up to which they hold advance in one
//! transaction, compare-and-set on the position, so each segment is added exactly once. Readers add the
//! stored tail beyond the position by the same [`Cells`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tallystick_common::failpoint;
use tallystick_common::ids::{RegisterId, Seq, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::odometer;
use tallystick_common::reading::{Interval, Quality, Reading};
use tallystick_common::segment::{Basis, Block, CloseReason, Run};
use tallystick_common::time::{HOUR_US, QUARTER_HOUR_US, Timestamp, share_until};
use tokio::sync::{Notify, watch};

use crate::ingest::admit::left_open;
use crate::store::streams::{self, Stream};
use crate::store::{Store, StoreError, rollups};

/// Segments of one stream in one transaction.
const PAGE: u32 = 1024;
/// How long segments may wait for their rollups.
const PERIOD: Duration = Duration::from_secs(2);

/// A quarter-hour of one (workload, meter).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Sum of quantities (nothing for peaks).
    pub quantity: u128,
    /// Largest quantity of an interval.
    pub max: u128,
    /// Measured time.
    pub measured: u64,
    /// Time of exact intervals.
    pub exact: u64,
    /// Time of interpolated intervals.
    pub interpolated: u64,
    /// Time of unmeasured intervals.
    pub unmeasured: u64,
}

/// A register as the counted segments leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterEnd {
    /// What it is of.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Set when it was opened in these segments.
    pub opened: Option<(Basis, Timestamp)>,
    /// Up to when.
    pub at: Timestamp,
    /// Its reading then.
    pub reading: Reading,
    /// Why it is over, if it is.
    pub closed: Option<CloseReason>,
}

/// What some segments of one stream come to.
#[derive(Debug, Default)]
pub struct Cells {
    /// By workload, meter, and the quarter-hour since 1970.
    pub cells: BTreeMap<(WorkloadName, Meter), BTreeMap<u64, Cell>>,
    /// By register.
    pub registers: BTreeMap<RegisterId, RegisterEnd>,
    /// The registers that the last of the segments leaves open, sorted. A register that was open and
    /// is not among them is over, though none of its runs says so.
    pub open: Vec<RegisterId>,
    /// What workloads call themselves, as their newest counted segment says, and when it ends.
    pub labels: BTreeMap<WorkloadName, (Labels, Timestamp)>,
}

/// Labels by key, as a block has them.
pub type Labels = Vec<(String, String)>;

impl Cells {
    /// Adds one segment's blocks. Registers advance over segments that are not counted, too.
    pub fn add(&mut self, blocks: &[Block], counted: bool) {
        self.open = left_open(blocks);
        for block in blocks {
            if counted {
                self.label(block);
            }
            for run in block.runs() {
                self.advance(block, run);
                if counted {
                    let key = (block.workload.clone(), run.meter);
                    let cells = self.cells.entry(key).or_default();
                    block
                        .intervals(run)
                        .for_each(|interval| add(cells, run.meter, &interval));
                }
            }
        }
    }

    fn label(&mut self, block: &Block) {
        let end = block.runs().last().map(|run| block.shape(run).end());
        let end = end.unwrap_or(Timestamp::EPOCH);
        match self.labels.get_mut(&block.workload) {
            Some((labels, at)) => {
                if *labels != block.labels {
                    labels.clone_from(&block.labels);
                }
                *at = end;
            }
            None => {
                let held = (block.labels.clone(), end);
                self.labels.insert(block.workload.clone(), held);
            }
        }
    }

    fn advance(&mut self, block: &Block, run: &Run) {
        let shape = block.shape(run);
        let before = self.registers.remove(&run.register);
        let opened = run.opened.map(|basis| (basis, shape.start));
        let accounted = before.as_ref().map_or(shape.start, |before| before.at);
        let end = RegisterEnd {
            workload: block.workload.clone(),
            meter: run.meter,
            opened: opened.or(before.and_then(|before| before.opened)),
            at: shape.end().max(accounted),
            reading: odometer::closing(block, run).unwrap_or(run.opening),
            closed: run.closed,
        };
        self.registers.insert(run.register, end);
    }
}

/// Adds an interval to the quarter-hours it lies in. An interpolated one is cut by its share of time;
/// a peak counts in the quarter-hour of its last instant.
fn add(cells: &mut BTreeMap<u64, Cell>, meter: Meter, interval: &Interval) {
    let peak = meter.kind() == Kind::Peak;
    let mut at = interval.start;
    let (mut taken, mut timed) = (0, 0);
    while at < interval.end {
        let until = at.next_multiple(QUARTER_HOUR_US).min(interval.end);
        let share = share_until(interval.quantity, interval.start, interval.end, until);
        let measured = share_until(
            u128::from(interval.measured.0),
            interval.start,
            interval.end,
            until,
        );
        let cell = cells.entry(at.as_micros() / QUARTER_HOUR_US).or_default();
        let time = until.since(at).0;
        match interval.quality {
            Quality::Exact => cell.exact += time,
            Quality::Interpolated(_) => cell.interpolated += time,
            Quality::Unmeasured(_) => cell.unmeasured += time,
        }
        cell.measured += u64::try_from(measured - timed).unwrap_or(u64::MAX);
        if !peak {
            cell.quantity = cell.quantity.saturating_add(share - taken);
        }
        if until == interval.end {
            cell.max = cell.max.max(interval.quantity);
        }
        (taken, timed, at) = (share, measured, until);
    }
}

/// The hour since 1970 and the place in it of a quarter-hour since 1970.
#[must_use]
pub fn place(quarter: u64) -> (u64, usize) {
    let per_hour = HOUR_US / QUARTER_HOUR_US;
    (
        quarter / per_hour,
        usize::try_from(quarter % per_hour).unwrap_or(0),
    )
}

/// Lets rollups follow the streams until `stop` holds true, and once more after it.
pub async fn follow(store: Store, committed: Arc<Notify>, mut stop: watch::Receiver<bool>) {
    loop {
        let stopping = *stop.borrow();
        if let Err(error) = catch_up(&store).await {
            tracing::error!(%error, "rollups could not follow; they try again");
            // What failed is still to be done, whether or not another segment comes.
            committed.notify_one();
        }
        if stopping {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = stop.changed() => {}
        }
        if !*stop.borrow() {
            tokio::select! {
                () = committed.notified() => {}
                _ = stop.changed() => {}
            }
        }
    }
}

/// Brings the rollups of every stream up to its admitted position.
///
/// # Errors
/// When the database fails; what was done stays done.
pub async fn catch_up(store: &Store) -> Result<(), StoreError> {
    let streams = {
        let mut tx = store.read().await?;
        streams::all(&mut tx).await?
    };
    for stream in streams {
        let mut rolled = stream.rolled;
        while rolled < stream.next {
            rolled = advance(store, &stream, rolled).await?;
        }
    }
    Ok(())
}

/// One transaction: the next segments of one stream.
async fn advance(store: &Store, stream: &Stream, from: Seq) -> Result<Seq, StoreError> {
    failpoint!("reconciler.rollup.before");
    let mut tx = store.write().await?;
    let segments = streams::segments_from(&mut tx, stream.row, from, PAGE).await?;
    let Some(last) = segments.last() else {
        return Err(StoreError::damaged(
            "segments",
            format!("segment {from} is missing"),
        ));
    };
    let next = last.seq.next();
    let mut cells = Cells::default();
    for segment in segments {
        let counted = segment.counted;
        cells.add(&segment.read()?.1, counted);
    }
    rollups::add(&mut tx, stream, &cells).await?;
    if streams::roll(&mut tx, stream.row, from, next).await? {
        failpoint!("reconciler.rollup.written");
        tx.commit().await?;
        failpoint!("reconciler.rollup.done");
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use tallystick_common::time::{Micros, SECOND_US};

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    #[test]
    fn an_interpolated_interval_is_cut_and_nothing_is_lost() {
        use tallystick_common::reading::Cause;
        let interval = Interval {
            start: at(600),
            end: at(2100),
            quantity: 1001,
            quality: Quality::Interpolated(Cause::AgentDown),
            measured: Micros(1500 * SECOND_US),
        };
        let mut cells = BTreeMap::new();
        add(&mut cells, Meter::CPU_TIME, &interval);
        let quantities: Vec<u128> = cells.values().map(|cell| cell.quantity).collect();
        assert_eq!(quantities, [200, 600, 201]);
        assert_eq!(
            cells.values().map(|cell| cell.interpolated).sum::<u64>(),
            1500 * SECOND_US
        );
        assert_eq!(
            cells.values().map(|cell| cell.measured).sum::<u64>(),
            1500 * SECOND_US
        );
    }

    #[test]
    fn a_peak_counts_where_it_ends() {
        let interval = Interval {
            start: at(0),
            end: at(900),
            quantity: 7,
            quality: Quality::Exact,
            measured: Micros(900 * SECOND_US),
        };
        let mut cells = BTreeMap::new();
        add(&mut cells, Meter::MEMORY_PEAK, &interval);
        assert_eq!(cells[&0].max, 7);
        assert_eq!(cells[&0].quantity, 0);
    }
}
