//! Stories of metering without a clock, with a real journal and a real sled.

use std::path::Path;

use tallystick_common::chain::{Link, StreamState};
use tallystick_common::ids::{BootId, Hash, Seq, WorkloadName};
use tallystick_common::keys::KeyRing;
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Interval, Quality};
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::segment::{CloseReason, Previous, Purpose};
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
        begins: Timestamp::EPOCH,
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
fn the_last_segment_closes_every_register_and_stays_apart_when_thinned() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..601, 2);
    assert_eq!(
        station.seal_last([1; 32]).unwrap(),
        None,
        "no time has passed since the last"
    );
    station.observe(&sample(607, 2));
    let head = station.seal_last([1; 32]).unwrap().unwrap();
    let whole = sealed_usage(&verified(&station), "cgroup/unit-1.service");
    assert_eq!(whole, 607 * 2_000);
    assert_eq!(station.accrual().registers().count(), 0);

    let key = Signer::new(NODE, key());
    thinning::thin(&mut station.buffer().lock(), &key, Grain::Day, [2; 32]).unwrap();
    let segments = verified(&station);
    assert!(segments.len() < 10, "{}", segments.len());
    assert_eq!(sealed_usage(&segments, "cgroup/unit-1.service"), whole);
    let (last, before) = segments.split_last().unwrap();
    assert_eq!(last.header().purpose, Purpose::Final);
    assert_eq!(last.header().covered_through, head.covered_through);
    let runs = last.blocks().iter().flat_map(|block| block.runs());
    assert!(runs.clone().count() > 3);
    assert!(
        runs.clone()
            .all(|run| run.closed == Some(CloseReason::StreamEnd))
    );
    assert!(
        before
            .iter()
            .all(|segment| segment.header().purpose == Purpose::Readings)
    );
}

/// That sample by a wall clock which is off by so many seconds.
fn shown(second: u64, off: i64) -> Sample {
    let wall = (BEGIN_S + second).checked_add_signed(off).unwrap();
    let mut sample = sample(second, 1);
    sample.moment.wall = Timestamp::from_seconds(wall).unwrap();
    sample
}

#[test]
fn a_clock_that_steps_a_day_back_and_forth_bills_everything_once() {
    const DAY: i64 = 86_400;
    for steps in [[0, DAY, 0], [0, -DAY, 0], [0, DAY, 2 * DAY], [DAY, 0, -DAY]] {
        let folder = tempfile::tempdir().unwrap();
        let mut metered = station(folder.path(), 1);
        for second in (0..=1_800).step_by(10) {
            let off = steps[usize::try_from(second / 601).unwrap()];
            metered.observe(&shown(second, off));
            if second % 60 == 0 {
                metered.seal([4; 32]).unwrap();
            }
            // The agent may be restarted while the clock is wrong.
            if second == 900 {
                drop(metered);
                metered = station(folder.path(), 2);
            }
        }
        // At last the clock has passed everything that was accounted for.
        metered.observe(&shown(1_810, 4 * DAY));
        metered.seal([4; 32]).unwrap();
        let segments = verified(&metered);
        assert_continuous(&segments);
        let usage = ["host", "cgroup/unit-0.service", "host/other"];
        let sealed = usage.map(|workload| sealed_usage(&segments, workload));
        // Since the last seal before the restart nothing of registers is in the journal; the kernel's own
        // counters have it.
        assert_eq!(
            sealed,
            [1_810 * 1_500, 1_810 * 1_000, 1_810 * 500],
            "{steps:?}"
        );
    }
}

#[test]
fn a_boot_in_1970_seals_nothing_until_the_clock_is_right_and_bills_what_was_used_meanwhile() {
    let booted = |second: u64, wall: u64| {
        let mut sample = sample(second, 1);
        sample.boot = BootId([9; 16]);
        sample.moment.wall = Timestamp::from_seconds(wall).unwrap();
        for source in &mut sample.sources {
            source.identity.boot = sample.boot;
        }
        sample
    };
    let folder = tempfile::tempdir().unwrap();
    let mut metered = station(folder.path(), 1);
    meter(&mut metered, 0..601, 1);
    let before = metered.buffer().lock().head();
    for second in (5..=305).step_by(10) {
        metered.observe(&booted(second, second));
        assert_eq!(metered.seal([4; 32]).unwrap().map(|head| head.next), None);
    }
    metered.observe(&booted(315, BEGIN_S + 4_000));
    let head = metered.seal([4; 32]).unwrap().unwrap();
    assert_eq!(head.next, before.next.next());
    let segments = verified(&metered);
    assert_continuous(&segments);
    // What the first five seconds of that boot used is not known to be ours.
    let usage = sealed_usage(&segments, "cgroup/unit-0.service");
    assert_eq!(usage, (600 + 310) * 1_000);
    let last = segments.last().unwrap();
    let spread = last.blocks().iter().flat_map(|block| {
        let runs = block.runs().iter();
        runs.flat_map(|run| block.intervals(run))
    });
    assert!(
        spread
            .filter(|interval| interval.quantity > 0)
            .all(|interval| interval.quality == Quality::Interpolated(Cause::ClockStep))
    );
}

/// Quantity sealed of a workload in intervals of which `holds` is true.
fn sealed_where(
    segments: &[VerifiedSegment],
    workload: &str,
    holds: impl Fn(&Interval) -> bool,
) -> u128 {
    let blocks = segments.iter().flat_map(VerifiedSegment::blocks);
    blocks
        .filter(|block| block.workload.as_str() == workload)
        .flat_map(|block| block.runs().iter().flat_map(|run| block.intervals(run)))
        .filter(holds)
        .map(|interval| interval.quantity)
        .sum()
}

