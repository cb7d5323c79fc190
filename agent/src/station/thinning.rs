//! The unsent part of the buffer, sealed again in fewer intervals.
//!
//! Owns in which order room is made: first receipted segments go, then what was never offered becomes
//! coarser, by no more than is needed. How two drafts become one is in [`crate::thin`]; that the new
//! segments replace the old ones at one instant is the buffer's.

use tallystick_common::ids::Seq;
use tallystick_common::seal::{SealError, SealedSegment};
use tallystick_common::segment::Purpose;

use super::signer::{Place, Signer};
use super::{Station, StationError};
use crate::accrue::Draft;
use crate::buffer::{Buffer, Rewrite, StoredSegment};
use crate::thin::{Grain, Thinning};

/// What thinning came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinned {
    /// How coarse unsent segments are now.
    pub grain: Grain,
    /// Unreceipted segments before.
    pub before: u64,
    /// And after.
    pub after: u64,
}

impl Station {
    /// Makes room for `bytes` more and some to spare.
    ///
    /// # Errors
    /// [`crate::buffer::BufferError::AtLimit`] when there is none to be made.
    pub(super) fn make_room(&mut self, seed: [u8; 32], bytes: usize) -> Result<(), StationError> {
        let mut buffer = self.buffer.lock();
        let place = (buffer.oldest_unsent(), buffer.head().next);
        // Every other hour is soon enough to try again what came to nothing.
        let same = |known: (Seq, Seq)| known.0 == place.0 && place.1.0 < known.1.0 + 120;
        if self.exhausted.is_some_and(same) {
            return Ok(buffer.check_room(bytes)?);
        }
        buffer.reclaim();
        for grain in Grain::ALL {
            if buffer.is_roomy() {
                break;
            }
            if let Some(thinned) = thin(&mut buffer, &self.signer, grain, seed)? {
                tracing::warn!(
                    grain = ?thinned.grain, before = thinned.before, after = thinned.after,
                    "the buffer came near its limit: unsent segments were thinned"
                );
            }
        }
        self.exhausted = buffer
            .is_crowded()
            .then(|| (buffer.oldest_unsent(), buffer.head().next));
        Ok(buffer.check_room(bytes)?)
    }
}

/// Seals the unsent segments again at `grain`. `None` when there are none.
pub(super) fn thin(
    buffer: &mut Buffer,
    signer: &Signer,
    grain: Grain,
    seed: [u8; 32],
) -> Result<Option<Thinned>, StationError> {
    let place = Place::of(buffer);
    let before = buffer.stats().unreceipted;
    let Some(rewrite) = buffer.rewrite()? else {
        return Ok(None);
    };
    let mut resealing = Resealing {
        rewrite,
        signer,
        place,
        grain,
        seed,
    };
    resealing.run()?;
    resealing.rewrite.finish()?;
    let after = buffer.stats().unreceipted;
    Ok(Some(Thinned {
        grain,
        before,
        after,
    }))
}

struct Resealing<'a> {
    rewrite: Rewrite<'a>,
    signer: &'a Signer,
    place: Place,
    grain: Grain,
    seed: [u8; 32],
}

impl Resealing<'_> {
    fn run(&mut self) -> Result<(), StationError> {
        let mut group: Option<Thinning> = None;
        while let Some(segment) = self.rewrite.take()? {
            let draft = draft_of(segment)?;
            group = Some(match group.take() {
                None => Thinning::of(draft, self.grain),
                Some(mut group) => match group.join(draft) {
                    Ok(()) => group,
                    Err(apart) => {
                        self.put(group)?;
                        Thinning::of(*apart, self.grain)
                    }
                },
            });
        }
        group.map_or(Ok(()), |group| self.put(group))
    }

    fn put(&mut self, group: Thinning) -> Result<(), StationError> {
        let place = self.place.after(self.rewrite.head());
        let segment = self.signer.seal(group.finish()?, &place, self.seed)?;
        Ok(self.rewrite.put(segment)?)
    }
}

/// What a buffered segment was sealed from.
fn draft_of(segment: StoredSegment) -> Result<Draft, StationError> {
    let seq = segment.seq;
    let kept = |error| StationError::Kept { seq, error };
    let sealed = SealedSegment::parse(segment.bytes).map_err(kept)?;
    let blocks = sealed.kept_blocks().map_err(kept)?;
    let header = sealed.header();
    if header.purpose != Purpose::Readings {
        let why = "it does more than carry readings and is not sealed again";
        return Err(kept(SealError::Inconsistent(why)));
    }
    Ok(Draft {
        from: header.from,
        covered_through: header.covered_through,
        boot: header.boot,
        config: header.config,
        gaps: header.gaps.clone(),
        blocks,
    })
}
