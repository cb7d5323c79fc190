//! Frames and the messages in them.

use tallystick_common::wire::{FrameDecoder, FrameKind, HEADER_BYTES, Message};

use super::{Input, Output, Target, golden};

pub(super) const FRAMES: Target = Target {
    name: "frames",
    max_bytes: 4096,
    run: frames,
    seeds: frame_seeds,
    words: &[],
};

pub(super) const MESSAGES: Target = Target {
    name: "messages",
    max_bytes: 4096,
    run: messages,
    seeds: message_seeds,
    words: &[],
};

const GOLDEN: [&str; 12] = [
    "frame-hello",
    "frame-welcome",
    "frame-segment",
    "frame-receipt",
    "frame-refused",
    "frame-enroll",
    "frame-enrolled",
    "frame-renew",
    "frame-renewed",
    "frame-notice",
    "frame-in-force",
    "frame-closing",
];

/// The first byte says how the stream is cut.
fn frames(bytes: &[u8]) {
    let mut input = Input(bytes);
    let cut = usize::from(input.byte()) + 1;
    let whole = read(&[input.0]);
    let pieces: Vec<&[u8]> = input.0.chunks(cut).collect();
    assert_eq!(
        read(&pieces),
        whole,
        "messages do not depend on how bytes are cut"
    );
}

/// The messages, each written again as it came, and whether it ended in an error.
fn read(pieces: &[&[u8]]) -> (Vec<Message>, bool) {
    let mut decoder = FrameDecoder::new();
    let (mut found, mut at) = (Vec::new(), 0);
    let stream = pieces.concat();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => {
                    let frame = message.to_frame();
                    assert_eq!(stream.get(at..at + frame.len()), Some(frame.as_slice()));
                    at += frame.len();
                    found.push(message);
                }
                Ok(None) => break,
                Err(error) => {
                    let _ = error.to_string();
                    return (found, true);
                }
            }
        }
    }
    assert!(stream.ends_with(decoder.unread()));
    (found, false)
}

/// The first byte names the kind, the rest is the payload.
fn messages(bytes: &[u8]) {
    let mut input = Input(bytes);
    let Some(kind) = FrameKind::from_code(input.byte() % 13) else {
        return;
    };
    match Message::from_payload(kind, input.0.to_vec()) {
        Ok(message) => {
            assert_eq!(message.kind(), kind);
            assert_eq!(&message.to_frame()[HEADER_BYTES..], input.0);
            let _ = format!("{message:?}");
        }
        Err(error) => drop(error.to_string()),
    }
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let all: Vec<u8> = GOLDEN[..6].iter().flat_map(|name| golden(name)).collect();
    let cut = |frame: &[u8]| Output::default().byte(7).bytes(frame).0;
    let mut seeds: Vec<Vec<u8>> = GOLDEN.iter().map(|name| cut(&golden(name))).collect();
    seeds.push(cut(&all));
    seeds
}

fn message_seeds() -> Vec<Vec<u8>> {
    let seed = |name: &&str| {
        let frame = golden(name);
        let payload = &frame[HEADER_BYTES..];
        Output::default().byte(frame[0]).bytes(payload).0
    };
    GOLDEN.iter().map(seed).collect()
}
