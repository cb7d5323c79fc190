//! What the simulation once found, as it printed it, or would find without an invariant's check.

use tallystick_tests::simulation::op::{Crash::*, Fault::*, Op, Op::*, Sequence};
use tallystick_tests::simulation::{Stage, Watch};

fn replay(on_disk: bool, ops: &[Op]) {
    let sequence = Sequence {
        on_disk,
        ops: ops.to_vec(),
    };
    let stage = Stage::new().unwrap();
    if let Err(finding) = stage.play(&sequence, Watch::default()) {
        panic!("{finding}");
    }
}

#[test]
#[rustfmt::skip]
fn a_clone_that_seals_the_same_number_is_a_fork() {
    let ops = [
        Clone { agent: 0 },
        Start { agent: 2 },
        Run { steps: 2, load: 33 },
        Seal { agent: 0, crash: None },
        Seal { agent: 2, crash: None },
        Replay { pick: 1 },
        Replay { pick: 0 },
    ];
    replay(false, &ops);
}

/// As a node whose arithmetic is wrong would; found without I3.
#[test]
#[rustfmt::skip]
fn a_reading_that_jumps_back_counts_nothing_twice() {
    let ops = [
        Assign { account: 0, workload: 2, quarter: 4 },
        Run { steps: 2, load: 1 },
        Seal { agent: 0, crash: None },
        Run { steps: 1, load: 1 },
        Spoil { agent: 0, fault: Jump },
        Connect { agent: 0 },
        Send { agent: 0, count: 2 },
        Deliver { agent: 0, count: 2, crash: Some(After) },
    ];
    replay(false, &ops);
}

/// The stream that is begun then says nothing of the time since the one before: a month was closed over it.
#[test]
#[rustfmt::skip]
fn a_folder_older_than_its_first_sample_leaves_a_hole_that_closes_no_month() {
    let ops = [
        Assign { account: 0, workload: 1, quarter: 13 },
        Backup { agent: 1 },
        Run { steps: 7, load: 20 },
        Seal { agent: 1, crash: None },
        Connect { agent: 1 },
        Send { agent: 1, count: 1 },
        Deliver { agent: 1, count: 1, crash: None },
        Restore { agent: 1 },
        Start { agent: 1 },
        Run { steps: 7, load: 177 },
        Connect { agent: 1 },
    ];
    replay(false, &ops);
}
