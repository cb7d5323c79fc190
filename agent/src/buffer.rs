//! Sealed segments, from the moment they count as sealed until their receipt has come.
//!
//! Owns the folder `buffer/`: the journal (the authority), sled (where segments are read from), the
//! open registers after the last seal, the stream's identity and head. The only user of sled. Does
//! not know what is in a segment or in the registers: both are bytes. Does not check receipts: they
//! come verified.
//!
//! ```text
//! buffer/
//!   journal/00000007.log   checksummed records; each file begins with a checkpoint
//!   store/                 sled: segments in pieces of at most 4 KiB
//!   ended/STREAM/          what was not receipted of streams that could not go on
//!   quarantine/            damaged files, as they were found
//! ```
//!
//! A segment counts as sealed when its journal record is on the disk; only then is it written to
//! sled. A crash between the two is made good on opening; a sled that cannot be read is set aside
//! and rebuilt from the journal; a damaged journal is written anew from what both hold together.

use std::io;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use tallystick_common::failpoint;
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::segment::StreamPosition;
use tallystick_common::time::Timestamp;
use tokio::sync::watch;

mod delta;
mod handle;
mod journal;
mod record;
mod recovery;
mod scan;
mod store;

pub use handle::Handle;
pub use recovery::{Peek, Recovered, Report, peek};

use crate::durable;
use journal::{Durability, Journal};
use record::{Checkpoint, Life, Mark, Record, SealedRecord, StateTrack};
use store::{Store, StoreError};

/// Settings of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A journal file is followed by a new one from this length in bytes on.
    pub rotate_bytes: u64,
    /// What sled may keep in memory.
    pub cache_bytes: u64,
    /// How many receipted segments stay in sled, for a reconciler that was restored from a backup.
    pub keep_receipted: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rotate_bytes: 4 << 20,
            cache_bytes: 1 << 20,
            keep_receipted: 64,
        }
    }
}

/// A sealed segment as it is buffered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoredSegment {
    /// Its place in the stream.
    pub seq: Seq,
    /// The hash of the segment before it; all zero for the first of a stream.
    pub previous: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// Up to when it accounts for time.
    pub covered_through: Timestamp,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// The number of the next segment.
    pub next: Seq,
    /// The hash of the last one; all zero when there is none.
    pub hash: Hash,
    /// Up to when it accounts for time; the epoch when there is none.
    pub covered_through: Timestamp,
}

impl Head {
    /// Of a stream in which nothing was sealed yet.
    pub const BEGINNING: Self = Self {
        next: Seq::FIRST,
        hash: Hash::ZERO,
        covered_through: Timestamp::EPOCH,
    };

    /// The last segment's number, where there is one.
    #[must_use]
    pub fn last(&self) -> Option<Seq> {
        self.next.0.checked_sub(1).map(Seq)
    }
}

/// A verified receipt: everything through `through` is safe on the other side.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptMark {
    /// The last segment it is for.
    pub through: Seq,
    /// That segment's hash.
    pub hash: Hash,
    /// The signed receipt.
    pub bytes: Vec<u8>,
}

/// What the buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Sealed segments without a receipt.
    pub unreceipted: u64,
    /// Bytes on disk: journal and sled together.
    pub bytes: u64,
    /// The first segment without a receipt.
    pub oldest_unreceipted: Option<Seq>,
    /// Up to when everything is receipted; `None` before the first receipt.
    pub receipted_through: Option<Seq>,
    /// Whether sled is out of order just now and the journal works alone.
    pub journal_alone: bool,
}

/// What became of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// So many segments are receipted by it.
    Advanced(u64),
    /// A receipt for as much or more was there already.
    Known,
}

/// Why the buffer did not do what was asked. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// The disk is full. Accrual goes on; the same segment is to be offered again.
    #[error(
        "cannot {action} {path}: the disk is full; metering goes on in memory, free some space"
    )]
    Full {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
    },
    /// The system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Written by a newer version.
    #[error(
        "{path} has a record (kind {kind}, version {version}) of a newer agent: install that version again, nothing was changed"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Kind of the record.
        kind: u8,
        /// Version of its body.
        version: u8,
    },
    /// A segment that does not follow the head.
    #[error("segment {given} does not follow the head: {expected} is next")]
    NotNext {
        /// What would be next.
        expected: Seq,
        /// What was given.
        given: Seq,
    },
    /// Longer than a record may be.
    #[error("a record of more than 64 MiB cannot be journaled: meter fewer workloads")]
    TooLarge,
    /// Neither sled nor the journal has it.
    #[error(
        "segment {0} is no longer in the buffer: it is receipted and was removed, or it is lost"
    )]
    Gone(Seq),
    /// A receipt for something that was not sealed, or was sealed differently.
    #[error("the receipt through {through} is not for this stream: {why}")]
    ForeignReceipt {
        /// What the receipt is for.
        through: Seq,
        /// What does not fit.
        why: &'static str,
    },
    /// The thread that did the work ended without an answer.
    #[error("the buffer's worker stopped: {0}")]
    Worker(String),
}

