//! sled: where segments are read from on their way out.
//!
//! Owns the keys and values in it. sled 0.34 can lose what it acknowledged, fail to open, or panic
//! on damaged files, so nothing here is believed without its checksum, every call survives a panic,
//! and the whole store can be rebuilt from the journal at any time.
//!
//! | key | value |
//! |---|---|
//! | `s` seq (8 bytes, big-endian) piece (2 bytes) | a segment, as its difference from its group's where that is shorter |
//! | `b` seq of the first of a group, piece | the bytes of the first segment of 256 that came in, for the others |
//! | `m` piece | how far the stream is |
//! | `f` piece, `d` piece | open registers: the last full copy, and the last state |
//!
//! A value is cut into pieces of at most 4 KiB: sled keeps longer ones in files of their own, which
//! it never syncs. With smaller ones it has more pages, and holds something in memory for each. The first piece begins with version (1 byte: 2 where a segment
//! may be a difference, else 1), length (4) and CRC-32 (4) of the whole.

use std::cell::RefCell;
use std::fs::File;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use sled::Batch;
use tallystick_common::ids::Seq;
use tallystick_common::time::Timestamp;

use super::StoredSegment;
use super::packing::Packed;
use super::record::{self, Mark, StateAt, StateForm, StateTrack};
use super::scan::Facts;
use crate::durable;

const PIECE_BYTES: usize = 4096;
const VERSION: u8 = 1;
const VERSION_KEPT: u8 = 2;
/// Segments that are packed from the same one.
const GROUP: u64 = 256;
const HEAD_BYTES: usize = 9;
/// How long a sled closed a moment ago may take to let go of its files.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// Why sled did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("sled panicked: {0}")]
    Panicked(String),
    #[error("the value at {key} is damaged")]
    Damaged { key: String },
    #[error("sync the store: {0}")]
    Sync(std::io::Error),
    #[error("the store is of another stream, or ahead of the journal in another way")]
    Disagrees,
}

impl StoreError {
    /// Whether nothing is wrong with the store but the room it has.
    pub(super) fn is_full_disk(&self) -> bool {
        let io = match self {
            Self::Sled(sled::Error::Io(error)) | Self::Sync(error) => error,
            _ => return false,
        };
        matches!(
            io.kind(),
            std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::ReadOnlyFilesystem
        ) || io.to_string().contains("o space left")
    }
}

/// What can be told of a segment from its first piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) covered_through: Timestamp,
    pub(super) bytes: u64,
}

/// A segment as it stands in sled. Begins as a [`StoredSegment`], which is version 1, does.
#[derive(Debug, Encode, Decode)]
struct Kept {
    facts: Facts,
    form: KeptForm,
}

#[derive(Debug, Encode, Decode)]
enum KeptForm {
    Whole(Vec<u8>),
    Packed(Packed),
}

/// An open sled.
#[derive(Debug)]
pub(super) struct Store {
    db: sled::Db,
    path: PathBuf,
    /// The last group whose bytes were needed, and these.
    base: RefCell<Option<(Seq, Vec<u8>)>>,
}

