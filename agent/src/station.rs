//! The meter at work, without a clock: samples in, sealed segments in the buffer.
//!
//! Owns the order of sealing (draft, sign, journal) and what happens to a segment that the disk does
//! not take. Does not sample and does not wait: `run` drives it by the clock, tests by the hand.

use tallystick_common::codec;
use tallystick_common::failpoint;
use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::seal::{SealError, seal};
use tallystick_common::segment::{HeaderDraft, Previous, Purpose, RunError};

use crate::accrue::{Accrual, Checkpoint, Draft, RestoreError, Settings};
use crate::buffer::{BufferError, Handle, Head, StoredSegment};
use crate::sample::Sample;

/// Why nothing was sealed.
#[derive(Debug, thiserror::Error)]
pub enum StationError {
    /// The buffer did not take it. It is kept and given again at the next seal.
    #[error("the segment is kept in memory: {0}")]
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
}

/// A segment that the buffer has not taken yet, and the registers after it.
#[derive(Debug)]
struct Pending {
    segment: StoredSegment,
    state: Vec<u8>,
}

/// One stream being metered.
#[derive(Debug)]
pub struct Station {
    node: NodeId,
    key: SecretKey,
    accrual: Accrual,
    buffer: Handle,
    pending: Option<Pending>,
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
            node,
            key,
            accrual,
            buffer,
            pending: None,
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
    /// [`StationError::Buffer`] when the disk does not take it: accrual goes on, and the next call
    /// gives it again before anything else.
    pub fn seal(&mut self, seed: [u8; 32]) -> Result<Option<Head>, StationError> {
        self.settle_pending()?;
        let Some(draft) = self.accrual.seal()? else {
            return Ok(None);
        };
        failpoint!("agent.seal.before");
        let segment = self.sealed(draft, seed)?;
        let state = codec::encode(&self.accrual.checkpoint());
        self.pending = Some(Pending { segment, state });
        self.settle_pending()?;
        Ok(Some(self.buffer.head()))
    }

    /// Gives the buffer what it has not taken yet. Until then nothing newer may be kept.
    ///
    /// # Errors
    /// [`StationError::Buffer`] when the disk still does not take it.
    pub fn settle(&mut self) -> Result<(), StationError> {
        self.settle_pending()
    }

    /// Goes on with these registers, which are those of [`Self::accrual`] with reports added: when this returns,
    /// they are on the disk.
    ///
    /// # Errors
    /// When the disk does not take them; the registers are as they were.
    pub fn take_reports(&mut self, accrual: Accrual) -> Result<(), StationError> {
        self.settle_pending()?;
        let state = codec::encode(&accrual.checkpoint());
        self.buffer.lock().save_state(&state)?;
        self.accrual = accrual;
        Ok(())
    }

    /// Notes the last batch of reports that was logged.
    pub fn set_batch(&mut self, batch: u64) {
        self.accrual.set_batch(batch);
    }

    /// Ends the stream and begins `stream`, which names the old one's end as its predecessor: every
    /// register opens anew, and what was accrued and not sealed is a gap.
    ///
    /// # Errors
    /// When the buffer cannot begin it; the old stream goes on then.
    pub fn begin_stream(&mut self, stream: StreamId) -> Result<(), StationError> {
        let mut accrual = self.accrual.clone();
        accrual.begin_stream();
        let state = codec::encode(&accrual.checkpoint());
        let mut buffer = self.buffer.lock();
        let after = buffer.position().or(buffer.predecessor());
        buffer.begin_stream(stream, after)?;
        self.accrual = accrual;
        self.pending = None;
        buffer.save_state(&state)?;
        Ok(())
    }

    /// The registers.
    #[must_use]
    pub fn accrual(&self) -> &Accrual {
        &self.accrual
    }

    /// The buffer.
    #[must_use]
    pub fn buffer(&self) -> &Handle {
        &self.buffer
    }

    fn settle_pending(&mut self) -> Result<(), StationError> {
        if let Some(pending) = &self.pending {
            self.buffer
                .lock()
                .append(pending.segment.clone(), &pending.state)?;
            self.pending = None;
        }
        Ok(())
    }

    fn sealed(&self, draft: Draft, seed: [u8; 32]) -> Result<StoredSegment, StationError> {
        let buffer = self.buffer.lock();
        let Head {
            next: seq, hash, ..
        } = buffer.head();
        let header = HeaderDraft {
            node: self.node,
            stream: buffer.stream(),
            seq,
            previous: match seq {
                Seq::FIRST => Previous::Opens {
                    after: buffer.predecessor(),
                },
                _ => Previous::Follows(hash),
            },
            from: draft.from,
            covered_through: draft.covered_through,
            boot: draft.boot,
            config: draft.config,
            purpose: Purpose::Readings,
            gaps: draft.gaps,
        };
        drop(buffer);
        let covered_through = header.covered_through;
        let sealed = seal(header, draft.blocks, seed, &self.key)?;
        Ok(StoredSegment {
            seq,
            previous: hash,
            hash: sealed.hash(),
            covered_through,
            bytes: sealed.bytes().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests;
