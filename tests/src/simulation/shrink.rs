//! Makes a sequence that finds something as short as it can be.

use super::op::{Op, Sequence};

/// Leaves out what is not needed for `fails` to stay true: halves first, then single operations, until
/// nothing can go; then makes numbers small.
pub fn shrink(sequence: &Sequence, mut fails: impl FnMut(&Sequence) -> bool) -> Sequence {
    let mut ops = sequence.ops.clone();
    let mut test = |ops: &[Op]| {
        fails(&Sequence {
            ops: ops.to_vec(),
            ..*sequence
        })
    };
    loop {
        let before = ops.clone();
        leave_out(&mut ops, &mut test);
        simplify(&mut ops, &mut test);
        if ops == before {
            return Sequence { ops, ..*sequence };
        }
    }
}

fn leave_out(ops: &mut Vec<Op>, test: &mut impl FnMut(&[Op]) -> bool) {
    let mut size = ops.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < ops.len() {
            let to = (from + size).min(ops.len());
            let fewer = [&ops[..from], &ops[to..]].concat();
            if test(&fewer) {
                *ops = fewer;
            } else {
                from = to;
            }
        }
        size /= 2;
    }
}

fn simplify(ops: &mut [Op], test: &mut impl FnMut(&[Op]) -> bool) {
    for place in 0..ops.len() {
        for simpler in simpler(ops[place]) {
            let was = std::mem::replace(&mut ops[place], simpler);
            if was != simpler && test(ops) {
                break;
            }
            ops[place] = was;
        }
    }
}

/// Each strictly simpler than `op`, or `op` itself.
fn simpler(op: Op) -> Vec<Op> {
    match op {
        Op::Run { load, .. } => vec![Op::Run { steps: 1, load: 1 }, Op::Run { steps: 1, load }],
        Op::Seal { agent, .. } => vec![
            Op::Seal {
                agent: 0,
                crash: None,
            },
            Op::Seal { agent, crash: None },
        ],
        Op::Send { agent, .. } => vec![
            Op::Send { agent: 0, count: 1 },
            Op::Send { agent, count: 1 },
        ],
        Op::Deliver { agent, count, .. } => vec![
            Op::Deliver {
                agent,
                count: 1,
                crash: None,
            },
            Op::Deliver {
                agent,
                count,
                crash: None,
            },
        ],
        Op::Receive { agent, .. } => vec![Op::Receive { agent, crash: None }],
        Op::Replay { pick } => (0..pick.min(8)).map(|pick| Op::Replay { pick }).collect(),
        Op::Correct { account, .. } => vec![Op::Correct {
            account,
            crash: false,
        }],
        Op::Judge { pick, accept, .. } => (0..pick.min(8))
            .chain([pick])
            .map(|pick| Op::Judge {
                pick,
                more: 0,
                accept,
            })
            .collect(),
        Op::RollUp { .. } => vec![Op::RollUp { crash: None }],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let mut ops = vec![Op::Audit; 30];
        ops[7] = Op::CrashReconciler;
        ops[21] = Op::Run { steps: 9, load: 90 };
        let sequence = Sequence {
            on_disk: false,
            ops,
        };
        let needs = |sequence: &Sequence| {
            let crash = sequence
                .ops
                .iter()
                .position(|op| *op == Op::CrashReconciler);
            let run = sequence
                .ops
                .iter()
                .position(|op| matches!(op, Op::Run { load: 2.., .. }));
            crash.zip(run).is_some_and(|(crash, run)| crash < run)
        };
        let shrunk = shrink(&sequence, needs);
        assert_eq!(
            shrunk.ops,
            [Op::CrashReconciler, Op::Run { steps: 1, load: 90 }]
        );
    }
}
