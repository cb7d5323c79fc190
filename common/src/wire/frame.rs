//! Frames: a kind, a length, a payload.
//!
//! A frame is one byte of kind, four bytes of payload length (big-endian), the payload. The length is
//! checked against the kind's limit before anything is kept of the payload.

use super::{FrameKind, Message};
use crate::codec::CodecError;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 5;

/// Bytes that are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No kind has that number.
    #[error("no frame kind has the number {0}")]
    UnknownKind(u8),
    /// Longer than its kind may be.
    #[error("a {kind:?} frame of {length} bytes; at most {limit} are allowed")]
    Oversized {
        /// The kind.
        kind: FrameKind,
        /// Its payload's length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Its payload is no message of the kind.
    #[error("the payload of a {kind:?} frame: {error}")]
    Payload {
        /// The kind.
        kind: FrameKind,
        /// What is wrong.
        error: CodecError,
    },
}

pub(super) fn encode(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.push(kind as u8);
    // Every payload is far below 4 GiB: segments are limited when sealed, messages by their types.
    frame.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    frame.extend_from_slice(payload);
    frame
}

/// Cuts a stream of bytes into messages.
///
/// After an error the stream cannot be read on: where the next frame begins is not known.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    pending: Vec<u8>,
    read: usize,
}

impl FrameDecoder {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they arrive. Call [`Self::next_message`] until it returns `None` before
    /// pushing more, and at most one frame and one push are ever held.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.pending.drain(..self.read);
            self.read = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, if it has arrived.
    ///
    /// # Errors
    /// When what arrived is not a frame; found out as early as its header tells.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let unread = &self.pending[self.read..];
        let Some((&[code, a, b, c, d], rest)) = unread.split_first_chunk::<HEADER_BYTES>() else {
            return unread
                .first()
                .map_or(Ok(None), |code| known_kind(*code).map(|_| None));
        };
        let kind = known_kind(code)?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let limit = kind.max_payload();
        if length > limit {
            return Err(FrameError::Oversized {
                kind,
                length,
                limit,
            });
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let message = Message::from_payload(kind, payload.to_vec())
            .map_err(|error| FrameError::Payload { kind, error })?;
        self.read += HEADER_BYTES + length;
        Ok(Some(message))
    }

    /// Bytes that arrived and are not part of a message returned: after the end of a stream, a
    /// frame that was cut off; after an error, the frame that was not understood.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.pending[self.read..]
    }
}

fn known_kind(code: u8) -> Result<FrameKind, FrameError> {
    FrameKind::from_code(code).ok_or(FrameError::UnknownKind(code))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{RefusalReason, Refused};

    fn refused(detail: &str) -> Message {
        Message::Refused(Refused {
            seq: None,
            reason: RefusalReason::Busy,
            detail: detail.to_owned(),
        })
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_header_alone() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&[FrameKind::Hello as u8, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            decoder.next_message(),
            Err(FrameError::Oversized { .. })
        ));
    }

    #[test]
    fn an_unknown_kind_is_refused_by_its_first_byte() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&[0]);
        assert_eq!(decoder.next_message(), Err(FrameError::UnknownKind(0)));
    }

    #[test]
    fn a_payload_of_another_kind_is_refused() {
        let mut frame = refused("x").to_frame();
        frame[0] = FrameKind::Hello as u8;
        let mut decoder = FrameDecoder::new();
        decoder.push(&frame);
        assert!(matches!(
            decoder.next_message(),
            Err(FrameError::Payload { .. })
        ));
        assert_eq!(
            decoder.unread(),
            frame,
            "what was not understood can still be kept"
        );
    }

    proptest! {
        #[test]
        fn messages_arrive_however_the_bytes_are_cut(
            details in proptest::collection::vec("[a-z]{0,40}", 0..6), cut in 1usize..50,
        ) {
            let sent: Vec<Message> = details.iter().map(|detail| refused(detail)).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(Message::to_frame).collect();
            let mut decoder = FrameDecoder::new();
            let mut arrived = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(message) = decoder.next_message().unwrap() {
                    arrived.push(message);
                }
            }
            prop_assert_eq!(arrived, sent);
            prop_assert!(decoder.unread().is_empty());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            let mut decoder = FrameDecoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_message() {}
        }
    }
}
