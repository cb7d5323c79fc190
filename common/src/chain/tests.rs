use super::*;
use crate::ids::{BootId, NodeId};
use crate::keys::{KeyRing, SecretKey};
use crate::reading::{Interval, Quality};
use crate::seal;
use crate::segment::{Basis, CloseReason, HeaderDraft, Purpose, RunDraft};
use crate::time::{Micros, QUARTER_HOUR_US};

const START: u64 = 1_795_348_800_000_000;

fn at(us: u64) -> Timestamp {
    Timestamp::from_micros(START + us).unwrap()
}

/// One register's part: number, workload, opened, closed, opening reading, start, lengths, quantity each.
struct Part {
    register: u64,
    workload: &'static str,
    opened: bool,
    closed: bool,
    opening: u128,
    start: u64,
    ends: Vec<u64>,
}

impl Part {
    fn new(register: u64, opening: u128, start: u64, end: u64) -> Self {
        Self {
            register,
            workload: "host",
            opened: false,
            closed: false,
            opening,
            start,
            ends: vec![end],
        }
    }

    fn opened(self) -> Self {
        Self {
            opened: true,
            ..self
        }
    }
}

/// Each interval counts 5.
fn block(parts: &[&Part]) -> Block {
    let mut block = Block::new(WorkloadName::new(parts[0].workload).unwrap(), vec![]);
    for part in parts {
        let mut start = part.start;
        let intervals: Vec<Interval> = part
            .ends
            .iter()
            .map(|&end| {
                let measured = Micros(end - start);
                let interval = Interval {
                    start: at(start),
                    end: at(end),
                    quantity: 5,
                    quality: Quality::Exact,
                    measured,
                };
                start = end;
                interval
            })
            .collect();
        block
            .push(&RunDraft {
                register: RegisterId(part.register),
                meter: Meter::CPU_TIME,
                opened: part.opened.then_some(Basis::Birth),
                closed: part.closed.then_some(CloseReason::Vanished),
                opening: Reading(part.opening),
                start: at(part.start),
                intervals: &intervals,
            })
            .unwrap();
    }
    block
}

fn segment(state: &StreamState, from: u64, through: u64, parts: &[Part]) -> VerifiedSegment {
    let key = SecretKey::from_seed(&[1; 32]);
    let mut names: Vec<&str> = parts.iter().map(|part| part.workload).collect();
    names.sort_unstable();
    names.dedup();
    let of = |name: &&str| {
        parts
            .iter()
            .filter(|part| part.workload == *name)
            .collect::<Vec<_>>()
    };
    let blocks = names.iter().map(|name| block(&of(name))).collect();
    let draft = HeaderDraft {
        node: NodeId([1; 16]),
        stream: state.stream,
        seq: state.next,
        previous: state
            .head
            .map_or(Previous::Opens { after: None }, Previous::Follows),
        from: at(from),
        covered_through: at(through),
        boot: BootId::ZERO,
        config: Hash::ZERO,
        purpose: Purpose::Readings,
        gaps: vec![],
    };
    let ring = KeyRing::new(NodeId([1; 16]), key.public());
    seal::seal(draft, blocks, [0; 32], &key)
        .unwrap()
        .verify(&ring)
        .unwrap()
}

/// A stream with registers 0 and 1 of `host` open, each at 5, through 100.
fn running() -> StreamState {
    let mut state = StreamState::new(StreamId([2; 16]));
    let first = segment(
        &state,
        0,
        100,
        &[
            Part::new(0, 0, 0, 100).opened(),
            Part::new(1, 0, 0, 100).opened(),
        ],
    );
    assert_eq!(state.link(&first), Link::Next);
    assert_eq!(state.check(&first), Ok(()));
    state.advance(&first);
    state
}

