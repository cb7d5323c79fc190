//! Reads a journal as a crash, or worse, left it.
//!
//! Owns what the files say together: how far the stream is, where each segment stands, which parts
//! are no records. Changes nothing on disk: what to do about damage is decided in `recovery`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use tallystick_common::ids::{Hash, Seq};
use tallystick_common::time::Timestamp;

use super::packing::Base;
use super::rate::Rate;
use super::record::{self, Found, Mark, Record, StateTrack};
use super::{BufferError, Head, StoredSegment};

/// What the chain needs to know of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Facts {
    pub(super) seq: Seq,
    pub(super) previous: Hash,
    pub(super) hash: Hash,
    pub(super) covered_through: Timestamp,
}

impl Facts {
    /// The head of a stream that ends in this segment.
    pub(super) fn head_after(&self) -> Head {
        Head {
            next: self.seq.next(),
            hash: self.hash,
            covered_through: self.covered_through,
        }
    }

    /// The segment that they are of.
    pub(super) fn with(self, bytes: Vec<u8>) -> StoredSegment {
        let Self {
            seq,
            previous,
            hash,
            covered_through,
        } = self;
        StoredSegment {
            seq,
            previous,
            hash,
            covered_through,
            bytes,
        }
    }
}

impl From<&StoredSegment> for Facts {
    fn from(segment: &StoredSegment) -> Self {
        let StoredSegment {
            seq,
            previous,
            hash,
            covered_through,
            ..
        } = *segment;
        Self {
            seq,
            previous,
            hash,
            covered_through,
        }
    }
}

/// What is known of segments, by number. One piece of memory, which the system gets back whole: a month is
/// known of here while the agent starts.
#[derive(Debug, Default)]
pub(super) struct Segments(Vec<Facts>);

impl Segments {
    pub(super) fn get(&self, seq: Seq) -> Option<&Facts> {
        self.place(seq).ok().and_then(|place| self.0.get(place))
    }

    fn insert(&mut self, facts: Facts) {
        match self.place(facts.seq) {
            Ok(place) => self.0[place] = facts,
            Err(place) => self.0.insert(place, facts),
        }
    }

    fn place(&self, seq: Seq) -> Result<usize, usize> {
        match self.0.last() {
            Some(last) if last.seq >= seq => self.0.binary_search_by_key(&seq, |facts| facts.seq),
            _ => Err(self.0.len()),
        }
    }
}

/// One file that could be read.
#[derive(Debug, Default)]
pub(super) struct ScannedFile {
    /// Up to the end of the last whole record.
    pub(super) whole_bytes: u64,
    /// Length of the file.
    pub(super) bytes: u64,
    /// Stretches before that end that are no records.
    pub(super) damaged: Vec<(u64, u64)>,
    /// Where its segments stand, in the order of the file.
    pub(super) places: Vec<(Seq, u64)>,
}

/// All files of a journal, taken together.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Of the stream in force, by number.
    pub(super) files: BTreeMap<u64, ScannedFile>,
    /// Of streams that were ended, by number.
    pub(super) ended: Vec<u64>,
    /// Replaced as a whole by a later file of the same stream, by number.
    pub(super) superseded: Vec<u64>,
    /// `None` when no file has a readable checkpoint.
    pub(super) mark: Option<Mark>,
    pub(super) segments: Segments,
    pub(super) state: StateTrack,
    pub(super) rate: Rate,
    pub(super) next_record: u64,
    /// The highest number of any file, readable or not.
    pub(super) last_file: u64,
}

impl Scan {
    /// Whether anything but the end of the last file is no record.
    pub(super) fn is_damaged(&self) -> bool {
        let last = self.files.keys().next_back();
        self.files.iter().any(|(number, file)| {
            !file.damaged.is_empty() || (Some(number) != last && file.whole_bytes != file.bytes)
        }) || (!self.files.is_empty() && self.mark.is_none())
    }

    /// The torn end of the last file: its number, what is whole, what there is.
    pub(super) fn torn_tail(&self) -> Option<(u64, u64, u64)> {
        let (number, file) = self.files.last_key_value()?;
        (file.whole_bytes != file.bytes).then_some((*number, file.whole_bytes, file.bytes))
    }

