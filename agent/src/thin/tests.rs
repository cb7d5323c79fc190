//! Whatever histories registers have, thinning changes neither quantity nor time accounted for.

use proptest::prelude::*;
use tallystick_common::ids::{BootId, Hash};
use tallystick_common::reading::Gap;
use tallystick_common::time::SECOND_US;

use super::*;

const BEGIN_S: u64 = 1_790_000_100;

/// One interval to be: seconds, quantity, quality.
type Step = (u64, u64, u8);

/// What becomes of each register in a draft's time, and whether the machine was booted before it.
#[derive(Debug, Clone)]
struct History {
    drafts: Vec<(Vec<Step>, bool)>,
    registers: u64,
}

fn history() -> impl Strategy<Value = History> {
    let step = (1u64..400, 0u64..1_000_000, 0u8..8);
    let draft = (
        proptest::collection::vec(step, 1..8),
        prop::bool::weighted(0.02),
    );
    (proptest::collection::vec(draft, 1..60), 1u64..4)
        .prop_map(|(drafts, registers)| History { drafts, registers })
}

fn meter(register: u64) -> Meter {
    [Meter::CPU_TIME, Meter::MEMORY_USAGE, Meter::MEMORY_PEAK]
        [usize::try_from(register % 3).unwrap()]
}

fn quality(code: u8) -> Quality {
    match code {
        0..=4 => Quality::Exact,
        5 => Quality::Interpolated(Cause::AgentDown),
        6 => Quality::Unmeasured(Cause::SourceUnreadable),
        _ => Quality::Unmeasured(Cause::Suspended),
    }
}

/// Intervals as accrual makes them: exact ones end at quarter-hours.
fn intervals(start: Timestamp, steps: &[Step], salt: u64) -> Vec<Interval> {
    let mut at = start;
    let mut intervals = Vec::new();
    for (seconds, quantity, code) in steps {
        let to = at.saturating_add(Micros::from_seconds(*seconds));
        while at < to {
            let quality = quality(*code);
            let end = match quality {
                Quality::Exact => to.min(at.next_multiple(QUARTER_HOUR_US)),
                _ => to,
            };
            let unmeasured = matches!(quality, Quality::Unmeasured(_));
            intervals.push(Interval {
                start: at,
                end,
                quantity: if unmeasured {
                    0
                } else {
                    u128::from(quantity * (salt + 1))
                },
                quality,
                measured: if unmeasured { Micros(0) } else { end.since(at) },
            });
            at = end;
        }
    }
    intervals
}

fn drafts(history: &History) -> Vec<Draft> {
    let mut from = Timestamp::from_seconds(BEGIN_S).unwrap();
    let mut readings = vec![Reading(0); usize::try_from(history.registers).unwrap()];
    let mut boot = 1;
    let mut drafts = Vec::new();
    for (number, (steps, booted)) in history.drafts.iter().enumerate() {
        boot += u8::from(*booted);
        let mut blocks = Vec::new();
        let mut covered_through = from;
        for register in 0..history.registers {
            let intervals = intervals(from, steps, register);
            covered_through = intervals.last().unwrap().end;
            let mut block = Block::new(
                WorkloadName::new(format!("cgroup/w{register}")).unwrap(),
                Vec::new(),
            );
            let reading = &mut readings[usize::try_from(register).unwrap()];
            let last = number + 1 == history.drafts.len();
            block
                .push(&RunDraft {
                    register: RegisterId(register),
                    meter: meter(register),
                    opened: (number == 0).then_some(Basis::Birth),
                    closed: last.then_some(CloseReason::Vanished),
                    opening: *reading,
                    start: from,
                    intervals: &intervals,
                })
                .unwrap();
            for interval in &intervals {
                *reading = reading
                    .advance(meter(register).kind(), interval.quantity)
                    .unwrap();
            }
            blocks.push(block);
        }
        drafts.push(Draft {
            from,
            covered_through,
            boot: BootId([boot; 16]),
            config: Hash([1; 32]),
            gaps: vec![Gap {
                from,
                to: covered_through,
                cause: Cause::NodeDown,
            }],
            blocks,
        });
        from = covered_through;
    }
    drafts
}

fn thinned(drafts: Vec<Draft>, grain: Grain) -> Vec<Draft> {
    let mut drafts = drafts.into_iter();
    let mut thinning = Thinning::of(drafts.next().unwrap(), grain);
    let mut done = Vec::new();
    for draft in drafts {
        if let Err(apart) = thinning.join(draft) {
            let next = Thinning::of(*apart, grain);
            done.push(std::mem::replace(&mut thinning, next).finish().unwrap());
        }
    }
    done.push(thinning.finish().unwrap());
    done
}

/// All intervals of a register, in order, and its readings at both ends.
fn run_of(drafts: &[Draft], register: RegisterId) -> (Vec<Interval>, Reading, Reading) {
    let runs = drafts
        .iter()
        .flat_map(|draft| &draft.blocks)
        .flat_map(|block| {
            let own = block.runs().iter().filter(|run| run.register == register);
            own.map(move |run| (block, run))
        });
    let (mut all, mut opening, mut closing) = (Vec::new(), None, Reading(0));
    for (block, run) in runs {
        assert!(
            opening.is_none() || closing == run.opening,
            "the odometer goes on"
        );
        opening.get_or_insert(run.opening);
        closing = tallystick_common::odometer::closing(block, run).unwrap();
        all.extend(block.intervals(run));
    }
    (all, opening.unwrap(), closing)
}

