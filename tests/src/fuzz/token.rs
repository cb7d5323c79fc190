//! Join tokens.

use data_encoding::BASE64URL_NOPAD;
use tallystick_common::wire::JoinToken;

use super::{Input, Output, Target, golden};

pub(super) const TOKEN: Target = Target {
    name: "token",
    max_bytes: 1024,
    run,
    seeds,
    words: &["tallystick-join-1.", "127.0.0.1:8621"],
};

/// The first byte says whether the rest is the text, or what its encoded part spells.
fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let text = if input.byte() % 2 == 0 {
        String::from_utf8_lossy(input.0).into_owned()
    } else {
        format!("tallystick-join-1.{}", BASE64URL_NOPAD.encode(input.0))
    };
    match text.parse::<JoinToken>() {
        Ok(token) => {
            assert_eq!(token.to_string(), text.trim(), "a token has one spelling");
            let _ = format!("{token:?}");
        }
        Err(error) => drop(error.to_string()),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let text = String::from_utf8(golden("join-token")).expect("a token is text");
    let encoded = text.trim().trim_start_matches("tallystick-join-1.");
    let inner = BASE64URL_NOPAD
        .decode(encoded.as_bytes())
        .expect("it is base64url");
    vec![
        Output::default().byte(0).bytes(text.as_bytes()).0,
        Output::default().byte(1).bytes(&inner).0,
    ]
}
