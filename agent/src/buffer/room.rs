//! How much room the buffer takes, and what is done when it is too much.
//!
//! Owns the byte limit (journal, sled and reserve together), how long receipted segments stay, sled's
//! growth, and when the buffer will be full. What is thinned is decided in `station`, for it has to be
//! signed again.

use rustix::fs::statvfs;
use tallystick_common::ids::Seq;
use tallystick_common::time::Micros;

use super::journal::Journal;
use super::reserve::Need;
use super::store::{Store, StoreError};
use super::{Buffer, BufferError, fill};
use crate::durable;

/// What sled's files take for a byte in it while segments come and go (measured: 2.9 to 3.1).
const SLED_FACTOR: u64 = 3;
/// So many receipted segments are forgotten together.
const FORGET_AT_ONCE: u64 = 16;
/// Journal and sled both hold a segment.
pub(super) const COPIES: u64 = 1 + SLED_FACTOR;

/// What sled has of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Everything before this one.
    pub(super) next: Seq,
    /// The last full copy of the open registers, by its checksum.
    pub(super) base: Option<u32>,
}

/// What sled keeps although it was receipted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) bytes: u64,
    /// Counted up to this one.
    pub(super) next: Seq,
}

/// What of it is not to be kept any longer.
#[derive(Debug, Clone, Copy)]
struct Surplus {
    segments: u64,
    bytes: u64,
    last: Seq,
    /// Whether there is more of it than may be.
    is_too_much: bool,
}

/// What is kept before `next`, of which `known` was counted already.
fn count(store: &Store, known: Option<Kept>, next: Seq) -> Result<Kept, StoreError> {
    let first = store.first_segment()?.unwrap_or(next);
    let known = known.unwrap_or(Kept {
        bytes: 0,
        next: first,
    });
    let mut bytes = known.bytes;
    for seq in (known.next.0..next.0).map(Seq) {
        bytes += store.outline(seq)?.map_or(0, |outline| outline.bytes);
    }
    Ok(Kept { bytes, next })
}

fn surplus(store: &Store, kept: Kept, most: u64, keep_for: Micros) -> Result<Surplus, StoreError> {
    let first = store.first_segment()?.unwrap_or(kept.next);
    let mut surplus = Surplus {
        segments: 0,
        bytes: 0,
        last: first,
        is_too_much: kept.bytes > most,
    };
    // Some more then, so that it does not happen with each receipt.
    let most = if surplus.is_too_much {
        most - most / 32
    } else {
        most
    };
    let newest = match kept.next.0.checked_sub(1) {
        Some(last) => store.outline(Seq(last))?,
        None => None,
    };
    for seq in (first.0..kept.next.0).map(Seq) {
        let Some(outline) = store.outline(seq)? else {
            continue;
        };
        let age = newest.map_or(Micros(0), |newest| {
            newest.covered_through.since(outline.covered_through)
        });
        if kept.bytes.saturating_sub(surplus.bytes) <= most && age <= keep_for {
            break;
        }
        surplus = Surplus {
            segments: surplus.segments + 1,
            bytes: surplus.bytes + outline.bytes,
            last: seq,
            ..surplus
        };
    }
    Ok(surplus)
}

impl Buffer {
    /// Bytes of journal and sled.
    pub(super) fn bytes(&self) -> u64 {
        self.journal.bytes() + durable::bytes_below(&self.dir.join("store"))
    }

