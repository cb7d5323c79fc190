//! I3: a register's reading is the sum of its intervals (for a peak, their maximum).
//!
//! Owns the check of one run against the reading before it. Knows nothing of time; that is
//! [`crate::tiling`].

use crate::ids::RegisterId;
use crate::reading::Reading;
use crate::segment::{Block, Run};

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
