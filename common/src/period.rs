//! Billing periods: months by anchor day in the account's time zone.
//!
//! Owns which instants a period covers. Zones come from the tz database in this program, never from
//! the system's, so that every machine computes the same bounds (I9). Bounds:
//!
//! - month *m* begins at midnight, local time, of the anchor day, or of the month's last day where
//!   it is shorter; always counted from the anchor itself (31 → 28 → 31 → 30);
//! - a midnight that the clocks skip: the first instant after it (the later side of the gap);
//!   a midnight that comes twice: the first one (the earlier offset);
//! - half-open: an instant on a bound belongs to the period that begins there;
//! - on the quarter-hour grid of rating; a zone whose historic offset is not is refused.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// Why there is no such period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeriodError {
    /// Not in the tz database.
    #[error("{0:?} is not a time zone: give its IANA name, for example Europe/Berlin or UTC")]
    UnknownZone(String),
    /// Outside 1 to 31.
    #[error("{0} is not an anchor day: give a day of the month, 1 to 31")]
    AnchorDay(u8),
    /// Not `YYYY-MM`.
    #[error("{0:?} is not a billing month: write it as 2026-11")]
    Month(String),
    /// Before 1970 or after 9999.
    #[error("the period of {0} does not lie between the years 1970 and 9999")]
    OutOfRange(Month),
    /// An instant near the ends of time.
    #[error("no period holds {0}: it is too close to the year 1970 or 9999")]
    NoPeriod(Timestamp),
    /// A historic offset.
    #[error(
        "the period of {month} would begin at {at} in {zone}, which is not on a quarter-hour: take another zone for dates this old"
    )]
    NotQuarterHour {
        /// The month.
        month: Month,
        /// Its zone.
        zone: String,
        /// Its first instant.
        at: Timestamp,
    },
}

/// A time zone of the tz database in this program. As text its IANA name.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// By IANA name.
    ///
    /// # Errors
    /// When the database has no such zone.
    pub fn new(name: &str) -> Result<Self, PeriodError> {
        TimeZoneDatabase::bundled()
            .get(name)
            .ok()
            .filter(|zone| zone.iana_name().is_some())
            .map(Self)
            .ok_or_else(|| PeriodError::UnknownZone(name.to_owned()))
    }

    /// Coordinated universal time.
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The IANA name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The library's zone, to write local times with.
    #[must_use]
    pub fn time_zone(&self) -> &TimeZone {
        &self.0
    }

    /// The local date of an instant; none outside the library's years.
    fn date(&self, instant: Timestamp) -> Option<Date> {
        let instant = jiff::Timestamp::from_microsecond(instant.as_i64()).ok()?;
        Some(self.0.to_datetime(instant).date())
    }

    /// First instant of a local date.
    fn start_of(&self, date: Date) -> Option<Timestamp> {
        let midnight = date.at(0, 0, 0, 0);
        let ambiguous = self.0.to_ambiguous_timestamp(midnight);
        let instant = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(midnight).ok()?,
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(midnight).ok()?,
            AmbiguousOffset::Gap { before, .. } => {
                // With the offset before the gap, midnight lies at or after the transition.
                let late = before.to_timestamp(midnight).ok()?;
                let next = late.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
                self.0.preceding(next).next()?.timestamp()
            }
        };
        Timestamp::from_i64(instant.as_microsecond())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = PeriodError;

    fn from_str(name: &str) -> Result<Self, PeriodError> {
        Self::new(name)
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A month in which a period begins; the period's number. Text: `2026-11`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    /// Months since January of the year 0.
    index: u32,
}

impl Month {
    /// The last month that can be written.
    const LAST: u32 = 9999 * 12 + 11;

    /// From a year (0 to 9999) and a month (1 to 12).
    #[must_use]
    pub fn new(year: u16, month: u8) -> Option<Self> {
        let good = year <= 9999 && (1..=12).contains(&month);
        good.then(|| Self {
            index: u32::from(year) * 12 + u32::from(month) - 1,
        })
    }

    /// Year.
    #[must_use]
    pub const fn year(self) -> u32 {
        self.index / 12
    }

    /// Month of the year, 1 to 12.
    #[must_use]
    pub const fn month(self) -> u32 {
        self.index % 12 + 1
    }

