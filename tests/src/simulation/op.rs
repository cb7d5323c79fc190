//! What can happen, as data: a sequence of operations means something whichever of them are left out.
//!
//! Agents, accounts and things sent before are named by numbers that are taken modulo how many there are.
//! An operation that cannot be done just then is passed over.

use std::fmt::Write as _;

use crate::draw::Draw;

/// Where a process dies in what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Before anything of it.
    Before,
    /// When it is written, and maybe durable.
    Midway,
    /// When it is durable, before anybody is told.
    After,
}

/// What a node seals that it should not: its key is right, its arithmetic is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A register counts something a second time, from a reading it had before (I3).
    Jump,
    /// A register measures time a second time (I5).
    Overlap,
    /// A register leaves out time without naming it (I5).
    Hole,
    /// The segment names another predecessor (I6).
    Unchained,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Time passes in steps of five minutes: everything that is up works and is sampled.
    Run {
        /// How many steps.
        steps: u8,
        /// How hard.
        load: u8,
    },
    /// An agent seals what it has accrued.
    Seal {
        /// Which.
        agent: u8,
        /// Where it dies, if it does.
        crash: Option<Crash>,
    },
    /// It seals a wrong segment. Agents on disks do not know how to.
    Spoil {
        /// Which.
        agent: u8,
        /// What is wrong.
        fault: Fault,
    },
    /// It connects and says hello.
    Connect {
        /// Which.
        agent: u8,
    },
    /// It puts segments on the wire.
    Send {
        /// Which.
        agent: u8,
        /// At most how many.
        count: u8,
    },
    /// Two segments on the wire change places.
    Reorder {
        /// Whose.
        agent: u8,
    },
    /// Segments arrive and are committed together; the answers are on their way back.
    Deliver {
        /// Whose.
        agent: u8,
        /// At most how many.
        count: u8,
        /// Where the reconciler dies, if it does.
        crash: Option<Crash>,
    },
    /// Answers arrive at the agent.
    Receive {
        /// Which.
        agent: u8,
        /// Where it dies, if it does.
        crash: Option<Crash>,
    },
    /// Answers on their way are lost.
    LoseAnswers {
        /// Whose.
        agent: u8,
    },
    /// The connection breaks, with everything in flight.
    Cut {
        /// Whose.
        agent: u8,
    },
    /// Something sealed long ago arrives again, by whatever way.
    Replay {
        /// Which of all that was ever sealed.
        pick: u16,
    },
    /// An agent is killed.
    CrashAgent {
        /// Which.
        agent: u8,
    },
    /// It runs again.
    Start {
        /// Which.
        agent: u8,
    },
    /// Its machine loses power and is up again at once; the agent is not.
    Reboot {
        /// Which.
        agent: u8,
    },
    /// A control group ends and is made again.
    Restart {
        /// On whose machine.
        agent: u8,
    },
    /// Its data folder is copied.
    Backup {
        /// Which.
        agent: u8,
    },
    /// The copy is put back.
    Restore {
        /// Which.
        agent: u8,
    },
    /// Its data folder runs on another machine, too.
    Clone {
        /// Which.
        agent: u8,
    },
    /// It seals its last segment.
    Retire {
        /// Which.
        agent: u8,
    },
    /// Its node is banned, or let in again.
    Ban {
        /// Whose.
        agent: u8,
    },
    /// Rollups follow.
    RollUp {
        /// Where the reconciler dies, if it does.
        crash: Option<Crash>,
    },
    /// The reconciler is killed and serves again.
    CrashReconciler,
    /// Another process on the same store is spoken to from now on; it may be the one before the last.
    ChangeReplica,
    /// Its store is copied.
    BackupStore,
    /// The copy is put back, as another life of the store.
    RestoreStore,
    /// Workloads change hands.
    Assign {
        /// To whom.
        account: u8,
        /// Which workloads.
        workload: u8,
        /// From when: so many quarter-hours before (below 128) or after (the rest less 128) the present one.
        quarter: u8,
    },
    /// Workloads change hands from some time ago on, to correct what was said and invoiced of it.
    Reassign {
        /// To whom.
        account: u8,
        /// Which workloads.
        workload: u8,
        /// So many quarter-hours before the present one.
        quarter: u8,
    },
    /// November is closed for an account and its invoice issued.
    Issue {
        /// Whose.
        account: u8,
        /// Although nodes may be outstanding.
        accept_gaps: bool,
        /// Whether the reconciler dies before that is durable.
        crash: bool,
    },
    /// What is known of November otherwise than was said is issued as a correction.
    Correct {
        /// Whose.
        account: u8,
        /// Whether the reconciler dies before that is durable.
        crash: bool,
    },
    /// A person decides on segments that are or were in doubt; if the number is odd, on any.
    Judge {
        /// Which.
        pick: u16,
        /// How many more that follow it.
        more: u8,
        /// Whether they are to count.
        accept: bool,
    },
    /// A person decides which branch of a fork is the node's.
    Resolve {
        /// Of which frozen stream.
        pick: u8,
        /// The one that is not held.
        keep_other: bool,
    },
    /// The key of a node is revoked.
    Revoke {
        /// From which of its streams on.
        pick: u8,
        /// From so many segments before its end on.
        seq: u8,
    },
    /// The leakage account follows.
    Tally,
    /// Somebody compares everything with the ledger.
    Audit,
}

