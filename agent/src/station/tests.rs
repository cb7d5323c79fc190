//! Stories of metering without a clock, with a real journal and a real sled.

use std::path::Path;

use tallystick_common::chain::{Link, StreamState};
use tallystick_common::ids::{BootId, Hash, Seq, WorkloadName};
use tallystick_common::keys::KeyRing;
use tallystick_common::meter::Meter;
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::segment::Previous;
use tallystick_common::time::{Micros, Timestamp};

use super::*;
use crate::buffer::{Buffer, ReceiptMark, Settings as BufferSettings};
use crate::sample::{Identity, Moment, Raw, SourceReading};

pub(crate) const NODE: NodeId = NodeId([7; 16]);
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

pub(crate) fn key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

pub(crate) fn station(dir: &Path, stream: u8) -> Station {
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
pub(crate) fn meter(station: &mut Station, seconds: std::ops::Range<u64>, workloads: u64) {
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
    station.begin_stream(StreamId([2; 16]), false).unwrap();
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
fn what_the_disk_refused_is_given_again_before_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..61, 1);
    // What a full disk leaves behind: drafts that were not taken.
    for second in [120, 180, 240] {
        station.observe(&sample(second, 1));
        station.leave_unsealed();
    }
    assert_eq!(station.pending.len(), 1, "one draft of all three");
    meter(&mut station, 250..361, 1);
    let segments = verified(&station);
    assert_eq!(segments.len(), 3, "what waited went with the next");
    assert_eq!(
        sealed_usage(&segments, "cgroup/unit-0.service"),
        360 * 1_000
    );
    assert_continuous(&segments);
}

#[test]
fn a_disk_that_stays_full_costs_memory_for_a_few_intervals_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    station.observe(&sample(0, 1));
    let days = 30;
    for second in (60..days * 86_400 + 1).step_by(60) {
        station.observe(&sample(second, 1));
        let draft = station.accrual.seal().unwrap().unwrap();
        station
            .postpone(Pending {
                draft,
                state: Vec::new(),
            })
            .unwrap();
    }
    let intervals: usize = station
        .pending
        .iter()
        .flat_map(|pending| &pending.draft.blocks)
        .map(tallystick_common::segment::Block::interval_count)
        .sum();
    assert!(station.pending.len() < 200, "{}", station.pending.len());
    // Three registers: host, host/other and the unit.
    assert!(intervals < 3 * 1_000, "{intervals}");
    station.seal([4; 32]).unwrap();
    assert_eq!(
        sealed_usage(&verified(&station), "cgroup/unit-0.service"),
        u128::from(days) * 86_400_000
    );
}

/// Every segment verifies (in `verified`), chains, and continues every register where it stood.
fn assert_continuous(segments: &[VerifiedSegment]) {
    let mut state = StreamState::new(segments[0].header().stream);
    for segment in segments {
        assert_eq!(state.link(segment), Link::Next, "{}", segment.header().seq);
        state.check(segment).unwrap();
        state.advance(segment);
    }
}

/// Readings of all registers and the time they are accounted for.
fn readings(station: &Station) -> Vec<crate::accrue::RegisterView> {
    station.accrual().registers().collect()
}

fn station_of(dir: &Path, limit_bytes: u64) -> Station {
    let limits = BufferSettings {
        limit_bytes,
        rotate_bytes: 64 << 10,
        ..BufferSettings::default()
    };
    let (buffer, recovered) = Buffer::open(dir, limits, StreamId([1; 16])).unwrap();
    assert_eq!(recovered.reports, []);
    let state = recovered.state;
    Station::new(
        NODE,
        key(),
        settings(),
        Handle::new(buffer),
        state.as_deref(),
    )
    .unwrap()
}

fn bytes_below(dir: &Path) -> u64 {
    crate::durable::bytes_below(dir)
}

/// Days of a minute each, without a reconciler, into a buffer that is far too small for them.
#[test]
fn a_buffer_at_its_limit_is_thinned_and_no_quantity_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 4 << 20;
    let mut station = station_of(folder.path(), limit);
    let mut peak_bytes = 0;
    let days = 1;
    for day in 0..days {
        meter(&mut station, day * 86_400..(day + 1) * 86_400, 90);
        peak_bytes = peak_bytes.max(bytes_below(folder.path()));
        assert_eq!(station.pending.len(), 0, "day {day}");
    }
    meter(&mut station, days * 86_400..days * 86_400 + 1, 90);
    let head = station.buffer().head();
    let stats = station.buffer().stats();
    assert!(stats.unreceipted < days * 1_440 / 2, "{stats:?}");
    assert!(peak_bytes <= limit, "{peak_bytes} of {limit}");
    let segments = verified(&station);
    assert_continuous(&segments);
    assert_eq!(segments.len() as u64, head.next.0);
    for unit in [0, 17, 89] {
        let name = format!("cgroup/unit-{unit}.service");
        assert_eq!(
            sealed_usage(&segments, &name),
            u128::from(days * 86_400 * 1_000 * (unit + 1))
        );
    }
    let before = readings(&station);
    drop(station);
    let station = station_of(folder.path(), limit);
    assert_eq!(
        readings(&station),
        before,
        "the registers go on after a restart"
    );
    assert_eq!(station.buffer().head(), head);
}