impl BufferError {
    /// Names `action` on `path` in an error of the system; tells a full disk from the rest.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// How many segments ahead of the one sent the offered mark is journaled.
const OFFERED_BLOCK: u64 = 256;
/// Every how many seals sled is flushed; the journal has everything meanwhile.
const FLUSH_EVERY: u64 = 64;
/// Every how many seals a sled that went out of order is tried again.
const MEND_EVERY: u64 = 16;

/// The buffer of one agent. One process has it at a time: see [`crate::lock`].
#[derive(Debug)]
pub struct Buffer {
    dir: PathBuf,
    settings: Settings,
    mark: Mark,
    state: StateTrack,
    journal: Journal,
    /// `None` while sled is out of order.
    store: Option<Store>,
    heads: watch::Sender<Head>,
}

impl Buffer {
    /// Opens the buffer in `dir`, or begins one with `fresh` as its stream, and makes good what a
    /// crash or damage left. `fresh` must be newly drawn: it is also used when the old stream cannot
    /// go on.
    ///
    /// # Errors
    /// When the folder cannot be read or written. Damage is no error: it is in the reports.
    pub fn open(
        dir: &Path,
        settings: Settings,
        fresh: StreamId,
    ) -> Result<(Self, Recovered), BufferError> {
        recovery::open(dir, settings, fresh)
    }

    /// Takes a segment and the open registers after it. When this returns, both are on the disk.
    ///
    /// # Errors
    /// [`BufferError::NotNext`] when it does not follow the head; [`BufferError::Full`] when the disk
    /// is full: nothing has happened then, the same segment can be given again.
    pub fn append(&mut self, segment: StoredSegment, state: &[u8]) -> Result<(), BufferError> {
        if segment.seq != self.mark.head.next || segment.previous != self.mark.head.hash {
            return Err(BufferError::NotNext {
                expected: self.mark.head.next,
                given: segment.seq,
            });
        }
        self.rotate_if_due()?;
        let head = scan::Facts::from(&segment).head_after();
        let state = self.state.form(head.next, state);
        let record = Record::Sealed(SealedRecord {
            segment,
            state: Some(state),
        });
        self.journal.append(&record, Durability::Now)?;
        failpoint!("agent.journal.synced");
        self.mark.head = head;
        if let Record::Sealed(SealedRecord {
            segment,
            state: Some(state),
        }) = &record
        {
            self.state.note(state);
            self.with_store(|store, mark| store.insert(segment, mark, Some(state)));
        }
        failpoint!("agent.sled.written");
        self.flush_or_mend_if_due();
        self.heads.send_replace(head);
        Ok(())
    }

    /// Takes the open registers between two seals, so that a crash does not lose what they know.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn save_state(&mut self, state: &[u8]) -> Result<(), BufferError> {
        self.rotate_if_due()?;
        let state = self.state.form(self.mark.head.next, state);
        self.journal
            .append(&Record::State(state.clone()), Durability::Now)?;
        self.state.note(&state);
        self.with_store(|store, mark| store.set_mark(mark, Some(&state)));
        Ok(())
    }

    /// Takes a verified receipt and removes what it is for.
    ///
    /// # Errors
    /// [`BufferError::ForeignReceipt`] when it is not for what was sealed here.
    pub fn receipt(&mut self, receipt: ReceiptMark) -> Result<ReceiptOutcome, BufferError> {
        let through = receipt.through;
        let before = self.mark.receipt.as_ref().map(|receipt| receipt.through);
        if before.is_some_and(|before| through <= before) {
            return Ok(ReceiptOutcome::Known);
        }
        self.check_receipt(&receipt)?;
        self.rotate_if_due()?;
        self.journal
            .append(&Record::Receipt(receipt.clone()), Durability::Later)?;
        failpoint!("agent.receipt.journaled");
        self.mark.receipt = Some(receipt);
        let kept = self.settings.keep_receipted;
        self.with_store(|store, mark| {
            store.set_mark(mark, None)?;
            through
                .0
                .checked_sub(kept)
                .map_or(Ok(()), |last| store.remove_through(Seq(last)))
        });
        failpoint!("agent.receipt.deleted");
        self.journal.remove_receipted(through)?;
        let first = before.map_or(0, |before| before.0 + 1);
        Ok(ReceiptOutcome::Advanced(through.0 + 1 - first))
    }

