//! What a reconciler must hold: which segments of which streams, and which of them count.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use tallystick_common::ids::{Hash, NodeId, StreamId};

use super::tariff::Rule;
use super::{Content, Item, Usage};

/// What must become of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It counts.
    Counted,
    /// It is kept and does not count.
    Doubted,
    /// It is there already.
    Known,
    /// Others have to come before it.
    Early,
    /// Another one has its place.
    Forked,
    /// Its stream waits until a person decides which branch is the node's.
    Held,
    /// It is not taken.
    Refused,
}

/// Whether a node's segments are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They are.
    Active,
    /// They are not.
    Banned,
    /// Its last one has come, for time up to then.
    Retired(u64),
}

/// A segment that is held.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What it says.
    pub content: Rc<Content>,
    /// It counts.
    pub counts: bool,
    /// It is or was in doubt, so that a person may decide that it does not count.
    pub doubted: bool,
    /// A person decided that it does not count.
    pub written_off: bool,
}

/// One stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Its segments in order.
    pub segments: Vec<Kept>,
    /// It goes on no more, whatever is decided of its forks.
    pub closed: bool,
    /// It was forked, and nobody has decided yet.
    pub frozen: bool,
    /// When each fork was heard of, where it is, and which segment begins the other branch.
    pub forks: Vec<(u64, u64, Hash)>,
    /// From which number on its key is revoked.
    pub revoked: Option<u64>,
}

/// An invoice or a correction as it was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its number.
    pub number: String,
    /// Every byte of it.
    pub text: String,
}

/// What was said of the month to an account: by its invoice and corrections together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said {
    /// What they add up to, in cents.
    pub cents: i128,
    /// The usage that the latest of them states.
    pub micros: u128,
}

/// Everything a reconciler holds. A copy of it belongs to a copy of its store.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Standing>,
    /// Streams.
    pub streams: BTreeMap<(NodeId, StreamId), Stream>,
    /// Whose what is.
    pub rules: Vec<Rule>,
    /// Invoices, as issued.
    pub invoices: Vec<Document>,
    /// Corrections, as issued.
    pub corrections: Vec<Document>,
    /// By account that has an invoice.
    pub said: BTreeMap<&'static str, Said>,
    /// Nodes whose key signs nothing new.
    pub revoked: BTreeSet<NodeId>,
}

impl Ledger {
    /// What must become of a segment that arrives now.
    #[must_use]
    pub fn fate(&self, content: &Content) -> Fate {
        if self.nodes.get(&content.node) != Some(&Standing::Active) {
            return Fate::Refused;
        }
        let stream = self.streams.get(&(content.node, content.stream));
        let held = stream.map_or(&[][..], |stream| &stream.segments);
        let place = usize::try_from(content.seq.0).unwrap_or(usize::MAX);
        let there = held.get(place).map(|kept| kept.content.hash);
        if there == Some(content.hash) {
            return Fate::Known;
        }
        if self.revoked.contains(&content.node) {
            return Fate::Refused;
        }
        if there.is_some() {
            return Fate::Forked;
        }
        if stream.is_some_and(|stream| stream.frozen) {
            return Fate::Held;
        }
        if stream.is_some_and(|stream| stream.closed) {
            return Fate::Refused;
        }
        if place > held.len() {
            return Fate::Early;
        }
        if held.last().map(|last| last.content.hash) != content.previous {
            return Fate::Refused;
        }
        if content.spoiled || self.is_measured_elsewhere(content) {
            return Fate::Doubted;
        }
        Fate::Counted
    }

    /// Nobody counts one thing twice at one time.
    pub(super) fn is_measured_elsewhere(&self, content: &Content) -> bool {
        let elsewhere = self
            .streams
            .iter()
            .filter(|((node, stream), _)| *node == content.node && *stream != content.stream)
            .flat_map(|(_, stream)| &stream.segments)
            .filter(|kept| kept.counts)
            .flat_map(|kept| &kept.content.measured);
        elsewhere.into_iter().any(|(item, (from, to))| {
            let meets =
                |(own, (start, end)): &(Item, (u64, u64))| own == item && start < to && from < end;
            content.measured.iter().any(meets)
        })
    }

    /// A segment has arrived at that time, and this was its fate.
    pub fn take(&mut self, content: &Rc<Content>, fate: Fate, now: u64) {
        let stream = (content.node, content.stream);
        match fate {
            Fate::Counted | Fate::Doubted => {
                let counts = fate == Fate::Counted;
                let stream = self.streams.entry(stream).or_default();
                stream.segments.push(Kept {
                    content: Rc::clone(content),
                    counts,
                    doubted: !counts,
                    written_off: false,
                });
                stream.closed |= content.last;
                if counts && content.last {
                    self.nodes
                        .insert(content.node, Standing::Retired(content.time.1));
                }
            }
            Fate::Forked => self.streams.entry(stream).or_default().fork(content, now),
            Fate::Known | Fate::Early | Fate::Held | Fate::Refused => {}
        }
    }

    /// Whether it holds this very segment.
    #[must_use]
    pub fn holds(&self, content: &Content) -> bool {
        let place = usize::try_from(content.seq.0).unwrap_or(usize::MAX);
        self.streams
            .get(&(content.node, content.stream))
            .and_then(|stream| stream.segments.get(place))
            .is_some_and(|kept| kept.content.hash == content.hash)
    }

    /// What counts of a node.
    #[must_use]
    pub fn counted(&self, node: NodeId) -> Usage {
        let mut sum = Usage::new();
        let own = self.streams.iter().filter(|((of, _), _)| *of == node);
        let kept = own.flat_map(|(_, stream)| &stream.segments);
        for kept in kept.filter(|kept| kept.counts) {
            for (place, quantity) in &kept.content.used {
                *sum.entry(*place).or_default() += quantity;
            }
        }
        sum
    }

    /// Up to when a node has accounted for time without leaving any out, since it began.
    #[must_use]
    pub fn accounted_through(&self, node: NodeId) -> Option<u64> {
        let own = self.streams.iter().filter(|((of, _), _)| *of == node);
        let mut times: Vec<(u64, u64)> = own
            .flat_map(|(_, stream)| &stream.segments)
            .map(|kept| kept.content.time)
            .collect();
        times.sort_unstable();
        let mut through = times.first()?.0;
        for (from, to) in times {
            if from > through {
                break;
            }
            through = through.max(to);
        }
        Some(through)
    }

    /// Nodes that are still awaited for time up to `end`.
    #[must_use]
    pub fn awaited(&self, end: u64) -> Vec<NodeId> {
        let short = |(node, standing): &(&NodeId, &Standing)| {
            **standing == Standing::Active && self.accounted_through(**node) < Some(end)
        };
        self.nodes
            .iter()
            .filter(short)
            .map(|(node, _)| *node)
            .collect()
    }
}