/// A sequence of them, and how many of its agents work on disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Whether the agents have real journals and stores on disk, or keep them in memory.
    pub on_disk: bool,
    /// What happens.
    pub ops: Vec<Op>,
}

impl Sequence {
    /// Draws one.
    #[must_use]
    pub fn drawn(draw: &mut Draw, on_disk: bool) -> Self {
        let length = 12 + draw.below(36);
        let mut ops = Vec::new();
        if draw.below(3) > 0 {
            ops.push(Op::Assign {
                account: 0,
                workload: 2,
                quarter: byte(draw, 100),
            });
        }
        while (ops.len() as u64) < length {
            some(draw, &mut ops);
        }
        Self { on_disk, ops }
    }

    /// As the text of a test that replays it.
    #[must_use]
    pub fn to_test(&self, name: &str) -> String {
        let mut text = String::new();
        let ops: Vec<String> = self
            .ops
            .iter()
            .map(|op| format!("        {op:?},\n"))
            .collect();
        let _ = write!(
            text,
            "#[test]\n#[rustfmt::skip]\nfn {name}() {{\n    let ops = [\n{}    ];\n    replay({}, &ops);\n}}\n",
            ops.concat(),
            self.on_disk
        );
        text
    }
}

/// Adds what happens next: mostly one thing, sometimes the whole way of a segment.
fn some(draw: &mut Draw, ops: &mut Vec<Op>) {
    let agent = byte(draw, 4);
    match draw.below(125) {
        0..16 => ops.push(run(draw)),
        16..30 => whole_way(draw, agent, ops),
        30..38 => ops.push(Op::Seal {
            agent,
            crash: crash(draw, 5),
        }),
        38..41 => ops.push(Op::Spoil {
            agent,
            fault: fault(draw),
        }),
        41..45 => ops.push(Op::Connect { agent }),
        45..49 => ops.push(Op::Send {
            agent,
            count: 1 + byte(draw, 5),
        }),
        49..51 => ops.push(Op::Reorder { agent }),
        51..56 => ops.push(Op::Deliver {
            agent,
            count: 1 + byte(draw, 4),
            crash: crash(draw, 5),
        }),
        56..59 => ops.push(Op::Receive {
            agent,
            crash: crash(draw, 4),
        }),
        59..61 => ops.push(Op::LoseAnswers { agent }),
        61..63 => ops.push(Op::Cut { agent }),
        63..67 => ops.push(Op::Replay {
            pick: u16::try_from(draw.below(1000)).unwrap_or(0),
        }),
        67..71 => ops.push(Op::CrashAgent { agent }),
        71..74 => ops.push(Op::Start { agent }),
        74..76 => ops.push(Op::Reboot { agent }),
        76..78 => ops.push(Op::Restart { agent }),
        78..80 => ops.push(Op::Backup { agent }),
        80..82 => ops.push(Op::Restore { agent }),
        82..83 if draw.below(2) == 0 => twins(draw, agent, ops),
        82..83 => ops.push(Op::Clone { agent }),
        83..84 => ops.push(Op::Retire { agent }),
        84..85 => ops.push(Op::Ban { agent }),
        85..88 => ops.push(Op::RollUp {
            crash: crash(draw, 3),
        }),
        88..89 if draw.below(3) > 0 => ops.push(Op::ChangeReplica),
        88..89 => ops.push(Op::CrashReconciler),
        89..90 => ops.push(Op::BackupStore),
        90..91 => ops.push(Op::RestoreStore),
        91..94 => ops.push(assign(draw)),
        94..98 => ops.push(issue(draw)),
        98..100 => ops.push(Op::Audit),
        100..105 => ops.push(judge(draw)),
        105..107 => ops.push(resolve(draw)),
        107..109 => lost_key(draw, ops),
        109..114 => quarrel(draw, agent, ops),
        114..117 => ops.push(reassign(draw)),
        117..121 => second_thoughts(draw, ops),
        121..123 => ops.push(correct(draw)),
        _ => ops.push(Op::Tally),
    }
}

fn whole_way(draw: &mut Draw, agent: u8, ops: &mut Vec<Op>) {
    let count = 1 + byte(draw, 4);
    ops.extend([
        Op::Start { agent },
        run(draw),
        Op::Seal { agent, crash: None },
        Op::Connect { agent },
        Op::Send { agent, count },
        Op::Deliver {
            agent,
            count,
            crash: crash(draw, 12),
        },
        Op::Receive {
            agent,
            crash: crash(draw, 8),
        },
    ]);
}

