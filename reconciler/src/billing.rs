//! What accounts owe: live drafts, issued invoices and their numbers.
//!
//! A draft is computed at the moment of asking, from the usage that is committed by then. Issuing
//! freezes the same computation as a JSON document with a number, the cut (what was counted) and the
//! digests of every document used; showing an issued invoice reads those bytes and computes nothing.
//! Rating itself is [`tallystick_common::statement`]; this module brings it its input.

pub mod closing;
pub mod correction;
pub mod draft;
pub mod issue;
pub mod leakage;
pub mod list_price;
pub mod registers;
pub mod usage;

use tallystick_common::correction::CorrectionError;
pub use tallystick_common::invoice as document;
use tallystick_common::money::{Money, MoneyError};
use tallystick_common::period::{Period, PeriodError};
use tallystick_common::statement::StatementError;
use tallystick_common::time::Timestamp;

use crate::catalog::CatalogError;
use crate::catalog::change::ChangeError;
use crate::store::StoreError;
use crate::store::again::Passing;

pub use document::{InvoiceDocument, Outstanding};
pub use draft::{Draft, draft};
pub use issue::{Issued, issue};

/// Why there is no draft, or why it cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum BillingError {
    /// Something named does not exist or is not usable.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A change was refused.
    #[error(transparent)]
    Change(ChangeError),
    /// The period is not one of the account's.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// The statement cannot be computed.
    #[error("compute the statement of {account}: {source}")]
    Statement {
        /// Whose.
        account: String,
        /// Why.
        source: Box<StatementError>,
    },
    /// An amount or currency in the store is not usable.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// The period is still running.
    #[error("issue the invoice of {account} for {period}: the period ends at {}, wait until then", period.to)]
    NotEnded {
        /// Whose.
        account: String,
        /// The period.
        period: Period,
    },
    /// Nodes have not accounted for the whole period.
    #[error(
        "issue the invoice of {account} for {period}: {}; wait for them, or close with the gaps named by `period close` or --accept-gaps REASON",
        list(outstanding)
    )]
    Outstanding {
        /// Whose.
        account: String,
        /// The period.
        period: Period,
        /// Which nodes, and how far each is.
        outstanding: Vec<Outstanding>,
    },
    /// Nothing is outstanding: the period needs no closing with gaps.
    #[error(
        "close the period of {account}, {period}, with gaps: every awaited node has accounted for it; issue its invoice"
    )]
    NoGaps {
        /// Whose.
        account: String,
        /// The period.
        period: Period,
    },
    /// Usage that its registers do not bear out (I3).
    #[error(
        "issue the invoice of {account}: {count} items of usage differ from what their registers counted; see the draft's discrepancies"
    )]
    Discrepancies {
        /// Whose.
        account: String,
        /// How many.
        count: usize,
    },
    /// There is nothing that could be corrected.
    #[error(
        "correct {period} of {account}: it was not issued yet; `invoice issue` issues it as it is known now"
    )]
    NotIssued {
        /// Whose.
        account: String,
        /// The period.
        period: Period,
    },
    /// The invoice was made of other documents than there are.
    #[error("correct {number}: {what} is not what the invoice names; restore it from a backup")]
    OtherTerms {
        /// The invoice.
        number: String,
        /// What.
        what: &'static str,
    },
    /// Two statements cannot be compared.
    #[error("correct {number}: {source}")]
    Correction {
        /// The invoice.
        number: String,
        /// Why.
        source: CorrectionError,
    },
    /// A correction of that total is nothing of the kind.
    #[error("correct {number} as {asked}: the difference is {total}, and {}", kinds(*total))]
    Kind {
        /// The invoice.
        number: String,
        /// What was asked for.
        asked: &'static str,
        /// The difference.
        total: Money,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Passing for BillingError {
    fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            Self::Change(error) => error.is_passing(),
            _ => false,
        }
    }
}

impl From<ChangeError> for BillingError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Catalog(error) => Self::Catalog(error),
            ChangeError::Store(error) => Self::Store(error),
            other @ ChangeError::Plan { .. } => Self::Change(other),
        }
    }
}

impl From<sqlx::Error> for BillingError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

fn kinds(total: Money) -> &'static str {
    match total.minor() {
        ..0 => "less is owed by a credit note only",
        _ => "a credit note is for less only: choose own-document or next-invoice",
    }
}

fn list(outstanding: &[Outstanding]) -> String {
    let words = |node: &Outstanding| match node.covered_through {
        Some(at) => format!("node {} is accounted for until {at} only", node.node_name),
        None => format!("node {} has sent nothing yet", node.node_name),
    };
    outstanding.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// The UTC year of an instant.
fn year_of(at: Timestamp) -> i64 {
    let text = at.to_string();
    text.get(..4)
        .and_then(|year| year.parse().ok())
        .unwrap_or(1970)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
