//! The records of the tally as they stand in its file.

use std::io;
use std::path::Path;

use bincode::{Decode, Encode};
use tallystick_common::codec::MAX_DECODED_BYTES;
use tallystick_common::ids::{Hash, RegisterId, Seq, StreamId};
use tallystick_common::reading::Reading;
use tallystick_common::time::Timestamp;

use crate::accrue::RegisterView;

const MAGIC: [u8; 4] = *b"TSTL";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 20;

/// The tally was begun.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Begun {
    pub(super) at: Timestamp,
    /// The last day that was over then, in days since 1970.
    pub(super) day: u64,
}

/// Open registers when a day was over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct DayRecord {
    /// Days since 1970.
    pub(super) day: u64,
    pub(super) stream: StreamId,
    pub(super) through: Timestamp,
    pub(super) rows: Vec<Row>,
}

/// Registers that were closed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Closed {
    pub(super) stream: StreamId,
    pub(super) rows: Vec<Row>,
}

/// A receipt for every day before it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct ReceiptRecord {
    pub(super) covered_through: Timestamp,
    pub(super) seq: Seq,
    pub(super) hash: Hash,
    pub(super) bytes: Vec<u8>,
}

/// One register.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Row {
    pub(super) register: RegisterId,
    pub(super) workload: String,
    /// The meter's code.
    pub(super) meter: u16,
    pub(super) reading: Reading,
    pub(super) through: Timestamp,
}

impl From<RegisterView> for Row {
    fn from(view: RegisterView) -> Self {
        Self {
            register: view.register,
            workload: view.workload.as_str().to_owned(),
            meter: view.meter.code(),
            reading: view.reading,
            through: view.through,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Begun(Begun),
    Day(DayRecord),
    Closed(Closed),
    Receipt(ReceiptRecord),
}

impl Record {
    /// The record as it stands in the file.
    pub(super) fn frame(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Begun(body) => (1, encoded(body)),
            Self::Day(body) => (2, encoded(body)),
            Self::Closed(body) => (3, encoded(body)),
            Self::Receipt(body) => (4, encoded(body)),
        };
        framed(kind, VERSION, &body)
    }
}

pub(super) fn framed(kind: u8, version: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend(MAGIC);
    frame.extend([kind, version, 0, 0]);
    frame.extend(length.to_le_bytes());
    frame.extend(crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&frame);
    frame.extend(crc.to_le_bytes());
    frame.extend(body);
    frame
}

fn encoded<T: Encode>(body: &T) -> Vec<u8> {
    bincode::encode_to_vec(body, bincode::config::standard())
        .expect("writing plain data to memory cannot fail")
}

fn decoded<T: Decode<()>>(body: &[u8]) -> Option<T> {
    // Lengths beyond any record are refused before they are allocated.
    let config = bincode::config::standard().with_limit::<MAX_DECODED_BYTES>();
    let (value, read) = bincode::decode_from_slice(body, config).ok()?;
    (read == body.len()).then_some(value)
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// Up to the end of the last whole record.
    pub(super) whole_bytes: u64,
    /// What stands after it.
    pub(super) torn_bytes: u64,
    /// What is no record and stands before it.
    pub(super) damaged_bytes: u64,
}

/// Reads every record; a file that is not there has none.
pub(super) fn read_file(path: &Path) -> io::Result<Found> {
    match std::fs::read(path) {
        Ok(bytes) => read(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::default()),
        Err(error) => Err(error),
    }
}

pub(super) fn read(bytes: &[u8]) -> io::Result<Found> {
    let mut found = Found::default();
    let (mut at, mut whole) = (0, 0);
    while at < bytes.len() {
        let Some((kind, version, body)) = whole_frame(&bytes[at..]) else {
            at += 1;
            continue;
        };
        if version != VERSION {
            let newer = "it was written by a newer agent: use that version";
            return Err(io::Error::new(io::ErrorKind::InvalidData, newer));
        }
        found.damaged_bytes += (at - whole) as u64;
        // A kind of a later time is none of ours, and stays.
        found.records.extend(match kind {
            1 => decoded(body).map(Record::Begun),
            2 => decoded(body).map(Record::Day),
            3 => decoded(body).map(Record::Closed),
            4 => decoded(body).map(Record::Receipt),
            _ => None,
        });
        at += HEAD_BYTES + body.len();
        whole = at;
    }
    found.whole_bytes = whole as u64;
    found.torn_bytes = (bytes.len() - whole) as u64;
    Ok(found)
}

fn whole_frame(bytes: &[u8]) -> Option<(u8, u8, &[u8])> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    if head[..4] != MAGIC || word(&head[16..]) != crc32fast::hash(&head[..16]) {
        return None;
    }
    let length = usize::try_from(word(&head[8..])).ok()?;
    let body = bytes.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?;
    (word(&head[12..]) == crc32fast::hash(body)).then_some((head[4], head[5], body))
}

fn word(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_claims_more_than_there_is_memory_is_passed_over() {
        let claim = [&[1; 18], [253].as_slice(), &(u64::MAX / 256).to_le_bytes()].concat();
        let found = read(&framed(2, VERSION, &claim)).unwrap();
        assert_eq!(
            (found.records.as_slice(), found.torn_bytes),
            ([].as_slice(), 0)
        );
    }
}
