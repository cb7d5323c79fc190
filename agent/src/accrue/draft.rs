//! Registers as blocks of a segment.

use std::collections::BTreeMap;

use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::segment::{Block, RunDraft, RunError};

use super::register::Register;

/// One block per workload, sorted by name, with the runs of its registers by rising id.
pub(super) fn blocks(
    registers: &BTreeMap<RegisterId, Register>,
    labels: &[(String, String)],
) -> Result<Vec<Block>, RunError> {
    let mut blocks: BTreeMap<&WorkloadName, Block> = BTreeMap::new();
    for register in registers.values() {
        blocks
            .entry(&register.workload)
            .or_insert_with(|| Block::new(register.workload.clone(), labels.to_vec()))
            .push(&run(register))?;
    }
    Ok(blocks.into_values().collect())
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
