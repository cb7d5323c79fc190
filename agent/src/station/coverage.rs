//! Which part of sealed time was measured, and how well.
//!
//! Owns the sums since the process began. Time is that of the host's registers: what they do not
//! cover is a gap.

use serde::{Deserialize, Serialize};
use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;
use tallystick_common::reading::Quality;
use tallystick_common::segment::Block;
use tallystick_common::time::{Micros, Timestamp};

use crate::accrue::Draft;

/// Sealed time by quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Since when.
    pub from: Option<Timestamp>,
    /// Time measured exactly.
    pub exact_micros: Micros,
    /// Time whose usage is known as a whole only.
    pub interpolated_micros: Micros,
    /// Time without a value, and gaps.
    pub unmeasured_micros: Micros,
}

impl Coverage {
    /// Adds what one segment covers.
    pub fn add(&mut self, draft: &Draft) {
        self.from.get_or_insert(draft.from);
        let whole = draft.covered_through.since(draft.from);
        let host = draft
            .blocks
            .iter()
            .find(|block| block.workload.as_str() == WorkloadName::HOST);
        let (mut exact, mut interpolated) = (Micros(0), Micros(0));
        for interval in host.into_iter().flat_map(clock_of) {
            let length = interval.end.since(interval.start).0;
            match interval.quality {
                Quality::Exact => exact.0 += length,
                Quality::Interpolated(_) => interpolated.0 += length,
                Quality::Unmeasured(_) => {}
            }
        }
        let known = exact.0.saturating_add(interpolated.0);
        self.exact_micros.0 += exact.0;
        self.interpolated_micros.0 += interpolated.0;
        self.unmeasured_micros.0 += whole.0.saturating_sub(known);
    }
}

/// The intervals of one meter that every host has: CPU time, else the first there is.
fn clock_of(host: &Block) -> impl Iterator<Item = tallystick_common::reading::Interval> + '_ {
    let meter = host
        .runs()
        .iter()
        .map(|run| run.meter)
        .min_by_key(|meter| (*meter != Meter::CPU_TIME, meter.code()));
    host.runs()
        .iter()
        .filter(move |run| Some(run.meter) == meter)
        .flat_map(|run| host.intervals(run))
}