/// A node and its clone, the third agent or the fourth, that both go on from one segment at once.
fn twins(draw: &mut Draw, agent: u8, ops: &mut Vec<Op>) {
    let twin = 2 + byte(draw, 2);
    ops.extend([
        Op::Start { agent },
        run(draw),
        Op::Seal { agent, crash: None },
    ]);
    ops.extend([Op::Connect { agent }, Op::Clone { agent }]);
    ops.extend([
        Op::Start { agent: twin },
        Op::Connect { agent: twin },
        run(draw),
    ]);
    for agent in [agent, twin] {
        let (crash, count) = (None, 4);
        ops.extend([Op::Seal { agent, crash }, Op::Send { agent, count }]);
    }
    for agent in [twin, agent] {
        let (crash, count) = (None, 4);
        ops.extend([
            Op::Deliver {
                agent,
                count,
                crash,
            },
            Op::Receive { agent, crash },
        ]);
    }
}

/// A fork, what a person says of it, and what both holders do then; what they sealed for one time is decided on.
fn quarrel(draw: &mut Draw, agent: u8, ops: &mut Vec<Op>) {
    twins(draw, agent, ops);
    for _ in 0..1 + draw.below(3) {
        match draw.below(3) {
            0 => whole_way(draw, agent, ops),
            1 => {
                let twin = 2 + byte(draw, 2);
                whole_way(draw, twin, ops);
            }
            _ => ops.push(judge(draw)),
        }
    }
    ops.push(resolve(draw));
    whole_way(draw, agent, ops);
    ops.extend([judge(draw), judge(draw)]);
    if draw.below(3) == 0 {
        ops.push(revoke(draw));
    }
}

/// A key is lost, maybe for longer than was thought; what is in doubt then is decided on.
fn lost_key(draw: &mut Draw, ops: &mut Vec<Op>) {
    if draw.below(3) == 0 {
        ops.extend([revoke(draw), judge(draw)]);
        if draw.below(2) == 0 {
            ops.extend([revoke(draw), judge(draw), revoke(draw)]);
        }
    }
}

/// A month is issued, and known otherwise later.
fn second_thoughts(draw: &mut Draw, ops: &mut Vec<Op>) {
    let account = byte(draw, 2);
    let steps = 12;
    let (accept_gaps, crash) = (true, false);
    ops.extend([
        Op::Run { steps, load: 80 },
        Op::Issue {
            account,
            accept_gaps,
            crash,
        },
    ]);
    if draw.below(2) == 0 {
        ops.push(Op::Tally);
    }
    for _ in 0..1 + draw.below(2) {
        match draw.below(4) {
            0 => ops.push(reassign(draw)),
            1 => ops.push(judge(draw)),
            2 => {
                let agent = byte(draw, 2);
                whole_way(draw, agent, ops);
            }
            _ => lost_key(draw, ops),
        }
        let crash = draw.below(6) == 0;
        ops.push(Op::Correct { account, crash });
    }
}

fn revoke(draw: &mut Draw) -> Op {
    Op::Revoke {
        pick: byte(draw, 8),
        seq: byte(draw, 5),
    }
}

fn reassign(draw: &mut Draw) -> Op {
    Op::Reassign {
        account: byte(draw, 2),
        workload: byte(draw, 3),
        quarter: byte(draw, 24),
    }
}

fn run(draw: &mut Draw) -> Op {
    Op::Run {
        steps: 1 + byte(draw, 9),
        load: byte(draw, 200),
    }
}

fn assign(draw: &mut Draw) -> Op {
    let before = draw.below(4) == 0;
    let quarter = byte(draw, 16) + if before { 0 } else { 128 };
    Op::Assign {
        account: byte(draw, 2),
        workload: byte(draw, 3),
        quarter,
    }
}

fn issue(draw: &mut Draw) -> Op {
    Op::Issue {
        account: byte(draw, 2),
        accept_gaps: draw.below(2) == 0,
        crash: draw.below(6) == 0,
    }
}

fn correct(draw: &mut Draw) -> Op {
    Op::Correct {
        account: byte(draw, 2),
        crash: draw.below(6) == 0,
    }
}

fn judge(draw: &mut Draw) -> Op {
    let odd = u64::from(draw.below(5) == 0);
    Op::Judge {
        pick: u16::try_from(draw.below(200) * 2 + odd).unwrap_or(0),
        more: if draw.below(3) == 0 { byte(draw, 3) } else { 0 },
        accept: draw.below(5) < 3,
    }
}

fn resolve(draw: &mut Draw) -> Op {
    Op::Resolve {
        pick: byte(draw, 4),
        keep_other: draw.below(2) == 0,
    }
}

fn fault(draw: &mut Draw) -> Fault {
    match draw.below(4) {
        0 => Fault::Jump,
        1 => Fault::Overlap,
        2 => Fault::Hole,
        _ => Fault::Unchained,
    }
}

/// One time in so many.
fn crash(draw: &mut Draw, one_in: u64) -> Option<Crash> {
    match draw.below(one_in * 3) {
        0 => Some(Crash::Before),
        1 => Some(Crash::Midway),
        2 => Some(Crash::After),
        _ => None,
    }
}

fn byte(draw: &mut Draw, end: u8) -> u8 {
    u8::try_from(draw.below(u64::from(end))).unwrap_or(0)
}
