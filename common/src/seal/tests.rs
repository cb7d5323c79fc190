use proptest::prelude::*;

use super::*;
use crate::ids::{BootId, RegisterId, Seq, StreamId, WorkloadName};
use crate::meter::Meter;
use crate::reading::{Cause, Gap, Interval, Quality, Reading};
use crate::segment::{Basis, CloseReason, Purpose, RunDraft};
use crate::time::{Micros, SECOND_US, Timestamp};

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn node() -> NodeId {
    NodeId([1; 16])
}

fn ring() -> KeyRing {
    KeyRing::new(node(), key().public())
}

fn at(second: u64) -> Timestamp {
    Timestamp::from_seconds(1_795_348_800 + second).unwrap()
}

fn draft() -> HeaderDraft {
    HeaderDraft {
        node: node(),
        stream: StreamId([2; 16]),
        seq: Seq::FIRST,
        previous: Previous::Opens { after: None },
        from: at(0),
        covered_through: at(60),
        boot: BootId([3; 16]),
        config: Hash([4; 32]),
        purpose: Purpose::Readings,
        gaps: vec![Gap {
            from: at(0),
            to: at(10),
            cause: Cause::NodeDown,
        }],
    }
}

fn block(name: &str, quantities: &[u128]) -> Block {
    let mut block = Block::new(WorkloadName::new(name).unwrap(), vec![]);
    let mut start = at(0);
    let intervals: Vec<Interval> = quantities
        .iter()
        .map(|&quantity| {
            let end = start.saturating_add(Micros(SECOND_US));
            let interval = Interval {
                start,
                end,
                quantity,
                quality: Quality::Exact,
                measured: Micros(SECOND_US + 3),
            };
            start = end;
            interval
        })
        .collect();
    for (register, meter) in [(4, Meter::CPU_TIME), (9, Meter::DISK_READ)] {
        block
            .push(&RunDraft {
                register: RegisterId(register),
                meter,
                opened: (register == 9).then_some(Basis::FirstSeen { raw: 77 }),
                closed: (register == 4).then_some(CloseReason::Vanished),
                opening: Reading(u128::from(register) * 1000),
                start: at(0),
                intervals: &intervals,
            })
            .unwrap();
    }
    block
}

/// A block of so many registers with the same `intervals` empty milliseconds.
fn wide_block(registers: u64, intervals: u64) -> Block {
    let millisecond = |at: u64| Timestamp::from_micros(at * 1000).unwrap();
    let empty: Vec<Interval> = (0..intervals)
        .map(|at| Interval {
            start: millisecond(at),
            end: millisecond(at + 1),
            quantity: 0,
            quality: Quality::Exact,
            measured: Micros(1000),
        })
        .collect();
    let mut block = Block::new(WorkloadName::host(), vec![]);
    for register in 0..registers {
        block
            .push(&RunDraft {
                register: RegisterId(register),
                meter: Meter::CPU_TIME,
                opened: None,
                closed: None,
                opening: Reading(0),
                start: millisecond(0),
                intervals: &empty,
            })
            .unwrap();
    }
    block
}

#[test]
fn the_limit_of_a_blocks_intervals_counts_its_last_run_too() {
    let read = |block: Block| Block::decode(&block.encode(Timestamp::EPOCH), Timestamp::EPOCH);
    assert!(read(wide_block(1024, 4096)).is_ok());
    assert!(read(wide_block(1024, 4097)).is_err());
}

fn sealed() -> SealedSegment {
    let blocks = vec![
        block("host", &[1, 2, 3]),
        block("cgroup/a", &[1, 300]),
        block("app/b", &[]),
    ];
    seal(draft(), blocks, [9; 32], &key()).unwrap()
}

#[test]
fn what_is_sealed_is_what_is_verified() {
    let sealed = sealed();
    let read = SealedSegment::parse(sealed.bytes().to_vec()).unwrap();
    assert_eq!(read.hash(), sealed.hash());
    let verified = read.verify(&ring()).unwrap();
    assert_eq!(verified.hash(), sealed.hash());
    let names: Vec<&str> = verified
        .blocks()
        .iter()
        .map(|block| block.workload.as_str())
        .collect();
    assert_eq!(names, ["app/b", "cgroup/a", "host"]);
    assert_eq!(verified.blocks()[2], block("host", &[1, 2, 3]));
    assert_eq!(verified.interval_count(), 10);
}

#[test]
fn every_single_flipped_bit_is_found() {
    let bytes = sealed().bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let outcome = SealedSegment::parse(flipped).and_then(|read| read.verify(&ring()));
        assert!(outcome.is_err(), "bit {bit} of {}", bytes.len() * 8);
    }
}

#[test]
fn another_key_another_node_another_format_are_told_apart() {
    let foreign = seal(draft(), vec![], [9; 32], &SecretKey::from_seed(&[8; 32])).unwrap();
    assert_eq!(
        foreign.verify(&ring()).unwrap_err(),
        SealError::Signature {
            key: key().public()
        }
    );
    let elsewhere = HeaderDraft {
        node: NodeId([5; 16]),
        ..draft()
    };
    let other = seal(elsewhere, vec![], [9; 32], &key()).unwrap();
    assert!(matches!(other.verify(&ring()), Err(SealError::Node { .. })));
    let mut newer = sealed().bytes().to_vec();
    newer[0] = 2;
    assert_eq!(
        SealedSegment::parse(newer).unwrap_err(),
        SealError::NewerFormat(2)
    );
}

