//! Random sequences of everything that can happen, against the reference ledger.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tallystick_tests::draw::Draw;
use tallystick_tests::simulation::op::{Op, Sequence};
use tallystick_tests::simulation::{EVENTS, Finding, Seen, Stage, Watch, shrink};

/// Sequences unless `TALLYSTICK_SEQUENCES` says how many.
const SEQUENCES: u64 = 10_000;
/// Sequences within which a missing check has to be found.
const WITHIN: u64 = 400;
/// One in so many has its agents on disk.
const ON_DISK_EVERY: u64 = 20;

fn sequence(seed: u64, number: u64) -> Sequence {
    let mut draw = Draw::of(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    Sequence::drawn(&mut draw, number.is_multiple_of(ON_DISK_EVERY))
}

/// What many sequences came to.
#[derive(Debug, Default)]
struct Explored {
    seen: Seen,
    /// The first one that found something.
    found: Option<(u64, Sequence, Finding)>,
}

impl Explored {
    fn join(mut self, other: Self) -> Self {
        for (what, times) in &other.seen {
            *self.seen.entry(what).or_default() += times;
        }
        let number = |explored: &Self| explored.found.as_ref().map_or(u64::MAX, |found| found.0);
        if number(&other) < number(&self) {
            self.found = other.found;
        }
        self
    }
}

/// Plays sequences on every core until one finds something.
fn explore(seed: u64, count: u64, watch: Watch) -> Explored {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let (stage, mut explored) = (Stage::new().unwrap(), Explored::default());
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let sequence = sequence(seed, number);
            let (seen, found) = match stage.play(&sequence, watch) {
                Ok(seen) => (seen, None),
                Err(finding) => (Seen::new(), Some((number, sequence, finding))),
            };
            stop.fetch_or(found.is_some(), Ordering::Relaxed);
            explored = explored.join(Explored { seen, found });
        }
        explored
    };
    let explored = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let explored = threads.into_iter().map(|thread| thread.join().unwrap());
        explored.fold(Explored::default(), Explored::join)
    });
    if let Some((number, _, finding)) = &explored.found {
        println!("sequence {number}: {finding}");
    }
    explored
}

/// Something is found without the check of an invariant: at the first wrong verdict, or by totals alone.
fn finds_without(invariant: &'static str, watches: &[bool]) {
    for totals_only in watches.iter().copied() {
        let watch = Watch {
            totals_only,
            without: Some(invariant),
        };
        let found = explore(1, WITHIN, watch).found;
        assert!(
            found.is_some(),
            "nothing was found without {invariant} ({watch:?})"
        );
    }
}

/// Totals stay what they are: a segment that came before names a predecessor that is not the head (I6), and
/// has a place in the store already.
#[test]
fn segments_admitted_twice_are_found() {
    finds_without("I1 admission", &[false]);
}

#[test]
fn rollups_made_twice_are_found() {
    finds_without("I1 rollups", &[false, true]);
}

#[test]
fn readings_that_jump_are_found() {
    finds_without("I3", &[false, true]);
}

#[test]
fn time_counted_twice_or_left_out_is_found() {
    finds_without("I5", &[false, true]);
}

#[test]
fn forks_and_broken_chains_are_found() {
    finds_without("I6", &[false, true]);
}

/// The text that a finding prints is in `simulation_found.rs`, where it compiles and runs.
#[test]
fn what_is_found_prints_as_a_test_that_can_be_pasted() {
    let (agent, crash, count) = (0, None, 9);
    let mut ops = vec![Op::Assign {
        account: 1,
        workload: 2,
        quarter: 9,
    }];
    for load in [60, 90, 120] {
        ops.push(Op::Run { steps: 7, load });
        ops.extend([Op::Seal { agent, crash }, Op::Seal { agent: 1, crash }]);
        ops.extend([Op::Connect { agent }, Op::Send { agent, count }]);
        ops.extend([
            Op::Deliver {
                agent,
                count,
                crash,
            },
            Op::Receive { agent, crash },
        ]);
    }
    ops.extend([
        Op::Clone { agent },
        Op::Start { agent: 2 },
        Op::Run { steps: 2, load: 33 },
    ]);
    ops.extend([
        Op::Seal { agent, crash },
        Op::Seal { agent: 2, crash },
        Op::Replay { pick: 7 },
    ]);
    ops.extend([
        Op::RollUp { crash },
        Op::Replay { pick: 6 },
        Op::CrashReconciler,
        Op::Audit,
    ]);
    let sequence = Sequence {
        on_disk: false,
        ops,
    };
    let watch = Watch {
        totals_only: false,
        without: Some("I6"),
    };
    let stage = Stage::new().unwrap();
    let found = |sequence: &Sequence| {
        stage
            .play(sequence, watch)
            .is_err_and(|found| found.invariant == "I6")
    };
    assert!(found(&sequence));
    let shrunk = shrink(&sequence, found);
    let text = shrunk.to_test("a_clone_that_seals_the_same_number_is_a_fork");
    let pasted = include_str!("simulation_found.rs");
    assert!(pasted.contains(&text), "it is now\n{text}");
}

#[test]
fn whatever_happens_the_store_holds_what_the_ledger_says() {
    let seed = Draw::seed("simulation");
    let count =
        std::env::var("TALLYSTICK_SEQUENCES").map_or(SEQUENCES, |text| text.parse().unwrap());
    let begun = Instant::now();
    let explored = explore(seed, count, Watch::default());
    println!(
        "{count} sequences in {:.0?}: {:#?}",
        begun.elapsed(),
        explored.seen
    );
    if let Some((_, sequence, finding)) = explored.found {
        let stage = Stage::new().unwrap();
        let fails = |sequence: &Sequence| stage.play(sequence, Watch::default()).is_err();
        let shrunk = shrink(&sequence, fails);
        panic!("{finding}\n{}", shrunk.to_test("found_by_seed"));
    }
    let missing: Vec<_> = EVENTS
        .iter()
        .filter(|what| !explored.seen.contains_key(*what))
        .collect();
    assert!(
        count < SEQUENCES || missing.is_empty(),
        "never seen: {missing:?}"
    );
}
