//! How fast the buffer fills.
//!
//! Owns the sizes of the last segments. Pure.

use std::collections::VecDeque;

use tallystick_common::time::{Micros, Timestamp};

/// As many of the last segments as the rate is taken from.
const SEGMENTS: usize = 64;

/// Bytes and times of the last segments.
#[derive(Debug, Clone, Default)]
pub(super) struct Rate {
    sealed: VecDeque<(Timestamp, u64)>,
}

impl Rate {
    /// A segment took `bytes` and accounts for time up to `covered_through`.
    pub(super) fn note(&mut self, covered_through: Timestamp, bytes: u64) {
        if self
            .sealed
            .back()
            .is_some_and(|(last, _)| *last >= covered_through)
        {
            self.sealed.clear();
        }
        if self.sealed.len() == SEGMENTS {
            self.sealed.pop_front();
        }
        self.sealed.push_back((covered_through, bytes));
    }

    /// How long `free` bytes last; `None` before there are two segments.
    pub(super) fn lasts(&self, free: u64) -> Option<Micros> {
        let (first, last) = (self.sealed.front()?.0, self.sealed.back()?.0);
        let span = u128::from(last.since(first).0);
        let bytes: u64 = self.sealed.iter().skip(1).map(|(_, bytes)| bytes).sum();
        if span == 0 || bytes == 0 {
            return None;
        }
        let lasts = u128::from(free) * span / u128::from(bytes);
        Some(Micros(u64::try_from(lasts).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_buffer_is_full_when_what_is_free_has_been_written() {
        let mut rate = Rate::default();
        let at = |minute: u64| Timestamp::from_seconds(1_000_020 + 60 * minute).unwrap();
        assert_eq!(rate.lasts(1_000), None);
        for minute in 0..200 {
            rate.note(at(minute), 500);
        }
        // 500 bytes a minute, 30 days.
        let month = Micros::from_seconds(30 * 86_400);
        assert_eq!(rate.lasts(500 * 60 * 24 * 30), Some(month));
        assert_eq!(rate.lasts(0), Some(Micros(0)));
        rate.note(at(3), 100);
        assert_eq!(rate.lasts(1_000), None, "another stream, or a thinned one");
    }
}