    fn check_receipt(&self, receipt: &ReceiptMark) -> Result<(), BufferError> {
        let foreign = |why| {
            Err(BufferError::ForeignReceipt {
                through: receipt.through,
                why,
            })
        };
        if receipt.through >= self.mark.head.next {
            return foreign("nothing was sealed there yet");
        }
        let hash = if receipt.through.next() == self.mark.head.next {
            self.mark.head.hash
        } else {
            self.stored(receipt.through)?.hash
        };
        if hash == receipt.hash {
            Ok(())
        } else {
            foreign("the segment sealed there has another hash")
        }
    }

    /// Notes, before it is sent, that the segment at `seq` may be known to the other side from now on.
    ///
    /// # Errors
    /// When the journal cannot be written: then nothing may be sent.
    pub fn offered(&mut self, seq: Seq) -> Result<(), BufferError> {
        if self.mark.offered.is_some_and(|mark| seq <= mark) {
            return Ok(());
        }
        self.rotate_if_due()?;
        let through = Seq(seq.0.saturating_add(OFFERED_BLOCK));
        self.journal
            .append(&Record::Offered(through), Durability::Now)?;
        self.mark.offered = Some(through);
        self.with_store(|store, mark| store.set_mark(mark, None));
        Ok(())
    }

    /// Segments from `first` on, in order: at most `segments` of them, and no more once `bytes` are
    /// reached. Empty when `first` is not sealed yet.
    ///
    /// # Errors
    /// [`BufferError::Gone`] when `first` is no longer held.
    pub fn segments_from(
        &mut self,
        first: Seq,
        segments: usize,
        bytes: usize,
    ) -> Result<Vec<StoredSegment>, BufferError> {
        let mut found = Vec::new();
        let mut size = 0;
        for seq in (first.0..self.mark.head.next.0).take(segments) {
            let segment = self.read(Seq(seq))?;
            size += segment.bytes.len();
            found.push(segment);
            if size >= bytes {
                break;
            }
        }
        Ok(found)
    }

    /// Ends the stream and begins `stream`, with nothing sealed and no open registers; `after` is
    /// what its first segment will name as its predecessor. What was not receipted of the old stream
    /// is moved to `ended/`.
    ///
    /// # Errors
    /// When the new journal file cannot be written: then the old stream goes on.
    pub fn begin_stream(
        &mut self,
        stream: StreamId,
        after: Option<StreamPosition>,
    ) -> Result<(), BufferError> {
        let generation = self.mark.life.generation + 1;
        let mark = Mark::beginning(Life {
            generation,
            stream,
            predecessor: after,
        });
        self.journal.rotate(Checkpoint {
            mark: mark.clone(),
            state: None,
        })?;
        let ended = self
            .dir
            .join("ended")
            .join(self.mark.life.stream.to_string());
        self.mark = mark;
        self.state = StateTrack::default();
        self.journal.move_elders(&ended)?;
        self.with_store(Store::begin);
        self.heads.send_replace(self.mark.head);
        Ok(())
    }

    /// Forces everything to the disk, sled too.
    ///
    /// # Errors
    /// When the journal cannot be synced.
    pub fn flush(&mut self) -> Result<(), BufferError> {
        self.with_store(|store, _| store.flush());
        self.journal.sync()
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.mark.life.stream
    }

    /// What the stream's first segment names, or named, as its predecessor.
    #[must_use]
    pub fn predecessor(&self) -> Option<StreamPosition> {
        self.mark.life.predecessor
    }

    /// Where the stream stands.
    #[must_use]
    pub fn head(&self) -> Head {
        self.mark.head
    }

    /// The position of the last sealed segment, where there is one.
    #[must_use]
    pub fn position(&self) -> Option<StreamPosition> {
        let Head { hash, .. } = self.mark.head;
        let seq = self.mark.head.last()?;
        Some(StreamPosition {
            stream: self.stream(),
            seq,
            hash,
        })
    }