#[test]
fn a_night_asleep_is_no_measured_time_and_what_was_counted_is_billed_once() {
    const NIGHT: u64 = 8 * 3_600;
    let unit = "cgroup/unit-0.service";
    let folder = tempfile::tempdir().unwrap();
    let mut metered = station(folder.path(), 1);
    meter(&mut metered, 0..601, 1);
    // Awake for the first of these ten seconds and the last.
    let mut woken = sample(602, 1);
    woken.moment.wall = Timestamp::from_seconds(BEGIN_S + 602 + NIGHT).unwrap();
    woken.moment.boottime = Micros::from_seconds(602 + NIGHT);
    metered.observe(&woken);
    metered.seal([4; 32]).unwrap();
    drop(metered);
    let mut metered = station(folder.path(), 2);
    let mut later = sample(612, 1);
    later.moment.wall = Timestamp::from_seconds(BEGIN_S + 612 + NIGHT).unwrap();
    later.moment.boottime = Micros::from_seconds(612 + NIGHT);
    metered.observe(&later);
    metered.seal([4; 32]).unwrap();
    let segments = verified(&metered);
    assert_continuous(&segments);
    assert_eq!(sealed_usage(&segments, unit), 612 * 1_000);
    let asleep = |interval: &Interval| {
        let over = interval.end.since(interval.start).0;
        let spread = interval.quality == Quality::Exact || interval.measured.0 > 20_000_000;
        interval.quantity > 0 && spread && over > 3_600_000_000
    };
    assert_eq!(sealed_where(&segments, unit, asleep), 0);
}

#[test]
fn counters_that_slip_back_a_little_bill_nothing_until_they_are_past_their_mark() {
    let unit = "cgroup/unit-0.service";
    let folder = tempfile::tempdir().unwrap();
    let mut metered = station(folder.path(), 1);
    meter(&mut metered, 0..601, 1);
    // Stands at 600,000; what follows is what its kernel shows of it.
    for (step, raw) in [598_000, 599_999, 600_500, 600_100, 600_400, 603_000]
        .into_iter()
        .enumerate()
    {
        let second = 610 + 10 * u64::try_from(step).unwrap();
        let mut slipped = sample(second, 1);
        let of_unit = |source: &&mut SourceReading| source.workload.as_str() == unit;
        let source = slipped.sources.iter_mut().find(of_unit).unwrap();
        source.raw = Raw::Counter(raw);
        metered.observe(&slipped);
        metered.seal([4; 32]).unwrap();
        // The mark outlives the process.
        drop(metered);
        metered = station(folder.path(), 2);
    }
    let segments = verified(&metered);
    assert_continuous(&segments);
    assert_eq!(sealed_usage(&segments, unit), 603_000, "its highest, once");
}

#[test]
fn a_reboot_closes_registers_and_units_that_start_again_count_from_nothing() {
    let unit = "cgroup/unit-0.service";
    let folder = tempfile::tempdir().unwrap();
    let mut metered = station(folder.path(), 1);
    meter(&mut metered, 0..601, 1);
    drop(metered);
    let mut metered = station(folder.path(), 2);
    // The node came up at second 700; the units run again, under the ids they had.
    for second in [720, 780, 840] {
        let mut again = sample(second - 700, 1);
        again.boot = BootId([9; 16]);
        again.moment.wall = Timestamp::from_seconds(BEGIN_S + second).unwrap();
        for source in &mut again.sources {
            source.identity.boot = again.boot;
        }
        metered.observe(&again);
        metered.seal([4; 32]).unwrap();
    }
    let segments = verified(&metered);
    assert_continuous(&segments);
    assert_eq!(sealed_usage(&segments, unit), (600 + 140) * 1_000);
    let closed = segments.iter().flat_map(|segment| segment.blocks());
    let reasons: Vec<CloseReason> = closed
        .flat_map(|block| block.runs().iter().filter_map(|run| run.closed))
        .collect();
    assert_eq!(
        reasons,
        [CloseReason::Reboot; 3],
        "host, host/other and the unit"
    );
    let gaps: Vec<(Cause, u64)> = segments
        .iter()
        .flat_map(|segment| &segment.header().gaps)
        .map(|gap| (gap.cause, gap.to.since(gap.from).0 / 1_000_000))
        .collect();
    assert_eq!(gaps, [(Cause::NodeDown, 100)]);
}

#[test]
fn time_before_the_node_was_enrolled_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (buffer, _) =
        Buffer::open(folder.path(), BufferSettings::default(), StreamId([1; 16])).unwrap();
    let begins = Timestamp::from_seconds(BEGIN_S).unwrap();
    let settings = Settings {
        begins,
        ..settings()
    };
    let mut station = Station::new(NODE, key(), settings, Handle::new(buffer), None).unwrap();
    let years = -i64::try_from(BEGIN_S).unwrap();
    for second in [0, 10, 20] {
        station.observe(&shown(second, years));
        assert_eq!(station.seal([4; 32]).unwrap(), None);
    }
    station.observe(&shown(30, 0));
    station.seal([4; 32]).unwrap().unwrap();
    let segments = verified(&station);
    assert_eq!(segments[0].header().from, begins);
    assert_eq!(sealed_usage(&segments, "cgroup/unit-0.service"), 30 * 1_000);
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
