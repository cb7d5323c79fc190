//! What lies between two samples: agent time, measured time, and what makes either doubtful.

use bincode::{Decode, Encode};
use tallystick_common::ids::BootId;
use tallystick_common::reading::{Cause, Gap};
use tallystick_common::time::{Micros, Timestamp};

use crate::sample::Sample;

/// A step of more sample periods than this is not exact.
const EXACT_PERIODS: u64 = 2;
/// Beyond this many, a level cannot be said to have been held.
const HELD_PERIODS: u64 = 10;
/// The wall clock may differ from elapsed time by this much in a step (and a thousandth of the
/// step) before it counts as stepped; slewing changes it by at most half of that thousandth.
const STEP_TOLERANCE_US: u64 = 200_000;
/// Suspended time below this is the difference between reading two clocks.
const SUSPEND_TOLERANCE_US: u64 = 50_000;

/// The clocks at the last sample.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Clock {
    pub(super) boot: BootId,
    /// Agent time.
    pub(super) at: Timestamp,
    pub(super) monotonic: Micros,
    pub(super) boottime: Micros,
}

/// The step from the last sample to this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// Agent time where it begins: the last sample, or the boot in between.
    pub(super) from: Timestamp,
    /// Agent time of this sample; equal to `from` while the wall clock is behind.
    pub(super) to: Timestamp,
    /// Time that went by on the monotonic clock.
    pub(super) elapsed: Micros,
    /// Time of it in which the node was suspended; it lies at the end of the step.
    pub(super) suspended: Micros,
    /// Why the spread over `[from, to)` is not known.
    pub(super) doubt: Option<Cause>,
    /// What may be said about levels in between.
    pub(super) levels: Levels,
    /// The node began to run in this step: every source was born in it.
    pub(super) booted: bool,
    /// Time before `from` in which nothing was metered.
    pub(super) gap: Option<Gap>,
}

/// What a level did between two samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Levels {
    /// It counts as held from the earlier sample on.
    Held,
    /// Too long to hold it; the lower of both ends is certain enough.
    Lower,
    /// Nothing is known.
    Unknown(Cause),
}

impl Step {
    /// To the very first sample: no time, nothing before it.
    pub(super) fn first(at: Timestamp) -> Self {
        Self {
            from: at,
            to: at,
            elapsed: Micros(0),
            suspended: Micros(0),
            doubt: None,
            levels: Levels::Held,
            booted: false,
            gap: None,
        }
    }

    /// Over time in which no register was open.
    pub(super) fn gap(clock: &Clock, sample: &Sample, cause: Cause) -> Self {
        let to = sample.moment.wall.max(clock.at);
        Self {
            gap: gap(clock.at, to, cause),
            ..Self::first(to)
        }
    }

    /// Over time in which the agent did not run but the node did.
    pub(super) fn restarted(clock: &Clock, sample: &Sample) -> Self {
        Self {
            from: clock.at,
            to: sample.moment.wall.max(clock.at),
            elapsed: since(sample.moment.monotonic, clock.monotonic),
            suspended: Micros(0),
            doubt: Some(Cause::AgentDown),
            levels: Levels::Unknown(Cause::AgentDown),
            booted: false,
            gap: None,
        }
    }

    /// Over a boot. Sources were born in the step only if the boot is certainly later than the last
    /// sample; a wall clock that says otherwise leaves it unproved.
    pub(super) fn rebooted(clock: &Clock, sample: &Sample) -> Self {
        let to = sample.moment.wall.max(clock.at);
        let booted = sample.booted_at() >= clock.at;
        let from = if booted {
            sample.booted_at().min(to)
        } else {
            to
        };
        Self {
            from,
            to,
            elapsed: sample.moment.monotonic,
            suspended: Micros(0),
            doubt: Some(Cause::AgentDown),
            levels: Levels::Unknown(Cause::NodeDown),
            booted,
            gap: gap(clock.at, from, Cause::NodeDown),
        }
    }

    /// Between two samples of one process.
    pub(super) fn running(clock: &Clock, sample: &Sample, period: Micros) -> Self {
        let to = sample.moment.wall.max(clock.at);
        let elapsed = since(sample.moment.monotonic, clock.monotonic);
        let passed = since(sample.moment.boottime, clock.boottime);
        let suspended = Some(since(passed, elapsed)).filter(|time| time.0 > SUSPEND_TOLERANCE_US);
        let stepped =
            to.since(clock.at).0.abs_diff(passed.0) > STEP_TOLERANCE_US + passed.0 / 1_000;
        let starved = elapsed.0 > period.0.saturating_mul(EXACT_PERIODS);
        let lost = elapsed.0 > period.0.saturating_mul(HELD_PERIODS);
        let doubt = match (suspended, stepped, starved) {
            (_, true, _) => Some(Cause::ClockStep),
            (Some(_), ..) => Some(Cause::Suspended),
            (None, false, true) => Some(Cause::AgentDown),
            (None, false, false) => None,
        };
        let levels = match (lost, starved) {
            (true, _) => Levels::Unknown(Cause::AgentDown),
            (false, true) => Levels::Lower,
            (false, false) => Levels::Held,
        };
        Self {
            from: clock.at,
            to,
            elapsed,
            suspended: suspended.unwrap_or_default(),
            doubt,
            levels,
            booted: false,
            gap: None,
        }
    }

    /// The part of it up to a reading that was taken so long after its beginning.
    pub(super) fn cut_after(&self, since: Micros) -> Self {
        let elapsed = since.min(self.elapsed);
        Self {
            to: self.from.saturating_add(elapsed).min(self.to),
            elapsed,
            suspended: Micros(0),
            gap: None,
            ..self.clone()
        }
    }

    /// The instant of its end, as where something ends that is closed in it.
    pub(super) fn ended(&self) -> Self {
        Self {
            from: self.to,
            ..self.clone()
        }
    }

    /// Where the time in which something was measured ends, given it begins at `start`: before the
    /// suspension, where there is room for that.
    pub(super) fn measured_until(&self, start: Timestamp) -> Timestamp {
        let awake = self.to.saturating_sub(self.suspended);
        if awake > start { awake } else { self.to }
    }
}

fn gap(from: Timestamp, to: Timestamp, cause: Cause) -> Option<Gap> {
    (from < to).then_some(Gap { from, to, cause })
}

fn since(later: Micros, earlier: Micros) -> Micros {
    Micros(later.0.saturating_sub(earlier.0))
}
