//! The records of the journal: what one says and how it stands in a file.
//!
//! Owns the frame (magic, kind, version, length, number, two checksums) and the bodies. Does not
//! touch files: it makes and reads bytes.
//!
//! ```text
//! 0   4  magic "TSJL"
//! 4   1  kind: 1 checkpoint, 2 sealed, 3 receipt, 4 offered, 5 state, 6 sealed, as a difference
//! 5   1  version of the body: 1 or, with open registers as a `Packed` difference, 2
//! 6   2  zero
//! 8   4  length of the body in bytes, little-endian, as all numbers here
//! 12  8  number of the record in this journal, rising by one across files
//! 20  4  CRC-32 of the body
//! 24  4  CRC-32 of bytes 0 to 23
//! 28     the body, bincode 2 standard configuration
//! ```
//!
//! The head has a checksum of its own so that a damaged body can be stepped over.

use bincode::{Decode, Encode};
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::segment::StreamPosition;

use super::packing::{Packed, PackedRecord};
use super::{Head, ReceiptMark, StoredSegment, delta};

const MAGIC: [u8; 4] = *b"TSJL";
const VERSION: u8 = 2;
/// Bytes before the body.
pub(super) const HEAD_BYTES: usize = 28;
/// No body is longer: a segment is bounded far below.
pub(super) const MAX_BODY_BYTES: usize = 64 << 20;

/// Everything needed to go on without an older file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Checkpoint {
    pub(super) mark: Mark,
    pub(super) state: Option<StateAt>,
}

/// How far the stream is, on each of its ways.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Mark {
    pub(super) life: Life,
    pub(super) head: Head,
    pub(super) offered: Option<Seq>,
    pub(super) receipt: Option<ReceiptMark>,
}

impl Mark {
    /// A stream in which nothing was sealed yet.
    pub(super) fn beginning(life: Life) -> Self {
        Self {
            life,
            head: Head::BEGINNING,
            offered: None,
            receipt: None,
        }
    }

    /// The first segment without a receipt, and the hash of the one before it.
    pub(super) fn first_unreceipted(&self) -> (Seq, Hash) {
        match &self.receipt {
            Some(receipt) => (receipt.through.next(), receipt.hash),
            None => (Seq::FIRST, Hash::ZERO),
        }
    }
}

/// Which stream this is, among those that ever lived in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Life {
    /// Rises with every new stream: of two copies that disagree, the later one is in force.
    pub(super) generation: u64,
    pub(super) stream: StreamId,
    /// Where the stream before ended.
    pub(super) predecessor: Option<StreamPosition>,
}

/// A segment, and the open registers after it: one record, so one moment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct SealedRecord {
    pub(super) segment: StoredSegment,
    /// `None` only while a journal is written anew: then a later record has it.
    pub(super) state: Option<StateAt>,
}

/// Open registers as they are when the next segment will be `at`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct StateAt {
    pub(super) at: Seq,
    pub(super) form: StateForm,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum StateForm {
    Full(Vec<u8>),
    /// The difference from the last full copy before, named by its checksum, as version 1 wrote it.
    Delta {
        base_crc: u32,
        steps: Vec<u8>,
        crc: u32,
    },
    /// The difference from the last full copy before, named by its checksum.
    Packed {
        base_crc: u32,
        packed: Packed,
    },
}

