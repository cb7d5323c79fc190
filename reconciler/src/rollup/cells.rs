//! How intervals fall into quarter-hour cells, and where registers are left. Pure.

use std::collections::BTreeMap;

use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::odometer;
use tallystick_common::reading::{Interval, Quality, Reading};
use tallystick_common::segment::{Basis, Block, CloseReason, Run};
use tallystick_common::time::{HOUR_US, QUARTER_HOUR_US, Timestamp, share_until};

use crate::ingest::admit::left_open;

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

impl Cell {
    /// Takes in what another cell of the same quarter-hour holds.
    pub fn add(&mut self, other: &Self) {
        self.quantity = self.quantity.saturating_add(other.quantity);
        self.max = self.max.max(other.max);
        for (sum, more) in [
            (&mut self.measured, other.measured),
            (&mut self.exact, other.exact),
            (&mut self.interpolated, other.interpolated),
            (&mut self.unmeasured, other.unmeasured),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// A register as the counted segments leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterEnd {
    /// What it is of.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Since when: the beginning of the first of these segments' runs.
    pub since: Timestamp,
    /// What that run says of its opening; none when it does not open it.
    pub basis: Option<Basis>,
    /// Up to when.
    pub at: Timestamp,
    /// Its reading then.
    pub reading: Reading,
    /// Why it is over, if it is.
    pub closed: Option<CloseReason>,
}

/// Cells of one (workload, meter) by the quarter-hour since 1970.
pub type Quarters = BTreeMap<u64, Cell>;

/// By hours since 1970: where the last run with time in it ends, and its reading then.
pub type Lasts = BTreeMap<u64, (Timestamp, Reading)>;

/// What was counted of one (workload, meter).
#[derive(Debug, Default)]
pub struct Metered {
    /// How much.
    pub quarters: Quarters,
    /// Where its registers were left.
    pub lasts: Lasts,
}

/// Cells by workload and meter.
#[derive(Debug, Default)]
pub struct ByWorkload(BTreeMap<WorkloadName, BTreeMap<Meter, Metered>>);

/// What some segments of one stream come to.
#[derive(Debug, Default)]
pub struct Cells {
    /// By workload, meter, and the quarter-hour since 1970.
    pub cells: ByWorkload,
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
        for block in blocks {
            let runs = block.runs().iter();
            let ends: Vec<_> = runs.map(|run| self.advance(block, run)).collect();
            if counted {
                self.cells.add(block, &ends);
                self.label(block);
            }
        }
        self.open = left_open(blocks);
        // Of a register that stands twice in a doubtful segment the later run holds.
        let registers = &self.registers;
        let is_open = |id: &RegisterId| registers.get(id).is_some_and(|end| end.closed.is_none());
        self.open.retain(is_open);
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

    /// Moves a register on, and says where the run leaves it.
    fn advance(&mut self, block: &Block, run: &Run) -> (Timestamp, Reading) {
        let shape = block.shape(run);
        let reading = odometer::closing(block, run).unwrap_or(run.opening);
        if let Some(end) = self.registers.get_mut(&run.register) {
            if end.workload != block.workload {
                end.workload = block.workload.clone();
            }
            end.meter = run.meter;
            end.at = end.at.max(shape.end());
            end.reading = reading;
            end.closed = run.closed;
            return (shape.end(), reading);
        }
        let end = RegisterEnd {
            workload: block.workload.clone(),
            meter: run.meter,
            since: shape.start,
            basis: run.opened,
            at: shape.end(),
            reading,
            closed: run.closed,
        };
        self.registers.insert(run.register, end);
        (shape.end(), reading)
    }
}

impl ByWorkload {
    /// Adds a block whose runs end with these readings.
    fn add(&mut self, block: &Block, ends: &[(Timestamp, Reading)]) {
        if !self.0.contains_key(&block.workload) {
            self.0.insert(block.workload.clone(), BTreeMap::new());
        }
        let Some(meters) = self.0.get_mut(&block.workload) else {
            return;
        };
        for (run, end) in block.runs().iter().zip(ends) {
            let metered = meters.entry(run.meter).or_default();
            block
                .intervals(run)
                .for_each(|interval| add(&mut metered.quarters, run.meter, &interval));
            leave(&mut metered.lasts, block.shape(run).start, *end);
        }
    }

    /// The cells of one workload, by meter.
    pub fn of(&self, workload: &WorkloadName) -> impl Iterator<Item = (Meter, &Quarters)> {
        let meters = self.0.get(workload).into_iter().flatten();
        meters.map(|(meter, metered)| (*meter, &metered.quarters))
    }

    /// Each (workload, meter).
    pub fn metered<'a>(
        &'a self,
    ) -> impl Iterator<Item = (&'a WorkloadName, Meter, &'a Metered)> + Send {
        self.0.iter().flat_map(|(workload, meters)| {
            let with_workload =
                move |(meter, metered): (&'a Meter, &'a Metered)| (workload, *meter, metered);
            meters.iter().map(with_workload)
        })
    }
}

impl<'a> IntoIterator for &'a ByWorkload {
    type Item = ((&'a WorkloadName, &'a Meter), &'a Quarters);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + Send + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.0.iter().flat_map(|(workload, meters)| {
            let with_workload = move |(meter, metered): (&'a Meter, &'a Metered)| {
                ((workload, meter), &metered.quarters)
            };
            meters.iter().map(with_workload)
        }))
    }
}

/// Notes the end of a run in every hour that it has time in. The latest end holds, of equal ones the
/// higher reading, so that the order of runs does not matter.
fn leave(lasts: &mut Lasts, start: Timestamp, end: (Timestamp, Reading)) {
    if start >= end.0 {
        return;
    }
    for hour in start.as_micros() / HOUR_US..end.0.as_micros().div_ceil(HOUR_US) {
        let held = lasts.entry(hour).or_insert(end);
        *held = (*held).max(end);
    }
}

/// Adds an interval to the quarter-hours it lies in. An interpolated one is cut by its share of time;
/// a peak counts in the quarter-hour of its last instant.
fn add(cells: &mut Quarters, meter: Meter, interval: &Interval) {
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
