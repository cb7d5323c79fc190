//! The document of an invoice or of a correction of one: what a draft shows and what issuing freezes, and the
//! reconciler's signed word for it.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::correction::{Carried, Correction};
use crate::decision::DecisionKind;
use crate::ids::{Hash, NodeId, Seq, StreamId};
use crate::keys::Statement as Signable;
use crate::money::{Money, MoneyError};
use crate::statement::Statement;
use crate::time::Timestamp;

/// Version of the form of an [`InvoiceDocument`] that neither is nor carries a correction.
pub const DOCUMENT_VERSION: u32 = 1;

/// Version of the form of one that is or carries a correction.
pub const CORRECTION_VERSION: u32 = 2;

/// A node that has not accounted for the whole period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outstanding {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// Its state: a banned or retired node is not awaited, its rest is missing.
    pub state: String,
    /// Until when its time is accounted for; none when nothing has come.
    pub covered_through: Option<Timestamp>,
}

/// Up to where one stream was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutPosition {
    /// Whose stream.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// Its last admitted segment.
    pub seq: Seq,
    /// That segment's hash.
    pub hash: Hash,
    /// Until when it accounts for time.
    pub covered_through: Timestamp,
    /// Segments since the period's beginning that are held and not counted, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Seq>,
    /// Decisions of persons on segments since the period's beginning, in the order of deciding: `quarantined` is
    /// what came of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<CutDecision>,
}

/// A decision that an invoice was made by. Its statement is in the store that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutDecision {
    /// Its number.
    pub number: u64,
    /// What was decided.
    pub kind: DecisionKind,
    /// The first segment that it is about.
    pub first: Seq,
    /// The last one; none: everything from the first on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Seq>,
    /// When it was decided.
    pub decided_at: Timestamp,
}

/// Digests (BLAKE3 of canonical JSON) of every document that decided an amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// The account.
    pub account: Hash,
    /// The account's assignments.
    pub assignments: Hash,
    /// The account's subscriptions.
    pub subscriptions: Hash,
    /// Plans, by beginning of their use; also named in the statement.
    pub plans: Vec<Hash>,
    /// The statement.
    pub statement: Hash,
}

/// The period was closed although nodes were outstanding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedGaps {
    /// Why, in the words of the person who closed it.
    pub reason: String,
    /// Who.
    pub by: String,
    /// What was outstanding.
    pub outstanding: Vec<Outstanding>,
}

/// An issued invoice, or a correction of one, whole. Its digest is over these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceDocument {
    /// Version of this form.
    pub document_version: u32,
    /// `TS-2026-000001`.
    pub number: String,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// Who issued it.
    pub issued_by: String,
    /// Version of the rating rules.
    pub rating_version: u32,
    /// Version of the time zone database that bounded the period.
    pub tz_database: String,
    /// Lines, steps and totals.
    pub statement: Statement,
    /// Up to where each stream was counted.
    pub cut: Vec<CutPosition>,
    /// What decided the amounts.
    pub digests: Digests,
    /// Present when the period was closed with gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_gaps: Option<AcceptedGaps>,
    /// Present when this corrects an invoice: `statement` is what is known of its period now, and the
    /// differences are what this document is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
    /// Corrections of earlier periods that this invoice demands beside its statement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<Carried>,
    /// Present with them: the statement's total and theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Money>,
}

impl InvoiceDocument {
    /// The bytes that are frozen.
    ///
    /// # Panics
    /// Never: a document has text keys and no floats.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a document has text keys and no floats")
    }

    /// The version of the form that it should have.
    #[must_use]
    pub fn form(&self) -> u32 {
        match (&self.correction, self.carried.as_slice(), self.due) {
            (None, [], None) => DOCUMENT_VERSION,
            _ => CORRECTION_VERSION,
        }
    }

    /// What this document is over: of a correction the difference, negative on a credit note.
    #[must_use]
    pub fn amount(&self) -> Money {
        let stated = || self.due.unwrap_or(self.statement.total);
        let corrected = self.correction.as_ref();
        corrected.map_or_else(stated, |correction| correction.differences.total)
    }
}

/// An amount with the corrections that are carried beside it.
///
/// # Errors
/// When the sum is too large, or the currencies differ.
pub fn with_carried(total: Money, carried: &[Carried]) -> Result<Money, MoneyError> {
    let mut totals = carried.iter().map(|carried| carried.total);
    totals.try_fold(total, Money::checked_add)
}

/// "Under this number I issued the document with this digest."
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct IssuedInvoice {
    /// The invoice's number.
    pub number: String,
    /// BLAKE3 of the document's bytes.
    pub digest: Hash,
    /// When it was issued.
    pub at: Timestamp,
}

impl Signable for IssuedInvoice {
    const DOMAIN: &'static str = "tallystick/1 issued invoice";
}

/// BLAKE3 of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Hash {
    Hash(*blake3::hash(bytes).as_bytes())
}

/// A value's JSON, which its digest is over.
///
/// # Panics
/// Never for rows of the catalog: they have text keys and no floats.
#[must_use]
pub fn json_of(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("catalog rows have text keys and no floats")
}

/// BLAKE3 of a value's JSON.
#[must_use]
pub fn digest_of(value: &impl Serialize) -> Hash {
    digest(&json_of(value))
}
