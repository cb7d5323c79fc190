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
//!   reserve                blocks that are given back when the disk is full
//!   store/                 sled: segments in pieces of at most 4 KiB
//!   ended/STREAM/          what was not receipted of streams that could not go on
//!   quarantine/            damaged files, as they were found
//! ```
//!
//! A segment counts as sealed when its journal record is on the disk; only then is it written to
//! sled, several at a time: each time sled writes whole pages. A crash between the two is made good on opening; a sled that cannot be read is set aside
//! and rebuilt from the journal; a damaged journal is written anew from what both hold together.

use std::path::{Path, PathBuf};

use tallystick_common::failpoint;
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::segment::StreamPosition;
use tallystick_common::time::{Micros, Timestamp};
use tokio::sync::watch;

#[cfg(feature = "decoders")]
pub mod decoders;
mod delta;
mod error;
mod fill;
mod handle;
mod journal;
mod packing;
mod peek;
mod rate;
mod record;
mod recovery;
mod report;
mod reserve;
mod rewrite;
mod room;
mod scan;
mod scratch;
mod segment;
mod store;
mod survey;
#[cfg(test)]
mod trace;
mod union;

pub use error::BufferError;
pub use handle::Handle;
pub use peek::{Peek, peek};
pub use recovery::Recovered;
pub use report::Report;
pub use rewrite::Rewrite;
pub use segment::{Head, ReceiptMark, StoredSegment};
pub use survey::{JournalFile, Survey};

use journal::{Durability, Journal};
use rate::Rate;
use record::{Checkpoint, Life, Mark, Record, SealedRecord, StateAt, StateForm, StateTrack};
use reserve::{Need, Reserve};
use room::{Kept, Stored};
use store::{Store, StoreError};

/// Settings of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// A journal file is followed by a new one from this length in bytes on.
    pub rotate_bytes: u64,
    /// What sled may keep in memory.
    pub cache_bytes: u64,
    /// How long receipted segments stay in sled, for a reconciler that was restored from a backup;
    /// never more of them than half the limit.
    pub keep_receipted: Micros,
    /// Most bytes of journal, sled and reserve together.
    pub limit_bytes: u64,
}

impl Settings {
    /// What is set aside for a full disk.
    fn reserve_bytes(&self) -> u64 {
        (self.limit_bytes / 64).clamp(256 << 10, 16 << 20)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rotate_bytes: 4 << 20,
            cache_bytes: 1 << 20,
            keep_receipted: Micros::from_seconds(14 * 24 * 3600),
            limit_bytes: 1 << 30,
        }
    }
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
    /// Whether the disk was full and sealing goes on into the reserve.
    pub in_reserve: bool,
    /// How long until it is full at the present rate; see [`Buffer::full_in`].
    pub full_in: Option<Micros>,
}

/// What became of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// So many segments are receipted by it.
    Advanced(u64),
    /// A receipt for as much or more was there already.
    Known,
}