/// The last full copy and the state that holds now, while records are written or read in order.
#[derive(Debug, Clone, Default)]
pub(super) struct StateTrack {
    base: Option<StateBase>,
    deltas: u32,
    current: Option<(Seq, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct StateBase {
    at: Seq,
    bytes: Vec<u8>,
    crc: u32,
}

/// Every how many states a full copy is journaled.
const FULL_EVERY: u32 = 256;

impl StateTrack {
    /// The next state is recorded in full: journal or sled may not have the last full copy.
    pub(super) fn forget_base(&mut self) {
        self.base = None;
    }

    /// How to record `state`: as its difference where a full copy is near and the difference small.
    pub(super) fn form(&self, at: Seq, state: &[u8]) -> StateAt {
        let full = || StateForm::Full(state.to_vec());
        let form = match &self.base {
            Some(base) if self.deltas < FULL_EVERY => {
                Packed::of(&base.bytes, state).map_or_else(full, |packed| StateForm::Packed {
                    base_crc: base.crc,
                    packed,
                })
            }
            _ => full(),
        };
        StateAt { at, form }
    }

    /// Takes note of a recorded state. A difference from an unknown copy is passed over.
    pub(super) fn note(&mut self, state: &StateAt) {
        match &state.form {
            StateForm::Full(bytes) => {
                self.base = Some(StateBase {
                    at: state.at,
                    bytes: bytes.clone(),
                    crc: crc32fast::hash(bytes),
                });
                self.deltas = 0;
                self.current = Some((state.at, bytes.clone()));
            }
            StateForm::Delta {
                base_crc,
                steps,
                crc,
            } => {
                let bytes = self.base_of(*base_crc).and_then(|base| {
                    delta::decode_first(base, steps, MAX_BODY_BYTES)
                        .filter(|bytes| crc32fast::hash(bytes) == *crc)
                });
                self.note_difference(state.at, bytes);
            }
            StateForm::Packed { base_crc, packed } => {
                let base = self.base_of(*base_crc);
                let bytes = base.and_then(|base| packed.unpacked(base));
                self.note_difference(state.at, bytes);
            }
        }
    }

    fn base_of(&self, crc: u32) -> Option<&[u8]> {
        let base = self.base.as_ref()?;
        (base.crc == crc).then_some(base.bytes.as_slice())
    }

    fn note_difference(&mut self, at: Seq, bytes: Option<Vec<u8>>) {
        if let Some(bytes) = bytes {
            self.deltas += 1;
            self.current = Some((at, bytes));
        }
    }

    /// The open registers when the next segment is `at` for a place that may have the last full copy already:
    /// that copy by the number it is known by, and what differs.
    pub(super) fn apart_at(&self, at: Seq) -> Option<(u32, Vec<StateAt>)> {
        let state = self.at(at)?;
        let Some(base) = &self.base else {
            return self
                .full_at(at)
                .map(|full| (crc32fast::hash(state), vec![full]));
        };
        let full = StateAt {
            at: base.at,
            form: StateForm::Full(base.bytes.clone()),
        };
        let differs = (base.at != at).then(|| self.form(at, state));
        Some((base.crc, std::iter::once(full).chain(differs).collect()))
    }

    /// A full copy of the open registers when the next segment is `at`, if they are known.
    pub(super) fn full_at(&self, at: Seq) -> Option<StateAt> {
        let bytes = self.at(at)?.to_vec();
        Some(StateAt {
            at,
            form: StateForm::Full(bytes),
        })
    }

    /// The open registers when the next segment is `at`, if they are known.
    pub(super) fn at(&self, at: Seq) -> Option<&[u8]> {
        self.current
            .as_ref()
            .filter(|(held, _)| *held == at)
            .map(|(_, bytes)| bytes.as_slice())
    }
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Checkpoint(Checkpoint),
    Sealed(SealedRecord),
    Receipt(ReceiptMark),
    Offered(Seq),
    State(StateAt),
    /// Nowhere but on its way to or from a file.
    Packed(PackedRecord),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Checkpoint(_) => 1,
            Self::Sealed(_) => 2,
            Self::Receipt(_) => 3,
            Self::Offered(_) => 4,
            Self::State(_) => 5,
            Self::Packed(_) => 6,
        }
    }

    /// Bytes of the segment in it, as they stand there.
    pub(super) fn segment_bytes(&self) -> u64 {
        match self {
            Self::Sealed(sealed) => sealed.segment.bytes.len() as u64,
            Self::Packed(packed) => packed.stored_bytes(),
            _ => 0,
        }
    }

    /// The record as it stands in a file. `None` when it is longer than a record may be.
    pub(super) fn frame(&self, number: u64) -> Option<Vec<u8>> {
        let mut frame = vec![0; HEAD_BYTES];
        match self {
            Self::Checkpoint(body) => put(body, &mut frame),
            Self::Sealed(body) => put(body, &mut frame),
            Self::Receipt(body) => put(body, &mut frame),
            Self::Offered(body) => put(body, &mut frame),
            Self::State(body) => put(body, &mut frame),
            Self::Packed(body) => put(body, &mut frame),
        }
        let head = head(self.kind(), VERSION, number, &frame[HEAD_BYTES..])?;
        frame[..HEAD_BYTES].copy_from_slice(&head);
        Some(frame)
    }

