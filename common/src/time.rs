//! Instants and durations of metered time.
//!
//! Owns microseconds UTC, the quarter-hour grid that measured intervals never cross, and the one
//! function that cuts a quantity over time. Does not read a clock: time is passed in. Calendars
//! and time zones are in `period`.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds in a second.
pub const SECOND_US: u64 = 1_000_000;
/// Microseconds in a quarter-hour, the grid of rating boundaries.
pub const QUARTER_HOUR_US: u64 = 900 * SECOND_US;
/// Microseconds in an hour, the width of a rollup row.
pub const HOUR_US: u64 = 3600 * SECOND_US;

/// An instant: microseconds since 1970-01-01T00:00:00 UTC without leap seconds.
///
/// Written as RFC 3339 in UTC with as many decimals as needed (`2026-11-22T12:00:00Z`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Timestamp(u64);

/// A duration in microseconds.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Encode,
    Decode,
    Serialize,
    Deserialize,
)]
pub struct Micros(pub u64);

/// A text that is not an instant, or an instant outside the years 1970 to 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an instant between 1970 and 9999: write it as 2026-11-22T12:00:00Z")]
pub struct TimestampError(String);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The last microsecond of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    /// From microseconds since the epoch; `None` past the year 9999.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Option<Self> {
        if micros <= Self::MAX.0 {
            Some(Self(micros))
        } else {
            None
        }
    }

    /// From whole seconds since the epoch.
    ///
    /// # Errors
    /// When the instant is past the year 9999.
    pub fn from_seconds(seconds: u64) -> Result<Self, TimestampError> {
        seconds
            .checked_mul(SECOND_US)
            .and_then(Self::from_micros)
            .ok_or_else(|| TimestampError(format!("{seconds} seconds")))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Microseconds since the epoch, as stores keep it (always fits: the year is at most 9999).
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From a store's column; `None` for a negative value or one past the year 9999.
    #[must_use]
    pub fn from_i64(micros: i64) -> Option<Self> {
        u64::try_from(micros).ok().and_then(Self::from_micros)
    }

    /// The instant `later` after this one, or the last one there is.
    #[must_use]
    pub fn saturating_add(self, later: Micros) -> Self {
        Self(self.0.saturating_add(later.0).min(Self::MAX.0))
    }

    /// The instant `earlier` before this one, or the epoch.
    #[must_use]
    pub fn saturating_sub(self, earlier: Micros) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// Time since `earlier`, zero when that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }

    /// The last multiple of `step` microseconds at or before this instant. A zero step leaves it.
    #[must_use]
    pub fn floor_to(self, step: u64) -> Self {
        Self(self.0 - self.0.checked_rem(step).unwrap_or(0))
    }

    /// The first multiple of `step` microseconds strictly after this instant.
    #[must_use]
    pub fn next_multiple(self, step: u64) -> Self {
        self.floor_to(step).saturating_add(Micros(step.max(1)))
    }

    /// Whether this instant is on the quarter-hour grid of rating boundaries.
    #[must_use]
    pub fn is_quarter_hour(self) -> bool {
        self.0.is_multiple_of(QUARTER_HOUR_US)
    }
}

impl Micros {
    /// From whole seconds, saturating.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(SECOND_US))
    }
}

impl From<std::time::Duration> for Micros {
    fn from(duration: std::time::Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Micros> for std::time::Duration {
    fn from(micros: Micros) -> Self {
        Self::from_micros(micros.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.as_i64()) {
            Ok(instant) => instant.fmt(f),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        text.parse::<jiff::Timestamp>()
            .ok()
            .and_then(|instant| Self::from_i64(instant.as_microsecond()))
            .ok_or_else(|| TimestampError(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The share of `quantity`, spread evenly over `[from, to)`, that falls before `until`:
/// `floor(quantity · (until − from) / (to − from))`.
///
/// Cumulative, so that any set of cuts adds up to the whole: the part between two cuts is the
/// difference of their shares. Exact for every `u128`. Nothing before `from`, everything from `to`
/// on (also when the interval has no length).
#[must_use]
pub fn share_until(quantity: u128, from: Timestamp, to: Timestamp, until: Timestamp) -> u128 {
    if until >= to {
        return quantity;
    }
    if until <= from {
        return 0;
    }
    let whole = u128::from(to.0 - from.0);
    let part = u128::from(until.0 - from.0);
    // quantity = high·whole + low with low < whole < 2^63, so both products fit.
    let (high, low) = (quantity / whole, quantity % whole);
    high * part + low * part / whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_micros(micros).unwrap()
    }

    #[test]
    fn text_is_rfc_3339() {
        let instant = at(1_795_348_800_000_001);
        assert_eq!(instant.to_string().parse(), Ok(instant));
        assert_eq!(
            "2026-11-22T12:00:00Z".parse(),
            Timestamp::from_seconds(1_795_348_800)
        );
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
    }

    #[test]
    fn multiples_are_on_the_grid() {
        assert_eq!(at(900_000_001).floor_to(QUARTER_HOUR_US), at(900_000_000));
        assert_eq!(
            at(900_000_000).next_multiple(QUARTER_HOUR_US),
            at(1_800_000_000)
        );
        assert!(at(900_000_000).is_quarter_hour());
    }

    #[test]
    fn the_largest_quantity_is_cut_exactly() {
        let (from, to) = (Timestamp::EPOCH, Timestamp::MAX);
        let half = share_until(u128::MAX, from, to, at(Timestamp::MAX.0 / 2));
        assert!(half < u128::MAX / 2 && half > u128::MAX / 2 - u128::MAX / 1_000_000);
    }

    proptest! {
        #[test]
        fn parts_between_any_cuts_add_up_to_the_whole(
            quantity: u128, from in 0u64..1 << 50, length in 0u64..1 << 50,
            mut cuts in proptest::collection::vec(0u64..1 << 51, 0..8),
        ) {
            let (from, to) = (at(from), at(from + length));
            cuts.sort_unstable();
            let mut before = 0;
            let mut sum = 0;
            for until in cuts.into_iter().map(at).chain([to]) {
                let share = share_until(quantity, from, to, until);
                prop_assert!(share >= before, "shares never fall");
                sum += share - before;
                before = share;
            }
            prop_assert_eq!(sum, quantity);
        }
    }
}