#[test]
fn a_stream_goes_on_where_it_stood() {
    let mut state = running();
    let closing = Part {
        closed: true,
        ends: vec![150],
        ..Part::new(1, 5, 100, 0)
    };
    let next = segment(
        &state,
        100,
        200,
        &[
            Part::new(0, 5, 100, 200),
            closing,
            Part::new(2, 0, 170, 200).opened(),
        ],
    );
    assert_eq!(state.check(&next), Ok(()));
    state.advance(&next);
    assert_eq!(state.open.keys().map(|id| id.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(state.open[&RegisterId(0)].reading, Reading(10));
    assert_eq!(state.next_register, RegisterId(3));
}

#[test]
fn each_break_is_named() {
    let state = running();
    let both = |a, b| vec![a, b];
    let fine = || Part::new(1, 5, 100, 200);
    let check = |from, parts: Vec<Part>| {
        state
            .check(&segment(&state, from, 200, &parts))
            .unwrap_err()
    };
    assert!(matches!(
        check(99, both(Part::new(0, 5, 100, 200), fine())),
        Break::From { .. }
    ));
    let jump = check(100, both(Part::new(0, 6, 100, 200), fine()));
    assert!(
        matches!(jump, Break::Odometer(OdometerError::Jump { .. })),
        "{jump}"
    );
    let hole = check(100, both(Part::new(0, 5, 101, 200), fine()));
    assert!(
        matches!(hole, Break::Tiling(TilingError::Start { .. })),
        "{hole}"
    );
    let early = check(100, both(Part::new(0, 5, 100, 199), fine()));
    assert!(
        matches!(early, Break::Tiling(TilingError::End { .. })),
        "{early}"
    );
    assert_eq!(check(100, vec![fine()]), Break::Missing(RegisterId(0)));
    assert_eq!(
        check(100, both(fine(), Part::new(7, 5, 100, 200))),
        Break::NotOpen(RegisterId(7))
    );
    let reused = check(100, both(Part::new(0, 0, 100, 200).opened(), fine()));
    assert!(matches!(reused, Break::NotNew { .. }));
    let moved = Part {
        workload: "cgroup/a",
        ..Part::new(0, 5, 100, 200)
    };
    assert_eq!(check(100, both(moved, fine())), Break::Moved(RegisterId(0)));
    let twice = Part {
        workload: "cgroup/a",
        ..Part::new(4, 0, 100, 200)
    }
    .opened();
    let parts = vec![
        Part::new(0, 5, 100, 200),
        fine(),
        Part::new(4, 0, 100, 200).opened(),
        twice,
    ];
    assert!(
        matches!(check(100, parts), Break::Twice(RegisterId(4))),
        "one number for two registers"
    );
}

#[test]
fn exact_intervals_stop_at_quarter_hours() {
    let state = StreamState::new(StreamId([2; 16]));
    let end = 2 * QUARTER_HOUR_US;
    let across = segment(&state, 0, end, &[Part::new(0, 0, 0, end).opened()]);
    assert!(matches!(
        state.check(&across),
        Err(Break::Tiling(TilingError::QuarterHour { .. }))
    ));
    let cut = Part {
        ends: vec![QUARTER_HOUR_US, end],
        ..Part::new(0, 0, 0, 0)
    }
    .opened();
    assert_eq!(state.check(&segment(&state, 0, end, &[cut])), Ok(()));
}

#[test]
fn links_tell_next_from_earlier_ahead_and_broken() {
    let state = running();
    let start = StreamState::new(state.stream);
    let first = segment(&start, 0, 100, &[]);
    assert_eq!(state.link(&first), Link::Earlier);
    let ahead = StreamState {
        next: Seq(5),
        ..state.clone()
    };
    assert_eq!(state.link(&segment(&ahead, 100, 200, &[])), Link::Ahead);
    let elsewhere = StreamState {
        head: Some(Hash([9; 32])),
        ..state.clone()
    };
    assert_eq!(
        state.link(&segment(&elsewhere, 100, 200, &[])),
        Link::Broken
    );
}

#[test]
fn a_doubtful_segment_does_not_make_the_next_one_doubtful() {
    let mut state = running();
    let doubtful = segment(
        &state,
        100,
        200,
        &[Part::new(0, 50, 100, 200), Part::new(1, 5, 100, 200)],
    );
    assert!(state.check(&doubtful).is_err());
    state.advance(&doubtful);
    let next = segment(
        &state,
        200,
        300,
        &[Part::new(0, 55, 200, 300), Part::new(1, 10, 200, 300)],
    );
    assert_eq!(state.check(&next), Ok(()));
}

#[test]
fn what_a_doubtful_segment_leaves_out_is_over_and_time_never_goes_back() {
    let mut state = running();
    let left_out = segment(&state, 50, 90, &[Part::new(0, 5, 50, 90)]);
    assert!(state.check(&left_out).is_err());
    state.advance(&left_out);
    assert_eq!(state.open.keys().map(|id| id.0).collect::<Vec<_>>(), [0]);
    assert_eq!(state.covered_through, Some(at(100)));
    let next = segment(&state, 100, 200, &[Part::new(0, 10, 100, 200)]);
    assert_eq!(state.check(&next), Ok(()));
}
