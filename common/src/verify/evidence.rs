//! Checks the evidence of an invoice from its bytes alone, and computes the invoice again.
//!
//! Owns the order of the steps and what is told of each. The steps go from who speaks (authorities,
//! keys) over what was said (chains, proofs, receipts) to what follows (usage, statement); the first one
//! that differs is named and ends it. Pure: whoever calls it reads files.
//!
//! Nothing in the file makes it trustworthy: without [`Trust`] from outside the best answer is that it
//! agrees with itself.

use std::fmt;

use serde::Serialize;

use crate::authority::{AuthorityCertificate, read_succession};
use crate::evidence::Evidence;
use crate::ids::Hash;
use crate::invoice::{CORRECTION_VERSION, InvoiceDocument, digest};
use crate::keys::PublicKey;
use crate::rating::RATING_VERSION;

mod answer;
mod audit;
mod compare;
mod correction;
mod node;
mod report;
mod stream;
mod tally;
mod terms;
mod trust;
mod usage;

pub use answer::Answer;
pub use report::{Check, LineReport, NodeReport, Report, StreamReport, UsageReport};
pub use tally::{Tally, TallyError};
pub use trust::{NotTrust, Standing, Trust};

/// What is checked, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The file is evidence, in its one spelling.
    File,
    /// Authorities follow one another and vouch for the receipt key.
    Authorities,
    /// The document is the one that was issued.
    Invoice,
    /// Account, subscriptions, assignments and plans are those that the document names.
    Documents,
    /// The period is one of the account's calendar.
    Period,
    /// What is billed was assigned to the account.
    Assignments,
    /// An authority vouches for each node's key.
    Node,
    /// Each stream is one chain of segments up to the invoice's cut.
    Chain,
    /// The node signed them.
    Signature,
    /// The reconciler's receipt is for them.
    Receipt,
    /// Shown blocks are of their segments.
    Proof,
    /// Registers go on without jump, hole or overlap (I3, I5).
    Usage,
    /// Rating it again gives the same statement.
    Statement,
    /// What it corrects, or carries from corrections, follows from the documents that it names.
    Correction,
    /// The invoice stands in the audit log.
    Audit,
    /// The node's own tally says the same.
    Tally,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Authorities => "authorities",
            Self::Invoice => "invoice",
            Self::Documents => "documents",
            Self::Period => "period",
            Self::Assignments => "assignments",
            Self::Node => "node",
            Self::Chain => "chain",
            Self::Signature => "signature",
            Self::Receipt => "receipt",
            Self::Proof => "proof",
            Self::Usage => "usage",
            Self::Statement => "statement",
            Self::Correction => "correction",
            Self::Audit => "audit",
            Self::Tally => "tally",
        })
    }
}

/// The first thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{step}, {subject}: {why}")]
pub struct Difference {
    /// In which step.
    pub step: Step,
    /// Of what.
    pub subject: String,
    /// How.
    pub why: String,
}

impl Difference {
    fn new(step: Step, subject: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self {
            step,
            subject: subject.to_string(),
            why: why.to_string(),
        }
    }
}

/// Who speaks for the reconciler.
struct Speakers {
    authorities: Vec<AuthorityCertificate>,
    receipt_key: PublicKey,
}

/// Checks everything that a file says.
///
/// # Errors
/// The first thing that differs.
pub fn verify(file: &[u8], trust: &[Trust], tally: Option<&Tally>) -> Result<Report, Difference> {
    let evidence =
        Evidence::decode(file).map_err(|error| Difference::new(Step::File, "evidence", error))?;
    let speakers = speakers(&evidence)?;
    let document = document(&evidence, speakers.receipt_key)?;
    let terms = terms::read(&evidence.terms, &document)?;
    let mut nodes = Vec::new();
    for node in &evidence.nodes {
        nodes.push(node::read(node, &speakers, &document, &terms)?);
    }
    terms::check_nodes(&terms, &nodes)?;
    let used = usage::used(&terms, &nodes)?;
    let statement = compare::recomputed(&document, &terms, &nodes, &used)?;
    let named = correction::check(&document, &evidence.named)?;
    let log = audit::check(&evidence.audit, &document, &evidence, &speakers)?;
    let told = tally.map(|tally| tally::check(tally, &nodes)).transpose()?;
    let standing = trust::standing(trust, &speakers, &nodes, &log)?;
    Ok(report::build(report::Found {
        bytes: file.len(),
        document,
        statement,
        nodes: &nodes,
        used: &used,
        named,
        log,
        told,
        standing,
        authorities: speakers.authorities.len(),
    }))
}

fn speakers(evidence: &Evidence) -> Result<Speakers, Difference> {
    let (authorities, receipt_key) = read_succession(&evidence.authorities)
        .map_err(|error| Difference::new(Step::Authorities, "succession", error))?;
    Ok(Speakers {
        authorities,
        receipt_key,
    })
}

/// The document, which the reconciler says was issued.
fn document(evidence: &Evidence, key: PublicKey) -> Result<InvoiceDocument, Difference> {
    let part = &evidence.invoice;
    let differs = |subject: &str, why: String| Difference::new(Step::Invoice, subject, why);
    let word = part
        .word
        .verify(&key)
        .map_err(|error| differs("the reconciler's word", error.to_string()))?;
    let found = digest(&part.document);
    if found != word.digest {
        let why = format!("its digest is {found}, issued was {}", word.digest);
        return Err(differs("document", why));
    }
    let document = read(&part.document).map_err(|why| differs("document", why))?;
    if document.number != word.number || document.issued_at != word.at {
        return Err(differs("number", "it was issued under another".to_owned()));
    }
    let versions = [document.rating_version, document.statement.rating_version];
    if versions != [RATING_VERSION; 2] {
        let why = format!("it was rated by rules {versions:?}; this version has {RATING_VERSION}");
        return Err(differs("rating version", why));
    }
    if document.statement.digest() != document.digests.statement {
        let why = "the document names another digest of it".to_owned();
        return Err(differs("statement", why));
    }
    Ok(document)
}

/// A document in its one spelling.
fn read(bytes: &[u8]) -> Result<InvoiceDocument, String> {
    let document: InvoiceDocument =
        serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
    let version = document.document_version;
    if version > CORRECTION_VERSION {
        return Err(format!("it is of form {version}: update the verifier"));
    }
    if version != document.form() {
        return Err(format!("it is of form {version} by its own word only"));
    }
    if document.to_json().as_bytes() != bytes {
        return Err("it is in another spelling".to_owned());
    }
    Ok(document)
}

/// A hash, short enough to be told.
fn short(hash: &Hash) -> String {
    hash.to_string().chars().take(12).collect()
}