#[test]
fn a_segment_that_contradicts_itself_is_not_sealed() {
    let mut empty = draft();
    empty.covered_through = empty.from;
    let mut late_gap = draft();
    late_gap.gaps[0].to = at(61);
    let mut orphan = draft();
    orphan.seq = Seq(1);
    for wrong in [empty, late_gap, orphan] {
        assert!(matches!(
            seal(wrong, vec![], [0; 32], &key()),
            Err(SealError::Inconsistent(_))
        ));
    }
    let twice = vec![block("host", &[1]), block("host", &[2])];
    assert!(matches!(
        seal(draft(), twice, [0; 32], &key()),
        Err(SealError::Inconsistent(_))
    ));
    let outside = vec![block("host", &[1; 61])];
    assert!(matches!(
        seal(draft(), outside, [0; 32], &key()),
        Err(SealError::Inconsistent(_))
    ));
}

#[test]
fn one_block_is_shown_without_the_others() {
    let sealed = sealed();
    for index in 0..3 {
        let proof = sealed.prove(index).unwrap();
        let carried: BlockProof = codec::decode(&codec::encode(&proof)).unwrap();
        let (header, block, hash) = carried.verify(&ring()).unwrap();
        assert_eq!(hash, sealed.hash());
        assert_eq!(&header, sealed.header());
        assert_eq!(
            block.workload.as_str(),
            ["app/b", "cgroup/a", "host"][index]
        );
        let bytes = codec::encode(&proof);
        for neighbour in ["app/b", "cgroup/a", "host"] {
            let shown = bytes
                .windows(neighbour.len())
                .any(|window| window == neighbour.as_bytes());
            assert_eq!(
                shown,
                neighbour == block.workload.as_str(),
                "{neighbour} in the proof of {index}"
            );
        }
    }
    assert!(sealed.prove(3).is_none());
}

#[test]
fn a_proof_with_a_flipped_bit_is_refused() {
    let bytes = codec::encode(&sealed().prove(1).unwrap());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let stands =
            codec::decode::<BlockProof>(&flipped).is_ok_and(|proof| proof.verify(&ring()).is_ok());
        assert!(!stands, "bit {bit}");
    }
}

prop_compose! {
    fn any_interval()(length in 1u64..2_000_000, quantity: u64, drift in -1000i64..1000, quality in 0u8..4)
        -> (u64, u64, i64, u8) { (length, quantity, drift.max(-length.cast_signed()), quality) }
}

fn intervals_of(start: Timestamp, parts: &[(u64, u64, i64, u8)]) -> Vec<Interval> {
    let mut at = start;
    parts
        .iter()
        .map(|&(length, quantity, drift, quality)| {
            let end = at.saturating_add(Micros(length));
            let measured = Micros(length.strict_add_signed(drift));
            let (quantity, quality, measured) = match quality {
                0 | 1 => (u128::from(quantity), Quality::Exact, measured),
                2 => (
                    u128::from(quantity) << 50,
                    Quality::Interpolated(Cause::AgentDown),
                    measured,
                ),
                _ => (0, Quality::Unmeasured(Cause::Suspended), Micros(0)),
            };
            let interval = Interval {
                start: at,
                end,
                quantity,
                quality,
                measured,
            };
            at = end;
            interval
        })
        .collect()
}

proptest! {
    #[test]
    fn any_block_comes_back_and_its_bytes_are_its_own(
        parts in proptest::collection::vec(proptest::collection::vec(any_interval(), 0..6), 0..8),
        flip in any::<(usize, u8)>(),
    ) {
        let mut block = Block::new(WorkloadName::host(), vec![("b".into(), "1".into()), ("a".into(), "2".into())]);
        for (index, parts) in parts.iter().enumerate() {
            let intervals = intervals_of(at(5), parts);
            block.push(&RunDraft {
                register: RegisterId(index as u64 * 3),
                meter: Meter::ALL[index % Meter::ALL.len()],
                opened: [None, Some(Basis::Birth), Some(Basis::FirstSeen { raw: 1 << 100 })][index % 3],
                closed: [None, Some(CloseReason::Reboot)][index % 2],
                opening: Reading(1 << (index * 10)),
                start: at(5),
                intervals: &intervals,
            }).unwrap();
        }
        let bytes = block.encode(at(0));
        let read = Block::decode(&bytes, at(0)).unwrap();
        prop_assert_eq!(&read, &block);
        for (run, parts) in read.runs().iter().zip(&parts) {
            prop_assert_eq!(read.intervals(run).collect::<Vec<_>>(), intervals_of(at(5), parts));
        }
        // Whatever else decodes has other content: no two spellings of one block.
        let mut other = bytes;
        let place = flip.0 % other.len();
        other[place] ^= flip.1.max(1);
        if let Ok(decoded) = Block::decode(&other, at(0)) {
            prop_assert_eq!(decoded.encode(at(0)), other);
        }
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes: Vec<u8>) {
        let _ = Block::decode(&bytes, at(0));
        let _ = SealedSegment::parse(bytes);
    }
}