    /// The last receipt.
    #[must_use]
    pub fn last_receipt(&self) -> Option<&ReceiptMark> {
        self.mark.receipt.as_ref()
    }

    /// The first segment that can still be read.
    #[must_use]
    pub fn oldest_held(&mut self) -> Seq {
        let unreceipted = self.mark.first_unreceipted().0;
        self.with_store(|store, _| store.first_segment())
            .flatten()
            .map_or(unreceipted, |kept| kept.min(unreceipted))
    }

    /// The hash of the segment at `seq`, where it is still known.
    #[must_use]
    pub fn hash_at(&mut self, seq: Seq) -> Option<Hash> {
        if seq.next() == self.mark.head.next {
            return Some(self.mark.head.hash);
        }
        match &self.mark.receipt {
            Some(receipt) if receipt.through == seq => Some(receipt.hash),
            _ => self.read(seq).ok().map(|segment| segment.hash),
        }
    }

    /// What the buffer holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (first, _) = self.mark.first_unreceipted();
        let unreceipted = self.mark.head.next.0.saturating_sub(first.0);
        Stats {
            unreceipted,
            bytes: self.journal.bytes() + durable::bytes_below(&self.dir.join("store")),
            oldest_unreceipted: (unreceipted > 0).then_some(first),
            receipted_through: self.mark.receipt.as_ref().map(|receipt| receipt.through),
            journal_alone: self.store.is_none(),
        }
    }

    /// Told of the head whenever it moves.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.heads.subscribe()
    }

    fn rotate_if_due(&mut self) -> Result<(), BufferError> {
        if !self.journal.wants_new_file(self.settings.rotate_bytes) {
            return Ok(());
        }
        let checkpoint = self.checkpoint();
        self.journal.rotate(checkpoint.clone())?;
        if let Some(state) = &checkpoint.state {
            self.state.note(state);
        }
        // The next differences are from this copy, in sled too.
        self.with_store(|store, mark| {
            store.set_mark(mark, checkpoint.state.as_ref())?;
            store.flush()
        });
        match self.mark.receipt.as_ref().map(|receipt| receipt.through) {
            Some(through) => self.journal.remove_receipted(through),
            None => Ok(()),
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            mark: self.mark.clone(),
            state: self.state.full_at(self.mark.head.next),
        }
    }

    fn flush_or_mend_if_due(&mut self) {
        let next = self.mark.head.next.0;
        if self.store.is_none() && next.is_multiple_of(MEND_EVERY) {
            self.store = recovery::attach(&self.dir, &self.settings, &self.journal, &self.mark)
                .inspect_err(|error| tracing::warn!(%error, "the store is still out of order"))
                .ok();
            self.state.forget_base();
        } else if next.is_multiple_of(FLUSH_EVERY) {
            self.with_store(|store, _| store.flush());
        }
    }

    /// Reads from sled; where that fails, from the journal.
    fn read(&mut self, seq: Seq) -> Result<StoredSegment, BufferError> {
        match self.with_store(|store, _| store.segment(seq)).flatten() {
            Some(segment) => Ok(segment),
            None => self.journal.segment(seq)?.ok_or(BufferError::Gone(seq)),
        }
    }

    /// As [`Self::read`], for when sled must not be put out of order by it.
    fn stored(&self, seq: Seq) -> Result<StoredSegment, BufferError> {
        let stored = self
            .store
            .as_ref()
            .and_then(|store| store.segment(seq).ok().flatten());
        match stored {
            Some(segment) => Ok(segment),
            None => self.journal.segment(seq)?.ok_or(BufferError::Gone(seq)),
        }
    }

    /// Does something to sled. A sled that fails is out of order from then on, which costs nothing
    /// but speed: the journal has everything that matters.
    fn with_store<T>(
        &mut self,
        act: impl FnOnce(&Store, &Mark) -> Result<T, StoreError>,
    ) -> Option<T> {
        let store = self.store.as_ref()?;
        match act(store, &self.mark) {
            Ok(done) => Some(done),
            Err(error) => {
                tracing::warn!(%error, "the store is out of order, the journal works alone");
                self.store = None;
                None
            }
        }
    }
}

/// Replaces what is known by what is newer, by a number that only rises.
fn raise<T>(known: &mut Option<T>, seen: T, number: impl Fn(&T) -> Seq) {
    if known
        .as_ref()
        .is_none_or(|known| number(known) < number(&seen))
    {
        *known = Some(seen);
    }
}

#[cfg(test)]
mod tests;
