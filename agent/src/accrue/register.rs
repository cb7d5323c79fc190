//! One register: its source's baseline, what waits for an interval, and its run in the next draft.
//!
//! A raw value is first weighed (what is it worth in this step?), so that `host/other` can be
//! computed from the same figures, and then taken.

use tallystick_common::ids::{RegisterId, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::reading::{Cause, Interval, Quality, Reading};
use tallystick_common::segment::{Basis, CloseReason};
use tallystick_common::time::{Micros, QUARTER_HOUR_US, SECOND_US, Timestamp, share_until};

use super::step::{Levels, Step};
use crate::sample::{Identity, Raw};

/// Integrals accrue in byte-microseconds.
pub(super) const INTEGRAL_UNIT: u128 = SECOND_US as u128;

/// A register that is open, or closed since the last draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) id: RegisterId,
    pub(super) workload: WorkloadName,
    pub(super) meter: Meter,
    pub(super) identity: Identity,
    /// Counters: the highest raw value seen; only what exceeds it is billed.
    pub(super) mark: u128,
    /// Levels: the last one, where the last sample could read it.
    pub(super) level: Option<u128>,
    /// What waits for an interval (integrals: in byte-microseconds, with the carried remainder).
    pub(super) pending: u128,
    /// Measured time that waits for an interval.
    pub(super) waiting: Micros,
    /// Why the spread of what waits is not known.
    pub(super) doubt: Option<Cause>,
    /// The reading at `end`.
    pub(super) reading: Reading,
    /// Accounted for up to here.
    pub(super) end: Timestamp,
    /// Its source is gone, but what waits still needs time to pass.
    pub(super) closing: Option<CloseReason>,
    /// Closed at `end`; it leaves with the next draft.
    pub(super) closed: Option<CloseReason>,
    /// Set until the draft that opens it.
    pub(super) opened: Option<Basis>,
    /// Where its run in the next draft starts.
    pub(super) start: Timestamp,
    /// The reading there.
    pub(super) opening: Reading,
    /// Its intervals since then.
    pub(super) intervals: Vec<Interval>,
}

/// What a step is worth to a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// This much more (integrals: byte-microseconds; peaks: the level).
    Counted(u128),
    /// A counter could not be read; it will catch up.
    Held(Cause),
    /// A level could not be followed.
    Lost(Cause),
}

impl Register {
    pub(super) fn open(
        id: RegisterId,
        workload: WorkloadName,
        meter: Meter,
        identity: Identity,
        basis: Basis,
        start: Timestamp,
    ) -> Self {
        Self {
            id,
            workload,
            meter,
            identity,
            mark: 0,
            level: None,
            pending: 0,
            waiting: Micros(0),
            doubt: None,
            reading: Reading(0),
            end: start,
            closing: None,
            closed: None,
            opened: Some(basis),
            start,
            opening: Reading(0),
            intervals: Vec::new(),
        }
    }

    /// The next draft begins where this one ended.
    pub(super) fn begin_run(&mut self) {
        self.opened = None;
        self.start = self.end;
        self.opening = self.reading;
        self.intervals = Vec::new();
    }

    /// The first raw value of a register that opens at it.
    pub(super) fn baseline(&mut self, raw: &Raw) {
        match raw {
            Raw::Counter(value) => self.mark = *value,
            Raw::Level(value) => self.level = Some(*value),
            Raw::Unreadable(_) => {}
        }
    }

    /// Whether the source certainly began anew: a counter below half of its mark.
    pub(super) fn has_reset(&self, raw: &Raw) -> bool {
        self.meter.kind() == Kind::Counter
            && matches!(raw, Raw::Counter(value) if *value < self.mark.div_ceil(2))
    }

    /// Whether a counter stands below its mark: it bills nothing until it is past it.
    pub(super) fn has_slipped(&self, raw: &Raw) -> bool {
        self.meter.kind() == Kind::Counter
            && matches!(raw, Raw::Counter(value) if *value < self.mark)
    }

    /// What this raw value is worth. Moves the baseline.
    pub(super) fn weigh(&mut self, raw: &Raw, step: &Step) -> Worth {
        match (self.meter.kind(), raw) {
            (Kind::Counter, Raw::Counter(value)) => {
                let more = value.saturating_sub(self.mark);
                self.mark = self.mark.max(*value);
                Worth::Counted(more)
            }
            (Kind::Counter, _) => Worth::Held(Cause::SourceUnreadable),
            (kind, Raw::Level(value)) => {
                let before = self.level.replace(*value);
                self.weigh_level(kind, before, *value, step)
            }
            _ => {
                self.level = None;
                Worth::Lost(Cause::SourceUnreadable)
            }
        }
    }

    fn weigh_level(&self, kind: Kind, before: Option<u128>, now: u128, step: &Step) -> Worth {
        let held = match (step.levels, before) {
            (Levels::Unknown(cause), _) => return Worth::Lost(cause),
            (_, None) => return Worth::Lost(Cause::SourceUnreadable),
            (Levels::Held, Some(before)) => before,
            (Levels::Lower, Some(before)) => before.min(now),
        };
        match kind {
            Kind::Peak => Worth::Counted(held),
            _ => Worth::Counted(held.saturating_mul(u128::from(step.elapsed.0))),
        }
    }

