//! Checks one stream from its bytes and a node's key, trusting nobody else.
//!
//! Owns the order of the checks and the words for what differs. The input is what the wire carries:
//! sealed segments in order, and receipts. Pure: whoever calls it reads the file.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::chain::{Break, Link, StreamState};
use crate::ids::{Hash, RegisterId, Seq, StreamId, WorkloadName};
use crate::keys::{KeyRing, PublicKey, SignatureError, Signed};
use crate::meter::Meter;
use crate::reading::{Gap, Quality};
use crate::receipt::Receipt;
use crate::seal::{SealError, SealedSegment, VerifiedSegment};
use crate::segment::Purpose;
use crate::time::{Micros, Timestamp};
use crate::wire::{FrameDecoder, FrameError, Message};

pub mod evidence;

/// What one register was found to have measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisterTotal {
    /// The register.
    pub register: RegisterId,
    /// What it is of.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Its reading where the file first shows it, in the meter's base unit.
    #[serde(serialize_with = "as_text")]
    pub opening: u128,
    /// Its reading where the file last shows it.
    #[serde(serialize_with = "as_text")]
    pub closing: u128,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub through: Timestamp,
    /// Of that time, not measured at all.
    pub unmeasured: Micros,
    /// Of that time, known in sum only.
    pub interpolated: Micros,
}

fn as_text<S: serde::Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A file that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The stream.
    pub stream: StreamId,
    /// Number of segments.
    pub segments: u64,
    /// The first one's number.
    pub first: Seq,
    /// The last one's number.
    pub last: Seq,
    /// The last one's hash.
    pub head: Hash,
    /// Time accounted for: from.
    pub from: Timestamp,
    /// Time accounted for: through.
    pub through: Timestamp,
    /// Whole-node gaps.
    pub gaps: Vec<Gap>,
    /// The highest number that a receipt in the file covers.
    pub receipted: Option<Seq>,
    /// Registers, by number.
    pub registers: Vec<RegisterTotal>,
}

/// The first thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Not frames.
    #[error("after segment {after:?}: {error}")]
    Frame {
        /// The last segment that was read.
        after: Option<Seq>,
        /// What is wrong.
        error: FrameError,
    },
    /// The bytes end inside a frame.
    #[error("the file ends inside a frame, {0} bytes into it")]
    Truncated(usize),
    /// A message that does not belong in such a file.
    #[error("a {0:?} message does not belong among segments and receipts")]
    Foreign(crate::wire::FrameKind),
    /// A segment's bytes, hash or signature.
    #[error("the segment after {after:?}: {error}")]
    Seal {
        /// The segment before it.
        after: Option<Seq>,
        /// What is wrong.
        error: SealError,
    },
    /// A segment of another stream.
    #[error("segment {seq} is of stream {found}, not {expected}")]
    Stream {
        /// Its number.
        seq: Seq,
        /// The stream of the segments before.
        expected: StreamId,
        /// Its stream.
        found: StreamId,
    },
    /// A segment missing, repeated, or not chained.
    #[error("segment {seq} does not follow: {link:?}")]
    Link {
        /// Its number.
        seq: Seq,
        /// How it stands to the one before.
        link: Link,
    },
    /// A reading or an interval that does not continue.
    #[error("segment {seq}: {error}")]
    Break {
        /// Its number.
        seq: Seq,
        /// What breaks.
        error: Break,
    },
    /// A receipt that is not by the key.
    #[error("receipt: {0}")]
    Receipt(#[from] SignatureError),
    /// A receipt for bytes that are not these.
    #[error("the receipt for segment {seq} names hash {found}, the file has {expected:?}")]
    ReceiptHash {
        /// The segment it names.
        seq: Seq,
        /// The hash in the file, if that segment is in it.
        expected: Option<Hash>,
        /// The hash on the receipt.
        found: Hash,
    },
    /// Nothing to check.
    #[error("the file holds no segment")]
    Empty,
}

/// Checks segments and receipts as they come.
#[derive(Debug)]
pub struct Verifier {
    ring: KeyRing,
    receipt_key: Option<PublicKey>,
    state: Option<StreamState>,
    hashes: BTreeMap<Seq, Hash>,
    from: Option<Timestamp>,
    gaps: Vec<Gap>,
    receipted: Option<Seq>,
    registers: BTreeMap<RegisterId, RegisterTotal>,
}

/// Checks a whole file of frames.
///
/// # Errors
/// The first thing that differs.
pub fn verify_frames(
    bytes: &[u8],
    ring: KeyRing,
    receipt_key: Option<PublicKey>,
) -> Result<Report, VerifyError> {
    let mut verifier = Verifier::new(ring, receipt_key);
    let mut decoder = FrameDecoder::new();
    decoder.push(bytes);
    loop {
        let after = verifier.last();
        match decoder
            .next_message()
            .map_err(|error| VerifyError::Frame { after, error })?
        {
            Some(Message::Segment(bytes)) => verifier.segment(bytes)?,
            Some(Message::Receipt(receipt)) => verifier.receipt(&receipt)?,
            Some(other) => return Err(VerifyError::Foreign(other.kind())),
            None => break,
        }
    }
    match decoder.unread().len() {
        0 => verifier.report(),
        cut => Err(VerifyError::Truncated(cut)),
    }
}

