//! What has to hold after all cuts: what was sealed in each life, beside what the machine had said.

use serde_json::Value;
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap, Interval};
use tallystick_common::seal::VerifiedSegment;
use tallystick_tests::halves::text;

use crate::life::{Life, Seen};
use crate::{CUTS, GROUP};

const PROCESSORS: u64 = 2;
/// Between reading a counter and noting the time, on either side.
const SLACK_US: u64 = 150_000;
/// What a cut may cost of integrals: one sealing interval of a second, and as long as the next one's seal is
/// under way, on a slow disk and in a machine that may have to wait for its turn.
const LOST_MAX_US: u64 = 3_000_000;

/// What was sealed in one life of the machine.
pub(crate) struct Sealed<'a> {
    pub(crate) segments: Vec<&'a VerifiedSegment>,
}

impl Sealed<'_> {
    fn through(&self) -> u64 {
        let last = self.segments.last().unwrap();
        last.header().covered_through.as_micros()
    }

    fn first(&self) -> u64 {
        self.segments[0].header().seq.0
    }

    fn next(&self) -> u64 {
        self.first() + self.segments.len() as u64
    }

    /// The CPU time of the group that was billed from it.
    pub(crate) fn billed(&self) -> u128 {
        let intervals = intervals(&self.segments, &format!("cgroup/{GROUP}"), Meter::CPU_TIME);
        intervals.iter().map(|interval| interval.quantity).sum()
    }
}

fn intervals(segments: &[&VerifiedSegment], workload: &str, meter: Meter) -> Vec<Interval> {
    let mut found = Vec::new();
    for block in segments.iter().flat_map(|segment| segment.blocks()) {
        if block.workload.as_str() == workload {
            for run in block.runs().iter().filter(|run| run.meter == meter) {
                found.extend(block.intervals(run));
            }
        }
    }
    found
}

/// The kernel's counter at `at` was between these, by what was printed before and after.
fn bracket(seen: &[Seen], at: u64) -> (u128, u128) {
    let before = seen.iter().rev().find(|seen| seen.at + SLACK_US <= at);
    let mut pairs = seen.windows(2);
    let later = pairs.find(|pair| pair[0].at >= at + SLACK_US);
    let last = seen.last().unwrap();
    // Printed nothing any more: then as much as its processors can at most.
    let at_most = last.used + u128::from((at + SLACK_US).saturating_sub(last.at) * PROCESSORS);
    (
        before.map_or(0, |seen| seen.used),
        later.map_or(at_most, |pair| pair[1].used),
    )
}

/// The segments of each life, by the boot in their headers.
pub(crate) fn by_life<'a>(lives: &[Life], segments: &'a [VerifiedSegment]) -> Vec<Sealed<'a>> {
    let sealed = |life: &Life| Sealed {
        segments: segments
            .iter()
            .filter(|segment| segment.header().boot.to_string() == life.boot)
            .collect(),
    };
    let found: Vec<Sealed<'_>> = lives.iter().map(sealed).collect();
    let all: usize = found.iter().map(|sealed| sealed.segments.len()).sum();
    assert_eq!(all, segments.len(), "each segment is of one boot");
    found
}

/// What the agent had said to be sealed before the cut is there, as that life sealed it.
pub(crate) fn nothing_sealed_was_lost(lives: &[Life], sealed: &[Sealed<'_>]) {
    let mut next = 0;
    for (life, sealed) in lives.iter().zip(sealed) {
        assert_eq!(sealed.first(), next, "{life:?}");
        next = sealed.next();
        let said = life.seen.last().unwrap().sealed;
        assert!(
            said <= next,
            "I2: {said} were sealed, {next} are left; {}",
            life.how
        );
    }
}

/// At the end of each life's last segment the kernel had counted what was billed of that life.
pub(crate) fn the_kernel_bears_it_out(lives: &[Life], sealed: &[Sealed<'_>]) {
    for (life, sealed) in lives.iter().zip(sealed) {
        let (low, high) = bracket(&life.seen, sealed.through());
        let billed = sealed.billed();
        assert!(
            billed <= high,
            "I7: billed {billed} of at most {high}; {}",
            life.how
        );
        assert!(
            billed >= low,
            "billed {billed} of at least {low}; {}",
            life.how
        );
    }
}

/// A machine's clock starts at a whole second of this host's, and may be slow while the host is busy.
const CLOCK_US: u64 = 2_000_000;

/// From the last sealed instant to the first sample of the next boot nothing is claimed to be measured: it is
/// a gap, and there is no other.
pub(crate) fn what_was_lost_is_shown(lives: &[Life], sealed: &[Sealed<'_>]) -> Vec<Gap> {
    println!("\n no.  reconciler  segments  lost ms  how");
    for (number, (life, now)) in lives.iter().zip(sealed).enumerate().take(CUTS) {
        let lost = life.cut_at.saturating_sub(now.through());
        println!(
            "{:>4}  {:10}  {:>8}  {:>7}  {}",
            number + 1,
            if life.away { "away" } else { "there" },
            now.segments.len(),
            lost / 1000,
            life.how
        );
        assert!(
            lost <= LOST_MAX_US,
            "{lost} µs of integrals are lost; {}",
            life.how
        );
        let next = &sealed[number + 1].segments;
        let [gap] = next[0].header().gaps.as_slice() else {
            panic!("one gap for one cut: {:?}", next[0].header())
        };
        assert_eq!(
            gap.from.as_micros(),
            now.through(),
            "from what is sealed on"
        );
        assert!(
            gap.to.as_micros() + CLOCK_US > life.cut_at,
            "until after the cut: {gap:?}"
        );
        assert_eq!(gap.cause, Cause::NodeDown);
    }
    let headers = sealed.iter().flat_map(|sealed| &sealed.segments);
    let gaps: Vec<Gap> = headers
        .flat_map(|segment| segment.header().gaps.clone())
        .collect();
    assert_eq!(gaps.len(), CUTS, "one for each cut");
    gaps
}

/// The reconciler shows them, as far as they are of today.
pub(crate) fn the_first_page_names(gaps: &[Gap], overview: &Value) {
    let today = text(overview, "today").parse().unwrap();
    let named = overview["nodes"][0]["gaps"].as_array().unwrap();
    for gap in gaps.iter().filter(|gap| gap.from >= today) {
        let from = gap.from.to_string();
        let found = named.iter().find(|named| text(named, "from") == from);
        let found = found.unwrap_or_else(|| panic!("{gap:?} is not in {named:?}"));
        assert_eq!(text(found, "to"), gap.to.to_string());
        assert_eq!(text(found, "cause"), "node_down");
    }
}
