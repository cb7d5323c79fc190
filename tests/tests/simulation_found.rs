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

/// Rejected in between, what was revoked is revoked once more: the store had that revocation already.
#[test]
#[rustfmt::skip]
fn a_key_is_revoked_twice_from_one_place() {
    let ops = [
        Run { steps: 6, load: 96 },
        Seal { agent: 3, crash: None },
        Connect { agent: 3 },
        Send { agent: 3, count: 1 },
        Deliver { agent: 3, count: 1, crash: None },
        Revoke { pick: 5, seq: 1 },
        Judge { pick: 0, more: 0, accept: false },
        Revoke { pick: 3, seq: 2 },
    ];
    replay(false, &ops);
}

/// Another fork of a stream that was over, resolved for what is held, let it go on.
#[test]
#[rustfmt::skip]
fn a_stream_whose_other_branch_was_kept_stays_over() {
    let ops = [
        Run { steps: 2, load: 9 },
        Seal { agent: 0, crash: None },
        Clone { agent: 0 },
        Clone { agent: 0 },
        Start { agent: 2 },
        Start { agent: 3 },
        Run { steps: 2, load: 33 },
        Seal { agent: 0, crash: None },
        Seal { agent: 2, crash: None },
        Run { steps: 1, load: 44 },
        Seal { agent: 3, crash: None },
        Seal { agent: 0, crash: None },
        Replay { pick: 0 },
        Replay { pick: 1 },
        Replay { pick: 2 },
        Resolve { pick: 0, keep_other: true },
        Replay { pick: 3 },
        Resolve { pick: 0, keep_other: false },
        Replay { pick: 4 },
    ];
    replay(false, &ops);
}

/// A rule that was made before and half of which another took is none that says the same.
#[test]
#[rustfmt::skip]
fn what_is_given_back_is_given_back_whole() {
    let ops = [
        Reassign { account: 0, workload: 2, quarter: 0 },
        Reassign { account: 1, workload: 0, quarter: 0 },
        Reassign { account: 0, workload: 1, quarter: 0 },
        Reassign { account: 0, workload: 2, quarter: 0 },
        Run { steps: 6, load: 90 },
        Seal { agent: 0, crash: None },
        Replay { pick: 0 },
        Audit,
    ];
    replay(false, &ops);
}
