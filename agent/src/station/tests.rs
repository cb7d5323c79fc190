//! Stories of metering without a clock, with a real journal and a real sled.

use std::path::Path;

use tallystick_common::ids::{BootId, Hash, WorkloadName};
use tallystick_common::keys::KeyRing;
use tallystick_common::meter::Meter;
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::time::{Micros, Timestamp};

use super::*;
use crate::buffer::{Buffer, ReceiptMark, Settings as BufferSettings};
use crate::sample::{Identity, Moment, Raw, SourceReading};

const NODE: NodeId = NodeId([7; 16]);
const BOOT: BootId = BootId([8; 16]);
const BEGIN_S: u64 = 1_790_000_100;

fn settings() -> Settings {
    Settings {
        sample: Micros::from_seconds(10),
        register_limit: 10_000,
        config: Hash([1; 32]),
        labels: Vec::new(),
    }
}

fn key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

fn station(dir: &Path, stream: u8) -> Station {
    let (buffer, recovered) =
        Buffer::open(dir, BufferSettings::default(), StreamId([stream; 16])).unwrap();
    assert_eq!(recovered.reports, []);
    Station::new(
        NODE,
        key(),
        settings(),
        Handle::new(buffer),
        recovered.state.as_deref(),
    )
    .unwrap()
}

/// `cpu.time` of the host and `workloads` cgroups, each growing at its own pace.
fn sample(second: u64, workloads: u64) -> Sample {
    let cgroup = |n: u64| {
        (
            format!("cgroup/unit-{n}.service"),
            n,
            second * 1_000 * (n + 1),
        )
    };
    let all: u64 = (0..workloads).map(|n| cgroup(n).2).sum();
    let host = ("host".to_owned(), 0, all + second * 500);
    let sources = std::iter::once(host).chain((0..workloads).map(cgroup));
    Sample {
        boot: BOOT,
        moment: Moment {
            wall: Timestamp::from_seconds(BEGIN_S + second).unwrap(),
            monotonic: Micros::from_seconds(second),
            boottime: Micros::from_seconds(second),
        },
        sources: sources
            .map(|(name, incarnation, raw)| SourceReading {
                workload: WorkloadName::new(name).unwrap(),
                meter: Meter::CPU_TIME,
                identity: Identity {
                    boot: BOOT,
                    domain: "cgroup2".to_owned(),
                    incarnation,
                },
                raw: Raw::Counter(u128::from(raw)),
            })
            .collect(),
        last: Vec::new(),
        walks: Vec::new(),
        labels: std::sync::Arc::default(),
        notes: Vec::new(),
    }
}

/// Samples every ten seconds and seals every sixty, in `seconds`.
fn meter(station: &mut Station, seconds: std::ops::Range<u64>, workloads: u64) {
    for second in seconds.step_by(10) {
        station.observe(&sample(second, workloads));
        if second.is_multiple_of(60) {
            station.seal([4; 32]).unwrap();
        }
    }
}

fn verified(station: &Station) -> Vec<VerifiedSegment> {
    let ring = KeyRing::new(NODE, key().public());
    let segments = station
        .buffer()
        .lock()
        .segments_from(Seq::FIRST, usize::MAX, usize::MAX)
        .unwrap();
    segments
        .into_iter()
        .map(|segment| {
            SealedSegment::parse(segment.bytes)
                .unwrap()
                .verify(&ring)
                .unwrap()
        })
        .collect()
}

/// Sum of all `cpu.time` that a workload was sealed with.
fn sealed_usage(segments: &[VerifiedSegment], workload: &str) -> u128 {
    let blocks = segments.iter().flat_map(VerifiedSegment::blocks);
    blocks
        .filter(|block| block.workload.as_str() == workload)
        .flat_map(|block| block.runs().iter().flat_map(|run| block.quantities(run)))
        .sum()
}

#[test]
fn every_segment_chains_and_the_sum_is_what_the_kernel_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..3_601, 3);
    let segments = verified(&station);
    assert_eq!(segments.len(), 60);
    for pair in segments.windows(2) {
        assert_eq!(pair[1].header().previous, Previous::Follows(pair[0].hash()));
        assert_eq!(pair[1].header().from, pair[0].header().covered_through);
    }
    assert_eq!(
        sealed_usage(&segments, "cgroup/unit-2.service"),
        3_600 * 3_000
    );
    assert_eq!(sealed_usage(&segments, "host/other"), 3_600 * 500);
}

#[test]
fn registers_go_on_after_a_crash_and_nothing_is_counted_twice_or_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = station(folder.path(), 1);
    // The last seal is at 120; what was accrued after it is lost with the process.
    meter(&mut first, 0..171, 2);
    drop(first);
    let mut second = station(folder.path(), 2);
    meter(&mut second, 180..601, 2);
    let segments = verified(&second);
    assert!(
        segments
            .iter()
            .all(|segment| segment.header().stream == StreamId([1; 16]))
    );
    assert_eq!(
        sealed_usage(&segments, "cgroup/unit-1.service"),
        600 * 2_000
    );
    let rising = second
        .accrual()
        .registers()
        .filter(|view| view.workload.is_host());
    assert_eq!(
        rising.map(|view| view.reading.0).collect::<Vec<_>>(),
        [600 * 3_500]
    );
}

#[test]
fn a_new_stream_names_the_old_and_carries_no_reading() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..301, 2);
    let old = station.buffer().lock().position();
    station.begin_stream(StreamId([2; 16])).unwrap();
    meter(&mut station, 310..601, 2);
    let segments = verified(&station);
    let opening = segments[0].header();
    assert_eq!(opening.previous, Previous::Opens { after: old });
    assert_eq!(
        (opening.stream, opening.seq),
        (StreamId([2; 16]), Seq::FIRST)
    );
    assert_eq!(
        opening.from,
        Timestamp::from_seconds(BEGIN_S + 300).unwrap()
    );
    assert_eq!(opening.gaps.len(), 1);
    assert_eq!(
        sealed_usage(&segments, "cgroup/unit-1.service"),
        290 * 2_000
    );
}

#[test]
fn a_segment_that_the_disk_refused_is_given_again_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..61, 1);
    // What a full disk leaves behind: sealed, not taken.
    station.observe(&sample(120, 1));
    let draft = station.accrual.seal().unwrap().unwrap();
    let state = codec::encode(&station.accrual.checkpoint());
    station.pending = Some(Pending {
        segment: station.sealed(draft, [4; 32]).unwrap(),
        state,
    });
    meter(&mut station, 130..241, 1);
    let segments = verified(&station);
    assert_eq!(segments.len(), 4, "the pending one and the two after it");
    assert_eq!(
        sealed_usage(&segments, "cgroup/unit-0.service"),
        240 * 1_000
    );
}

#[test]
fn hours_without_a_reconciler_are_buffered_and_drain() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..6 * 3_600 + 1, 50);
    let mut buffer = station.buffer().lock();
    assert_eq!(buffer.stats().unreceipted, 360);
    let mut next = Seq::FIRST;
    while next < buffer.head().next {
        let batch = buffer.segments_from(next, 64, 1 << 20).unwrap();
        let last = batch.last().unwrap();
        next = last.seq.next();
        let receipt = ReceiptMark {
            through: last.seq,
            hash: last.hash,
            bytes: Vec::new(),
        };
        buffer.receipt(receipt).unwrap();
    }
    assert_eq!(buffer.stats().unreceipted, 0);
}
