//! Integers packed into bytes: the columns inside a block.
//!
//! Owns the one variable-length form (LEB128, least significant group first, always the shortest)
//! and its zigzag variant. The reader refuses every other spelling of the same number, so that equal
//! content has equal bytes.

/// Bytes that are not packed integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PackingError {
    /// The bytes end inside a number.
    #[error("the column ends inside a number")]
    Truncated,
    /// A longer spelling than needed.
    #[error("a number is spelled longer than needed")]
    NotMinimal,
    /// More than the type holds.
    #[error("a number exceeds its type")]
    TooLarge,
    /// Bytes after the last number.
    #[error("bytes follow the last number of a column")]
    Trailing,
}

/// Appends `value` in its shortest form, 1 to 19 bytes.
pub fn put(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(low_group(value) | 0x80);
        value >>= 7;
    }
    out.push(low_group(value));
}

fn low_group(value: u128) -> u8 {
    (value & 0x7f) as u8
}

/// Reads numbers from the front of a column.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// At the start of `column`.
    #[must_use]
    pub fn new(column: &'a [u8]) -> Self {
        Self { rest: column }
    }

    /// Whether every byte has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes not read yet: an upper bound of the numbers that can still come.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next number.
    ///
    /// # Errors
    /// When the bytes end, spell the number too long, or exceed 128 bits.
    pub fn u128(&mut self) -> Result<u128, PackingError> {
        let mut value = 0u128;
        let mut shift = 0u32;
        loop {
            let (byte, rest) = self.rest.split_first().ok_or(PackingError::Truncated)?;
            self.rest = rest;
            let group = u128::from(byte & 0x7f);
            if shift == 126 && group > 0b11 {
                return Err(PackingError::TooLarge);
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                return if group == 0 && shift > 0 {
                    Err(PackingError::NotMinimal)
                } else {
                    Ok(value)
                };
            }
            if shift == 126 {
                return Err(PackingError::TooLarge);
            }
            shift += 7;
        }
    }

    /// The next number, which must fit 64 bits.
    ///
    /// # Errors
    /// As [`Self::u128`], and when it does not fit.
    pub fn u64(&mut self) -> Result<u64, PackingError> {
        // One byte is by far the most frequent.
        if let Some((byte, rest)) = self.rest.split_first()
            && byte & 0x80 == 0
        {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.u128()?.try_into().map_err(|_| PackingError::TooLarge)
    }

    /// The next zigzag number: 0, −1, 1, −2, …
    ///
    /// # Errors
    /// As [`Self::u64`].
    pub fn i64(&mut self) -> Result<i64, PackingError> {
        let zigzag = self.u64()?;
        Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()))
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn finish(self) -> Result<(), PackingError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(PackingError::Trailing)
        }
    }
}

/// Appends `value` as zigzag.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put(
        out,
        u128::from(((value << 1) ^ (value >> 63)).cast_unsigned()),
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_spellings_are_refused() {
        assert_eq!(
            Reader::new(&[0x80, 0x00]).u128(),
            Err(PackingError::NotMinimal)
        );
        assert_eq!(Reader::new(&[0x80]).u64(), Err(PackingError::Truncated));
        let mut long = vec![0xff; 18];
        long.push(0x04);
        assert_eq!(Reader::new(&long).u128(), Err(PackingError::TooLarge));
        long[18] = 0x03;
        assert_eq!(Reader::new(&long).u128(), Ok(u128::MAX));
        assert_eq!(Reader::new(&long).u64(), Err(PackingError::TooLarge));
        assert_eq!(Reader::new(&[1]).finish(), Err(PackingError::Trailing));
    }

    proptest! {
        #[test]
        fn numbers_come_back(a: u128, b: u64, c: i64) {
            let mut out = Vec::new();
            put(&mut out, a);
            put(&mut out, u128::from(b));
            put_i64(&mut out, c);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.u128(), Ok(a));
            prop_assert_eq!(reader.u64(), Ok(b));
            prop_assert_eq!(reader.i64(), Ok(c));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn what_is_read_is_spelled_the_same(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.u128() {
                let mut out = Vec::new();
                put(&mut out, value);
                prop_assert_eq!(&bytes[..bytes.len() - reader.remaining()], &out[..]);
            }
        }
    }
}
