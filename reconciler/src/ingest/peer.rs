//! One peer's stream as whole messages, read within limits.
//!
//! A thin skin over quinn: what a broken message means is decided by whoever reads.

use std::time::Duration;

use quinn::{ConnectionError, ReadError as QuicReadError, RecvStream, SendStream, VarInt};
use tallystick_common::wire::{CloseCode, FrameDecoder, FrameError, FrameKind, Message};

/// Most that is read at once, and so held beyond one frame.
const CHUNK_BYTES: usize = 64 << 10;
/// How long a peer may take to acknowledge the last words.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The stream ended, between messages.
    #[error("the stream ended")]
    Ended,
    /// The stream ended within a message.
    #[error("the stream ended within a frame")]
    CutOff,
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(ConnectionError),
    /// What arrived is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Another message than the one whose turn it is, by its kind's number.
    #[error("a frame of kind {found} where a {expected:?} was expected")]
    OutOfTurn {
        /// The number found.
        found: u8,
        /// What was expected.
        expected: FrameKind,
    },
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Reader {
    stream: RecvStream,
    decoder: FrameDecoder,
}

impl Reader {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(),
        }
    }

    /// The next message. Nothing is lost when the call is abandoned.
    pub(super) async fn next(&mut self) -> Result<Message, ReadError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// The next message, which has to be of this kind: another is refused by its first byte, before
    /// more than a chunk of it is held.
    pub(super) async fn next_of(&mut self, expected: FrameKind) -> Result<Message, ReadError> {
        loop {
            if let Some(&found) = self.unread().first()
                && found != expected as u8
            {
                return Err(ReadError::OutOfTurn { found, expected });
            }
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// What arrived and is not part of a message returned.
    pub(super) fn unread(&self) -> &[u8] {
        self.decoder.unread()
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        let whole = self.unread().is_empty();
        let ended = || {
            if whole {
                ReadError::Ended
            } else {
                ReadError::CutOff
            }
        };
        match self.stream.read_chunk(CHUNK_BYTES, true).await {
            Ok(Some(chunk)) => {
                self.decoder.push(&chunk.bytes);
                Ok(())
            }
            Ok(None) | Err(QuicReadError::Reset(_)) => Err(ended()),
            // A peer that goes in good order, or whose connection breaks, sends the rest again.
            Err(QuicReadError::ConnectionLost(ConnectionError::ApplicationClosed(close)))
                if !in_good_order(close.error_code) =>
            {
                Err(ended())
            }
            Err(QuicReadError::ConnectionLost(error)) => Err(ReadError::Lost(error)),
            Err(_) => Err(ReadError::Ended),
        }
    }
}

fn in_good_order(code: VarInt) -> bool {
    matches!(
        CloseCode::from_code(code.into_inner()),
        Some(CloseCode::Done | CloseCode::ShuttingDown)
    )
}

/// Sends a message.
pub(super) async fn send(
    stream: &mut SendStream,
    message: &Message,
) -> Result<(), quinn::WriteError> {
    stream.write_all(&message.to_frame()).await
}

/// Closes a connection so that what was sent before is read: waits, shortly, until it has arrived.
pub(super) async fn close(
    connection: &quinn::Connection,
    mut stream: SendStream,
    code: CloseCode,
    why: &str,
) {
    if stream.finish().is_ok() {
        let _ = tokio::time::timeout(LAST_WORDS_WITHIN, stream.stopped()).await;
    }
    connection.close(VarInt::from_u32(code as u32), why.as_bytes());
}
