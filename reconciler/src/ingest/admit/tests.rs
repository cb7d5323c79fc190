use proptest::prelude::*;
use tallystick_common::ids::{RegisterId, Seq};
use tallystick_common::reading::{Cause, Gap, Reading};
use tallystick_common::segment::{Basis, CloseReason};

use super::*;
use crate::ingest::testing::{Agent, Draft, at, exact, interpolated};

const LATER: u64 = 100_000_000;

fn judge(state: &StreamState, segment: &VerifiedSegment) -> Verdict {
    admit(state, segment, &Surroundings::default(), at(LATER))
}

/// A stream one honest segment old.
fn begun() -> (Agent, StreamState) {
    let mut agent = Agent::new(1, 2);
    let mut state = StreamState::new(agent.node, agent.stream);
    let first = agent.next(60, 10);
    assert_eq!(judge(&state, &first), Verdict::Accepted);
    advance(&mut state, &first);
    (agent, state)
}

fn advance(state: &mut StreamState, segment: &VerifiedSegment) {
    state.advance(segment.header(), segment.blocks(), segment.hash());
}

/// The doubt that the second segment of a stream raises when it is changed like that.
fn doubt(change: impl FnOnce(&mut Draft)) -> &'static str {
    let (agent, state) = begun();
    let mut draft = agent.draft(60, 10);
    change(&mut draft);
    match judge(&state, &agent.sealed(&draft)) {
        Verdict::Quarantined(doubt) => {
            assert!(!doubt.to_string().is_empty());
            doubt.code()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn honest_segments_are_accepted_one_after_another() {
    let (mut agent, mut state) = begun();
    for quantity in [0, 7, 1_000_000] {
        let segment = agent.next(60, quantity);
        assert_eq!(judge(&state, &segment), Verdict::Accepted);
        advance(&mut state, &segment);
    }
    assert_eq!(state.open[&RegisterId(1)].reading, Reading(1_000_017));
    assert_eq!(state.covered_through, Some(at(240)));
}

#[test]
fn time_that_has_not_come_is_doubted_beyond_the_tolerance() {
    let (agent, state) = begun();
    let segment = agent.sealed(&agent.draft(60, 1));
    let at_second = |second| admit(&state, &segment, &Surroundings::default(), at(second));
    assert_eq!(at_second(118), Verdict::Accepted);
    assert!(matches!(
        at_second(117),
        Verdict::Quarantined(Doubt::Future { .. })
    ));
}

#[test]
fn time_accounted_for_before_is_doubted() {
    let mut agent = Agent::new(1, 2);
    let mut state = StreamState::new(agent.node, agent.stream);
    let mut draft = agent.draft(60, 10);
    draft
        .parts
        .iter_mut()
        .for_each(|part| part.closed = Some(CloseReason::Reset));
    advance(&mut state, &agent.seal(&draft));
    let mut draft = agent.draft(60, 10);
    draft.header.from = at(30);
    draft.parts = vec![draft.opening("host", 2, Meter::UPTIME)];
    let found = judge(&state, &agent.sealed(&draft));
    let doubt = Doubt::From {
        expected: at(60),
        found: at(30),
    };
    assert_eq!(found, Verdict::Quarantined(doubt));
}

#[test]
fn a_reading_that_jumps_is_doubted() {
    assert_eq!(doubt(|draft| draft.part(1).opening += 1), "odometer");
    assert_eq!(doubt(|draft| draft.part(1).opening -= 1), "odometer");
}

#[test]
fn a_register_that_stops_early_is_doubted() {
    assert_eq!(
        doubt(|draft| draft.part(1).intervals = exact(at(60), at(119), 1)),
        "tiling"
    );
}

#[test]
fn a_register_that_is_left_out_is_doubted() {
    assert_eq!(doubt(|draft| drop(draft.parts.pop())), "missing_register");
}

#[test]
fn a_register_that_was_never_opened_is_doubted() {
    let unopened = |draft: &mut Draft| {
        let mut part = draft.opening("cgroup/db", 2, Meter::CPU_TIME);
        part.opened = None;
        draft.parts.push(part);
    };
    assert_eq!(doubt(unopened), "unopened_register");
}

#[test]
fn a_number_used_before_is_doubted() {
    assert_eq!(
        doubt(|draft| draft.part(1).opened = Some(Basis::Birth)),
        "reused_register"
    );
    let (mut agent, mut state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.part(1).closed = Some(CloseReason::Vanished);
    advance(&mut state, &agent.seal(&draft));
    let mut draft = agent.draft(60, 10);
    let again = draft.opening("cgroup/web", 1, Meter::CPU_TIME);
    draft.parts.push(again);
    let found = judge(&state, &agent.sealed(&draft));
    assert_eq!(
        found,
        Verdict::Quarantined(Doubt::Reused {
            register: RegisterId(1)
        })
    );
}

#[test]
fn a_register_that_stands_there_twice_is_doubted() {
    let twice = |draft: &mut Draft| {
        let one = draft.opening("cgroup/db", 2, Meter::CPU_TIME);
        let other = draft.opening("cgroup/cache", 2, Meter::CPU_TIME);
        draft.parts.extend([one, other]);
    };
    assert_eq!(doubt(twice), "register_twice");
}

#[test]
fn a_register_that_moves_is_doubted() {
    assert_eq!(
        doubt(|draft| draft.part(1).workload = "cgroup/db"),
        "moved_register"
    );
    assert_eq!(
        doubt(|draft| draft.part(1).meter = Meter::DISK_READ),
        "moved_register"
    );
}

#[test]
fn two_registers_of_one_thing_at_one_time_are_doubted() {
    let second = |draft: &mut Draft| {
        let part = draft.opening("cgroup/web", 2, Meter::CPU_TIME);
        draft.parts.push(part);
    };
    assert_eq!(doubt(second), "overlap");
    // One after the other is how a register is replaced.
    let (agent, state) = begun();
    let mut draft = agent.draft(60, 10);
    let mut successor = draft.opening("cgroup/web", 2, Meter::CPU_TIME);
    successor.start = at(90);
    successor.intervals = exact(at(90), at(120), 1);
    draft.part(1).intervals = exact(at(60), at(90), 1);
    draft.part(1).closed = Some(CloseReason::Reset);
    draft.parts.push(successor);
    assert_eq!(judge(&state, &agent.sealed(&draft)), Verdict::Accepted);
}

fn life(workload: &str, meter: Meter, from: u64, through: u64) -> Life {
    Life {
        stream: StreamId([9; 16]),
        workload: WorkloadName::new(workload).unwrap(),
        meter,
        from: at(from),
        through: at(through),
    }
}

#[test]
fn what_another_stream_measured_is_doubted_unless_this_one_measured_nothing_then() {
    let (agent, state) = begun();
    let mut draft = agent.draft(60, 10);
    let beside = |draft: &Draft, life: Life| {
        let around = Surroundings {
            lives: &[life],
            ..Surroundings::default()
        };
        admit(&state, &agent.sealed(draft), &around, at(LATER))
    };
    let rival = life("cgroup/web", Meter::CPU_TIME, 0, 61);
    assert!(matches!(
        beside(&draft, rival.clone()),
        Verdict::Quarantined(Doubt::Overlap { .. })
    ));
    assert_eq!(
        beside(&draft, life("cgroup/web", Meter::CPU_TIME, 0, 60)),
        Verdict::Accepted
    );
    assert_eq!(
        beside(&draft, life("cgroup/web", Meter::DISK_READ, 0, 61)),
        Verdict::Accepted
    );
    assert_eq!(
        beside(&draft, life("cgroup/db", Meter::CPU_TIME, 0, 61)),
        Verdict::Accepted
    );
    let unmeasured = &mut draft.part(1).intervals[0];
    (unmeasured.quantity, unmeasured.measured) = (0, Micros(0));
    unmeasured.quality = Quality::Unmeasured(Cause::NewStream);
    assert_eq!(beside(&draft, rival), Verdict::Accepted);
}

#[test]
fn what_no_cell_could_hold_is_doubted() {
    let most = CELL_RATE * 60 * u128::from(SECOND_US);
    assert_eq!(
        doubt(|draft| draft.part(1).intervals[0].quantity = most + 1),
        "impossible_quantity"
    );
    let endless = |draft: &mut Draft| draft.part(1).intervals[0].measured = Micros(1 << 60);
    assert_eq!(doubt(endless), "impossible_quantity");
    let peak = |draft: &mut Draft| {
        let mut part = draft.opening("cgroup/web", 2, Meter::MEMORY_PEAK);
        part.intervals[0].quantity = CELL_MAX + 1;
        draft.parts.push(part);
    };
    assert_eq!(doubt(peak), "impossible_quantity");
    let (agent, state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.part(1).intervals[0].quantity = most;
    assert_eq!(judge(&state, &agent.sealed(&draft)), Verdict::Accepted);
}

#[test]
fn an_absence_longer_than_a_year_is_doubted() {
    let days = |days: u64| {
        let agent = Agent::new(1, 2);
        let mut draft = agent.draft(days * 86_400, 10);
        let (from, to) = (draft.header.from, draft.header.covered_through);
        draft.part(1).intervals = interpolated(from, to, 10);
        let state = StreamState::new(agent.node, agent.stream);
        judge(&state, &agent.sealed(&draft))
    };
    assert_eq!(days(400), Verdict::Accepted);
    assert!(matches!(
        days(401),
        Verdict::Quarantined(Doubt::TooLong { .. })
    ));
}

#[test]
fn time_that_nothing_accounts_for_is_doubted_unless_a_gap_names_it() {
    let (agent, state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.part(0).intervals = exact(at(60), at(100), 40);
    draft.part(0).closed = Some(CloseReason::Reboot);
    let hole = Doubt::Hole {
        from: at(100),
        to: at(120),
    };
    assert_eq!(
        judge(&state, &agent.sealed(&draft)),
        Verdict::Quarantined(hole)
    );
    draft.header.gaps = vec![Gap {
        from: at(100),
        to: at(120),
        cause: Cause::NodeDown,
    }];
    assert_eq!(judge(&state, &agent.sealed(&draft)), Verdict::Accepted);
    draft.header.gaps[0].from = at(101);
    let hole = Doubt::Hole {
        from: at(100),
        to: at(101),
    };
    assert_eq!(
        judge(&state, &agent.sealed(&draft)),
        Verdict::Quarantined(hole)
    );
}

#[test]
fn the_last_segment_of_a_node_leaves_nothing_open() {
    assert_eq!(
        doubt(|draft| draft.header.purpose = Purpose::Final),
        "left_open"
    );
    let (mut agent, mut state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.header.purpose = Purpose::Final;
    draft
        .parts
        .iter_mut()
        .for_each(|part| part.closed = Some(CloseReason::StreamEnd));
    let last = agent.seal(&draft);
    assert_eq!(judge(&state, &last), Verdict::Accepted);
    advance(&mut state, &last);
    let refused = judge(&state, &agent.next(60, 1));
    assert!(matches!(
        refused,
        Verdict::Refused(Refusal {
            reason: RefusalReason::StreamClosed,
            ..
        })
    ));
}

fn claim(node: u8, order: i64, seen: (u64, u64), counted: (u64, u64)) -> Claim {
    let span = |(from, to)| (at(from), at(to));
    let (boot, node) = (BootId([1; 16]), NodeId([node; 16]));
    Claim {
        boot,
        node,
        order,
        seen: span(seen),
        counted: span(counted),
    }
}

#[test]
fn a_kernel_belongs_to_the_node_that_claimed_it_first() {
    let (agent, state) = begun();
    let segment = agent.sealed(&agent.draft(60, 10));
    let among = |claims: &[Claim]| {
        let around = Surroundings {
            claims,
            ..Surroundings::default()
        };
        admit(&state, &segment, &around, at(LATER)) == Verdict::Accepted
    };
    let mine = claim(1, 1, (0, 60), (0, 60));
    assert!(
        among(&[mine, claim(7, 2, (30, 90), (0, 0))]),
        "the later claim was not counted"
    );
    assert!(
        !among(&[mine, claim(7, 2, (30, 90), (30, 90))]),
        "this time was counted elsewhere"
    );
    let mine = claim(1, 2, (0, 60), (0, 60));
    assert!(
        !among(&[claim(7, 1, (0, 30), (0, 0)), mine]),
        "the other was first"
    );
    let mine = claim(1, 2, (30, 60), (30, 60));
    assert!(
        among(&[claim(7, 1, (0, 30), (0, 30)), mine]),
        "the other was gone before"
    );
}

#[test]
fn only_the_next_segment_of_a_stream_advances_it() {
    let (mut agent, state) = begun();
    let second = agent.next(60, 1);
    let third = agent.next(60, 1);
    assert_eq!(judge(&state, &third), Verdict::Ahead { expected: Seq(1) });
    let mut after = state.clone();
    advance(&mut after, &second);
    let knowing = |known| {
        let around = Surroundings {
            known: Some(known),
            ..Surroundings::default()
        };
        admit(&after, &second, &around, at(LATER))
    };
    assert_eq!(knowing(second.hash()), Verdict::Duplicate);
    assert_eq!(
        knowing(third.hash()),
        Verdict::Fork {
            known: third.hash()
        }
    );
    let mut elsewhere = state.clone();
    elsewhere.head = Some(third.hash());
    assert!(matches!(
        judge(&elsewhere, &second),
        Verdict::Refused(Refusal {
            reason: RefusalReason::Chain,
            ..
        })
    ));
    let mut frozen = state;
    frozen.status = StreamStatus::Frozen;
    assert_eq!(judge(&frozen, &second), Verdict::Held);
    assert_eq!(judge(&frozen, &third), Verdict::Held);
}

#[test]
fn another_streams_segment_is_refused() {
    let (agent, _) = begun();
    let state = StreamState::new(agent.node, StreamId([8; 16]));
    let refused = judge(&state, &agent.sealed(&agent.draft(60, 1)));
    assert!(matches!(
        refused,
        Verdict::Refused(Refusal {
            reason: RefusalReason::WrongNode,
            ..
        })
    ));
}

#[test]
fn what_follows_a_doubtful_segment_consistently_counts_again() {
    let (mut agent, mut state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.part(1).opening += 1000;
    let doubtful = agent.seal(&draft);
    assert!(matches!(judge(&state, &doubtful), Verdict::Quarantined(_)));
    advance(&mut state, &doubtful);
    assert_eq!(judge(&state, &agent.next(60, 1)), Verdict::Accepted);
}

#[test]
fn a_doubtful_segment_never_opens_accounted_time_again() {
    let (mut agent, mut state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.header.from = at(0);
    draft.header.covered_through = at(30);
    for part in &mut draft.parts {
        part.start = at(0);
        part.intervals = exact(at(0), at(30), 1);
    }
    let back = agent.seal(&draft);
    assert!(matches!(judge(&state, &back), Verdict::Quarantined(_)));
    advance(&mut state, &back);
    let again = agent.next(30, 1);
    assert!(
        matches!(judge(&state, &again), Verdict::Quarantined(_)),
        "30 to 60 counted before"
    );
    advance(&mut state, &again);
    assert_eq!(judge(&state, &agent.next(60, 1)), Verdict::Accepted);
}

#[test]
fn a_register_that_was_left_out_is_over() {
    let (mut agent, mut state) = begun();
    let mut draft = agent.draft(60, 10);
    draft.parts.pop();
    advance(&mut state, &agent.seal(&draft));
    assert_eq!(state.open.len(), 1);
    assert_eq!(judge(&state, &agent.next(60, 1)), Verdict::Accepted);
}

#[test]
fn a_person_sets_aside_whose_kernel_it_is_but_never_what_was_counted() {
    let (agent, state) = begun();
    let segment = agent.sealed(&agent.draft(60, 10));
    let asked = |claims: &[Claim]| {
        let around = Surroundings {
            claims,
            ..Surroundings::default()
        };
        let (header, blocks) = (segment.header(), segment.blocks());
        appeal(&state, header, blocks, &around, at(LATER))
    };
    let mine = claim(1, 2, (0, 60), (0, 60));
    let first = claim(7, 1, (0, 90), (0, 0));
    let shared = Doubt::SharedKernel { node: first.node };
    assert_eq!(asked(&[first, mine]), Ok(vec![shared.clone()]));
    let counted = claim(7, 1, (0, 90), (60, 61));
    assert_eq!(asked(&[counted, mine]), Err(shared));
    // Whoever was first in the list hides nobody.
    let third = claim(8, 3, (0, 90), (119, 121));
    let other = Doubt::SharedKernel { node: third.node };
    assert_eq!(asked(&[first, mine, third]), Err(other));
    assert_eq!(asked(&[mine]), Ok(vec![]));
}

/// Does something to a segment.
fn change(draft: &mut Draft, which: u8) {
    let (from, half) = (at(60), at(90));
    match which {
        0 => draft.part(1).opening += 1,
        1 => draft.part(1).intervals = exact(from, half, 1),
        2 => draft.part(1).meter = Meter::DISK_READ,
        3 => draft.part(1).opened = Some(Basis::Birth),
        4 => draft.part(1).workload = "cgroup/db",
        5 => draft.part(1).intervals[0].quantity = 1 << 100,
        6 => {
            draft.part(0).intervals = exact(from, half, 1);
            draft.part(0).closed = Some(CloseReason::Reboot);
        }
        7 => draft.header.purpose = Purpose::Final,
        8 => draft.header.from = at(1),
        9 => drop(draft.parts.pop()),
        _ => {}
    }
}

proptest! {
    /// Whatever is wrong with a segment: an appeal finds what admission does, and only three doubts may be set aside.
    #[test]
    fn an_appeal_asks_every_question_of_admission(
        changes in proptest::collection::btree_set(prop_oneof![0u8..12, 6u8..8], 0..4),
        now in prop_oneof![Just(100u64), Just(LATER)],
    ) {
        let (agent, state) = begun();
        let mut draft = agent.draft(60, 10);
        changes.iter().for_each(|which| change(&mut draft, *which));
        let segment = agent.sealed(&draft);
        let around = Surroundings::default();
        let verdict = admit(&state, &segment, &around, at(now));
        let appealed = appeal(&state, segment.header(), segment.blocks(), &around, at(now));
        match (verdict, appealed) {
            (Verdict::Accepted, appealed) => prop_assert_eq!(appealed, Ok(vec![])),
            (Verdict::Quarantined(first), Ok(set_aside)) => {
                prop_assert!(changes.iter().all(|which| [6, 7, 10, 11].contains(which)));
                prop_assert_eq!(set_aside.first(), Some(&first));
                prop_assert!(set_aside.iter().all(Doubt::may_be_set_aside));
            }
            (Verdict::Quarantined(first), Err(doubt)) => {
                prop_assert!(!doubt.may_be_set_aside());
                prop_assert!(first == doubt || first.may_be_set_aside());
            }
            (other, _) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn honest_streams_of_any_shape_are_accepted(
        steps in proptest::collection::vec((1u64..4000, 0u128..1 << 40, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let mut agent = Agent::new(1, 2);
        let mut state = StreamState::new(agent.node, agent.stream);
        let mut register = 2;
        for (seconds, quantity, opens, closes) in steps {
            let mut draft = agent.draft(seconds, quantity);
            if closes {
                draft.parts.iter_mut().skip(1).for_each(|part| part.closed = Some(CloseReason::Vanished));
            }
            if opens {
                let part = draft.opening("cgroup/db", register, Meter::DISK_READ);
                if !draft.parts.iter().any(|part| part.meter == Meter::DISK_READ) {
                    draft.parts.push(part);
                    register += 1;
                }
            }
            let segment = agent.seal(&draft);
            prop_assert_eq!(judge(&state, &segment), Verdict::Accepted);
            advance(&mut state, &segment);
            prop_assert_eq!(state.open.len(), draft.parts.iter().filter(|part| part.closed.is_none()).count());
        }
    }

    #[test]
    fn a_changed_opening_is_never_counted(before: u64, wrong: u64) {
        prop_assume!(before != wrong);
        let mut agent = Agent::new(1, 2);
        let mut state = StreamState::new(agent.node, agent.stream);
        advance(&mut state, &agent.next(60, before.into()));
        let mut draft = agent.draft(60, 1);
        draft.part(1).opening = wrong.into();
        prop_assert!(matches!(judge(&state, &agent.sealed(&draft)), Verdict::Quarantined(Doubt::Odometer(_))));
    }

    #[test]
    fn a_quarter_hour_of_accepted_intervals_fits_its_cell(cuts in proptest::collection::btree_set(1u64..QUARTER_HOUR_US, 0..50)) {
        let ends: Vec<u64> = cuts.into_iter().chain([QUARTER_HOUR_US]).collect();
        let mut sum = 0u128;
        let mut start = 0;
        for end in ends {
            sum += CELL_RATE * u128::from(end - start);
            start = end;
        }
        // One unit more for each of the cuts of interpolated intervals at both ends.
        prop_assert!(sum + 2 <= CELL_MAX);
    }
}