    /// Takes what the step is worth, and makes an interval of what waits if agent time advanced.
    pub(super) fn take(&mut self, worth: Worth, step: &Step) {
        match worth {
            Worth::Counted(more) => {
                self.pending = match self.meter.kind() {
                    Kind::Peak => self.pending.max(more),
                    _ => self.pending.saturating_add(more),
                };
                self.wait(step, step.doubt);
                self.flush(step.measured_until(self.end));
                self.unmeasured(step.to, Cause::Suspended);
            }
            Worth::Held(cause) => self.wait(step, Some(cause)),
            Worth::Lost(cause) => {
                if self.waiting > Micros(0) {
                    self.doubt = self.doubt.or(Some(cause));
                    self.flush(step.to);
                }
                self.unmeasured(step.to, cause);
            }
        }
    }

    fn wait(&mut self, step: &Step, doubt: Option<Cause>) {
        self.waiting = Micros(self.waiting.0.saturating_add(step.elapsed.0));
        self.doubt = self.doubt.or(doubt);
    }

    /// Accounts for all time up to `at` before a draft: what still waits for its source is unmeasured.
    pub(super) fn settle(&mut self, at: Timestamp) {
        if self.has_pending() {
            self.flush(at);
        }
        // Measured time of a counter goes on waiting: the catch-up was counted in it.
        self.unmeasured(at, self.doubt.unwrap_or(Cause::SourceUnreadable));
    }

    /// Its source is gone: closes at its last reading, or when what waits has got its interval.
    pub(super) fn close(&mut self, reason: CloseReason, until: Timestamp) {
        self.closing = Some(reason);
        self.finish(until);
    }

    /// Closes it if its source is gone and nothing waits any more.
    pub(super) fn finish(&mut self, until: Timestamp) {
        let Some(reason) = self.closing else { return };
        if self.has_pending() {
            self.doubt = self.doubt.or(Some(Cause::ClockStep));
            self.flush(until);
        }
        if !self.has_pending() {
            self.closing = None;
            self.closed = Some(reason);
        }
    }

    fn has_pending(&self) -> bool {
        self.pending
            >= if self.meter.kind() == Kind::Integral {
                INTEGRAL_UNIT
            } else {
                1
            }
    }

    /// One interval of everything that waits, up to `to`; cut at quarter-hours if it is exact.
    pub(super) fn flush(&mut self, to: Timestamp) {
        if to <= self.end {
            return;
        }
        let quality = self
            .doubt
            .take()
            .map_or(Quality::Exact, Quality::Interpolated);
        let (from, waiting) = (self.end, std::mem::take(&mut self.waiting));
        let mut done = Part::default();
        while self.end < to {
            let cut = self
                .end
                .floor_to(QUARTER_HOUR_US)
                .saturating_add(Micros(QUARTER_HOUR_US));
            let end = if quality == Quality::Exact {
                cut.min(to)
            } else {
                to
            };
            let part = self.part_until(from, to, end, waiting);
            let quantity = match self.meter.kind() {
                Kind::Peak => self.pending,
                _ => part.quantity - done.quantity,
            };
            let measured = Micros(part.measured - done.measured);
            self.push(Interval {
                start: self.end,
                end,
                quantity,
                quality,
                measured,
            });
            done = part;
        }
        self.pending = match self.meter.kind() {
            Kind::Integral => self.pending % INTEGRAL_UNIT,
            _ => 0,
        };
    }

    /// What of the pending quantity and time falls into `[from, until)`, in whole units.
    fn part_until(
        &self,
        from: Timestamp,
        to: Timestamp,
        until: Timestamp,
        waiting: Micros,
    ) -> Part {
        let quantity = share_until(self.pending, from, to, until);
        let measured = share_until(u128::from(waiting.0), from, to, until);
        Part {
            quantity: match self.meter.kind() {
                Kind::Integral => quantity / INTEGRAL_UNIT,
                _ => quantity,
            },
            measured: u64::try_from(measured).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn unmeasured(&mut self, to: Timestamp, cause: Cause) {
        if to > self.end {
            let quality = Quality::Unmeasured(cause);
            self.push(Interval {
                start: self.end,
                end: to,
                quantity: 0,
                quality,
                measured: Micros(0),
            });
        }
    }

    fn push(&mut self, interval: Interval) {
        self.reading = self
            .reading
            .advance(self.meter.kind(), interval.quantity)
            .expect("the sum of differences of 128-bit values stays below 128 bits");
        self.end = interval.end;
        match self.intervals.last_mut() {
            Some(last) if can_merge(last, &interval) => {
                last.end = interval.end;
                last.measured = Micros(last.measured.0.saturating_add(interval.measured.0));
                last.quantity = match self.meter.kind() {
                    Kind::Peak => last.quantity.max(interval.quantity),
                    _ => last.quantity + interval.quantity,
                };
            }
            _ => self.intervals.push(interval),
        }
    }
}

/// A share of what waits.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    quantity: u128,
    measured: u64,
}

/// Exact neighbours within a quarter-hour, and unmeasured ones with the same cause. Interpolated
/// intervals stay as they are: merging would blur them further.
fn can_merge(last: &Interval, next: &Interval) -> bool {
    last.quality == next.quality
        && match next.quality {
            Quality::Exact => {
                last.start.floor_to(QUARTER_HOUR_US) == next.start.floor_to(QUARTER_HOUR_US)
            }
            Quality::Unmeasured(_) => true,
            Quality::Interpolated(_) => false,
        }
}