#[test]
fn only_what_was_never_offered_is_thinned() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station_of(folder.path(), 1 << 30);
    meter(&mut station, 0..10 * 3_600, 3);
    station.buffer().lock().offered(Seq(9)).unwrap();
    let before = verified(&station);
    let mut buffer = station.buffer().lock();
    let thinned = thinning::thin(&mut buffer, &station.signer, Grain::QuarterHour, [5; 32]);
    let thinned = thinned.unwrap().unwrap();
    drop(buffer);
    let after = verified(&station);
    assert!(thinned.after < thinned.before, "{thinned:?}");
    let offered = 9 + 256 + 1;
    for seq in 0..offered {
        assert_eq!(after[seq].hash(), before[seq].hash(), "{seq}");
    }
    assert_continuous(&after);
    for workload in ["host", "host/other", "cgroup/unit-2.service"] {
        assert_eq!(
            sealed_usage(&after, workload),
            sealed_usage(&before, workload)
        );
    }
    // The next seal follows the thinned head, after a restart too.
    drop(station);
    let mut station = station_of(folder.path(), 1 << 30);
    meter(&mut station, 10 * 3_600..11 * 3_600, 3);
    let all = verified(&station);
    assert_continuous(&all);
    assert_eq!(sealed_usage(&all, "host/other"), (11 * 3_600 - 60) * 500);
    // Everything offered: nothing is left to thin.
    let last = station.buffer().head().last().unwrap();
    station.buffer().lock().offered(last).unwrap();
    let mut buffer = station.buffer().lock();
    let thinned = thinning::thin(&mut buffer, &station.signer, Grain::Day, [5; 32]);
    assert_eq!(thinned.unwrap(), None);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_name() == "reserve" {
            continue;
        }
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).map(drop).unwrap();
        }
    }
}

/// A crash leaves the old segments or the new ones, at whichever instant of thinning it comes.
#[test]
fn thinning_happens_at_one_instant() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station_of(folder.path(), 1 << 30);
    meter(&mut station, 0..4 * 3_600 + 1, 3);
    let (old_head, registers) = (station.buffer().head(), readings(&station));
    station.buffer().lock().flush().unwrap();
    let old = tempfile::tempdir().unwrap();
    copy(folder.path(), old.path());
    let mut buffer = station.buffer().lock();
    thinning::thin(&mut buffer, &station.signer, Grain::QuarterHour, [5; 32]).unwrap();
    buffer.flush().unwrap();
    drop(buffer);
    let new_head = station.buffer().head();
    assert_ne!(new_head, old_head);
    drop(station);
    let journal = folder.path().join("journal");
    let name = std::fs::read_dir(&journal)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .file_name();
    let new_file = std::fs::read(journal.join(&name)).unwrap();
    let unnamed = format!("{}.tmp", name.to_str().unwrap());
    // Half-written, then whole without its name, then named beside the old ones and the old sled.
    for (file, length, head) in [
        (unnamed.as_str(), new_file.len() / 2, old_head),
        (unnamed.as_str(), new_file.len(), old_head),
        (name.to_str().unwrap(), new_file.len(), new_head),
    ] {
        let crashed = tempfile::tempdir().unwrap();
        copy(old.path(), crashed.path());
        let path = crashed.path().join("journal").join(file);
        std::fs::write(path, &new_file[..length]).unwrap();
        let mut station = station_of(crashed.path(), 1 << 30);
        assert_eq!(station.buffer().head(), head, "{file} of {length}");
        assert_eq!(readings(&station), registers);
        let held = std::fs::read_dir(crashed.path().join("journal")).unwrap();
        let unfinished = held
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|end| end == "tmp"));
        assert!(!unfinished);
        assert!(
            !crashed.path().join("ended").exists() && !crashed.path().join("quarantine").exists()
        );
        meter(&mut station, 4 * 3_600 + 10..4 * 3_600 + 61, 3);
        let segments = verified(&station);
        assert_continuous(&segments);
        assert_eq!(
            sealed_usage(&segments, "host/other"),
            (4 * 3_600 + 60) * 500
        );
    }
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