fn total(intervals: &[Interval], kind: Kind) -> u128 {
    let quantities = intervals.iter().map(|interval| interval.quantity);
    match kind {
        Kind::Peak => quantities.max().unwrap_or(0),
        _ => quantities.sum(),
    }
}

fn unmeasured(intervals: &[Interval]) -> u64 {
    let none = |interval: &&Interval| matches!(interval.quality, Quality::Unmeasured(_));
    intervals
        .iter()
        .filter(none)
        .map(|interval| interval.duration().0)
        .sum()
}

fn assert_tiles(intervals: &[Interval]) {
    for pair in intervals.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
    }
    let crossing = intervals.iter().find(|interval| {
        interval.quality == Quality::Exact
            && !same_cell(interval.start, interval.end, QUARTER_HOUR_US)
    });
    assert_eq!(crossing, None);
}

/// What rating sees: per quarter-hour what lies wholly in it, and what does not.
fn cells(intervals: &[Interval]) -> std::collections::BTreeMap<u64, (u128, u64)> {
    let mut cells = std::collections::BTreeMap::new();
    for interval in intervals {
        let key = if same_cell(interval.start, interval.end, QUARTER_HOUR_US) {
            interval.start.as_micros() / QUARTER_HOUR_US
        } else {
            interval.start.as_micros()
        };
        let cell: &mut (u128, u64) = cells.entry(key).or_default();
        cell.0 += interval.quantity;
        cell.1 += interval.measured.0;
    }
    cells
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_quantity_no_time_and_no_reading_changes(history in history()) {
        let before = drafts(&history);
        for grain in Grain::ALL {
            let after = thinned(before.clone(), grain);
            prop_assert!(after.len() <= before.len());
            prop_assert_eq!(after[0].from, before[0].from);
            prop_assert_eq!(after.last().unwrap().covered_through, before.last().unwrap().covered_through);
            for pair in after.windows(2) {
                prop_assert_eq!(pair[0].covered_through, pair[1].from);
            }
            let gaps = |drafts: &[Draft]| drafts.iter().flat_map(|draft| draft.gaps.clone()).collect::<Vec<_>>();
            prop_assert_eq!(gaps(&after), gaps(&before));
            for register in 0..history.registers {
                let kind = meter(register).kind();
                let (old, opened, closed) = run_of(&before, RegisterId(register));
                let (new, opening, closing) = run_of(&after, RegisterId(register));
                prop_assert_eq!((opening, closing), (opened, closed));
                prop_assert_eq!(total(&new, kind), total(&old, kind));
                prop_assert_eq!(unmeasured(&new), unmeasured(&old));
                prop_assert_eq!(
                    new.iter().map(|interval| interval.measured.0).sum::<u64>(),
                    old.iter().map(|interval| interval.measured.0).sum::<u64>()
                );
                prop_assert_eq!((new[0].start, new.last().unwrap().end), (old[0].start, old.last().unwrap().end));
                assert_tiles(&new);
                if grain == Grain::QuarterHour && kind != Kind::Peak {
                    prop_assert_eq!(cells(&new), cells(&old), "rating sees no difference");
                }
            }
        }
    }

    #[test]
    fn thinning_what_is_thin_changes_nothing_and_coarser_goes_over_finer(history in history()) {
        let before = drafts(&history);
        for grain in Grain::ALL {
            let once = thinned(before.clone(), grain);
            prop_assert_eq!(&thinned(once.clone(), grain), &once);
        }
        let (mut by_steps, mut sizes) = (before, Vec::new());
        for grain in Grain::ALL {
            by_steps = thinned(by_steps, grain);
            sizes.push(by_steps.iter().flat_map(|draft| &draft.blocks).map(Block::interval_count).sum::<usize>());
        }
        prop_assert!(sizes.is_sorted_by(|finer, coarser| finer >= coarser), "{:?}", sizes);
    }
}

/// Six exact intervals a minute, for a day.
fn steady_day() -> Vec<Draft> {
    let minute = (vec![(10, 7, 0); 6], false);
    drafts(&History {
        drafts: vec![minute; 1_440],
        registers: 3,
    })
}

#[test]
fn a_steady_day_becomes_a_cell_per_quarter_hour_then_hour_then_day() {
    let counts = Grain::ALL.map(|grain| {
        let after = thinned(steady_day(), grain);
        let intervals = run_of(&after, RegisterId(0)).0.len();
        (after.len(), intervals)
    });
    // The day begins at 15 minutes past the hour, on the quarter.
    assert_eq!(counts, [(25, 96), (5, 25), (2, 5), (2, 2)]);
}

#[test]
fn other_labels_and_another_boot_stay_apart() {
    let day = steady_day();
    let mut relabelled = day[1].clone();
    for block in &mut relabelled.blocks {
        block.labels = vec![("rack".to_owned(), "b7".to_owned())];
    }
    let rebooted = Draft {
        boot: BootId([9; 16]),
        ..day[1].clone()
    };
    let reconfigured = Draft {
        config: Hash([9; 32]),
        ..day[1].clone()
    };
    for apart in [relabelled, rebooted, reconfigured, day[2].clone()] {
        let mut thinning = Thinning::of(day[0].clone(), Grain::Day);
        assert_eq!(thinning.join(apart.clone()), Err(Box::new(apart)));
    }
    assert_eq!(BEGIN_S * SECOND_US % QUARTER_HOUR_US, 0);
}
