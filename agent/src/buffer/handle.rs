//! The buffer as several tasks share it: one seals, one ships, one looks.
//!
//! Owns the lock and the moving of disk work off the network's threads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tallystick_common::ids::{Hash, Seq, StreamId};
use tokio::sync::watch;

use super::{Buffer, BufferError, Head, ReceiptMark, ReceiptOutcome, Stats, StoredSegment};

/// A cheap copy of access to one [`Buffer`].
#[derive(Debug, Clone)]
pub struct Handle {
    buffer: Arc<Mutex<Buffer>>,
    heads: watch::Receiver<Head>,
}

impl Handle {
    /// Shares `buffer`.
    #[must_use]
    pub fn new(buffer: Buffer) -> Self {
        let heads = buffer.heads();
        Self {
            buffer: Arc::new(Mutex::new(buffer)),
            heads,
        }
    }

    /// The buffer itself, for as long as the guard lives; blocks. A panic elsewhere does not close
    /// it: the buffer changes what it knows only after the disk has it.
    pub fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told of the head whenever a segment is sealed or a new stream begins, from now on.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Head> {
        let mut heads = self.heads.clone();
        heads.mark_unchanged();
        heads
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.lock().stream()
    }

    /// Where the stream stands.
    #[must_use]
    pub fn head(&self) -> Head {
        self.lock().head()
    }

    /// What the buffer holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock().stats()
    }

    /// As [`Buffer::segments_from`], having noted the segments as offered.
    ///
    /// # Errors
    /// As there; and when the note cannot be written, for then they must not be sent.
    pub async fn offer_from(
        &self,
        first: Seq,
        segments: usize,
        bytes: usize,
    ) -> Result<Vec<StoredSegment>, BufferError> {
        self.work(move |buffer| {
            let found = buffer.segments_from(first, segments, bytes)?;
            if let Some(last) = found.last() {
                buffer.offered(last.seq)?;
            }
            Ok(found)
        })
        .await
    }

    /// As [`Buffer::receipt`].
    ///
    /// # Errors
    /// As there.
    pub async fn receipt(&self, receipt: ReceiptMark) -> Result<ReceiptOutcome, BufferError> {
        self.work(move |buffer| buffer.receipt(receipt)).await
    }

    /// As [`Buffer::hash_at`].
    ///
    /// # Errors
    /// When the worker stopped.
    pub async fn hash_at(&self, seq: Seq) -> Result<Option<Hash>, BufferError> {
        self.work(move |buffer| Ok(buffer.hash_at(seq))).await
    }

    /// As [`Buffer::oldest_held`].
    ///
    /// # Errors
    /// When the worker stopped.
    pub async fn oldest_held(&self) -> Result<Seq, BufferError> {
        self.work(|buffer| Ok(buffer.oldest_held())).await
    }

    /// Does something that waits for the disk, away from the caller's thread.
    ///
    /// # Errors
    /// What `act` returns, or that the worker stopped.
    pub async fn work<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Buffer) -> Result<T, BufferError> + Send + 'static,
    ) -> Result<T, BufferError> {
        let handle = self.clone();
        tokio::task::spawn_blocking(move || act(&mut handle.lock()))
            .await
            .unwrap_or_else(|error| Err(BufferError::Worker(error.to_string())))
    }
}
