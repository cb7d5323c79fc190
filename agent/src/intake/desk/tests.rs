//! What comes in is counted once, over crashes, with a real journal and a real sled.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tallystick_common::application::AppMeter;
use tallystick_common::ids::{BootId, Hash, NodeId, StreamId, WorkloadName};
use tallystick_common::keys::SecretKey;
use tallystick_common::meter::Meter;
use tallystick_common::time::Micros;
use tokio::sync::oneshot;

use super::super::series::Point;
use super::*;
use crate::accrue::Settings;
use crate::buffer::{Buffer, Handle, Settings as BufferSettings};
use crate::sample::{Identity, Moment, Raw, Sample, SourceReading};

const BOOT: BootId = BootId([8; 16]);
const REGISTERS: usize = 4;

fn at(second: u64) -> Timestamp {
    Timestamp::from_seconds(1_795_348_800 + second).unwrap()
}

/// An agent without its clock and its socket.
struct Agent {
    station: Station,
    desk: Desk,
    second: u64,
}

impl Agent {
    fn start(dir: &Path, second: u64) -> Self {
        let buffer = dir.join("buffer");
        let (buffer, recovered) =
            Buffer::open(&buffer, BufferSettings::default(), StreamId([1; 16])).unwrap();
        let settings = Settings {
            begins: Timestamp::EPOCH,
            sample: Micros::from_seconds(10),
            register_limit: REGISTERS,
            config: Hash::ZERO,
            labels: Vec::new(),
        };
        let key = SecretKey::from_seed(&[3; 32]);
        let state = recovered.state.as_deref();
        let buffer = Handle::new(buffer);
        let mut station = Station::new(NodeId([7; 16]), key, settings, buffer, state).unwrap();
        let known = station.accrual().accounted_through();
        let counted = known.map(|_| station.accrual().batch());
        let settings = IntakeSettings::default();
        let desk = Desk::open(&dir.join("intake"), &settings, counted, at(second)).unwrap();
        if counted.is_none() {
            station.set_batch(desk.counted());
        }
        let mut agent = Self {
            station,
            desk,
            second,
        };
        agent.sample();
        agent
    }

    fn sample(&mut self) {
        self.second += 10;
        let host = SourceReading {
            workload: WorkloadName::host(),
            meter: Meter::UPTIME,
            identity: Identity {
                boot: BOOT,
                domain: "host".to_owned(),
                incarnation: 0,
            },
            raw: Raw::Counter(u128::from(self.second)),
        };
        let passed = Micros::from_seconds(self.second);
        self.station.observe(&Sample {
            boot: BOOT,
            moment: Moment {
                wall: at(self.second),
                monotonic: passed,
                boottime: passed,
            },
            sources: vec![host],
            walks: Vec::new(),
            labels: Arc::default(),
            last: Vec::new(),
            notes: Vec::new(),
        });
    }

    fn seal(&mut self) {
        self.sample();
        self.station.seal([4; 32]).unwrap();
    }

    fn ask(&mut self, contents: Vec<Content>) -> Vec<Answer> {
        let mut told = Vec::new();
        let requests = contents
            .into_iter()
            .map(|content| {
                let (answer, answered) = oneshot::channel();
                told.push(answered);
                Request { content, answer }
            })
            .collect();
        self.desk
            .commit(&mut self.station, requests, [5; 32], at(self.second));
        told.into_iter()
            .map(|mut answered| answered.try_recv().unwrap())
            .collect()
    }

    fn counted(&self, name: &str) -> u128 {
        let workload = workload(name);
        let accrual = self.station.accrual();
        let mut own = accrual.registers().filter(|own| own.workload == workload);
        own.next().map_or(0, |register| register.reading.0)
    }
}

fn workload(name: &str) -> WorkloadName {
    AppMeter::new(name).unwrap().workload("web").unwrap()
}

fn event(id: u8, name: &str, quantity: u128) -> Event {
    Event {
        key: [id; 16],
        content: u64::try_from(quantity).unwrap(),
        register: (workload(name), Meter::APP_COUNT),
        quantity,
    }
}

fn counted(new: usize, known: usize) -> Answer {
    Answer::Counted {
        new,
        known,
        unclear: Vec::new(),
    }
}

#[test]
fn an_answered_event_counts_once_over_kills_and_repetitions() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    agent.seal();
    let events = || Content::Events(vec![event(1, "a", 5), event(2, "a", 6)]);
    assert_eq!(
        agent.ask(vec![events(), events()]),
        [counted(2, 0), counted(0, 2)]
    );
    drop(agent);
    let mut agent = Agent::start(folder.path(), 100);
    assert_eq!(agent.ask(vec![events()]), [counted(0, 2)]);
    agent.seal();
    assert_eq!(agent.counted("a"), 11);
}

#[test]
fn one_id_with_two_contents_is_a_conflict_that_counts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    let answers = agent.ask(vec![
        Content::Events(vec![event(1, "a", 5)]),
        Content::Events(vec![event(2, "a", 1), event(1, "a", 6)]),
        Content::Events(vec![event(2, "a", 1)]),
    ]);
    assert_eq!(
        answers,
        [counted(1, 0), Answer::Conflict(1), counted(1, 0)],
        "event 2 was not counted with the conflict"
    );
    agent.sample();
    assert_eq!(agent.counted("a"), 6);
}

#[test]
fn a_request_without_room_is_told_so_and_others_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    let many = (0..4).map(|n| event(10 + n, &format!("n{n}"), 1)).collect();
    let answers = agent.ask(vec![
        Content::Events(many),
        Content::Events(vec![event(1, "a", 5)]),
    ]);
    assert!(
        matches!(&answers[0], Answer::Later(why) if why.contains("registers.limit")),
        "{answers:?}"
    );
    assert_eq!(answers[1], counted(1, 0));
}

