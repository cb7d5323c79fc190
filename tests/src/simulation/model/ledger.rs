//! What a reconciler must hold: which segments of which streams, and which of them count.

use std::collections::BTreeMap;
use std::rc::Rc;

use tallystick_common::ids::{NodeId, StreamId};

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

/// One stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// Its segments in order, each with whether it counts.
    pub segments: Vec<(Rc<Content>, bool)>,
    /// It goes on no more.
    pub closed: bool,
}

/// An invoice as it was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    /// Its number.
    pub number: String,
    /// Every byte of it.
    pub document: String,
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
    pub invoices: Vec<Invoice>,
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
        if let Some((there, _)) = held.get(place) {
            return if there.hash == content.hash {
                Fate::Known
            } else {
                Fate::Forked
            };
        }
        if stream.is_some_and(|stream| stream.closed) {
            return Fate::Refused;
        }
        if place > held.len() {
            return Fate::Early;
        }
        if held.last().map(|(last, _)| last.hash) != content.previous {
            return Fate::Refused;
        }
        if content.spoiled || self.is_measured_elsewhere(content) {
            return Fate::Doubted;
        }
        Fate::Counted
    }

    /// Nobody counts one thing twice at one time.
    fn is_measured_elsewhere(&self, content: &Content) -> bool {
        let elsewhere = self
            .streams
            .iter()
            .filter(|((node, stream), _)| *node == content.node && *stream != content.stream)
            .flat_map(|(_, stream)| &stream.segments)
            .filter(|(_, counts)| *counts)
            .flat_map(|(there, _)| &there.measured);
        elsewhere.into_iter().any(|(item, (from, to))| {
            let meets =
                |(own, (start, end)): &(Item, (u64, u64))| own == item && start < to && from < end;
            content.measured.iter().any(meets)
        })
    }

    /// A segment has arrived, and this was its fate.
    pub fn take(&mut self, content: &Rc<Content>, fate: Fate) {
        let stream = (content.node, content.stream);
        match fate {
            Fate::Counted | Fate::Doubted => {
                let counts = fate == Fate::Counted;
                let stream = self.streams.entry(stream).or_default();
                stream.segments.push((Rc::clone(content), counts));
                stream.closed |= content.last;
                if counts && content.last {
                    self.nodes
                        .insert(content.node, Standing::Retired(content.time.1));
                }
            }
            Fate::Forked => self.streams.entry(stream).or_default().closed = true,
            Fate::Known | Fate::Early | Fate::Refused => {}
        }
    }

    /// Whether it holds this very segment.
    #[must_use]
    pub fn holds(&self, content: &Content) -> bool {
        let place = usize::try_from(content.seq.0).unwrap_or(usize::MAX);
        self.streams
            .get(&(content.node, content.stream))
            .and_then(|stream| stream.segments.get(place))
            .is_some_and(|(there, _)| there.hash == content.hash)
    }

    /// What counts of a node.
    #[must_use]
    pub fn counted(&self, node: NodeId) -> Usage {
        let mut sum = Usage::new();
        let own = self.streams.iter().filter(|((of, _), _)| *of == node);
        for (content, counts) in own.flat_map(|(_, stream)| &stream.segments) {
            for (place, quantity) in content.used.iter().filter(|_| *counts) {
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
            .map(|(content, _)| content.time)
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
