//! Random sequences of everything that can happen, against the reference ledger.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tallystick_tests::draw::Draw;
use tallystick_tests::simulation::op::Sequence;
use tallystick_tests::simulation::{Finding, Stage, Watch, shrink};

/// Sequences unless `TALLYSTICK_SEQUENCES` says how many.
const SEQUENCES: u64 = 10_000;
/// Sequences within which a missing check has to be found.
const WITHIN: u64 = 400;
/// One in so many has its agents on disk.
const ON_DISK_EVERY: u64 = 20;

fn sequence(seed: u64, number: u64) -> Sequence {
    let mut draw = Draw::of(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    Sequence::drawn(&mut draw, number % ON_DISK_EVERY == 0)
}

/// The first sequence that finds something.
fn explore(seed: u64, count: u64, watch: Watch) -> Option<(Sequence, Finding)> {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let stage = Stage::new().unwrap();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || stop.load(Ordering::Relaxed) {
                return None;
            }
            let sequence = sequence(seed, number);
            if let Err(finding) = stage.play(&sequence, watch) {
                stop.store(true, Ordering::Relaxed);
                return Some((number, sequence, finding));
            }
        }
    };
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let found = threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap());
        found.min_by_key(|(number, ..)| *number)
    });
    found.map(|(number, sequence, finding)| {
        println!("sequence {number}: {finding}");
        (sequence, finding)
    })
}

/// Something is found without the check of an invariant: at the first wrong verdict, or by totals alone.
fn finds_without(invariant: &'static str, watches: &[bool]) {
    for totals_only in watches.iter().copied() {
        let watch = Watch {
            totals_only,
            without: Some(invariant),
        };
        let found = explore(1, WITHIN, watch);
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

#[test]
fn whatever_happens_the_store_holds_what_the_ledger_says() {
    let seed = Draw::seed("simulation");
    let count =
        std::env::var("TALLYSTICK_SEQUENCES").map_or(SEQUENCES, |text| text.parse().unwrap());
    let begun = Instant::now();
    let found = explore(seed, count, Watch::default());
    println!("{count} sequences in {:.0?}", begun.elapsed());
    if let Some((sequence, finding)) = found {
        let stage = Stage::new().unwrap();
        let fails = |sequence: &Sequence| stage.play(sequence, Watch::default()).is_err();
        let shrunk = shrink(&sequence, fails);
        panic!("{finding}\n{}", shrunk.to_test("found_by_seed"));
    }
}
