//! I3: a register's reading is the sum of its intervals (for a peak, their maximum).
//!
//! Owns the check of one run against the reading before it, and where a register stood at an instant.
//! How runs fit in time is [`crate::tiling`].

use crate::ids::RegisterId;
use crate::meter::Kind;
use crate::reading::Reading;
use crate::segment::{Block, Run};
use crate::time::{Timestamp, share_until};

/// A reading that does not go on where it stood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OdometerError {
    /// The opening reading is not the closing reading before.
    #[error("register {register} continues at {found}, but stood at {expected}")]
    Jump {
        /// The register.
        register: RegisterId,
        /// Where it stood (zero when it opens here).
        expected: Reading,
        /// Where it says it continues.
        found: Reading,
    },
    /// The sum exceeds 128 bits.
    #[error("the readings of register {0} exceed 128 bits")]
    Overflow(RegisterId),
}

/// The closing reading of `run`, if it opens at `before`.
///
/// # Errors
/// When it opens elsewhere, or the sum is too large.
pub fn close(block: &Block, run: &Run, before: Reading) -> Result<Reading, OdometerError> {
    if run.opening != before {
        let register = run.register;
        return Err(OdometerError::Jump {
            register,
            expected: before,
            found: run.opening,
        });
    }
    closing(block, run).ok_or(OdometerError::Overflow(run.register))
}

/// The closing reading of `run` from its own opening; `None` when it exceeds 128 bits.
#[must_use]
pub fn closing(block: &Block, run: &Run) -> Option<Reading> {
    let kind = run.meter.kind();
    block
        .quantities(run)
        .iter()
        .try_fold(run.opening, |reading, quantity| {
            reading.advance(kind, *quantity)
        })
}

/// A run's reading at an instant: the one it begins or ends with where the instant lies outside of
/// it. An interval that holds the instant is cut by its share of time; of a peak it counts at its end.
#[must_use]
pub fn reading_at(block: &Block, run: &Run, at: Timestamp) -> Reading {
    let kind = run.meter.kind();
    block.intervals(run).fold(run.opening, |reading, interval| {
        let quantity = match kind {
            Kind::Peak if interval.end > at => 0,
            Kind::Peak => interval.quantity,
            Kind::Counter | Kind::Integral => {
                share_until(interval.quantity, interval.start, interval.end, at)
            }
        };
        // Admission rules out a sum beyond 128 bits.
        reading.advance(kind, quantity).unwrap_or(reading)
    })
}