    /// Whether something has to be thinned or forgotten soon.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.bytes() > self.most_bytes() / 16 * 15
    }

    /// Whether the disk has room beyond the reserve, which is made whole for it.
    pub fn has_room_on_disk(&mut self) -> bool {
        self.reserve.restore()
    }

    /// Whether there is room for a while.
    #[must_use]
    pub fn is_roomy(&self) -> bool {
        self.bytes() <= self.most_bytes() / 4 * 3
    }

    /// How long it takes until journal and sled reach the limit or fill the disk, at the rate of the
    /// last segments, if no receipt comes and nothing is thinned. `None` while no rate is known.
    #[must_use]
    pub fn full_in(&self) -> Option<Micros> {
        let taken = self
            .bytes()
            .saturating_sub(self.kept.map_or(0, |kept| kept.bytes));
        let free = self.most_bytes().saturating_sub(taken);
        let on_disk = statvfs(&self.dir).map_or(u64::MAX, |facts| {
            facts.f_bavail.saturating_mul(facts.f_frsize)
        });
        self.rate.lasts(free.min(on_disk) / COPIES)
    }

    /// What journal and sled may take together: the reserve is within the limit, too.
    fn most_bytes(&self) -> u64 {
        let limit = self.settings.limit_bytes;
        limit.saturating_sub(self.settings.reserve_bytes())
    }

    /// Whether a segment of so many bytes fits.
    ///
    /// # Errors
    /// [`BufferError::AtLimit`] when it does not.
    pub fn check_room(&self, segment_bytes: usize) -> Result<(), BufferError> {
        let more = (segment_bytes as u64).saturating_mul(2);
        if self.bytes().saturating_add(more) > self.most_bytes() {
            return Err(BufferError::AtLimit {
                limit_bytes: self.settings.limit_bytes,
            });
        }
        Ok(())
    }

    /// Appends to the journal; where the disk is full, into the reserve.
    pub(super) fn with_reserve<T>(
        &mut self,
        need: Need,
        mut act: impl FnMut(&mut Journal) -> Result<T, BufferError>,
    ) -> Result<T, BufferError> {
        loop {
            match act(&mut self.journal) {
                Err(BufferError::Full { .. }) if self.reserve.release(need) => {}
                done => return done,
            }
        }
    }

    /// Forgets receipted segments that are kept for longer than they should be, or take more than
    /// half the limit: several at once, unless `all` is wanted, for each time pages of sled are written anew.
    pub(super) fn forget_surplus(&mut self, all: bool) {
        let receipted = self.mark.first_unreceipted().0;
        let next = receipted.min(self.stored.next);
        let (most, keep_for, known) = (
            self.settings.limit_bytes / 2 / SLED_FACTOR,
            self.settings.keep_receipted,
            self.kept,
        );
        let counted = self.with_store(|store, _| {
            let kept = count(store, known, next)?;
            let surplus = surplus(store, kept, most, keep_for)?;
            Ok((kept, surplus))
        });
        self.kept = counted.map(|(kept, _)| kept);
        let Some((kept, surplus)) = counted.filter(|(_, surplus)| match all {
            true => surplus.segments > 0,
            false => surplus.segments >= FORGET_AT_ONCE || surplus.is_too_much,
        }) else {
            return;
        };
        // Not before sled knows of the receipt itself.
        self.write_store();
        self.kept = self.with_store(|store, _| {
            store.remove_through(surplus.last)?;
            let bytes = kept.bytes.saturating_sub(surplus.bytes);
            Ok(Kept { bytes, ..kept })
        });
    }

    /// Gives back what sled grew by, and, where that is not enough, every receipted segment.
    pub fn reclaim(&mut self) {
        self.compact_if_bloated();
        if !self.is_roomy() {
            self.rebuild_store();
        }
    }

    /// sled anew from the journal.
    pub(super) fn rebuild_store(&mut self) {
        self.store = None;
        fill::wipe(&self.dir);
        self.attach_store();
        self.kept = Some(Kept {
            bytes: 0,
            next: self.mark.first_unreceipted().0,
        });
    }

    pub(super) fn attach_store(&mut self) {
        self.store = fill::attach(&self.dir, &self.settings, &self.journal, &self.mark)
            .inspect_err(|error| tracing::warn!(%error, "the store is still out of order"))
            .ok();
        self.stored = Stored {
            next: self.mark.head.next,
            base: None,
        };
        self.write_store();
    }

    /// Hands over to sled what only the journal has.
    pub(super) fn write_store(&mut self) {
        let (next, known) = (self.mark.head.next, self.stored.base);
        let (base, mut states) = match self.state.apart_at(next) {
            Some((base, states)) => (Some(base), states),
            None => (known, Vec::new()),
        };
        if base == known && !states.is_empty() {
            states.remove(0);
        }
        let Some(store) = &self.store else {
            return;
        };
        let from = self.stored.next;
        match fill::append(store, &self.journal, from, &self.mark, &states) {
            Ok(()) => self.stored = Stored { next, base },
            Err(error) => self.give_up_store(&error),
        }
    }

    /// sled's files only grow while it lives; when they are far more than what is in them, or the limit
    /// is near, they are written anew.
    pub(super) fn compact_if_bloated(&mut self) {
        let slack = self.settings.limit_bytes / 32;
        let Some(live) = self.kept.map(|kept| kept.bytes + self.journal.bytes()) else {
            return;
        };
        let store = durable::bytes_below(&self.dir.join("store"));
        let usual = live.saturating_mul(SLED_FACTOR);
        let bloated = store > usual.saturating_mul(2).saturating_add(slack);
        let worth_it = store > usual / 2 * 3 + slack / 2;
        if bloated || (worth_it && self.is_crowded()) {
            self.compact();
        }
    }

    fn compact(&mut self) {
        if let Some(store) = self.store.take() {
            self.store = fill::compact(&self.dir, &self.settings, store)
                .inspect_err(|error| tracing::warn!(%error, "the store could not be compacted"))
                .ok();
        }
        if self.store.is_none() {
            self.rebuild_store();
        }
    }
}