impl Store {
    /// Opens or creates the store at `path`.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let deadline = Instant::now() + RELEASE_WITHIN;
        loop {
            let opened = guard(|| {
                sled::Config::new()
                    .path(path)
                    .cache_capacity(cache_bytes)
                    .mode(sled::Mode::LowSpace)
                    .flush_every_ms(None)
                    .open()
                    .map_err(StoreError::from)
            });
            match opened {
                Ok(db) => {
                    return Ok(Self {
                        db,
                        path: path.to_owned(),
                        base: RefCell::default(),
                    });
                }
                Err(error) if is_locked(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How far the stream is by this store; `None` when it is empty.
    pub(super) fn mark(&self) -> Result<Option<Mark>, StoreError> {
        self.read(b"m")
    }

    /// The open registers by this store.
    pub(super) fn state(&self) -> Result<StateTrack, StoreError> {
        let mut track = StateTrack::default();
        for key in [b"f", b"d"] {
            if let Some(state) = self.read::<StateAt>(key)? {
                track.note(&state);
            }
        }
        Ok(track)
    }

    /// Adds segments and what holds after the last of them, in one.
    pub(super) fn insert(
        &self,
        segments: &[StoredSegment],
        mark: &Mark,
        states: &[StateAt],
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for segment in segments {
            let form = self.pack(segment, &mut batch)?;
            let kept = Kept {
                facts: Facts::from(segment),
                form,
            };
            put(&mut batch, &segment_key(segment.seq), VERSION_KEPT, &kept);
        }
        put_mark(&mut batch, mark, states);
        self.apply(batch)
    }

    /// As what the segment stands; the first one of a group leaves its bytes for the others.
    fn pack(&self, segment: &StoredSegment, batch: &mut Batch) -> Result<KeptForm, StoreError> {
        let group = group_of(segment.seq);
        let bytes = &segment.bytes;
        if !self.know_base(group)? {
            put(batch, &base_key(group), VERSION, bytes);
            self.base.replace(Some((group, bytes.clone())));
        }
        let base = self.base.borrow();
        let packed = base.as_ref().and_then(|(_, base)| Packed::of(base, bytes));
        Ok(packed.map_or_else(|| KeptForm::Whole(bytes.clone()), KeptForm::Packed))
    }

    /// Whether the group has bytes to pack from; they are at hand then.
    fn know_base(&self, group: Seq) -> Result<bool, StoreError> {
        let at_hand =
            |base: &Option<(Seq, Vec<u8>)>| matches!(base, Some((known, _)) if *known == group);
        if at_hand(&self.base.borrow()) {
            return Ok(true);
        }
        let found: Option<Vec<u8>> = self.read(&base_key(group))?;
        let is_known = found.is_some();
        self.base.replace(found.map(|bytes| (group, bytes)));
        Ok(is_known)
    }

    /// Notes how far the stream is.
    pub(super) fn set_mark(&self, mark: &Mark, states: &[StateAt]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        put_mark(&mut batch, mark, states);
        self.apply(batch)
    }

    /// Empties the store for a new stream.
    pub(super) fn begin(&self, mark: &Mark) -> Result<(), StoreError> {
        guard(|| Ok(self.db.clear()?))?;
        self.base.take();
        self.set_mark(mark, &[])
    }

    /// Removes every segment up to and including `last`, and what groups of them were packed from.
    pub(super) fn remove_through(&self, last: Seq) -> Result<(), StoreError> {
        let segments = b"s".to_vec()..segment_key(last.next());
        let bases = b"b".to_vec()..base_key(group_of(last.next()));
        guard(|| {
            for range in [segments, bases] {
                for key in self.db.range(range).keys() {
                    self.db.remove(key?)?;
                }
            }
            Ok(())
        })
    }

    /// The segment at `seq`.
    pub(super) fn segment(&self, seq: Seq) -> Result<Option<StoredSegment>, StoreError> {
        let key = segment_key(seq);
        let Some((version, value)) = self.value(&key)? else {
            return Ok(None);
        };
        let segment = match version {
            VERSION => record::take::<StoredSegment>(&value),
            _ => record::take::<Kept>(&value)
                .map(|kept| self.unpack(kept))
                .transpose()?
                .flatten(),
        };
        let segment = segment.filter(|segment| segment.seq == seq);
        segment.map(Some).ok_or_else(|| damaged(&key))
    }

    fn unpack(&self, kept: Kept) -> Result<Option<StoredSegment>, StoreError> {
        let bytes = match kept.form {
            KeptForm::Whole(bytes) => Some(bytes),
            KeptForm::Packed(packed) => {
                self.know_base(group_of(kept.facts.seq))?;
                let base = self.base.borrow();
                base.as_ref().and_then(|(_, base)| packed.unpacked(base))
            }
        };
        Ok(bytes.map(|bytes| kept.facts.with(bytes)))
    }

    /// What the chain needs to know of the segment at `seq`.
    pub(super) fn facts(&self, seq: Seq) -> Option<Facts> {
        self.segment(seq)
            .ok()
            .flatten()
            .map(|segment| Facts::from(&segment))
    }

    /// Length and time of the segment at `seq`, without reading all of it.
    pub(super) fn outline(&self, seq: Seq) -> Result<Option<Outline>, StoreError> {
        let key = segment_key(seq);
        let Some(first) = self.piece(&key, 0)? else {
            return Ok(None);
        };
        let head = ValueHead::of(&first).ok_or_else(|| damaged(&key))?;
        let standard = bincode::config::standard();
        let (facts, _): (Facts, usize) = bincode::decode_from_slice(&first[HEAD_BYTES..], standard)
            .map_err(|_| damaged(&key))?;
        Ok(Some(Outline {
            covered_through: facts.covered_through,
            bytes: (HEAD_BYTES + head.length) as u64,
        }))
    }

    /// Puts everything that is here into `other`, which is empty.
    pub(super) fn copy_to(&self, other: &Self) -> Result<(), StoreError> {
        guard(|| {
            for entry in self.db.iter() {
                let (key, value) = entry?;
                other.db.insert(key, value)?;
            }
            Ok(())
        })?;
        other.flush()
    }

    /// The first segment that is here.
    pub(super) fn first_segment(&self) -> Result<Option<Seq>, StoreError> {
        guard(|| {
            let first = self.db.scan_prefix(b"s").keys().next().transpose()?;
            Ok(first.and_then(|key| {
                key.get(1..9)?
                    .first_chunk()
                    .map(|seq| Seq(u64::from_be_bytes(*seq)))
            }))
        })
    }

    /// Writes everything out and syncs the files, which sled's own flush does not.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        guard(|| Ok(self.db.flush()?))?;
        let sync = |name: &str| match File::open(self.path.join(name)) {
            Ok(file) => file.sync_all(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        sync("db")
            .and_then(|()| sync("blobs"))
            .map_err(StoreError::Sync)?;
        durable::sync_dir(&self.path).map_err(StoreError::Sync)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        guard(|| {
            self.db.apply_batch(batch)?;
            // sled waits, holding a lock, for a truncation that its threads have to do; with more writes
            // under way than it has threads, all of them wait for that lock, for ever.
            self.db.flush()?;
            Ok(())
        })
    }

    fn read<T: Decode<()>>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        match self.value(key)? {
            None => Ok(None),
            Some((VERSION, value)) => record::take(&value).map(Some).ok_or_else(|| damaged(key)),
            Some(_) => Err(damaged(key)),
        }
    }

    /// The version and the bytes of a value, checked.
    fn value(&self, key: &[u8]) -> Result<Option<(u8, Vec<u8>)>, StoreError> {
        let Some(first) = self.piece(key, 0)? else {
            return Ok(None);
        };
        let ValueHead {
            version,
            length,
            crc,
        } = ValueHead::of(&first).ok_or_else(|| damaged(key))?;
        let mut value = first[HEAD_BYTES..].to_vec();
        let mut piece = 0u16;
        while value.len() < length {
            piece = piece.checked_add(1).ok_or_else(|| damaged(key))?;
            value.extend_from_slice(&self.piece(key, piece)?.ok_or_else(|| damaged(key))?);
        }
        if value.len() != length || crc32fast::hash(&value) != crc {
            return Err(damaged(key));
        }
        Ok(Some((version, value)))
    }

    fn piece(&self, key: &[u8], piece: u16) -> Result<Option<sled::IVec>, StoreError> {
        guard(|| Ok(self.db.get(piece_key(key, piece))?))
    }
}

fn put_mark(batch: &mut Batch, mark: &Mark, states: &[StateAt]) {
    put(batch, b"m", VERSION, mark);
    for state in states {
        match state.form {
            StateForm::Full(_) => {
                put(batch, b"f", VERSION, state);
                batch.remove(piece_key(b"d", 0));
            }
            _ => put(batch, b"d", VERSION, state),
        }
    }
}

fn put<T: Encode>(batch: &mut Batch, key: &[u8], version: u8, body: &T) {
    let mut value = vec![0; HEAD_BYTES];
    record::put(body, &mut value);
    let length =
        u32::try_from(value.len() - HEAD_BYTES).expect("a value is no longer than a record");
    let crc = crc32fast::hash(&value[HEAD_BYTES..]);
    value[0] = version;
    value[1..5].copy_from_slice(&length.to_be_bytes());
    value[5..9].copy_from_slice(&crc.to_be_bytes());
    for (piece, bytes) in (0u16..).zip(value.chunks(PIECE_BYTES)) {
        batch.insert(piece_key(key, piece), bytes);
    }
}

/// What a value says of itself.
struct ValueHead {
    version: u8,
    length: usize,
    crc: u32,
}

impl ValueHead {
    fn of(first: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = first.first_chunk()?;
        let word = |at: usize| {
            head[at..]
                .first_chunk()
                .map(|bytes| u32::from_be_bytes(*bytes))
        };
        matches!(head[0], VERSION | VERSION_KEPT).then_some(())?;
        Some(Self {
            version: head[0],
            length: usize::try_from(word(1)?).ok()?,
            crc: word(5)?,
        })
    }
}

/// The group that a segment is packed in, by the number of its first one.
fn group_of(seq: Seq) -> Seq {
    Seq(seq.0 / GROUP * GROUP)
}

fn base_key(group: Seq) -> Vec<u8> {
    [b"b".as_slice(), &group.0.to_be_bytes()].concat()
}

fn segment_key(seq: Seq) -> Vec<u8> {
    [b"s".as_slice(), &seq.0.to_be_bytes()].concat()
}

fn piece_key(key: &[u8], piece: u16) -> Vec<u8> {
    [key, &piece.to_be_bytes()].concat()
}

fn damaged(key: &[u8]) -> StoreError {
    StoreError::Damaged {
        key: data_encoding::HEXLOWER.encode(key),
    }
}

fn is_locked(error: &StoreError) -> bool {
    matches!(error, StoreError::Sled(sled::Error::Io(io)) if io.to_string().contains("could not acquire lock"))
}

/// Threads begun during the call may be woken late by timers. sled's seven look once a second whether there
/// is something to do, though they are woken when there is: that would be a quarter of what the agent computes.
struct Patience;

impl Patience {
    const SLACK_NANOS: NonZeroU64 = NonZeroU64::new(30_000_000_000).unwrap();

    fn begin() -> Self {
        // Threads inherit it; a kernel that refuses wakes them more often.
        let _ = rustix::thread::set_current_timer_slack(Some(Self::SLACK_NANOS));
        Self
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        let _ = rustix::thread::set_current_timer_slack(None);
    }
}

/// Runs what may panic inside sled.
fn guard<T>(act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let _patience = Patience::begin();
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(StoreError::Panicked(
            text.unwrap_or_else(|| "for no stated reason".to_owned()),
        ))
    })
}
