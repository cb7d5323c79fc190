//! I5: the intervals of a register tile time, and exact ones never cross a quarter-hour.
//!
//! Within a run the intervals tile by construction ([`crate::segment::Block`] holds no others). This
//! module owns how a run fits its segment and the run before it.

use crate::ids::RegisterId;
use crate::reading::Quality;
use crate::segment::{Block, Header, Run};
use crate::time::{QUARTER_HOUR_US, Timestamp};

/// Time that is counted twice or not at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TilingError {
    /// The run does not start where the register stopped.
    #[error("register {register} continues at {found}, but was accounted for up to {expected}")]
    Start {
        /// The register.
        register: RegisterId,
        /// Where it stopped.
        expected: Timestamp,
        /// Where it continues.
        found: Timestamp,
    },
    /// The register stays open but the run ends early.
    #[error(
        "register {register} stays open but is accounted for only up to {found}, not {expected}"
    )]
    End {
        /// The register.
        register: RegisterId,
        /// The segment's `covered_through`.
        expected: Timestamp,
        /// Where the run ends.
        found: Timestamp,
    },
    /// An exact interval crosses the grid of rating boundaries.
    #[error(
        "register {register} has an exact interval from {start} to {end}, across a quarter-hour"
    )]
    QuarterHour {
        /// The register.
        register: RegisterId,
        /// Start of the interval.
        start: Timestamp,
        /// Its end.
        end: Timestamp,
    },
}

/// Whether `run` tiles its part of the segment, if the register was accounted for up to `before`
/// (`None` when it opens here, which it may anywhere in the segment).
///
/// # Errors
/// Names the first break.
pub fn check(
    header: &Header,
    block: &Block,
    run: &Run,
    before: Option<Timestamp>,
) -> Result<(), TilingError> {
    let register = run.register;
    let shape = block.shape(run);
    if let Some(expected) = before.filter(|before| *before != shape.start) {
        return Err(TilingError::Start {
            register,
            expected,
            found: shape.start,
        });
    }
    if run.closed.is_none() && shape.end() != header.covered_through {
        let expected = header.covered_through;
        return Err(TilingError::End {
            register,
            expected,
            found: shape.end(),
        });
    }
    let mut start = shape.start;
    for span in &shape.spans {
        let end = span.end;
        if span.quality == Quality::Exact && end > start.next_multiple(QUARTER_HOUR_US) {
            return Err(TilingError::QuarterHour {
                register,
                start,
                end,
            });
        }
        start = end;
    }
    Ok(())
}