#[test]
fn a_series_repeated_counts_once_and_goes_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    let count = |time: u64, value| {
        let point = Point {
            start: Some(at(5)),
            time: at(time),
            value,
        };
        Content::Counts(vec![Count {
            key: [9; 16],
            point,
            register: (workload("a"), Meter::APP_COUNT),
        }])
    };
    agent.ask(vec![count(10, 100), count(10, 100), count(20, 130)]);
    drop(agent);
    let mut agent = Agent::start(folder.path(), 50);
    agent.ask(vec![count(20, 130), count(60, 131)]);
    agent.sample();
    agent.sample();
    assert_eq!(agent.counted("a"), 131);
}

fn series(name: &str, key: u8, time: u64, value: u128) -> Count {
    Count {
        key: [key; 16],
        point: Point {
            start: Some(at(5)),
            time: at(time),
            value,
        },
        register: (workload(name), Meter::APP_COUNT),
    }
}

#[test]
fn where_registers_are_full_the_series_that_have_one_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    agent.ask(vec![Content::Counts(vec![series("n0", 0, 10, 7)])]);
    let all = |time| {
        (0..5)
            .map(|n| series(&format!("n{n}"), n, time, 7 + u128::from(time)))
            .collect()
    };
    let answers = agent.ask(vec![Content::Counts(all(20))]);
    let Answer::Counted { new, unclear, .. } = &answers[0] else {
        panic!("{answers:?}");
    };
    assert_eq!((*new, unclear.len()), (REGISTERS / 2, 5 - REGISTERS / 2));
    assert!(unclear[0].1.contains("registers.limit"), "{unclear:?}");
    agent.sample();
    assert_eq!(agent.counted("n0"), 27);
}

#[test]
fn another_stream_carries_what_was_not_sealed_unless_the_old_one_lives_on() {
    for lives_on in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path(), 0);
        let counts = |time, value| Content::Counts(vec![series("a", 9, time, value)]);
        agent.ask(vec![counts(10, 100)]);
        agent.seal();
        agent.ask(vec![counts(20, 130)]);
        if lives_on {
            agent
                .desk
                .forget_series(&agent.station, at(agent.second))
                .unwrap();
        }
        agent
            .station
            .begin_stream(StreamId([2; 16]), lives_on)
            .unwrap();
        // What is carried was answered: it is on the disk with the new stream.
        let second = agent.second;
        drop(agent);
        let mut agent = Agent::start(folder.path(), second);
        agent.sample();
        let answered = agent.ask(vec![counts(50, 137)]);
        assert_eq!(answered, [counted(1, 0)]);
        agent.sample();
        agent.seal();
        // By then another copy may have counted up to 137.
        let expected = if lives_on { 0 } else { 30 + 7 };
        assert_eq!(agent.counted("a"), expected, "lives on: {lives_on}");
    }
}

#[test]
fn a_draft_that_the_disk_never_took_is_carried_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    agent.seal();
    agent.ask(vec![Content::Events(vec![event(1, "a", 5)])]);
    agent.sample();
    agent.station.leave_unsealed();
    agent
        .station
        .begin_stream(StreamId([2; 16]), false)
        .unwrap();
    agent.sample();
    agent.seal();
    assert_eq!(agent.counted("a"), 5);
}

#[test]
fn registers_that_cannot_be_read_leave_every_event_known() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(folder.path(), 0);
    agent.ask(vec![Content::Events(vec![event(1, "a", 5)])]);
    agent
        .station
        .buffer()
        .lock()
        .save_state(b"of no meaning")
        .unwrap();
    drop(agent);
    for second in [100, 200] {
        let mut agent = Agent::start(folder.path(), second);
        let again = Content::Events(vec![event(1, "a", 5)]);
        assert_eq!(agent.ask(vec![again]), [counted(0, 1)]);
        agent.seal();
    }
}

#[derive(Debug, Clone)]
enum Op {
    Report(u8, u32),
    Sample,
    Seal,
    Kill,
    /// The log has the batch, the registers do not.
    KillBetween(u8, u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..20u8, any::<u32>()).prop_map(|(id, more)| Op::Report(id, more)),
        2 => Just(Op::Sample),
        1 => Just(Op::Seal),
        1 => Just(Op::Kill),
        1 => (0..20u8, any::<u32>()).prop_map(|(id, more)| Op::KillBetween(id, more)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_is_counted_and_nothing_else(ops in proptest::collection::vec(op(), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Agent::start(folder.path(), 0);
        agent.seal();
        let mut truth = std::collections::BTreeMap::<u8, u128>::new();
        for op in ops {
            match op {
                Op::Report(id, more) => {
                    let more = u128::from(more);
                    let answer = agent.ask(vec![Content::Events(vec![event(id, "a", more)])]);
                    let expected = match truth.get(&id) {
                        None => counted(1, 0),
                        Some(known) if *known == more => counted(0, 1),
                        Some(_) => Answer::Conflict(0),
                    };
                    prop_assert_eq!(&answer[0], &expected);
                    truth.entry(id).or_insert(more);
                }
                Op::Sample => agent.sample(),
                Op::Seal => agent.seal(),
                Op::Kill => {
                    let second = agent.second;
                    drop(agent);
                    agent = Agent::start(folder.path(), second);
                }
                Op::KillBetween(id, more) => {
                    let second = agent.second;
                    let entry = Entry::Event { key: [id; 16], content: u64::from(more) };
                    agent.desk.log.append(at(second), vec![entry]).unwrap();
                    drop(agent);
                    agent = Agent::start(folder.path(), second);
                }
            }
        }
        agent.seal();
        agent.sample();
        prop_assert_eq!(agent.counted("a"), truth.values().sum::<u128>());
    }
}
