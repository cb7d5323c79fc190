//! One cumulative count of somebody else's: what of it is new.
//!
//! Pure. The rules are those of kernel counters ([`crate::accrue`]): only what exceeds the highest value
//! seen is billed; a value below half of it, in the same life, is a counter that began anew, and counts from
//! where it is now. A life begins at its start time. Whatever is unclear is billed low.

use bincode::{Decode, Encode};
use tallystick_common::time::Timestamp;

use crate::accrue::application::REPORT_MAX;

/// A cumulative count, as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Since when it counts, where that is known.
    pub start: Option<Timestamp>,
    /// When it stood so.
    pub time: Timestamp,
    /// Where it stood.
    pub value: u128,
}

/// What is remembered of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Series {
    start: Option<Timestamp>,
    seen: Timestamp,
    mark: u128,
    /// When something last came of it, by the agent's clock.
    pub(super) at: Timestamp,
}

/// The point is of another life of the series, but it is not clear that it began after this one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its start time lies before the last point of another process with the same resource and attributes: give each a service.instance.id"
)]
pub(super) struct Unclear;

impl Series {
    /// The first sight of a series, and what of it counts: all of it if it certainly began after `horizon`,
    /// since when every series is remembered; else nothing of what was counted before it was seen.
    pub(super) fn open(point: &Point, horizon: Timestamp, now: Timestamp) -> (Self, u128) {
        let born = began(point, horizon);
        let series = Self {
            start: point.start,
            seen: point.time,
            mark: if born { 0 } else { point.value },
            at: now,
        };
        series.count(point)
    }

    /// What of the point is new.
    pub(super) fn advance(
        mut self,
        point: &Point,
        now: Timestamp,
    ) -> Result<(Self, u128), Unclear> {
        self.at = now;
        match (self.start, point.start) {
            (Some(was), Some(is)) if is != was => {
                if is < self.seen || !began(point, was) {
                    return Err(Unclear);
                }
                (self.start, self.mark) = (point.start, 0);
            }
            _ if point.time < self.seen => return Ok((self, 0)),
            _ if point.value < self.mark.div_ceil(2) => self.mark = point.value,
            _ => {}
        }
        self.start = self.start.or(point.start);
        Ok(self.count(point))
    }

    /// Raises the mark, by no more than can be reported at once: the rest follows with the next point.
    fn count(mut self, point: &Point) -> (Self, u128) {
        let more = point.value.saturating_sub(self.mark).min(REPORT_MAX / 2);
        self.mark = self.mark.saturating_add(more);
        self.seen = self.seen.max(point.time);
        (self, more)
    }
}

/// Whether the point's life began after `instant`.
fn began(point: &Point, instant: Timestamp) -> bool {
    point
        .start
        .is_some_and(|start| start > instant && start <= point.time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_seconds(1_795_348_800 + second).unwrap()
    }

    fn point(start: Option<u64>, time: u64, value: u128) -> Point {
        Point {
            start: start.map(at),
            time: at(time),
            value,
        }
    }

    #[test]
    fn what_was_counted_before_the_intake_was_there_is_not_billed() {
        assert_eq!(Series::open(&point(Some(5), 20, 100), at(10), at(20)).1, 0);
        assert_eq!(Series::open(&point(None, 20, 100), at(10), at(20)).1, 0);
        let ours = Series::open(&point(Some(11), 20, 100), at(10), at(20));
        assert_eq!(ours.1, 100);
        let future = Series::open(&point(Some(30), 20, 100), at(10), at(20));
        assert_eq!(future.1, 0, "it cannot have begun after it was read");
    }

    #[test]
    fn a_count_that_falls_bills_nothing_and_one_that_begins_anew_from_there() {
        let (series, _) = Series::open(&point(None, 1, 100), at(0), at(1));
        let (series, more) = series.advance(&point(None, 2, 90), at(2)).unwrap();
        assert_eq!(more, 0);
        let (series, more) = series.advance(&point(None, 3, 103), at(3)).unwrap();
        assert_eq!(more, 3, "only what exceeds the highest");
        let (series, more) = series.advance(&point(None, 4, 40), at(4)).unwrap();
        assert_eq!(more, 0, "it began anew: what it had by then is not known");
        let (_, more) = series.advance(&point(None, 5, 45), at(5)).unwrap();
        assert_eq!(more, 5);
    }

    #[test]
    fn a_new_life_counts_from_zero_only_after_the_old_one() {
        let (series, more) = Series::open(&point(Some(1), 10, 100), at(0), at(10));
        assert_eq!(more, 100);
        let overlapping = point(Some(9), 20, 7);
        assert_eq!(series.advance(&overlapping, at(20)), Err(Unclear));
        let older = point(Some(0), 20, 700);
        assert_eq!(series.advance(&older, at(20)), Err(Unclear));
        let (series, more) = series.advance(&point(Some(12), 20, 7), at(20)).unwrap();
        assert_eq!(more, 7);
        let late = point(Some(12), 15, 1);
        assert_eq!(series.advance(&late, at(21)).unwrap().1, 0);
    }

    #[test]
    fn what_is_too_much_at_once_comes_in_parts() {
        let start = point(Some(1), 2, REPORT_MAX * 2);
        let (mut series, mut billed) = Series::open(&start, at(0), at(2));
        for second in 3..10 {
            let (next, more) = series
                .advance(&point(Some(1), second, REPORT_MAX * 2), at(second))
                .unwrap();
            assert!(more <= REPORT_MAX / 2);
            (series, billed) = (next, billed + more);
        }
        assert_eq!(billed, REPORT_MAX * 2);
    }

    proptest! {
        /// Two processes under one name, points lost, repeated and out of order: never more than both counted.
        #[test]
        fn no_order_of_points_inflates(
            steps in proptest::collection::vec((any::<bool>(), 0u128..1_000, 0u64..4), 1..60),
        ) {
            let mut values = [0u128; 2];
            let mut series: Option<Series> = None;
            let mut billed = 0;
            for (time, (second, more, back)) in (10u64..).zip(steps) {
                let process = usize::from(second);
                values[process] += more;
                let told = point(Some(1 + 5 * process as u64), time.saturating_sub(back).max(7), values[process]);
                let taken = match series {
                    None => Ok(Series::open(&told, at(0), at(time))),
                    Some(series) => series.advance(&told, at(time)),
                };
                if let Ok((next, more)) = taken {
                    series = Some(next);
                    billed += more;
                }
            }
            prop_assert!(billed <= values[0] + values[1]);
        }
    }
}
