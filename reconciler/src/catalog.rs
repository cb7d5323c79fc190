//! Whom usage belongs to: accounts, effective-dated assignments, plans and subscriptions.
//!
//! Owns their types and the rules on them; all pure. `store::catalog` keeps them. What they cost is
//! rated in `tallystick_common`; periods and invoices are `billing`.

pub mod account;
pub mod assignment;
pub mod change;
pub mod settings;
pub mod subscription;

pub use tallystick_common::pattern;
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};

pub use account::{Account, AccountId};
pub use assignment::{Assignment, Assignments};
pub use pattern::{Pattern, PatternError};
pub use subscription::{Subscription, SubscriptionSpan};

/// Why a change to the catalog is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A value outside its grammar.
    #[error("{what} {value:?} is not usable: {why}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// What was given.
        value: String,
        /// The rule it breaks.
        why: String,
    },
    /// An effective instant off the grid of rating boundaries.
    #[error(
        "{at} is not a quarter-hour: effective instants are on :00, :15, :30 or :45 UTC; give {before} or {after}"
    )]
    NotQuarterHour {
        /// What was given.
        at: Timestamp,
        /// The quarter-hour before it.
        before: Timestamp,
        /// The quarter-hour after it.
        after: Timestamp,
    },
    /// Two accounts would own the same usage from the same instant.
    #[error(
        "workloads {workload} of nodes {node} from {from} would belong to both {other} (assignment {id}) and {account}: \
         narrow one of the selectors, or choose another instant"
    )]
    Overlap {
        /// The account asked for.
        account: AccountId,
        /// The account that has it.
        other: AccountId,
        /// The assignment in the way.
        id: i64,
        /// Node selector asked for.
        node: String,
        /// Workload selector asked for.
        workload: String,
        /// The common instant.
        from: Timestamp,
    },
    /// It would say otherwise of a time that was invoiced.
    #[error(
        "{what} from {from}: that time was invoiced by {}, which stays as it is; if it must be otherwise, say so (--correct, \
         or `\"correct\": true`), then issue what `correction draft` shows",
        invoices.join(", ")
    )]
    Invoiced {
        /// What is asked for.
        what: &'static str,
        /// From when.
        from: Timestamp,
        /// Numbers of the invoices.
        invoices: Vec<String>,
    },
    /// The name is taken, with other contents.
    #[error("{what} {name} exists already{hint}")]
    Exists {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// What to do instead; begins with punctuation.
        hint: &'static str,
    },
    /// There is no such thing.
    #[error("no {what} is called {name}: {hint}")]
    Unknown {
        /// Kind of thing.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// Where to look.
        hint: &'static str,
    },
}

impl From<PatternError> for CatalogError {
    fn from(error: PatternError) -> Self {
        Self::Invalid {
            what: error.what,
            value: error.value,
            why: error.why.to_owned(),
        }
    }
}

/// Refuses an effective instant that is not on a quarter-hour.
///
/// # Errors
/// Names the instant and its two neighbouring quarter-hours.
pub fn quarter_hour(at: Timestamp) -> Result<Timestamp, CatalogError> {
    if at.is_quarter_hour() {
        return Ok(at);
    }
    Err(CatalogError::NotQuarterHour {
        at,
        before: at.floor_to(QUARTER_HOUR_US),
        after: at.next_multiple(QUARTER_HOUR_US),
    })
}
