//! How much room the buffer takes, and what is done when it is too much.
//!
//! Owns the byte limit (journal, sled and reserve together), how long receipted segments stay, sled's
//! growth, and when the buffer will be full. What is thinned is decided in `station`, for it has to be
//! signed again.

use std::ops::RangeInclusive;

use rustix::fs::statvfs;
use tallystick_common::ids::Seq;
use tallystick_common::time::Micros;

use super::journal::Journal;
use super::reserve::Need;
use super::store::StoreError;
use super::{Buffer, BufferError, fill};
use crate::durable;

/// What sled's files take for a byte in it while segments come and go (measured: 2.9 to 3.1).
const SLED_FACTOR: u64 = 3;
/// Journal and sled both hold a segment.
pub(super) const COPIES: u64 = 1 + SLED_FACTOR;

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
        let taken = self.bytes().saturating_sub(self.kept.unwrap_or(0));
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
    /// half the limit; `newly` were receipted just now.
    pub(super) fn forget_surplus(&mut self, newly: RangeInclusive<u64>) {
        let (most, keep_for, known) = (
            self.settings.limit_bytes / 2 / SLED_FACTOR,
            self.settings.keep_receipted,
            self.kept,
        );
        let through = Seq(*newly.end());
        self.kept = self.with_store(|store, _| {
            let Some(first) = store.first_segment()? else {
                return Ok(0);
            };
            let size = |seq| -> Result<u64, StoreError> {
                Ok(store.outline(Seq(seq))?.map_or(0, |outline| outline.bytes))
            };
            let mut kept = match known {
                Some(known) => newly.map(size).sum::<Result<u64, _>>()? + known,
                None => (first.0..=through.0).map(size).sum::<Result<u64, _>>()?,
            };
            let newest = store
                .outline(through)?
                .map(|outline| outline.covered_through);
            let mut last = None;
            for seq in (first.0..=through.0).map(Seq) {
                let Some(outline) = store.outline(seq)? else {
                    continue;
                };
                let age = newest.map_or(Micros(0), |newest| newest.since(outline.covered_through));
                if kept <= most && age <= keep_for {
                    break;
                }
                kept = kept.saturating_sub(outline.bytes);
                last = Some(seq);
            }
            last.map_or(Ok(()), |last| store.remove_through(last))?;
            Ok(kept)
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
        self.kept = Some(0);
    }

    pub(super) fn attach_store(&mut self) {
        self.store = fill::attach(&self.dir, &self.settings, &self.journal, &self.mark)
            .inspect_err(|error| tracing::warn!(%error, "the store is still out of order"))
            .ok();
        // The next state goes into sled in full, whether or not it takes this one.
        let full = self.state.full_at(self.mark.head.next);
        self.state.forget_base();
        self.with_store(|store, mark| store.set_mark(mark, full.as_ref()));
    }

    /// sled's files only grow while it lives; when they are far more than what is in them, or the limit
    /// is near, they are written anew.
    pub(super) fn compact_if_bloated(&mut self) {
        let slack = self.settings.limit_bytes / 32;
        let Some(live) = self.kept.map(|kept| kept + self.journal.bytes()) else {
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
