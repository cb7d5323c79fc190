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
