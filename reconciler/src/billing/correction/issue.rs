//! Issuing a correction: freezes it under a number of its kind's series.

use tallystick_common::correction::CorrectionKind;
use tallystick_common::money::Money;
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

use super::super::draft::Which;
use super::super::issue::{after_agreed, document, freeze};
use super::super::{BillingError, year_of};
use super::{Proposal, propose};
use crate::store::again::again;
use crate::store::corrections::CorrectionRow;
use crate::store::{self, Store, StoreError};

/// What a correction is to be issued as, where the account's policy is not to decide.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum IssueAs {
    /// Less is owed: only then.
    CreditNote,
    /// As much or more is owed, by a document of its own.
    OwnDocument,
    /// As much or more is owed, by lines on the account's next invoice.
    NextInvoice,
}

impl IssueAs {
    fn kind(self) -> CorrectionKind {
        match self {
            Self::CreditNote => CorrectionKind::CreditNote,
            Self::OwnDocument => CorrectionKind::CorrectionInvoice,
            Self::NextInvoice => CorrectionKind::NextInvoice,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::CreditNote => "credit-note",
            Self::OwnDocument => "own-document",
            Self::NextInvoice => "next-invoice",
        }
    }
}

/// Who corrects which period, and how.
#[derive(Debug, Clone, Copy)]
pub struct CorrectionOrder<'a> {
    /// The account.
    pub account: &'a str,
    /// Its period.
    pub which: Which,
    /// None to follow the account's policy.
    pub issue_as: Option<IssueAs>,
    /// Who asks.
    pub actor: &'a str,
}

/// What asking to correct led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Corrected {
    /// A new correction.
    Now(CorrectionRow),
    /// Nothing differs from this, which was issued before.
    Before(CorrectionRow),
    /// Nothing differs from the invoice.
    Nothing,
}

impl Corrected {
    /// The correction.
    #[must_use]
    pub fn correction(&self) -> Option<&CorrectionRow> {
        match self {
            Self::Now(row) | Self::Before(row) => Some(row),
            Self::Nothing => None,
        }
    }
}

/// Issues what is known now otherwise than was said. Statement, number and audit entry are of one transaction.
/// A period whose nodes are still outstanding may be corrected: what comes later is corrected again.
///
/// # Errors
/// When the period was not issued, its statement cannot be computed or does not agree with its registers, or
/// the difference is nothing of the kind that is asked for.
pub async fn issue_correction(
    store: &Store,
    order: &CorrectionOrder<'_>,
    now: Timestamp,
) -> Result<Corrected, BillingError> {
    again!(issue_once(store, order, now))
}

async fn issue_once(
    store: &Store,
    order: &CorrectionOrder<'_>,
    now: Timestamp,
) -> Result<Corrected, BillingError> {
    let mut tx = store.write().await?;
    let Proposal {
        draft,
        mut correction,
        last,
    } = propose(&mut tx, order.account, order.which, now).await?;
    if correction.differences.is_none() {
        return Ok(last.map_or(Corrected::Nothing, Corrected::Before));
    }
    if !draft.statement.discrepancies.is_empty() {
        let (account, count) = (
            order.account.to_owned(),
            draft.statement.discrepancies.len(),
        );
        return Err(BillingError::Discrepancies { account, count });
    }
    correction.kind =
        kind(order, correction.kind, correction.differences.total).ok_or_else(|| {
            BillingError::Kind {
                number: correction.invoice.number.clone(),
                asked: order.issue_as.map_or("its policy says", IssueAs::name),
                total: correction.differences.total,
            }
        })?;
    let now = after_agreed(&mut tx, order.account, now).await?;
    let number = store::corrections::take_number(&mut tx, correction.kind, year_of(now)).await?;
    let (kind, invoice) = (correction.kind, correction.invoice.number.clone());
    let base = correction.base.number.clone();
    let mut document = document(draft, number, order.actor, now);
    document.correction = Some(correction);
    let row = CorrectionRow {
        issued: freeze(document),
        kind,
        invoice,
        base,
        carried_by: None,
    };
    store::corrections::insert(&mut tx, &row, order.actor).await?;
    tallystick_common::failpoint!("reconciler.correction.numbered");
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Corrected::Now(row))
}

/// What is asked for, or the policy's, if the difference is such.
fn kind(
    order: &CorrectionOrder<'_>,
    by_policy: CorrectionKind,
    total: Money,
) -> Option<CorrectionKind> {
    let kind = order.issue_as.map_or(by_policy, IssueAs::kind);
    kind.fits(total).then_some(kind)
}
