//! Inputs that say several things: numbers and pieces, one after the other. What is cut off is zero or empty.

/// What is left of an input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(b, r)| (*b, r));
        self.0 = rest;
        byte
    }

    /// The next two bytes, little-endian.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes, little-endian.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A piece behind its length in two bytes; what is there of it.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.short()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }

    /// As [`Self::piece`], made text.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.piece()).into_owned()
    }

    /// So many bytes, zeros where there are none.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An input being written: what [`Input`] reads.
#[derive(Debug, Default)]
pub struct Output(pub Vec<u8>);

impl Output {
    /// A byte.
    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    /// Two bytes.
    #[must_use]
    pub fn short(mut self, number: u16) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    /// Eight bytes.
    #[must_use]
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    /// A piece behind its length; at most 65,535 bytes of it.
    #[must_use]
    pub fn piece(self, piece: &[u8]) -> Self {
        let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        let mut this = self.short(length);
        this.0.extend(&piece[..usize::from(length)]);
        this
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}