    fn decode(kind: u8, body: &[u8]) -> Option<Self> {
        match kind {
            1 => take(body).map(Self::Checkpoint),
            2 => take(body).map(Self::Sealed),
            3 => take(body).map(Self::Receipt),
            4 => take(body).map(Self::Offered),
            5 => take(body).map(Self::State),
            6 => take(body).map(Self::Packed),
            _ => None,
        }
    }
}

/// What stands before `body`. `None` when it is longer than a body may be.
pub(super) fn head(kind: u8, version: u8, number: u64, body: &[u8]) -> Option<[u8; HEAD_BYTES]> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_BODY_BYTES)?;
    let mut head = [0; HEAD_BYTES];
    head[0..4].copy_from_slice(&MAGIC);
    head[4..8].copy_from_slice(&[kind, version, 0, 0]);
    head[8..12].copy_from_slice(&length.to_le_bytes());
    head[12..20].copy_from_slice(&number.to_le_bytes());
    head[20..24].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&head[..24]);
    head[24..28].copy_from_slice(&crc.to_le_bytes());
    Some(head)
}

/// Appends the canonical bytes of `body`.
pub(super) fn put<T: Encode>(body: &T, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(body, out, bincode::config::standard())
        .expect("writing plain data to memory cannot fail");
}

/// Reads a body that fills `bytes` to the last one. Lengths beyond any body are refused before they are allocated.
pub(super) fn take<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let config = bincode::config::standard().with_limit::<MAX_BODY_BYTES>();
    let (body, read) = bincode::decode_from_slice(bytes, config).ok()?;
    (read == bytes.len()).then_some(body)
}

/// What stands at a place of a journal file.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole record, and how many bytes it takes.
    Whole {
        record: Box<Record>,
        number: u64,
        bytes: usize,
    },
    /// A whole record of a version or kind that this program does not know.
    Newer { kind: u8, version: u8 },
    /// No whole record begins here.
    Bad,
}

/// Reads what begins at the start of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Found {
    let Some(frame) = whole_frame(bytes) else {
        return Found::Bad;
    };
    let (kind, version) = (frame[4], frame[5]);
    if !(1..=VERSION).contains(&version) || !(1..=6).contains(&kind) {
        return Found::Newer { kind, version };
    }
    match Record::decode(kind, &frame[HEAD_BYTES..]) {
        Some(record) => {
            let record = Box::new(record);
            Found::Whole {
                record,
                number: number(frame),
                bytes: frame.len(),
            }
        }
        None => Found::Bad,
    }
}

/// Where after the start of `bytes` the next whole record begins.
pub(super) fn next_whole(bytes: &[u8]) -> Option<usize> {
    (1..bytes.len().saturating_sub(HEAD_BYTES)).find(|at| whole_frame(&bytes[*at..]).is_some())
}

/// How long the body behind this head says it is, at most what a body may be.
pub(super) fn body_bytes(head: &[u8]) -> usize {
    let length = head.get(8..).map_or(0, word);
    usize::try_from(length).map_or(0, |length| length.min(MAX_BODY_BYTES))
}

fn whole_frame(bytes: &[u8]) -> Option<&[u8]> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    if head[0..4] != MAGIC || crc32fast::hash(&head[..24]) != word(&head[24..]) {
        return None;
    }
    let length = usize::try_from(word(&head[8..]))
        .ok()
        .filter(|length| *length <= MAX_BODY_BYTES)?;
    let frame = bytes.get(..HEAD_BYTES + length)?;
    (crc32fast::hash(&frame[HEAD_BYTES..]) == word(&head[20..])).then_some(frame)
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn number(frame: &[u8]) -> u64 {
    frame[12..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::super::scan::{Scan, scan_file};
    use super::*;

    fn framed(kind: u8, number: u64, body: &[u8]) -> Vec<u8> {
        [&head(kind, VERSION, number, body).unwrap(), body].concat()
    }

    #[test]
    fn a_body_that_claims_more_than_there_is_memory_is_no_record() {
        let claim = [&[1, 0, 253], u64::MAX.to_le_bytes().as_slice()].concat();
        assert!(matches!(read(&framed(5, 1, &claim)), Found::Bad));
    }

    #[test]
    fn the_last_number_that_there_is_can_be_read() {
        let mut scan = Scan::default();
        scan_file(&mut scan, 1, &framed(4, u64::MAX, &[1])).unwrap();
        assert_eq!(scan.next_record, u64::MAX);
    }
}
