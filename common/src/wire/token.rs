//! The join token: where the reconciler is, how to know it, and the right to enrol once.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;

use crate::codec;
use crate::ids::Hash;

/// What stands before the encoded part: kind and version.
const PREFIX: &str = "tallystick-join-1.";

/// A one-time join token. Its text form is a secret.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinToken {
    /// `host:port` of the reconciler, in the order in which to try.
    pub addresses: Vec<String>,
    /// BLAKE3 of the CA's certificate (DER).
    pub ca: Hash,
    /// Names it where its secret must not stand: the proof of possession of an enrolment is over it.
    pub id: [u8; 16],
    /// The half that proves possession; the reconciler keeps only its hash.
    pub secret: [u8; 32],
}

impl JoinToken {
    /// BLAKE3 of the secret: what the reconciler keeps.
    #[must_use]
    pub fn secret_hash(secret: &[u8; 32]) -> Hash {
        Hash(*blake3::hash(secret).as_bytes())
    }
}

/// A text that is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error(
        "not a join token: one begins with {PREFIX:?}; make one with `tallystick-reconciler token create`"
    )]
    Prefix,
    /// Cut off or mistyped.
    #[error("the join token is damaged; copy the whole line again")]
    Damaged,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}{}",
            BASE64URL_NOPAD.encode(&codec::encode(self))
        )
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(for {:?})", self.addresses)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| TokenError::Damaged)?;
        codec::decode(&bytes).map_err(|_| TokenError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let token = JoinToken {
            addresses: vec!["[::1]:8621".to_owned()],
            ca: Hash([1; 32]),
            id: [2; 16],
            secret: [3; 32],
        };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token));
        assert_eq!(
            text[..text.len() - 1].parse::<JoinToken>(),
            Err(TokenError::Damaged)
        );
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::Prefix));
    }
}
