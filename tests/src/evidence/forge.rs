//! Signing again what somebody changed who has the reconciler's keys.

use tallystick_common::audit::{AuditCheckpoint, Checkpoint};
use tallystick_common::evidence::Evidence;
use tallystick_common::invoice::{InvoiceDocument, IssuedInvoice, digest};
use tallystick_common::keys::Signed;

use super::Office;

/// Digests, word and log follow what was changed in the document and the terms.
///
/// # Panics
/// When the entry of the audit log is none.
pub fn sign(office: &Office, evidence: &mut Evidence, document: &mut InvoiceDocument) {
    let terms = &evidence.terms;
    document.digests.account = digest(&terms.account);
    document.digests.subscriptions = digest(&terms.subscriptions);
    document.digests.assignments = digest(&terms.assignments);
    document.digests.statement = document.statement.digest();
    let bytes = document.to_json().into_bytes();
    let word = IssuedInvoice {
        number: document.number.clone(),
        digest: digest(&bytes),
        at: document.issued_at,
    };
    evidence.invoice.word = Signed::new(&word, office.authority.receipt_key());
    evidence.invoice.document = bytes;
    log(office, evidence, document);
}

fn log(office: &Office, evidence: &mut Evidence, document: &InvoiceDocument) {
    let found = digest(&evidence.invoice.document);
    let audit = &mut evidence.audit;
    let mut detail: serde_json::Value =
        serde_json::from_str(&audit.entry.detail).expect("an entry's detail is JSON");
    detail["digest"] = found.to_string().into();
    audit.entry.detail = detail.to_string();
    let before = Checkpoint {
        entries: audit.seq - 1,
        head: audit.previous,
    };
    let begin = before.then(&audit.entry.hash());
    let after = audit.after.iter();
    let statement = AuditCheckpoint {
        checkpoint: after.fold(begin, |at, content| at.then(content)),
        epoch: office.store.epoch(),
        at: document.issued_at,
    };
    audit.head = Signed::new(&statement, office.authority.receipt_key());
}
