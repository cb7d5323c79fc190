//! What a person's decision must lead to.

use tallystick_common::ids::{NodeId, StreamId};

use super::Content;
use super::ledger::{Ledger, Standing, Stream};

/// A stream by its node and id.
pub type Key = (NodeId, StreamId);

impl Stream {
    /// Another segment came for the place of one that is held: the stream stops, unless a person decided of that
    /// branch before.
    pub(super) fn fork(&mut self, content: &Content, now: u64) {
        let of = |(_, _, begins): &(u64, u64, _)| {
            *begins == content.hash || Some(*begins) == content.previous
        };
        if !self.frozen && !self.forks.iter().any(of) {
            self.frozen = true;
            self.forks.push((now, content.seq.0, content.hash));
        }
    }

    /// From a number on nothing counts, because a person says so.
    fn write_off(&mut self, from: u64) {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        for kept in self.segments.iter_mut().skip(from) {
            (kept.counts, kept.doubted, kept.written_off) = (false, true, true);
        }
        self.closed = true;
    }
}

impl Ledger {
    /// Segments of a stream, from one to another, are to count: whether they may. All do, or none.
    pub fn accept(&mut self, key: Key, first: usize, last: usize) -> bool {
        let stream = &self.streams[&key];
        let range = &stream.segments[first..=last];
        let may = range.iter().filter(|kept| !kept.counts).all(|kept| {
            let revoked = stream
                .revoked
                .is_some_and(|from| kept.content.seq.0 >= from);
            !kept.content.spoiled && !revoked && !self.is_measured_elsewhere(&kept.content)
        });
        if !may || range.iter().all(|kept| kept.counts) {
            return false;
        }
        let segments = self.streams.get_mut(&key).map(|stream| {
            let range = &mut stream.segments[first..=last];
            let mut fresh = Vec::new();
            for kept in range.iter_mut().filter(|kept| !kept.counts) {
                (kept.counts, kept.written_off) = (true, false);
                fresh.push(std::rc::Rc::clone(&kept.content));
            }
            fresh
        });
        for content in segments
            .into_iter()
            .flatten()
            .filter(|content| content.last)
        {
            self.retire(key, content.time.1);
        }
        true
    }

    /// A node's last words count after all: it has taken leave by them, unless it spoke on elsewhere.
    fn retire(&mut self, (node, stream): Key, at: u64) {
        let others = self.streams.iter();
        let others = others.filter(|((of, other), _)| *of == node && *other != stream);
        let spoke_on = others
            .flat_map(|(_, other)| &other.segments)
            .any(|kept| kept.content.time.1 > at);
        if !spoke_on && self.nodes.get(&node) == Some(&Standing::Active) {
            self.nodes.insert(node, Standing::Retired(at));
        }
    }

    /// They are not to count: whether somebody may say so.
    pub fn reject(&mut self, key: Key, first: usize, last: usize) -> bool {
        let Some(stream) = self.streams.get_mut(&key) else {
            return false;
        };
        let range = &mut stream.segments[first..=last];
        let may = range.iter().all(|kept| kept.doubted);
        for kept in range.iter_mut().filter(|_| may) {
            (kept.counts, kept.written_off) = (false, true);
        }
        may
    }

    /// The branch that is held is the node's, or not.
    pub fn resolve(&mut self, key: Key, keep_other: bool) {
        let Some(stream) = self.streams.get_mut(&key) else {
            return;
        };
        let latest = stream.forks.iter().map(|(at, seq, _)| (*at, *seq)).max();
        stream.frozen = false;
        if let (true, Some((_, seq))) = (keep_other, latest) {
            stream.write_off(seq);
        }
    }

    /// The key that signed a stream from a number on is not the node's alone.
    pub fn revoke(&mut self, key: Key, from: u64) {
        self.revoked.insert(key.0);
        if let Some(stream) = self.streams.get_mut(&key) {
            let held = stream.segments.len() as u64;
            let from = from.min(held);
            stream.write_off(from);
            stream.frozen = false;
            stream.revoked = Some(stream.revoked.map_or(from, |before| before.min(from)));
        }
    }
}
