//! The invoice's entry in the audit log, and the way from there to a head that is signed.

use super::{Difference, Speakers, Step};
use crate::audit::{AuditCheckpoint, Checkpoint};
use crate::evidence::{AuditPart, Evidence};
use crate::invoice::{InvoiceDocument, digest};
use crate::time::Timestamp;

/// The part of the log that is shown: checkpoints from the invoice's entry on.
pub(super) struct Log {
    pub(super) passed: Vec<Checkpoint>,
    pub(super) at: Timestamp,
}

impl Log {
    /// The entry that the invoice is.
    pub(super) fn entry(&self) -> u64 {
        self.passed.first().map_or(0, |first| first.entries)
    }

    /// Where the log stood when the file was made.
    pub(super) fn head(&self) -> Checkpoint {
        self.passed.last().copied().unwrap_or(Checkpoint::NONE)
    }

    /// Whether a held checkpoint is on the way; none when it lies outside of what is shown.
    pub(super) fn passes(&self, held: Checkpoint) -> Option<bool> {
        let same = self.passed.iter().find(|at| at.entries == held.entries)?;
        Some(same.head == held.head)
    }
}

pub(super) fn check(
    part: &AuditPart,
    document: &InvoiceDocument,
    evidence: &Evidence,
    speakers: &Speakers,
) -> Result<Log, Difference> {
    let differs = |why: &str| Difference::new(Step::Audit, "audit log", why);
    let head: AuditCheckpoint = part
        .head
        .verify(&speakers.receipt_key)
        .map_err(|error| differs(&format!("its head: {error}")))?;
    let entry = &part.entry;
    let digest = digest(&evidence.invoice.document).to_string();
    let detail: serde_json::Value = serde_json::from_str(&entry.detail)
        .map_err(|_| differs("what the entry says of the invoice cannot be read"))?;
    let action = match document.correction {
        None => "invoice.issue",
        Some(_) => "correction.issue",
    };
    let same = entry.action == action
        && entry.subject == document.number
        && entry.at == document.issued_at
        && detail["digest"].as_str() == Some(digest.as_str());
    if !same {
        return Err(differs("the entry tells of another invoice or document"));
    }
    let mut at = Checkpoint {
        entries: part
            .seq
            .checked_sub(1)
            .ok_or_else(|| differs("entries begin at 1"))?,
        head: part.previous,
    }
    .then(&entry.hash());
    let mut passed = vec![at];
    for content in &part.after {
        at = at.then(content);
        passed.push(at);
    }
    if at != head.checkpoint {
        return Err(differs(
            "the invoice's entry does not lead to its signed head",
        ));
    }
    Ok(Log {
        passed,
        at: head.at,
    })
}
