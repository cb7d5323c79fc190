//! bincode as the project uses it: standard configuration, one spelling for each value.
//!
//! Owns the envelope encoding of everything that is signed, stored or sent. Decoding refuses
//! trailing bytes and any bytes that do not come out the same when encoded again.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};

/// More than any message may hold in memory while it is decoded; refuses absurd length claims
/// before they are allocated.
pub const MAX_DECODED_BYTES: usize = 64 << 20;

/// Bytes that are not one canonical value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not a value of the type.
    #[error("not a valid encoding: {0}")]
    Invalid(String),
    /// Bytes after the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// Another spelling of a value.
    #[error("not the canonical spelling of its value")]
    NotCanonical,
}

/// The same for parts of files that hold a month of something.
pub const MAX_LARGE_BYTES: usize = 512 << 20;

fn config<const MAX: usize>() -> Configuration<LittleEndian, Varint, Limit<MAX>> {
    bincode::config::standard().with_limit::<MAX>()
}

/// The bytes of `value`.
///
/// # Panics
/// Never: encoding into memory fails only for types that refuse to be encoded, and none here does.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "the writer is memory and no type here refuses"
)]
pub fn encode<T: Encode + ?Sized>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, bincode::config::standard())
        .expect("encoding into memory succeeds")
}

/// The value that `bytes` spell, all of them, in the one way it is spelled.
///
/// # Errors
/// When they do not.
pub fn decode<T: Encode + Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<T, MAX_DECODED_BYTES>(bytes)
}

/// As [`decode`], of at most [`MAX_LARGE_BYTES`] in memory.
///
/// # Errors
/// As [`decode`].
pub fn decode_large<T: Encode + Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within::<T, MAX_LARGE_BYTES>(bytes)
}

fn decode_within<T: Encode + Decode<()>, const MAX: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, read) = bincode::decode_from_slice::<T, _>(bytes, config::<MAX>())
        .map_err(|error| CodecError::Invalid(error.to_string()))?;
    if read != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - read));
    }
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_spelling() {
        assert_eq!(decode::<u64>(&encode(&300u64)), Ok(300));
        assert_eq!(
            decode::<u64>(&[251, 5, 0]),
            Err(CodecError::NotCanonical),
            "5 in three bytes"
        );
        assert_eq!(decode::<u64>(&[5, 5]), Err(CodecError::Trailing(1)));
        assert!(matches!(decode::<u64>(&[251]), Err(CodecError::Invalid(_))));
    }

    #[test]
    fn absurd_lengths_are_refused_before_they_are_allocated() {
        let claim = encode(&u64::MAX);
        assert!(matches!(
            decode::<Vec<u8>>(&claim),
            Err(CodecError::Invalid(_))
        ));
    }
}