impl Verifier {
    /// With the node's keys, and the key of receipts where receipts are to be checked.
    #[must_use]
    pub fn new(ring: KeyRing, receipt_key: Option<PublicKey>) -> Self {
        Self {
            ring,
            receipt_key,
            state: None,
            hashes: BTreeMap::new(),
            from: None,
            gaps: Vec::new(),
            receipted: None,
            registers: BTreeMap::new(),
        }
    }

    fn last(&self) -> Option<Seq> {
        self.hashes.last_key_value().map(|(seq, _)| *seq)
    }

    /// Checks the next segment.
    ///
    /// # Errors
    /// The first thing that differs.
    pub fn segment(&mut self, bytes: Vec<u8>) -> Result<(), VerifyError> {
        let after = self.last();
        let segment = SealedSegment::parse(bytes)
            .and_then(|sealed| sealed.verify(&self.ring))
            .map_err(|error| VerifyError::Seal { after, error })?;
        let header = segment.header();
        let (seq, found) = (header.seq, header.stream);
        match &mut self.state {
            Some(state) => {
                if state.stream != found {
                    return Err(VerifyError::Stream {
                        seq,
                        expected: state.stream,
                        found,
                    });
                }
                let link = state.link(&segment);
                if link != Link::Next {
                    return Err(VerifyError::Link { seq, link });
                }
                state
                    .check(&segment)
                    .map_err(|error| VerifyError::Break { seq, error })?;
                state.advance(&segment);
            }
            None => self.begin(&segment)?,
        }
        if let Purpose::RotateKey(key) = header.purpose {
            self.ring.rotate(found, seq.next(), PublicKey(key));
        }
        self.hashes.insert(seq, segment.hash());
        self.gaps.extend(&header.gaps);
        self.add(&segment);
        Ok(())
    }

    /// The first segment of a file. In the middle of a stream its own opening readings stand for
    /// what came before.
    fn begin(&mut self, segment: &VerifiedSegment) -> Result<(), VerifyError> {
        let header = segment.header();
        let mut state = StreamState::new(header.stream);
        if header.seq == Seq::FIRST {
            state.check(segment).map_err(|error| VerifyError::Break {
                seq: header.seq,
                error,
            })?;
        }
        state.advance(segment);
        self.state = Some(state);
        self.from = Some(header.from);
        Ok(())
    }

    fn add(&mut self, segment: &VerifiedSegment) {
        for block in segment.blocks() {
            for run in block.runs() {
                let shape = block.shape(run);
                let total = self
                    .registers
                    .entry(run.register)
                    .or_insert_with(|| RegisterTotal {
                        register: run.register,
                        workload: block.workload.clone(),
                        meter: run.meter,
                        opening: run.opening.0,
                        closing: run.opening.0,
                        from: shape.start,
                        through: shape.start,
                        unmeasured: Micros(0),
                        interpolated: Micros(0),
                    });
                total.through = shape.end();
                for interval in block.intervals(run) {
                    total.add(
                        run.meter,
                        interval.quantity,
                        interval.quality,
                        interval.duration(),
                    );
                }
            }
        }
    }

    /// Checks a receipt against the segments read before it. Without a receipt key it is not looked at.
    ///
    /// # Errors
    /// When the key did not sign it, or it names other bytes.
    pub fn receipt(&mut self, receipt: &Signed<Receipt>) -> Result<(), VerifyError> {
        let Some(key) = &self.receipt_key else {
            return Ok(());
        };
        let receipt = receipt.verify(key)?;
        let expected = self.hashes.get(&receipt.seq).copied();
        if expected != Some(receipt.hash) {
            return Err(VerifyError::ReceiptHash {
                seq: receipt.seq,
                expected,
                found: receipt.hash,
            });
        }
        self.receipted = self.receipted.max(Some(receipt.seq));
        Ok(())
    }

    /// What was found.
    ///
    /// # Errors
    /// When there was no segment.
    pub fn report(self) -> Result<Report, VerifyError> {
        let first = self.hashes.first_key_value().map(|(seq, _)| *seq);
        let last = self
            .hashes
            .last_key_value()
            .map(|(seq, hash)| (*seq, *hash));
        let (Some(state), Some(from), Some(first), Some((last, head))) =
            (&self.state, self.from, first, last)
        else {
            return Err(VerifyError::Empty);
        };
        Ok(Report {
            stream: state.stream,
            segments: self.hashes.len() as u64,
            first,
            last,
            head,
            from,
            through: state.covered_through.unwrap_or(from),
            gaps: self.gaps,
            receipted: self.receipted,
            registers: self.registers.into_values().collect(),
        })
    }
}

impl RegisterTotal {
    fn add(&mut self, meter: Meter, quantity: u128, quality: Quality, duration: Micros) {
        // The chain check has refused sums beyond 128 bits, except in a file's first segment.
        self.closing = crate::reading::Reading(self.closing)
            .advance(meter.kind(), quantity)
            .map_or(u128::MAX, |reading| reading.0);
        match quality {
            Quality::Exact => {}
            Quality::Interpolated(_) => self.interpolated.0 += duration.0,
            Quality::Unmeasured(_) => self.unmeasured.0 += duration.0,
        }
    }
}
