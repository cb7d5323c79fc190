//! A sealed segment as the buffer holds it, and where its stream stands.

use bincode::{Decode, Encode};
use tallystick_common::ids::{Hash, Seq};
use tallystick_common::time::Timestamp;

/// A sealed segment as it is buffered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoredSegment {
    /// Its place in the stream.
    pub seq: Seq,
    /// The hash of the segment before it; all zero for the first of a stream.
    pub previous: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// Up to when it accounts for time.
    pub covered_through: Timestamp,
    /// The sealed bytes.
    pub bytes: Vec<u8>,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// The number of the next segment.
    pub next: Seq,
    /// The hash of the last one; all zero when there is none.
    pub hash: Hash,
    /// Up to when it accounts for time; the epoch when there is none.
    pub covered_through: Timestamp,
}

impl Head {
    /// Of a stream in which nothing was sealed yet.
    pub const BEGINNING: Self = Self {
        next: Seq::FIRST,
        hash: Hash::ZERO,
        covered_through: Timestamp::EPOCH,
    };

    /// The last segment's number, where there is one.
    #[must_use]
    pub fn last(&self) -> Option<Seq> {
        self.next.0.checked_sub(1).map(Seq)
    }
}

/// A verified receipt: everything through `through` is safe on the other side.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReceiptMark {
    /// The last segment it is for.
    pub through: Seq,
    /// That segment's hash.
    pub hash: Hash,
    /// The signed receipt.
    pub bytes: Vec<u8>,
}