    /// The month after; none after December 9999.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self.index < Self::LAST).then(|| Self {
            index: self.index + 1,
        })
    }

    /// The month before; none before January 0.
    #[must_use]
    pub fn previous(self) -> Option<Self> {
        self.index.checked_sub(1).map(|index| Self { index })
    }

    fn first_day(self) -> Option<Date> {
        Date::new(
            i16::try_from(self.year()).ok()?,
            i8::try_from(self.month()).ok()?,
            1,
        )
        .ok()
    }

    fn of(date: Date) -> Option<Self> {
        Self::new(
            u16::try_from(date.year()).ok()?,
            u8::try_from(date.month()).ok()?,
        )
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year(), self.month())
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Month {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let parse = || {
            let (year, month) = text.split_once('-')?;
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
            let good = year.len() == 4 && month.len() == 2 && digits(year) && digits(month);
            good.then(|| Self::new(year.parse().ok()?, month.parse().ok()?))?
        };
        parse().ok_or_else(|| PeriodError::Month(text.to_owned()))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A span of time, half-open: `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// First instant.
    pub from: Timestamp,
    /// First instant after it.
    pub to: Timestamp,
}

impl Period {
    /// Whether an instant is in it.
    #[must_use]
    pub fn contains(&self, instant: Timestamp) -> bool {
        self.from <= instant && instant < self.to
    }

    /// Whether another span lies wholly in it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    /// The span in both; none when they do not overlap.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        (from < to).then_some(Self { from, to })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

/// The billing periods of an account: monthly, from an anchor day, in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CalendarText", into = "CalendarText")]
pub struct Calendar {
    zone: Zone,
    anchor_day: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalendarText {
    zone: Zone,
    anchor_day: u8,
}

impl TryFrom<CalendarText> for Calendar {
    type Error = PeriodError;

    fn try_from(text: CalendarText) -> Result<Self, PeriodError> {
        Self::new(text.zone, text.anchor_day)
    }
}

impl From<Calendar> for CalendarText {
    fn from(calendar: Calendar) -> Self {
        Self {
            zone: calendar.zone,
            anchor_day: calendar.anchor_day,
        }
    }
}

impl Calendar {
    /// Periods that begin on `anchor_day` (1 to 31; clamped in shorter months).
    ///
    /// # Errors
    /// When there is no such day in any month.
    pub fn new(zone: Zone, anchor_day: u8) -> Result<Self, PeriodError> {
        if (1..=31).contains(&anchor_day) {
            Ok(Self { zone, anchor_day })
        } else {
            Err(PeriodError::AnchorDay(anchor_day))
        }
    }

    /// The zone.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The anchor day.
    #[must_use]
    pub fn anchor_day(&self) -> u8 {
        self.anchor_day
    }

    /// The period that begins in `month`, local time.
    ///
    /// # Errors
    /// When it is not within the years 1970 to 9999, or a bound is not on a quarter-hour.
    pub fn period(&self, month: Month) -> Result<Period, PeriodError> {
        let next = month.next().ok_or(PeriodError::OutOfRange(month))?;
        Ok(Period {
            from: self.start(month)?,
            to: self.start(next)?,
        })
    }

    /// The period that holds an instant, and its month.
    ///
    /// # Errors
    /// As [`Calendar::period`].
    pub fn containing(&self, instant: Timestamp) -> Result<(Month, Period), PeriodError> {
        let no_period = || PeriodError::NoPeriod(instant);
        let here = self
            .zone
            .date(instant)
            .and_then(Month::of)
            .ok_or_else(no_period)?;
        let month = if self.start(here)? <= instant {
            here
        } else {
            here.previous().ok_or_else(no_period)?
        };
        let period = self.period(month)?;
        if period.contains(instant) {
            Ok((month, period))
        } else {
            Err(no_period())
        }
    }

    fn start(&self, month: Month) -> Result<Timestamp, PeriodError> {
        let at = month
            .first_day()
            .and_then(|first| self.anchored(first))
            .and_then(|date| self.zone.start_of(date))
            .ok_or(PeriodError::OutOfRange(month))?;
        if at.is_quarter_hour() {
            Ok(at)
        } else {
            Err(PeriodError::NotQuarterHour {
                month,
                zone: self.zone.name().to_owned(),
                at,
            })
        }
    }

    fn anchored(&self, first: Date) -> Option<Date> {
        let day = i8::try_from(self.anchor_day)
            .ok()?
            .min(first.days_in_month());
        first.with().day(day).build().ok()
    }
}

#[cfg(test)]
mod tests;