/// How many segments ahead of the one sent the offered mark is journaled.
const OFFERED_BLOCK: u64 = 256;
/// How many seals are written to sled at once; meanwhile only the journal has them.
const STORE_EVERY: u64 = 32;
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
    stored: Stored,
    /// Receipted segments in sled; `None` while not counted.
    kept: Option<Kept>,
    reserve: Reserve,
    rate: Rate,
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
        self.check_room(segment.bytes.len())?;
        self.rotate_if_due(Need::Seal)?;
        let head = scan::Facts::from(&segment).head_after();
        let state = self.state.form(head.next, state);
        let record = Record::Sealed(SealedRecord {
            segment,
            state: Some(state.clone()),
        });
        let stored_bytes = self.journaled(&record, Need::Seal)?;
        failpoint!("agent.journal.synced");
        self.rate.note(head.covered_through, stored_bytes);
        self.mark.head = head;
        self.state.note(&state);
        if head.next.0 - self.stored.next.0.min(head.next.0) >= STORE_EVERY {
            self.write_store();
            self.forget_surplus(false);
        }
        failpoint!("agent.sled.written");
        self.flush_or_mend_if_due();
        self.heads.send_replace(head);
        Ok(())
    }

    /// Takes the open registers between two seals, so that a crash does not lose what they know. Never out
    /// of the reserve: that is for what cannot be given again.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn save_state(&mut self, state: &[u8]) -> Result<(), BufferError> {
        self.rotate_if_due(Need::State)?;
        let state = self.state.form(self.mark.head.next, state);
        self.journaled(&Record::State(state.clone()), Need::State)?;
        self.state.note(&state);
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
        self.rotate_if_due(Need::Receipt)?;
        self.journal.hold(receipt.clone());
        failpoint!("agent.receipt.journaled");
        self.mark.receipt = Some(receipt);
        let first = before.map_or(0, |before| before.0 + 1);
        self.forget_surplus(false);
        failpoint!("agent.receipt.deleted");
        self.with_reserve(Need::Receipt, |journal| journal.remove_receipted(through))?;
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
        self.rotate_if_due(Need::Receipt)?;
        let through = Seq(seq.0.saturating_add(OFFERED_BLOCK));
        self.journaled(&Record::Offered(through), Need::Receipt)?;
        self.mark.offered = Some(through);
        // Known to sled at once, too: whoever has to go on without the journal must not thin any of this.
        self.write_store();
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

    /// Ends the stream and begins `stream`, with nothing sealed and `registers`, from one instant on; `after`
    /// is what its first segment will name as its predecessor. What was not receipted of the old stream
    /// is moved to `ended/`.
    ///
    /// # Errors
    /// When the new journal file cannot be written: then the old stream goes on.
    pub fn begin_stream(
        &mut self,
        stream: StreamId,
        after: Option<StreamPosition>,
        registers: Option<&[u8]>,
    ) -> Result<(), BufferError> {
        let generation = self.mark.life.generation + 1;
        let mark = Mark::beginning(Life {
            generation,
            stream,
            predecessor: after,
        });
        let state = registers.map(|registers| StateAt {
            at: mark.head.next,
            form: StateForm::Full(registers.to_vec()),
        });
        self.journal.rotate(Checkpoint {
            mark: mark.clone(),
            state: state.clone(),
        })?;
        let ended = self
            .dir
            .join("ended")
            .join(self.mark.life.stream.to_string());
        self.mark = mark;
        self.state = StateTrack::default();
        state.iter().for_each(|state| self.state.note(state));
        self.rate = Rate::default();
        self.stored = Stored {
            next: Seq::FIRST,
            base: None,
        };
        self.kept = Some(Kept {
            bytes: 0,
            next: Seq::FIRST,
        });
        self.journal.move_elders(&ended)?;
        self.with_store(|store, mark| {
            store.begin(mark)?;
            store.set_mark(mark, state.as_slice())
        });
        self.heads.send_replace(self.mark.head);
        Ok(())
    }

    /// Forces everything to the disk, sled too.
    ///
    /// # Errors
    /// When the journal cannot be synced.
    pub fn flush(&mut self) -> Result<(), BufferError> {
        self.write_store();
        self.forget_surplus(true);
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

    /// Up to when the last receipted segment accounts for time, where it is still known.
    #[must_use]
    pub fn receipted_time(&self) -> Option<Timestamp> {
        let through = self.mark.receipt.as_ref()?.through;
        if through.next() == self.mark.head.next {
            return Some(self.mark.head.covered_through);
        }
        let segment = self.stored(through).ok()?;
        Some(segment.covered_through)
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
            bytes: self.bytes(),
            oldest_unreceipted: (unreceipted > 0).then_some(first),
            receipted_through: self.mark.receipt.as_ref().map(|receipt| receipt.through),
            journal_alone: self.store.is_none(),
            in_reserve: !self.reserve.is_whole(),
            full_in: self.full_in(),
        }
    }

    /// Told of the head whenever it moves.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Head> {
        self.heads.subscribe()
    }

    fn journaled(&mut self, record: &Record, need: Need) -> Result<u64, BufferError> {
        self.with_reserve(need, |journal| journal.append(record, Durability::Now))
    }

    fn rotate_if_due(&mut self, need: Need) -> Result<(), BufferError> {
        if !self.journal.wants_new_file(self.settings.rotate_bytes) {
            return Ok(());
        }
        let checkpoint = self.checkpoint();
        match self.with_reserve(need, |journal| journal.rotate(checkpoint.clone())) {
            // A file that is long already can grow longer.
            Err(BufferError::Full { .. } | BufferError::Io { .. })
                if !self.journal.needs_new_file() =>
            {
                return Ok(());
            }
            rotated => rotated?,
        }
        if let Some(state) = &checkpoint.state {
            self.state.note(state);
        }
        self.write_store();
        self.with_store(|store, _| store.flush());
        if let Err(error) = self.journal.shed_states() {
            tracing::warn!(%error, "a journal file stays longer than it has to be");
        }
        match self.mark.receipt.as_ref().map(|receipt| receipt.through) {
            Some(through) => {
                self.with_reserve(Need::Receipt, |journal| journal.remove_receipted(through))
            }
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
        // sled is not tried again on a full disk: it would only be put out of order again.
        if next.is_multiple_of(MEND_EVERY) && self.reserve.restore() && self.store.is_none() {
            self.attach_store();
        } else if next.is_multiple_of(FLUSH_EVERY) {
            self.write_store();
            self.with_store(|store, _| store.flush());
            self.compact_if_bloated();
        }
    }

    /// Reads from sled; where that fails, or does not have it yet, from the journal.
    fn read(&mut self, seq: Seq) -> Result<StoredSegment, BufferError> {
        if seq >= self.stored.next
            && let Some(segment) = self.journal.segment(seq)?
        {
            return Ok(segment);
        }
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
                self.give_up_store(&error);
                None
            }
        }
    }

    fn give_up_store(&mut self, error: &StoreError) {
        tracing::warn!(%error, "the store is out of order, the journal works alone");
        self.store = None;
    }
}

impl Drop for Buffer {
    /// A buffer that is closed in good order leaves the same in both.
    fn drop(&mut self) {
        self.write_store();
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
