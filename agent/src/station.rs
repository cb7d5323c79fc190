//! The meter at work, without a clock: samples in, sealed segments in the buffer.
//!
//! Owns the order of sealing (draft, sign, journal) and what happens to a segment that the disk does
//! not take. Does not sample and does not wait: `run` drives it by the clock, tests by the hand.

use std::collections::VecDeque;

use tallystick_common::codec;
use tallystick_common::failpoint;
use tallystick_common::ids::{NodeId, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::seal::SealError;
use tallystick_common::segment::RunError;

use crate::accrue::{Accrual, Checkpoint, Draft, RegisterView, Reported, RestoreError, Settings};
use crate::buffer::{BufferError, Handle, Head};
use crate::sample::Sample;
use crate::thin::{Grain, Thinning};

mod coverage;
mod signer;
mod thinning;

pub use coverage::Coverage;
use signer::Signer;
pub use thinning::Thinned;

/// More drafts that the buffer does not take than this are made coarser.
const PENDING_DRAFTS: usize = 48;

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum StationError {
    /// The buffer did not take it. It is kept and given again at the next seal.
    #[error("what was metered is kept in memory: {0}")]
    Buffer(#[from] BufferError),
    /// A draft broke a rule: a fault of the program. The stream has to end.
    #[error("seal: {0}; a new stream is needed")]
    Draft(#[from] RunError),
    /// As [`Self::Draft`].
    #[error("seal: {0}; a new stream is needed")]
    Seal(#[from] SealError),
    /// The open registers are of a newer version.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A segment in the buffer cannot be read, so nothing can be thinned.
    #[error("thin: segment {seq} of the buffer cannot be read: {error}")]
    Kept {
        /// Which.
        seq: tallystick_common::ids::Seq,
        /// What is wrong with it.
        error: SealError,
    },
}

/// A draft that the buffer has not taken yet, and the registers after it.
#[derive(Debug)]
struct Pending {
    draft: Draft,
    state: Vec<u8>,
}

/// One stream being metered.
#[derive(Debug)]
pub struct Station {
    signer: Signer,
    accrual: Accrual,
    buffer: Handle,
    pending: VecDeque<Pending>,
    /// What was closed in sealed segments and not asked for yet.
    closed: Vec<RegisterView>,
    /// Where the buffer stood when nothing more could be made room of.
    exhausted: Option<(tallystick_common::ids::Seq, tallystick_common::ids::Seq)>,
    coverage: Coverage,
}

impl Station {
    /// Goes on with the registers in `state`, as the buffer gave them back on opening.
    ///
    /// # Errors
    /// When they were written by a newer version.
    pub fn new(
        node: NodeId,
        key: SecretKey,
        settings: Settings,
        buffer: Handle,
        state: Option<&[u8]>,
    ) -> Result<Self, StationError> {
        let checkpoint = state.and_then(|state| {
            codec::decode::<Checkpoint>(state)
                .inspect_err(|error| tracing::error!(%error, "the open registers cannot be read"))
                .ok()
        });
        let accrual = match checkpoint {
            Some(checkpoint) => Accrual::restore(settings, checkpoint)?,
            None => Accrual::new(settings),
        };
        Ok(Self {
            signer: Signer::new(node, key),
            accrual,
            buffer,
            pending: VecDeque::new(),
            closed: Vec::new(),
            exhausted: None,
            coverage: Coverage::default(),
        })
    }

    /// Folds one sample in.
    pub fn observe(&mut self, sample: &Sample) {
        self.accrual.observe(sample);
    }

    /// Seals what has accrued and buffers it: when this returns `Some`, that segment is on the disk.
    /// `None` when no time has passed. `seed` is 32 random bytes, drawn for this call.
    ///
    /// # Errors
    /// [`StationError::Buffer`] when the disk does not take it, or the buffer is at its limit: accrual
    /// goes on, and the next call gives it again, in fewer intervals, before anything else.
    pub fn seal(&mut self, seed: [u8; 32]) -> Result<Option<Head>, StationError> {
        let draft = self.accrual.seal()?;
        self.take_in(draft, seed)
    }

    /// As [`Self::seal`], with every register closed in it: the node's last segment.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_last(&mut self, seed: [u8; 32]) -> Result<Option<Head>, StationError> {
        let draft = self.accrual.seal_last()?;
        self.take_in(draft, seed)
    }

    fn take_in(
        &mut self,
        draft: Option<Draft>,
        seed: [u8; 32],
    ) -> Result<Option<Head>, StationError> {
        failpoint!("agent.seal.before");
        let sealed_something = draft.is_some() || !self.pending.is_empty();
        if let Some(draft) = draft {
            self.coverage.add(&draft);
            let state = codec::encode(&self.accrual.checkpoint());
            self.postpone(Pending { draft, state })?;
        }
        self.settle_pending(seed)?;
        Ok(sealed_something.then(|| self.buffer.head()))
    }

    /// Makes sure that reports can be taken: gives the buffer what it has not taken yet, for until then nothing
    /// newer may be kept, and finds room on the disk. `seed` is as for [`Self::seal`].
    ///
    /// # Errors
    /// [`StationError::Buffer`] when there is no room.
    pub fn make_ready(&mut self, seed: [u8; 32]) -> Result<(), StationError> {
        if !self.buffer.lock().has_room_on_disk() {
            return Err(BufferError::NoRoom.into());
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.settle_pending(seed)
    }

    /// Goes on with these registers, which are those of [`Self::accrual`] with reports added: when this returns,
    /// they are on the disk.
    ///
    /// # Errors
    /// When the disk does not take them, or has not taken an earlier draft yet; the registers are as they were.
    pub fn take_reports(&mut self, accrual: Accrual) -> Result<(), StationError> {
        if !self.pending.is_empty() {
            return Err(BufferError::NoRoom.into());
        }
        let state = codec::encode(&accrual.checkpoint());
        self.buffer.lock().save_state(&state)?;
        self.accrual = accrual;
        Ok(())
    }

    /// Notes the last batch of reports that counts as being in the registers.
    pub fn set_batch(&mut self, batch: u64) {
        self.accrual.set_batch(batch);
    }

    /// Other settings are in force from the next sample on. Seal before.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.accrual.reconfigure(settings);
    }

    /// Ends the stream and begins `stream`, which names the old one's end as its predecessor: every
    /// register opens anew, and what was accrued and not sealed is a gap. What applications reported goes on,
    /// unless the old stream `lives_on` elsewhere, where it may have been sealed.
    ///
    /// # Errors
    /// When the buffer cannot begin it; the old stream goes on then.
    pub fn begin_stream(&mut self, stream: StreamId, lives_on: bool) -> Result<(), StationError> {
        let mut accrual = self.accrual.clone();
        let drafts = self.pending.iter().map(|pending| &pending.draft);
        if lives_on {
            tell_dropped(&accrual.unsealed_reports(drafts));
        } else {
            accrual.carry_reported(drafts);
        }
        accrual.begin_stream();
        let state = codec::encode(&accrual.checkpoint());
        let mut buffer = self.buffer.lock();
        let after = buffer.position().or(buffer.predecessor());
        buffer.begin_stream(stream, after, Some(&state))?;
        self.accrual = accrual;
        self.pending.clear();
        Ok(())
    }

    /// The registers that were closed in segments sealed since the last call, as they stood then.
    pub fn take_closed(&mut self) -> Vec<RegisterView> {
        std::mem::take(&mut self.closed)
    }

    /// The registers.
    #[must_use]
    pub fn accrual(&self) -> &Accrual {
        &self.accrual
    }

    /// Sealed time by quality, since this process began.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// The buffer.
    #[must_use]
    pub fn buffer(&self) -> &Handle {
        &self.buffer
    }

    /// Queues a draft behind those that the buffer did not take; they become one where they can, so
    /// that a disk that stays full costs memory for a few intervals an hour and register only.
    fn postpone(&mut self, next: Pending) -> Result<(), RunError> {
        let grain = match self.pending.len() / PENDING_DRAFTS {
            0 => Grain::QuarterHour,
            1 => Grain::Hour,
            2 => Grain::SixHours,
            _ => Grain::Day,
        };
        let Some(last) = self.pending.pop_back() else {
            self.pending.push_back(next);
            return Ok(());
        };
        let mut thinning = Thinning::of(last.draft, grain);
        match thinning.join(next.draft) {
            Ok(()) => self.pending.push_back(Pending {
                draft: thinning.finish()?,
                state: next.state,
            }),
            Err(apart) => {
                let draft = thinning.finish()?;
                self.pending.push_back(Pending {
                    draft,
                    state: last.state,
                });
                self.pending.push_back(Pending {
                    draft: *apart,
                    state: next.state,
                });
            }
        }
        Ok(())
    }

    /// What a disk that takes nothing leaves behind: a draft that waits.
    #[cfg(test)]
    pub(crate) fn leave_unsealed(&mut self) {
        let draft = self.accrual.seal().unwrap().unwrap();
        let state = codec::encode(&self.accrual.checkpoint());
        self.postpone(Pending { draft, state }).unwrap();
    }

    fn settle_pending(&mut self, seed: [u8; 32]) -> Result<(), StationError> {
        while let Some(pending) = self.pending.front() {
            let segment = {
                let buffer = self.buffer.lock();
                let place = signer::Place::of(&buffer);
                self.signer.seal(pending.draft.clone(), &place, seed)?
            };
            let bytes = segment.bytes.len();
            let appended = self.buffer.lock().append(segment, &pending.state);
            match appended {
                Err(BufferError::AtLimit { .. }) => self.make_room(seed, bytes)?,
                appended => {
                    appended?;
                    self.take_off();
                }
            }
        }
        if self.buffer.lock().is_crowded()
            && let Err(error) = self.make_room(seed, 0)
        {
            // What was sealed is safe; that there is no room is told when something finds none.
            tracing::warn!(%error, "no room was made in the buffer");
        }
        Ok(())
    }

    fn take_off(&mut self) {
        if let Some(pending) = self.pending.pop_front() {
            self.closed.extend(signer::closed_in(&pending.draft));
        }
    }
}

fn tell_dropped(reported: &Reported) {
    for ((workload, meter), quantity) in reported {
        tracing::warn!(%workload, %meter, %quantity, "reported and not sealed here: another copy of the stream may have sealed it, so it is not billed again");
    }
}

#[cfg(test)]
pub(crate) mod tests;
