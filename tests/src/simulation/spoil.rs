//! Drafts made wrong in one thing each, as a faulty agent would seal them.

use tallystick_agent::accrue::Draft;
use tallystick_common::ids::Hash;
use tallystick_common::reading::{Interval, Reading};
use tallystick_common::segment::{Block, Previous, RunDraft};
use tallystick_common::time::Micros;

use super::agent::rebuilt;
use super::machine::{GROUPS, STEP};
use super::op::Fault;

/// Makes one thing wrong; `false` when there is nothing in the draft that could be.
pub fn spoil(fault: Fault, draft: &mut Draft, previous: &mut Previous) -> bool {
    if fault == Fault::Unchained {
        *previous = match *previous {
            Previous::Follows(_) => Previous::Follows(Hash([0xbd; 32])),
            opens @ Previous::Opens { .. } => {
                return {
                    *previous = opens;
                    false
                };
            }
        };
        return true;
    }
    let mut spoiled = false;
    let change = |block: &Block, run: &mut RunDraft<'_>, intervals: &mut Vec<Interval>| {
        let fits = block.workload.as_str() == GROUPS[0] && run.meter.name() == "cpu.time";
        if fits && !spoiled && run.opened.is_none() {
            spoiled = change(fault, run, intervals);
        }
    };
    match rebuilt(&draft.blocks, change) {
        Ok(blocks) if spoiled => {
            draft.blocks = blocks;
            if fault == Fault::Overlap {
                draft.from = draft.from.saturating_sub(Micros(STEP / 2));
            }
            true
        }
        _ => false,
    }
}

fn change(fault: Fault, run: &mut RunDraft<'_>, intervals: &mut [Interval]) -> bool {
    let Some(first) = intervals.first_mut() else {
        return false;
    };
    match fault {
        Fault::Jump => {
            let again = run.opening.0.min(5_000_000);
            run.opening = Reading(run.opening.0 - again);
            first.quantity += again;
            again > 0
        }
        Fault::Overlap => {
            first.start = first.start.saturating_sub(Micros(STEP / 2));
            run.start = first.start;
            true
        }
        Fault::Hole => {
            first.start = first.start.saturating_add(Micros(STEP / 2));
            run.start = first.start;
            first.measured = first.duration();
            first.start < first.end
        }
        Fault::Unchained => false,
    }
}
