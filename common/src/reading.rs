//! Readings of registers and the intervals between them.
//!
//! Owns what one interval is and says about itself. How intervals fit together is checked in
//! [`crate::tiling`] (time) and [`crate::odometer`] (quantity).

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::meter::Kind;
use crate::time::{Micros, Timestamp};

/// A register's cumulative value at an instant, in the meter's base unit. For a peak register: the
/// maximum so far.
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
pub struct Reading(pub u128);

impl Reading {
    /// The reading after one more interval of `quantity`; `None` when it would exceed 128 bits.
    #[must_use]
    pub fn advance(self, kind: Kind, quantity: u128) -> Option<Self> {
        match kind {
            Kind::Counter | Kind::Integral => self.0.checked_add(quantity).map(Self),
            Kind::Peak => Some(Self(self.0.max(quantity))),
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why time passed without a value, or why the spread of a quantity over its time is not known.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The agent was not running.
    AgentDown,
    /// The node was not running: between the last sample of one boot and the next boot.
    NodeDown,
    /// The node was suspended.
    Suspended,
    /// The source could not be read, or no longer exists.
    SourceUnreadable,
    /// The wall clock was not credible or was stepped.
    ClockStep,
    /// Accrued usage was lost before it was sealed (a power cut).
    LostBeforeSeal,
    /// A new stream began; the old one could not go on.
    NewStream,
    /// Intervals were merged to save space.
    Thinned,
}

impl Cause {
    /// Every cause; the place in this list is part of the code in sealed bytes.
    pub const ALL: [Self; 8] = [
        Self::AgentDown,
        Self::NodeDown,
        Self::Suspended,
        Self::SourceUnreadable,
        Self::ClockStep,
        Self::LostBeforeSeal,
        Self::NewStream,
        Self::Thinned,
    ];

    /// The cause that [`Display`](fmt::Display) writes like this.
    #[must_use]
    pub fn from_words(words: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|cause| cause.to_string() == words)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AgentDown => "agent down",
            Self::NodeDown => "node down",
            Self::Suspended => "suspended",
            Self::SourceUnreadable => "source unreadable",
            Self::ClockStep => "clock step",
            Self::LostBeforeSeal => "lost before seal",
            Self::NewStream => "new stream",
            Self::Thinned => "thinned",
        })
    }
}

/// How well an interval's quantity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Quantity and time are both measured.
    Exact,
    /// The quantity is known, its spread over the time is not.
    Interpolated(Cause),
    /// Time passed, no value: never billed, always shown.
    Unmeasured(Cause),
}

/// The step between two consecutive readings of a register. Half-open: `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// First instant.
    pub start: Timestamp,
    /// First instant after it.
    pub end: Timestamp,
    /// Usage in the meter's base unit (for a peak: the largest value seen). Zero when unmeasured.
    pub quantity: u128,
    /// How well that is known.
    pub quality: Quality,
    /// Time for which a value was really held or counted, by the monotonic clock. It may differ
    /// from `end − start` by what the wall clock was slewed or stepped; zero when unmeasured.
    pub measured: Micros,
}

impl Interval {
    /// `end − start`.
    #[must_use]
    pub fn duration(&self) -> Micros {
        self.end.since(self.start)
    }
}

/// The statement "from `from` to `to` nothing was measured, because `cause`".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Gap {
    /// First instant.
    pub from: Timestamp,
    /// First instant after it.
    pub to: Timestamp,
    /// Why.
    pub cause: Cause,
}
