//! Corrections of issued periods: what is known of one now, less what was said of it last.
//!
//! Owns what a correction is compared with and by which terms: the latest document of the period (the invoice,
//! or a correction of it), and the subscriptions and plans that were agreed when the invoice was issued.
//! Assignments, segments and decisions on them are those of now; why they differ is in [`reasons`], issuing in
//! [`issue`]. How two statements differ is [`tallystick_common::correction`].

use tallystick_common::correction::{Carried, Correction, CorrectionKind, Named, differences};
use tallystick_common::time::Timestamp;

use super::BillingError;
use super::document::{InvoiceDocument, digest};
use super::draft::{Draft, Which, again, period_of};
use crate::catalog::Account;
use crate::catalog::account::CorrectionPolicy;
use crate::catalog::change::known_account;
use crate::store::billing::InvoiceRow;
use crate::store::corrections::CorrectionRow;
use crate::store::{self, Connection, StoreError};

pub mod issue;
mod reasons;

/// What correcting a period now would say.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The period as it is known now.
    pub draft: Draft,
    /// What it corrects, why, and by how much.
    pub correction: Correction,
    /// The correction that was issued last, if there was one.
    pub last: Option<CorrectionRow>,
}

/// The documents that were issued of a period.
struct Said {
    account: Account,
    invoice: InvoiceDocument,
    invoice_name: Named,
    base: InvoiceDocument,
    base_name: Named,
    last: Option<CorrectionRow>,
}

/// Computes what correcting an issued period would say now. All reads see one state of the store when `conn`
/// is in a transaction.
///
/// # Errors
/// When the period was not issued, or its statement cannot be computed by what the invoice names.
pub async fn propose(
    conn: &mut Connection,
    account: &str,
    which: Which,
    now: Timestamp,
) -> Result<Proposal, BillingError> {
    let said = said(conn, account, which).await?;
    let agreed_at = said.invoice.issued_at;
    let draft = again(conn, &said.invoice.statement, agreed_at, now).await?;
    check_terms(&said.invoice, &draft)?;
    let number = || said.invoice.number.clone();
    let differences = differences(&said.base.statement, &draft.statement).map_err(|source| {
        BillingError::Correction {
            number: number(),
            source,
        }
    })?;
    let reasons = reasons::reasons(conn, &said.account, &said.base, &draft).await?;
    let policy = store::corrections::policy(conn, &said.account.id).await?;
    let kind = match (differences.total.minor(), policy) {
        (..0, _) => CorrectionKind::CreditNote,
        (_, CorrectionPolicy::OwnDocument) => CorrectionKind::CorrectionInvoice,
        (_, CorrectionPolicy::NextInvoice) => CorrectionKind::NextInvoice,
    };
    Ok(Proposal {
        draft,
        correction: Correction {
            kind,
            invoice: said.invoice_name,
            base: said.base_name,
            agreed_at,
            reasons,
            differences,
        },
        last: said.last,
    })
}

async fn said(conn: &mut Connection, account: &str, which: Which) -> Result<Said, BillingError> {
    let account = known_account(conn, account).await?;
    let period = period_of(&account, which)?;
    let row = store::billing::invoice_for(conn, account.id.as_str(), &period).await?;
    let row = row.ok_or_else(|| BillingError::NotIssued {
        account: account.id.to_string(),
        period,
    })?;
    let (invoice, invoice_name) = named(&row)?;
    let last = store::corrections::of_invoice(conn, &row.number)
        .await?
        .pop();
    let (base, base_name) = match &last {
        Some(last) => named(&last.issued)?,
        None => (invoice.clone(), invoice_name.clone()),
    };
    Ok(Said {
        account,
        invoice,
        invoice_name,
        base,
        base_name,
        last,
    })
}

/// A document of a row, and its name.
fn named(row: &InvoiceRow) -> Result<(InvoiceDocument, Named), StoreError> {
    let document: InvoiceDocument = serde_json::from_str(&row.document)
        .map_err(|error| StoreError::damaged("an issued document", error))?;
    let name = Named {
        number: row.number.clone(),
        digest: digest(row.document.as_bytes()),
    };
    Ok((document, name))
}

/// A correction is at the period's own prices, by the rules that the invoice was rated by.
fn check_terms(invoice: &InvoiceDocument, now: &Draft) -> Result<(), BillingError> {
    let (then, digests) = (&invoice.digests, &now.digests);
    for (what, same) in [
        ("the account", then.account == digests.account),
        (
            "a subscription",
            then.subscriptions == digests.subscriptions,
        ),
        ("a plan", then.plans == digests.plans),
        (
            "the version of rating rules",
            invoice.statement.rating_version == now.statement.rating_version,
        ),
    ] {
        if !same {
            let number = invoice.number.clone();
            return Err(BillingError::OtherTerms { number, what });
        }
    }
    Ok(())
}

/// What an account's next invoice is to carry.
///
/// # Errors
/// When the database fails or a document is damaged.
pub(super) async fn waiting(
    conn: &mut Connection,
    account: &str,
) -> Result<Vec<Carried>, StoreError> {
    let rows = store::corrections::waiting(conn, account).await?;
    rows.iter().map(|row| carried(&row.issued)).collect()
}

fn carried(row: &InvoiceRow) -> Result<Carried, StoreError> {
    let (document, correction) = named(row)?;
    let none = || StoreError::damaged("corrections.document", "it corrects nothing");
    let of = document.correction.ok_or_else(none)?;
    Ok(Carried {
        correction,
        invoice: of.invoice.number,
        period: document.statement.period,
        lines: of.differences.lines,
        total: of.differences.total,
    })
}

#[cfg(test)]
mod tests;
