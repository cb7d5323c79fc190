//! A segment's bytes as their difference from those of an earlier one.
//!
//! Owns when that is done and what it is from. Neighbouring segments of an agent say the same of the same
//! registers but for the quantities, so a difference is a fraction of the whole. What it is from is always an
//! earlier segment of the same file, and one that stands there whole: a damaged one costs those after it in its
//! file, which no longer chain to anything then.

use bincode::{Decode, Encode};

use super::delta;
use super::record::{MAX_BODY_BYTES, Record, SealedRecord, StateAt};
use super::scan::Facts;

/// Differences are from a segment that is at most so many records back.
const WHOLE_EVERY: u32 = 256;

/// Bytes that can be had again from others.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Packed {
    steps: Vec<u8>,
    /// CRC-32 of what they make.
    crc: u32,
}

impl Packed {
    /// `None` where it would not be much shorter.
    pub(super) fn of(base: &[u8], bytes: &[u8]) -> Option<Self> {
        let steps = delta::encode(base, bytes);
        (steps.len() < bytes.len() / 4 * 3).then(|| Self {
            steps,
            crc: crc32fast::hash(bytes),
        })
    }

    /// What it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.steps.len() as u64
    }

    /// What it was made of, if that was with this base.
    pub(super) fn unpacked(&self, base: &[u8]) -> Option<Vec<u8>> {
        delta::decode(base, &self.steps, MAX_BODY_BYTES)
            .filter(|bytes| crc32fast::hash(bytes) == self.crc)
    }
}

/// A sealed segment as it stands in a journal file, behind one that stands there whole.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PackedRecord {
    facts: Facts,
    /// Where in the file the record of the whole one begins.
    pub(super) base_at: u64,
    packed: Packed,
    state: Option<StateAt>,
}

impl PackedRecord {
    pub(super) fn facts(&self) -> Facts {
        self.facts
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.packed.bytes()
    }

    /// What was packed, with the bytes of the whole one.
    pub(super) fn unpacked(self, base: &[u8]) -> Option<SealedRecord> {
        let bytes = self.packed.unpacked(base)?;
        Some(SealedRecord {
            segment: self.facts.with(bytes),
            state: self.state,
        })
    }
}

/// The last segment that stands whole in a file, while records are added to it or read from it in order.
#[derive(Debug, Default)]
pub(super) struct Base {
    whole: Option<(u64, Vec<u8>)>,
    packed: u32,
}

impl Base {
    /// `record` as it is to stand in the file.
    pub(super) fn pack(&self, record: &Record) -> Option<Record> {
        let (Record::Sealed(sealed), Some((base_at, base))) = (record, &self.whole) else {
            return None;
        };
        if self.packed >= WHOLE_EVERY {
            return None;
        }
        Some(Record::Packed(PackedRecord {
            facts: Facts::from(&sealed.segment),
            base_at: *base_at,
            packed: Packed::of(base, &sealed.segment.bytes)?,
            state: sealed.state.clone(),
        }))
    }

    /// Takes note of a record that stands in the file at `at`.
    pub(super) fn note(&mut self, record: &Record, at: u64) {
        match record {
            Record::Sealed(sealed) => {
                self.whole = Some((at, sealed.segment.bytes.clone()));
                self.packed = 0;
            }
            Record::Packed(_) => self.packed += 1,
            _ => {}
        }
    }

    /// `record` as it was before it was packed.
    ///
    /// # Errors
    /// With what is known of it, when what it was packed from is not there.
    pub(super) fn unpack(&self, record: Record) -> Result<Record, Facts> {
        let Record::Packed(packed) = record else {
            return Ok(record);
        };
        let facts = packed.facts();
        let base = self.whole.as_ref().filter(|(at, _)| *at == packed.base_at);
        let unpacked = base.and_then(|(_, base)| packed.unpacked(base));
        unpacked.map(Record::Sealed).ok_or(facts)
    }
}
