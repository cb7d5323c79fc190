//! What has been counted: the events of the last day, and where each series stands.
//!
//! Pure and bounded. An event is known by its key for [`WINDOW`], or until more than the configured number
//! came after it. A series is forgotten after [`SERIES_IDLE`]; the *horizon* then moves, so that a series
//! seen before cannot come back as new.

use std::collections::{HashMap, VecDeque};

use bincode::{Decode, Encode};
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

use super::Key;
use super::series::{Point, Series, Unclear};

/// How long an event is known by its key.
pub(super) const WINDOW: Micros = Micros(24 * 3600 * SECOND_US);
/// How long a series of which nothing comes is remembered.
pub(super) const SERIES_IDLE: Micros = Micros(30 * 24 * 3600 * SECOND_US);

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) series: usize,
}

/// One thing that was counted, as it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) enum Entry {
    Event {
        key: Key,
        content: u64,
    },
    Series {
        key: Key,
        series: Series,
    },
    /// Since when every series is remembered.
    Horizon(Timestamp),
}

/// What is known of an event's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    New,
    Same,
    Different,
}

/// What must be undone when the disk does not take it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    Event(Key),
    Series(Key, Option<Series>),
}

/// Everything that is known to have been counted.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    events: HashMap<Key, u64>,
    order: VecDeque<(Timestamp, Key)>,
    series: HashMap<Key, Series>,
    horizon: Timestamp,
}

impl Ledger {
    /// Nothing was counted before `now`.
    pub(super) fn new(limits: Limits, now: Timestamp) -> Self {
        Self {
            limits,
            events: HashMap::new(),
            order: VecDeque::new(),
            series: HashMap::new(),
            horizon: now,
        }
    }

    /// Takes what was logged at `at`.
    pub(super) fn replay(&mut self, at: Timestamp, entry: Entry) {
        match entry {
            Entry::Event { key, content } => {
                self.add_event(key, content, at);
            }
            Entry::Series { key, series } => drop(self.series.insert(key, series)),
            Entry::Horizon(horizon) => self.horizon = horizon,
        }
    }

    /// A series that began before `instant` may have been seen before.
    pub(super) fn raise_horizon(&mut self, instant: Timestamp) {
        self.horizon = self.horizon.max(instant);
    }

    /// Forgets every series: how far each was counted is not certain any more. One that comes again counts from
    /// where it is then.
    pub(super) fn forget_series(&mut self, now: Timestamp) {
        self.series.clear();
        self.raise_horizon(now);
    }

