//! The unsent part of a stream on its way to being replaced by something shorter.
//!
//! Owns that the replacement happens at one instant or not at all: the next generation is a journal
//! file of its own, which holds everything without a receipt and the open registers, and which
//! supersedes its elders the moment it has its name. Does not know what is in a segment: whoever
//! thins takes the old ones and puts the new ones.
//!
//! Only segments above the offered mark are replaced, so that no number that the other side may have
//! seen ever names something else (I1, I6).

use tallystick_common::ids::Seq;

use super::journal::FileDraft;
use super::record::{Checkpoint, Life, Mark, Record, SealedRecord, StateAt, StateForm};
use super::reserve::Need;
use super::scan::Facts;
use super::{Buffer, BufferError, Head, StoredSegment};

/// What [`Buffer::rewrite`] gives. Dropped before [`Self::finish`], it changes nothing.
#[derive(Debug)]
pub struct Rewrite<'a> {
    buffer: &'a mut Buffer,
    draft: FileDraft,
    mark: Mark,
    state: Vec<u8>,
    next: Seq,
}

impl Buffer {
    /// Begins to replace what was never offered. `None` when there is nothing of that kind.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn rewrite(&mut self) -> Result<Option<Rewrite<'_>>, BufferError> {
        let (first, before_first) = self.mark.first_unreceipted();
        let unsent = self.oldest_unsent();
        let next = self.mark.head.next;
        let Some(state) = self.state.at(next).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        if unsent >= next {
            return Ok(None);
        }
        let life = Life {
            generation: self.mark.life.generation + 1,
            ..self.mark.life
        };
        let mark = Mark {
            life,
            head: Head {
                next: first,
                hash: before_first,
                ..Head::BEGINNING
            },
            ..self.mark.clone()
        };
        let checkpoint = Checkpoint {
            mark: mark.clone(),
            state: None,
        };
        let draft = self.with_reserve(Need::Seal, |journal| journal.draft(checkpoint.clone()))?;
        let mut rewrite = Rewrite {
            buffer: self,
            draft,
            mark,
            state,
            next: first,
        };
        while rewrite.next < unsent {
            if let Some(segment) = rewrite.take()? {
                rewrite.put(segment)?;
            }
        }
        Ok(Some(rewrite))
    }

    /// The first segment that the other side cannot know.
    #[must_use]
    pub fn oldest_unsent(&self) -> Seq {
        let unreceipted = self.mark.first_unreceipted().0;
        match self.mark.offered {
            Some(offered) => unreceipted.max(offered.next()),
            None => unreceipted,
        }
    }
}

impl Rewrite<'_> {
    /// What the next segment put has to follow.
    #[must_use]
    pub fn head(&self) -> Head {
        self.mark.head
    }

    /// The next of the old segments; `None` when all were taken.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn take(&mut self) -> Result<Option<StoredSegment>, BufferError> {
        if self.next >= self.buffer.mark.head.next {
            return Ok(None);
        }
        let segment = self.buffer.read(self.next)?;
        self.next = self.next.next();
        Ok(Some(segment))
    }

    /// The next of the new segments.
    ///
    /// # Errors
    /// When it does not follow, or the disk does not take it.
    pub fn put(&mut self, segment: StoredSegment) -> Result<(), BufferError> {
        if segment.seq != self.mark.head.next || segment.previous != self.mark.head.hash {
            return Err(BufferError::NotNext {
                expected: self.mark.head.next,
                given: segment.seq,
            });
        }
        self.mark.head = Facts::from(&segment).head_after();
        self.append(&Record::Sealed(SealedRecord {
            segment,
            state: None,
        }))
    }

    fn append(&mut self, record: &Record) -> Result<(), BufferError> {
        let Self { buffer, draft, .. } = self;
        buffer.with_reserve(Need::Seal, |_| draft.append(record))
    }

    /// Puts the new segments in the place of the old ones: after this returns, and after a crash at
    /// any instant before it, the buffer has either the old ones or the new ones.
    ///
    /// # Errors
    /// When not all old ones were taken, or the disk does not take it; the old ones stay then.
    pub fn finish(mut self) -> Result<(), BufferError> {
        let old = self.buffer.mark.head;
        if self.next != old.next || self.mark.head.covered_through != old.covered_through {
            return Err(BufferError::NotAll {
                through: self.mark.head.covered_through,
                expected: old.covered_through,
            });
        }
        let state = StateAt {
            at: self.mark.head.next,
            form: StateForm::Full(std::mem::take(&mut self.state)),
        };
        self.append(&Record::State(state.clone()))?;
        let Self {
            buffer,
            draft,
            mark,
            ..
        } = self;
        buffer.journal.put_in_force(draft)?;
        buffer.mark = mark;
        buffer.state.forget_base();
        buffer.state.note(&state);
        buffer.rebuild_store();
        buffer.heads.send_replace(buffer.mark.head);
        Ok(())
    }
}
