//! How a node's time is accounted for: measured, known in sum, named as not measured, not counted, or
//! not spoken of at all.
//!
//! Pure: the host's control reading, the gaps that segments name and the time of quarantined segments
//! are passed in. `read` brings them from the store for a node, a workload or an account; `reason` says
//! why time is not exact, and which segments say so.

use tallystick_common::period::Period;
use tallystick_common::time::Micros;

use super::Coverage;
use crate::billing::usage::UsageRow;

mod read;
mod reason;

pub use read::{Ask, CoverageRow, report};
pub use reason::{Class, Reason, SegmentLink};

/// The classes of a span of `length`, which is what all of them add up to unless more was sealed than
/// the span is long. `gaps` and `doubted` lie in the span; named time is not missing, and time that two
/// name is counted once.
#[must_use]
pub fn of(
    control: Option<&UsageRow>,
    gaps: Vec<Period>,
    doubted: Vec<Period>,
    length: Micros,
) -> Coverage {
    let (exact, interpolated, unmeasured) = control.map_or((0, 0, 0), |row| {
        (row.exact.0, row.interpolated.0, row.unmeasured.0)
    });
    let measured = exact
        .saturating_add(interpolated)
        .saturating_add(unmeasured);
    let mut rest = length.0.saturating_sub(measured);
    let mut take = |wanted: u64| {
        let taken = wanted.min(rest);
        rest -= taken;
        taken
    };
    let named = take(union(gaps));
    let quarantined = take(union(doubted));
    Coverage {
        exact: Micros(exact),
        interpolated: Micros(interpolated),
        unmeasured: Micros(unmeasured.saturating_add(named)),
        quarantined: Micros(quarantined),
        missing: Micros(rest),
    }
}

/// The control reading that accounts for most of a node's time. Each meter of `host` has one register
/// at a time, so the time of its intervals is the node's own; not every host has every meter.
pub fn control<'a>(rows: impl Iterator<Item = &'a UsageRow>) -> Option<&'a UsageRow> {
    longest(rows.filter(|row| row.workload.is_host()))
}

/// Of rows of one workload, that of the meter which accounts for most of its time.
pub fn longest<'a>(rows: impl Iterator<Item = &'a UsageRow>) -> Option<&'a UsageRow> {
    let known = |row: &UsageRow| {
        let measured = row.exact.0.saturating_add(row.interpolated.0);
        measured.saturating_add(row.unmeasured.0)
    };
    rows.max_by_key(|row| (known(row), row.exact.0, std::cmp::Reverse(row.meter)))
}

/// How long these spans are together.
fn union(mut spans: Vec<Period>) -> u64 {
    spans.sort_unstable_by_key(|span| span.from);
    let mut through = None;
    spans.iter().fold(0, |sum, span| {
        let from = through.map_or(span.from, |through| span.from.max(through));
        through = through.max(Some(span.to));
        sum + span.to.since(from).0
    })
}

#[cfg(test)]
mod tests;