    /// Forgets what is older than it is kept for.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((at, key)) = self.order.front().copied() {
            let full = self.order.len() > self.limits.events;
            if !full && at.saturating_add(WINDOW) > now {
                break;
            }
            self.order.pop_front();
            self.events.remove(&key);
        }
        let before = self.series.len();
        self.series
            .retain(|_, series| series.at.saturating_add(SERIES_IDLE) > now);
        if self.series.len() < before {
            self.raise_horizon(now);
        }
    }

    /// Whether this event was counted.
    pub(super) fn known(&self, key: &Key, content: u64) -> Known {
        match self.events.get(key) {
            None => Known::New,
            Some(known) if *known == content => Known::Same,
            Some(_) => Known::Different,
        }
    }

    /// Notes an event that was not known.
    pub(super) fn count_event(&mut self, key: Key, content: u64, now: Timestamp) -> (Entry, Undo) {
        self.add_event(key, content, now);
        (Entry::Event { key, content }, Undo::Event(key))
    }

    /// What of a series' point is new; `None` when there is no room for another series.
    pub(super) fn count_series(
        &mut self,
        key: Key,
        point: &Point,
        now: Timestamp,
    ) -> Result<Option<(u128, Entry, Undo)>, Unclear> {
        let before = self.series.get(&key).copied();
        let (series, more) = match before {
            Some(series) => series.advance(point, now)?,
            None if self.series.len() >= self.limits.series => return Ok(None),
            None => Series::open(point, self.horizon, now),
        };
        self.series.insert(key, series);
        let entry = Entry::Series { key, series };
        Ok(Some((more, entry, Undo::Series(key, before))))
    }

    /// Takes back what was noted last, latest first.
    pub(super) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Event(key) => {
                self.events.remove(&key);
                if self.order.back().is_some_and(|(_, last)| *last == key) {
                    self.order.pop_back();
                }
            }
            Undo::Series(key, Some(series)) => drop(self.series.insert(key, series)),
            Undo::Series(key, None) => drop(self.series.remove(&key)),
        }
    }

    /// All of it, as entries with the time they are to be logged under; events in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (Timestamp, Entry)> + '_ {
        let horizon = std::iter::once((self.horizon, Entry::Horizon(self.horizon)));
        let series = self.series.iter().map(|(key, series)| {
            let (key, series) = (*key, *series);
            (series.at, Entry::Series { key, series })
        });
        let events = self.order.iter().filter_map(|(at, key)| {
            let content = *self.events.get(key)?;
            Some((*at, Entry::Event { key: *key, content }))
        });
        horizon.chain(series).chain(events)
    }

    fn add_event(&mut self, key: Key, content: u64, at: Timestamp) {
        if self.events.insert(key, content).is_none() {
            self.order.push_back((at, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_seconds(1_795_348_800 + second).unwrap()
    }

    fn ledger(events: usize) -> Ledger {
        Ledger::new(Limits { events, series: 2 }, at(0))
    }

    #[test]
    fn an_event_is_known_for_a_day_and_no_longer() {
        let mut ledger = ledger(10);
        ledger.count_event([1; 16], 7, at(0));
        ledger.expire(at(24 * 3600 - 1));
        assert_eq!(ledger.known(&[1; 16], 7), Known::Same);
        assert_eq!(ledger.known(&[1; 16], 8), Known::Different);
        ledger.expire(at(24 * 3600));
        assert_eq!(ledger.known(&[1; 16], 7), Known::New);
    }

    #[test]
    fn of_too_many_the_oldest_are_forgotten_first() {
        let mut ledger = ledger(2);
        for event in 1..=3 {
            ledger.count_event([event; 16], 0, at(u64::from(event)));
        }
        ledger.expire(at(4));
        let known: Vec<_> = (1..=3).map(|key| ledger.known(&[key; 16], 0)).collect();
        assert_eq!(known, [Known::New, Known::Same, Known::Same]);
    }

    #[test]
    fn a_forgotten_series_does_not_come_back_as_new() {
        let mut ledger = ledger(2);
        let point = |time, value| Point {
            start: Some(at(1)),
            time: at(time),
            value,
        };
        let (more, _, _) = ledger
            .count_series([1; 16], &point(2, 50), at(2))
            .unwrap()
            .unwrap();
        assert_eq!(more, 50);
        let later = 2 + 30 * 24 * 3600;
        ledger.expire(at(later));
        let (more, _, _) = ledger
            .count_series([1; 16], &point(later, 60), at(later))
            .unwrap()
            .unwrap();
        assert_eq!(more, 0, "50 of it were billed already");
    }

    #[test]
    fn what_is_undone_was_never_counted_and_series_are_bounded() {
        let mut ledger = ledger(2);
        let point = Point {
            start: Some(at(1)),
            time: at(2),
            value: 5,
        };
        let before: Vec<_> = ledger.entries().collect();
        let (_, _, undo) = ledger
            .count_series([1; 16], &point, at(2))
            .unwrap()
            .unwrap();
        ledger.undo(undo);
        let (_, undo) = ledger.count_event([9; 16], 1, at(2));
        ledger.undo(undo);
        assert_eq!(ledger.entries().collect::<Vec<_>>(), before);
        for series in 0..3 {
            let room = ledger.count_series([series; 16], &point, at(2)).unwrap();
            assert_eq!(room.is_some(), series < 2);
        }
    }
}
