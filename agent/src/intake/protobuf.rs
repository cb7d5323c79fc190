//! Protocol Buffers' wire format, as much of it as OTLP needs: reading fields, writing a small answer.

/// Bytes that are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a Protocol Buffers message of this kind")]
pub(super) struct NotAMessage;

/// One field's value; bits and lengths as they stand on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in order.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// The fields of `message`.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(*self.take(8)?.first_chunk()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed32)?,
            _ => return None,
        };
        (tag >> 3 > 0).then_some((tag >> 3, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), NotAMessage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field().ok_or(NotAMessage);
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

impl<'a> Value<'a> {
    /// A message or bytes.
    pub(super) fn bytes(self) -> Result<&'a [u8], NotAMessage> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(NotAMessage),
        }
    }

    /// A text.
    pub(super) fn text(self) -> Result<&'a str, NotAMessage> {
        std::str::from_utf8(self.bytes()?).map_err(|_| NotAMessage)
    }

    /// An integer, a flag or an enumeration.
    pub(super) fn number(self) -> Result<u64, NotAMessage> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(NotAMessage),
        }
    }

    /// Eight bytes' bits.
    pub(super) fn fixed(self) -> Result<u64, NotAMessage> {
        match self {
            Self::Fixed64(bits) => Ok(bits),
            _ => Err(NotAMessage),
        }
    }
}

/// Appends an integer field.
pub(super) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

/// Appends a text or message field.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a field of eight bytes.
#[cfg(test)]
pub(super) fn put_fixed(out: &mut Vec<u8>, field: u64, bits: u64) {
    put_varint(out, field << 3 | 1);
    out.extend_from_slice(&bits.to_le_bytes());
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(field in 1u64..1 << 29, number: u64, bits: u64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_number(&mut out, field, number);
            put_fixed(&mut out, field, bits);
            put_bytes(&mut out, field, &bytes);
            let read: Result<Vec<_>, _> = fields(&out).collect();
            let values = [Value::Varint(number), Value::Fixed64(bits), Value::Bytes(&bytes)];
            prop_assert_eq!(read.unwrap(), values.map(|value| (field, value)));
        }

        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes: Vec<u8>) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}
