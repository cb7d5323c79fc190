//! The evidence of one invoice, or of a correction of one: a file from which a third party computes it again.
//!
//! Owns the file's form (`PROTOCOL.md`, "Evidence") and, in [`gather`], which segments and blocks are
//! shown. Whether what a file says is true is judged in [`crate::verify::evidence`].
//!
//! ```text
//! "tallystick-proof" · format u16 big-endian · part … part
//! part = kind u8 · length u32 big-endian · one canonical value
//!
//! 1 invoice      the document as issued, and the reconciler's word for it
//! 2 authorities  who vouches for keys, each with its word for the next
//! 3 terms        account, subscriptions, assignments, plans, what was held when
//! 4 node         then 5 stream, as many as it has: its chain of headers, blocks shown, receipt
//! 6 audit        where the invoice stands in the log, and the log's signed head
//! 7 document     after 1: one that the invoice names by digest; form 2 has them, form 1 has none
//! ```
//!
//! A chain is shown as [`Link`]s: what each header says beyond the one before, and one hash for all its
//! blocks. So every segment is named by its hash, and only blocks that are the customer's, or `host`, are
//! in the file.

use bincode::{Decode, Encode};

use crate::audit::{AuditCheckpoint, AuditContent};
use crate::authority::AuthorityRecord;
use crate::codec::{self, CodecError};
use crate::ids::{Hash, IdError, NodeId, Seq, StreamId, WorkloadName};
use crate::invoice::IssuedInvoice;
use crate::keys::{EnrolmentRecord, Signature, Signed};
use crate::period::Period;
use crate::receipt::Receipt;
use crate::seal::ShownBlock;
use crate::time::Timestamp;

pub mod gather;
mod links;

pub use links::{Change, Link, LinkError, Linked, Start, pack, unpack};

/// What every such file begins with.
pub const MAGIC: &[u8; 16] = b"tallystick-proof";

/// The number of the form without other documents.
pub const FORMAT: u16 = 1;

/// The number of the form with them.
pub const FORMAT_WITH_NAMED: u16 = 2;

/// All that an invoice is computed from, with who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// What was issued.
    pub invoice: InvoicePart,
    /// Bytes of the documents that it names. Of a correction: its base, that one's base, and so on back to the
    /// invoice. Of an invoice that carries corrections: those.
    pub named: Vec<Vec<u8>>,
    /// Authorities, the oldest first, the present one last.
    pub authorities: Vec<AuthorityRecord>,
    /// What was agreed.
    pub terms: Terms,
    /// Nodes that carried the usage.
    pub nodes: Vec<NodeEvidence>,
    /// The invoice's place in the audit log.
    pub audit: AuditPart,
}

/// An invoice as issued.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InvoicePart {
    /// The document's bytes.
    pub document: Vec<u8>,
    /// The reconciler's word for them, by a receipt key.
    pub word: Signed<IssuedInvoice>,
}

/// Documents that decided the amounts, each as the JSON that its digest is over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Terms {
    /// The account.
    pub account: Vec<u8>,
    /// Its subscriptions.
    pub subscriptions: Vec<u8>,
    /// Its assignments.
    pub assignments: Vec<u8>,
    /// The plans, by beginning of their use.
    pub plans: Vec<Vec<u8>>,
    /// What was the account's when.
    pub holdings: Vec<Holding>,
}

/// "This workload was the account's from then to then." Within it nothing changes hands or plan.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Holding {
    /// The node.
    pub node: NodeId,
    /// The workload's name.
    pub workload: String,
    /// From when, a quarter-hour.
    pub from: Timestamp,
    /// Until when, a quarter-hour.
    pub to: Timestamp,
}

/// A node, who says that it is one, and its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvidence {
    /// Who it is.
    pub node: NodePart,
    /// Its streams that account for time in the period.
    pub streams: Vec<StreamPart>,
}

/// Who a node is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodePart {
    /// Its id.
    pub node: NodeId,
    /// An authority's word for its signing key.
    pub record: Signed<EnrolmentRecord>,
}

/// A stream, from the first segment that reaches into the period to the invoice's cut.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamPart {
    /// The stream.
    pub stream: StreamId,
    /// Before the first link.
    pub start: Start,
    /// Every segment, in order.
    pub links: Vec<Link>,
    /// Segments before the first link that rotated the stream's key, in order.
    pub rotations: Vec<SignedHeader>,
    /// Segments of which more is shown, by number. The last one and those that rotate the key are among
    /// them.
    pub shown: Vec<ShownSegment>,
    /// The other half: the reconciler's word for the last segment, and what of them is counted.
    pub receipt: Signed<Receipt>,
}

/// A segment's header and signature, without its blocks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedHeader {
    /// The header's bytes.
    pub header: Vec<u8>,
    /// The root over its blocks, if it has any.
    pub blocks: Option<Hash>,
    /// The node's signature.
    pub signature: Signature,
}

/// What is shown of a segment beside its link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShownSegment {
    /// Its number.
    pub seq: Seq,
    /// The node's signature.
    pub signature: Signature,
    /// Blocks, by place.
    pub blocks: Vec<ShownBlock>,
}

/// The invoice's entry in the audit log and the way from there to the log's head.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuditPart {
    /// The hash of the entry before the invoice's.
    pub previous: Hash,
    /// The entry's number.
    pub seq: u64,
    /// What the entry says.
    pub entry: AuditContent,
    /// Hashes of the contents of all later entries, in order.
    pub after: Vec<Hash>,
    /// The log's head, signed by a receipt key.
    pub head: Signed<AuditCheckpoint>,
}