    /// `stored_bytes` are those of the segment as it stands in the file.
    fn note(&mut self, number: u64, at: u64, record: Record, stored_bytes: u64) {
        match record {
            Record::Checkpoint(checkpoint) => {
                self.note_mark(number, checkpoint.mark);
                if let Some(state) = &checkpoint.state {
                    self.state.note(state);
                }
            }
            Record::Sealed(sealed) => {
                let facts = Facts::from(&sealed.segment);
                self.segments.insert(facts);
                self.files
                    .entry(number)
                    .or_default()
                    .places
                    .push((facts.seq, at));
                self.rate.note(facts.covered_through, stored_bytes);
                self.raise_head(facts.head_after());
                if let Some(state) = &sealed.state {
                    self.state.note(state);
                }
            }
            Record::Receipt(receipt) => {
                if let Some(mark) = &mut self.mark {
                    super::raise(&mut mark.receipt, receipt, |receipt| receipt.through);
                }
            }
            Record::Offered(through) => {
                if let Some(mark) = &mut self.mark {
                    super::raise(&mut mark.offered, through, |through| *through);
                }
            }
            Record::State(state) => self.state.note(&state),
            // Unpacked by now.
            Record::Packed(_) => {}
        }
    }

    /// A later generation ends what earlier files say.
    fn note_mark(&mut self, number: u64, mark: Mark) {
        match &mut self.mark {
            Some(known) if known.life.generation >= mark.life.generation => {
                if let Some(receipt) = mark.receipt {
                    super::raise(&mut known.receipt, receipt, |receipt| receipt.through);
                }
                if let Some(offered) = mark.offered {
                    super::raise(&mut known.offered, offered, |through| *through);
                }
                self.raise_head(mark.head);
            }
            known => {
                let same = known
                    .as_ref()
                    .is_some_and(|known| known.life.stream == mark.life.stream);
                let current = self.files.split_off(&number);
                let elders = std::mem::replace(&mut self.files, current).into_keys();
                if same {
                    self.superseded.extend(elders);
                } else {
                    self.ended.extend(elders);
                }
                self.segments = Segments::default();
                self.state = StateTrack::default();
                self.rate = Rate::default();
                self.mark = Some(mark);
            }
        }
    }

    fn raise_head(&mut self, head: Head) {
        if let Some(mark) = self
            .mark
            .as_mut()
            .filter(|mark| mark.head.next <= head.next)
        {
            mark.head = head;
        }
    }
}

/// Reads every file of the journal in `dir`. A folder that is not there is an empty journal.
pub(super) fn scan(dir: &Path) -> Result<Scan, BufferError> {
    let mut scan = Scan::default();
    // The same memory for every file.
    let mut bytes = Vec::new();
    for number in numbers(dir)? {
        scan.last_file = number;
        let path = file_path(dir, number);
        bytes.clear();
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(BufferError::io("read", &path))?;
        scan.files.insert(
            number,
            ScannedFile {
                bytes: bytes.len() as u64,
                ..Default::default()
            },
        );
        scan_file(&mut scan, number, &bytes).map_err(|(kind, version)| BufferError::Newer {
            path,
            kind,
            version,
        })?;
    }
    Ok(scan)
}

pub(super) fn scan_file(scan: &mut Scan, number: u64, bytes: &[u8]) -> Result<(), (u8, u8)> {
    let (mut at, mut whole) = (0, 0);
    let mut damaged = Vec::new();
    let mut base = Base::default();
    while at < bytes.len() {
        match record::read(&bytes[at..]) {
            Found::Whole {
                record,
                number: record_number,
                bytes,
            } => {
                base.note(&record, at as u64);
                let stored_bytes = record.segment_bytes();
                match base.unpack(*record) {
                    Ok(record) => scan.note(number, at as u64, record, stored_bytes),
                    Err(lost) => {
                        damaged.push((at as u64, (at + bytes) as u64));
                        // It was sealed: its number is never used again.
                        scan.raise_head(lost.head_after());
                    }
                }
                scan.next_record = scan.next_record.max(record_number.saturating_add(1));
                at += bytes;
                whole = at;
            }
            Found::Newer { kind, version } => return Err((kind, version)),
            Found::Bad => match record::next_whole(&bytes[at..]) {
                Some(skipped) => {
                    damaged.push((at as u64, (at + skipped) as u64));
                    at += skipped;
                }
                None => break,
            },
        }
    }
    let file = scan.files.entry(number).or_default();
    file.whole_bytes = whole as u64;
    file.damaged = damaged;
    Ok(())
}

/// The files of a journal, by rising number.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u64>, BufferError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(BufferError::io("list", dir)(error)),
    };
    let mut numbers: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".log")?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Where file `number` of the journal in `dir` is.
pub(super) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}
