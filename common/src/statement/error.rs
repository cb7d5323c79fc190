//! Why a statement cannot be computed: input that would bill wrongly is refused whole.

use crate::ids::{RegisterId, StreamId, WorkloadName};
use crate::meter::Meter;
use crate::money::{Currency, MoneyError};
use crate::period::Period;
use crate::rating::RatingError;
use crate::time::Timestamp;

/// Why a statement cannot be computed or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// A line could not be rated.
    #[error("cannot rate line {line}: {source}")]
    Rating {
        /// The line's id.
        line: String,
        /// Why.
        source: RatingError,
    },
    /// The quantities of a line exceed 128 bits.
    #[error("the quantity of line {0} has more than 128 bits")]
    Quantity(String),
    /// The total is too large.
    #[error("cannot add up the statement: {0}")]
    Total(#[from] MoneyError),
    /// The exact total does not fit 256 bits.
    #[error("the exact total has too many digits: shorten the decimals of the plan's prices")]
    ExactTotal,
    /// A plan in another currency.
    #[error(
        "plan {plan:?} is in {found}, but the account is billed in {expected}: subscribe it to a plan in {expected}"
    )]
    Currency {
        /// The plan.
        plan: String,
        /// Its currency.
        found: Currency,
        /// The account's.
        expected: Currency,
    },
    /// A plan that does not pass its check.
    #[error("plan {plan:?} cannot be used: {problem}")]
    Plan {
        /// The plan.
        plan: String,
        /// Its first problem.
        problem: String,
    },
    /// A span of time without length, or off the quarter-hour grid.
    #[error("{what} from {from} to {to} is not a span between two quarter-hours")]
    Span {
        /// Whose span.
        what: String,
        /// Its beginning.
        from: Timestamp,
        /// Its end.
        to: Timestamp,
    },
    /// Two subscriptions would charge the same usage.
    #[error(
        "plans {first:?} and {second:?} apply at the same time and both charge {what}: end one subscription before the other begins"
    )]
    DoubleBilling {
        /// One plan.
        first: String,
        /// The other.
        second: String,
        /// What both charge.
        what: String,
    },
    /// The control reading of a node.
    #[error("{0} is the control reading of a whole node and is never billed")]
    Host(WorkloadName),
    /// Usage outside the period, or across the bound of a window.
    #[error(
        "usage of {meter} by {workload} from {usage} crosses the bound of {bound}: cut it there first"
    )]
    Crosses {
        /// The meter.
        meter: Meter,
        /// The workload.
        workload: WorkloadName,
        /// Its span.
        usage: Period,
        /// What it crosses.
        bound: Period,
    },
    /// The same reading would be billed twice (I1).
    #[error("register {register} of stream {stream} is counted twice at {at}")]
    CountedTwice {
        /// The stream.
        stream: StreamId,
        /// The register.
        register: RegisterId,
        /// From when.
        at: Timestamp,
    },
    /// A text that is not a statement.
    #[error("cannot read the statement: {0}")]
    NotAStatement(String),
}
