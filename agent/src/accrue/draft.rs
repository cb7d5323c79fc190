//! Registers as blocks of a segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::segment::{Block, RunDraft, RunError};

use super::register::Register;
use crate::sample::WorkloadLabels;

/// What workloads call themselves: those of the last sample, and those that have left since the last
/// draft. Not kept over a restart, since the first sample after it says it again.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    now: Arc<WorkloadLabels>,
    past: WorkloadLabels,
}

impl Labels {
    /// Notes what a sample says.
    pub(super) fn note(&mut self, now: &Arc<WorkloadLabels>) {
        if !Arc::ptr_eq(&self.now, now) {
            let before = std::mem::replace(&mut self.now, Arc::clone(now));
            let gone = before
                .iter()
                .filter(|(workload, _)| !now.contains_key(*workload));
            self.past
                .extend(gone.map(|(workload, labels)| (workload.clone(), labels.clone())));
        }
    }

    /// The draft has told of those that left.
    pub(super) fn forget_past(&mut self) {
        self.past.clear();
    }

    fn of(&self, workload: &WorkloadName) -> &[(String, String)] {
        let known = self.now.get(workload).or_else(|| self.past.get(workload));
        known.map_or(&[], Vec::as_slice)
    }
}

/// One block per workload, sorted by name, with the runs of its registers by rising id.
pub(super) fn blocks(
    registers: &BTreeMap<RegisterId, Register>,
    of_all: &[(String, String)],
    labels: &Labels,
    of_other: &[(String, String)],
) -> Result<Vec<Block>, RunError> {
    let mut blocks: BTreeMap<&WorkloadName, Block> = BTreeMap::new();
    for register in registers.values() {
        let workload = &register.workload;
        let own = match workload.as_str() {
            WorkloadName::HOST_OTHER => of_other,
            _ => labels.of(workload),
        };
        blocks
            .entry(workload)
            .or_insert_with(|| Block::new(workload.clone(), all(of_all, own)))
            .push(&run(register))?;
    }
    Ok(blocks.into_values().collect())
}

/// What the operator says of the node stands before what a workload says of itself.
fn all(of_all: &[(String, String)], own: &[(String, String)]) -> Vec<(String, String)> {
    let own = own
        .iter()
        .filter(|(key, _)| !of_all.iter().any(|(known, _)| known == key));
    of_all.iter().chain(own).cloned().collect()
}

fn run(register: &Register) -> RunDraft<'_> {
    RunDraft {
        register: register.id,
        meter: register.meter,
        opened: register.opened,
        closed: register.closed,
        opening: register.opening,
        start: register.start,
        intervals: &register.intervals,
    }
}