/// Bytes that are no evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Another kind of file.
    #[error("it is no evidence of an invoice: one begins with \"tallystick-proof\"")]
    Kind,
    /// A later form.
    #[error(
        "it is of form {0}; this version reads forms up to {FORMAT_WITH_NAMED}: update the verifier"
    )]
    NewerFormat(u16),
    /// Cut off.
    #[error("the file ends within part {0}")]
    Truncated(usize),
    /// A part that cannot be read.
    #[error("part {part}, {kind}: {error}")]
    Part {
        /// Which one, from 1.
        part: usize,
        /// What it should be.
        kind: &'static str,
        /// What is wrong.
        error: CodecError,
    },
    /// A part of another kind, or one too few or too many.
    #[error("part {part} is not the {expected} that belongs there")]
    Order {
        /// Which one, from 1.
        part: usize,
        /// What belongs there.
        expected: &'static str,
    },
}

impl Holding {
    /// The workload.
    ///
    /// # Errors
    /// When its name breaks the grammar.
    pub fn workload(&self) -> Result<WorkloadName, IdError> {
        WorkloadName::new(self.workload.as_str())
    }

    /// Its time.
    #[must_use]
    pub fn span(&self) -> Period {
        Period {
            from: self.from,
            to: self.to,
        }
    }
}

const INVOICE: u8 = 1;
const AUTHORITIES: u8 = 2;
const TERMS: u8 = 3;
const NODE: u8 = 4;
const STREAM: u8 = 5;
const AUDIT: u8 = 6;
const NAMED: u8 = 7;

impl Evidence {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        let format = if self.named.is_empty() {
            FORMAT
        } else {
            FORMAT_WITH_NAMED
        };
        file.extend(format.to_be_bytes());
        put(&mut file, INVOICE, &self.invoice);
        for document in &self.named {
            put(&mut file, NAMED, document);
        }
        put(&mut file, AUTHORITIES, &self.authorities);
        put(&mut file, TERMS, &self.terms);
        for node in &self.nodes {
            put(&mut file, NODE, &node.node);
            for stream in &node.streams {
                put(&mut file, STREAM, stream);
            }
        }
        put(&mut file, AUDIT, &self.audit);
        file
    }

    /// Reads a file. Nothing in it is verified yet.
    ///
    /// # Errors
    /// When it is not one, or not in its one spelling.
    pub fn decode(file: &[u8]) -> Result<Self, EvidenceError> {
        let rest = file
            .strip_prefix(MAGIC.as_slice())
            .ok_or(EvidenceError::Kind)?;
        let (format, rest) = rest
            .split_first_chunk()
            .ok_or(EvidenceError::Truncated(0))?;
        let format = u16::from_be_bytes(*format);
        if ![FORMAT, FORMAT_WITH_NAMED].contains(&format) {
            return Err(EvidenceError::NewerFormat(format));
        }
        let mut parts = Parts { rest, part: 0 };
        let invoice = parts.take(INVOICE, "invoice")?;
        let named = parts.named(format)?;
        let authorities = parts.take(AUTHORITIES, "authorities")?;
        let terms = parts.take(TERMS, "terms")?;
        let mut nodes = Vec::new();
        while parts.next_is(NODE) {
            let node = parts.take(NODE, "node")?;
            let mut streams = Vec::new();
            while parts.next_is(STREAM) {
                streams.push(parts.take(STREAM, "stream")?);
            }
            nodes.push(NodeEvidence { node, streams });
        }
        let audit = parts.take(AUDIT, "audit entry")?;
        parts.end()?;
        Ok(Self {
            invoice,
            named,
            authorities,
            terms,
            nodes,
            audit,
        })
    }
}

fn put<T: Encode>(file: &mut Vec<u8>, kind: u8, value: &T) {
    let payload = codec::encode(value);
    // A part beyond 4 GiB has no reader: decoding refuses it long before.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    file.push(kind);
    file.extend(length.to_be_bytes());
    file.extend(payload);
}

struct Parts<'a> {
    rest: &'a [u8],
    /// Those taken so far.
    part: usize,
}

impl Parts<'_> {
    fn next_is(&self, kind: u8) -> bool {
        self.rest.first() == Some(&kind)
    }

    /// Documents beside the invoice: of one form at least one, of the other none.
    fn named(&mut self, format: u16) -> Result<Vec<Vec<u8>>, EvidenceError> {
        let mut named = Vec::new();
        if format == FORMAT_WITH_NAMED {
            named.push(self.take(NAMED, "document")?);
            while self.next_is(NAMED) {
                named.push(self.take(NAMED, "document")?);
            }
        }
        Ok(named)
    }

    fn take<T: Encode + Decode<()>>(
        &mut self,
        kind: u8,
        expected: &'static str,
    ) -> Result<T, EvidenceError> {
        self.part += 1;
        let part = self.part;
        let truncated = EvidenceError::Truncated(part);
        let (found, rest) = self.rest.split_first().ok_or(truncated.clone())?;
        if *found != kind {
            return Err(EvidenceError::Order { part, expected });
        }
        let (length, rest) = rest.split_first_chunk().ok_or(truncated.clone())?;
        let length = u32::from_be_bytes(*length) as usize;
        let (payload, rest) = rest.split_at_checked(length).ok_or(truncated)?;
        self.rest = rest;
        codec::decode_large(payload).map_err(|error| EvidenceError::Part {
            part,
            kind: expected,
            error,
        })
    }

    fn end(&self) -> Result<(), EvidenceError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let (part, expected) = (self.part + 1, "end");
        Err(EvidenceError::Order { part, expected })
    }
}
