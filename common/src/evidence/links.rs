//! A chain of headers as evidence carries it: each says only what differs from the one before.
//!
//! The hash of each segment follows from its header and the root over its blocks, and the next header
//! names it, so nothing in a chain can be changed but its end, which is signed.

use bincode::{Decode, Encode};

use crate::codec;
use crate::ids::{BootId, Hash, NodeId, Seq, StreamId};
use crate::reading::Gap;
use crate::seal::{self, SealError, merkle};
use crate::segment::{Header, Previous, Purpose};
use crate::time::{Micros, Timestamp};

/// What holds before the first link.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Start {
    /// The first segment's number.
    pub first: Seq,
    /// What stands before it.
    pub previous: Previous,
    /// First instant it accounts for.
    pub from: Timestamp,
    /// The boot it was sealed in.
    pub boot: BootId,
    /// Digest of the configuration then.
    pub config: Hash,
    /// Its number of blocks and one.
    pub leaves: u32,
}

/// One segment's header beyond the one before, and its blocks as one hash.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Link {
    /// Microseconds that it accounts for.
    pub length: u64,
    /// As the header has it.
    pub salt_commitment: Hash,
    /// The root over its blocks, zero when it has none.
    pub blocks: Hash,
    /// What else is not as before.
    pub change: Option<Box<Change>>,
}

/// What is not as in the header before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    /// First instant it accounts for, when that is not where the one before ended.
    pub from: Option<Timestamp>,
    /// Another boot.
    pub boot: Option<BootId>,
    /// Another configuration.
    pub config: Option<Hash>,
    /// Another number of blocks.
    pub leaves: Option<u32>,
    /// What it does besides.
    pub purpose: Purpose,
    /// Whole-node gaps.
    pub gaps: Vec<Gap>,
}

/// A chain that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A header that contradicts itself.
    #[error("segment {seq}: {error}")]
    Header {
        /// Its number.
        seq: Seq,
        /// What is wrong.
        error: SealError,
    },
    /// Another spelling of the same headers.
    #[error("segment {0}: its link is not in the one spelling that it has")]
    Spelling(Seq),
    /// Numbers or instants beyond what there are.
    #[error("segment {0}: its number or time is beyond what there is")]
    Range(Seq),
    /// No link at all.
    #[error("it has no segment")]
    Empty,
}

/// A segment without its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Its header.
    pub header: Header,
    /// The root over its blocks; none when it has none.
    pub blocks: Option<Hash>,
    /// Its hash.
    pub hash: Hash,
}

/// The headers as links; none when there is no header. They are of one stream, in order.
#[must_use]
pub fn pack(headers: &[(Header, Option<Hash>)]) -> Option<(Start, Vec<Link>)> {
    let (first, _) = headers.first()?;
    let start = Start {
        first: first.seq,
        previous: first.previous,
        from: first.from,
        boot: first.boot,
        config: first.config,
        leaves: first.leaves,
    };
    let mut before = Before::of(&start);
    let links = headers.iter().map(|(header, blocks)| {
        let link = before.link(header, *blocks);
        before.pass(header);
        link
    });
    let links = links.collect();
    Some((start, links))
}

/// What the next link is told against.
struct Before {
    through: Timestamp,
    boot: BootId,
    config: Hash,
    leaves: u32,
}

impl Before {
    fn of(start: &Start) -> Self {
        Self {
            through: start.from,
            boot: start.boot,
            config: start.config,
            leaves: start.leaves,
        }
    }

    fn pass(&mut self, header: &Header) {
        self.through = header.covered_through;
        self.boot = header.boot;
        self.config = header.config;
        self.leaves = header.leaves;
    }

    fn link(&self, header: &Header, blocks: Option<Hash>) -> Link {
        Link {
            length: header.covered_through.since(header.from).0,
            salt_commitment: header.salt_commitment,
            blocks: blocks.unwrap_or(Hash::ZERO),
            change: self.change(header),
        }
    }

    fn change(&self, header: &Header) -> Option<Box<Change>> {
        let change = Change {
            from: (header.from != self.through).then_some(header.from),
            boot: (header.boot != self.boot).then_some(header.boot),
            config: (header.config != self.config).then_some(header.config),
            leaves: (header.leaves != self.leaves).then_some(header.leaves),
            purpose: header.purpose,
            gaps: header.gaps.clone(),
        };
        let none = Change {
            from: None,
            boot: None,
            config: None,
            leaves: None,
            purpose: Purpose::Readings,
            gaps: Vec::new(),
        };
        (change != none).then(|| Box::new(change))
    }
}

/// The headers that links spell, each with its hash.
///
/// # Errors
/// When one contradicts itself, or the spelling is not the one that [`pack`] gives.
pub fn unpack(
    node: NodeId,
    stream: StreamId,
    start: &Start,
    links: &[Link],
) -> Result<Vec<Linked>, LinkError> {
    if links.is_empty() {
        return Err(LinkError::Empty);
    }
    let mut before = Before::of(start);
    let (mut seq, mut previous) = (start.first, start.previous);
    let mut chain = Vec::with_capacity(links.len());
    for link in links {
        let header = header(node, stream, seq, previous, link, &before)?;
        let blocks = (header.leaves > 1).then_some(link.blocks);
        if before.link(&header, blocks) != *link {
            return Err(LinkError::Spelling(seq));
        }
        seal::check_header(&header).map_err(|error| LinkError::Header { seq, error })?;
        let leaf = merkle::header_leaf(&codec::encode(&header));
        let hash = merkle::segment(&leaf, blocks.as_ref());
        before.pass(&header);
        previous = Previous::Follows(hash);
        seq = Seq(seq.0.checked_add(1).ok_or(LinkError::Range(seq))?);
        chain.push(Linked {
            header,
            blocks,
            hash,
        });
    }
    let first = &chain[0].header;
    if (first.boot, first.config, first.leaves, first.from)
        != (start.boot, start.config, start.leaves, start.from)
    {
        return Err(LinkError::Spelling(start.first));
    }
    Ok(chain)
}

fn header(
    node: NodeId,
    stream: StreamId,
    seq: Seq,
    previous: Previous,
    link: &Link,
    before: &Before,
) -> Result<Header, LinkError> {
    let change = link.change.as_deref();
    let from = change
        .and_then(|change| change.from)
        .unwrap_or(before.through);
    let through = from.saturating_add(Micros(link.length));
    if through.since(from).0 != link.length {
        return Err(LinkError::Range(seq));
    }
    Ok(Header {
        node,
        stream,
        seq,
        previous,
        from,
        covered_through: through,
        boot: change.and_then(|change| change.boot).unwrap_or(before.boot),
        config: change
            .and_then(|change| change.config)
            .unwrap_or(before.config),
        purpose: change.map_or(Purpose::Readings, |change| change.purpose),
        gaps: change.map_or_else(Vec::new, |change| change.gaps.clone()),
        salt_commitment: link.salt_commitment,
        leaves: change
            .and_then(|change| change.leaves)
            .unwrap_or(before.leaves),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Cause;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(1_795_348_800 + seconds).unwrap()
    }

    /// Three headers that differ in everything that may differ.
    fn headers() -> Vec<(Header, Option<Hash>)> {
        let first = Header {
            node: NodeId([1; 16]),
            stream: StreamId([2; 16]),
            seq: Seq(7),
            previous: Previous::Follows(Hash([3; 32])),
            from: at(0),
            covered_through: at(60),
            boot: BootId([4; 16]),
            config: Hash([5; 32]),
            purpose: Purpose::Readings,
            gaps: Vec::new(),
            salt_commitment: Hash([6; 32]),
            leaves: 3,
        };
        let blocks = Some(Hash([9; 32]));
        let leaf = merkle::header_leaf(&codec::encode(&first));
        let second = Header {
            seq: Seq(8),
            previous: Previous::Follows(merkle::segment(&leaf, blocks.as_ref())),
            from: at(61),
            covered_through: at(100),
            boot: BootId([40; 16]),
            config: Hash([50; 32]),
            purpose: Purpose::RotateKey([8; 32]),
            gaps: vec![Gap {
                from: at(61),
                to: at(70),
                cause: Cause::NodeDown,
            }],
            leaves: 1,
            ..first
        };
        let leaf = merkle::header_leaf(&codec::encode(&second));
        let third = Header {
            seq: Seq(9),
            previous: Previous::Follows(merkle::segment(&leaf, None)),
            from: at(100),
            covered_through: at(160),
            purpose: Purpose::Readings,
            gaps: Vec::new(),
            ..second
        };
        vec![(first, blocks), (second, None), (third, None)]
    }

    fn unpacked(start: &Start, links: &[Link]) -> Result<Vec<Linked>, LinkError> {
        unpack(NodeId([1; 16]), StreamId([2; 16]), start, links)
    }

    #[test]
    fn a_chain_comes_back_and_what_does_not_change_takes_no_room() {
        let headers = headers();
        let (start, links) = pack(&headers).unwrap();
        let back = unpacked(&start, &links).unwrap();
        let back: Vec<_> = back
            .into_iter()
            .map(|link| (link.header, link.blocks))
            .collect();
        assert_eq!(back, headers);
        assert!(links[0].change.is_none() && links[2].change.is_none());
        assert_eq!(codec::encode(&links[0]).len(), 70);
        assert_eq!(pack(&[]), None);
        assert_eq!(unpacked(&start, &[]), Err(LinkError::Empty));
    }

    #[test]
    fn a_chain_has_one_spelling() {
        let (start, links) = pack(&headers()).unwrap();
        let none = Change {
            from: None,
            boot: None,
            config: None,
            leaves: None,
            purpose: Purpose::Readings,
            gaps: Vec::new(),
        };
        let same = Change {
            boot: Some(BootId([4; 16])),
            ..none.clone()
        };
        for change in [none, same] {
            let mut other = links.clone();
            other[0].change = Some(Box::new(change));
            assert_eq!(unpacked(&start, &other), Err(LinkError::Spelling(Seq(7))));
        }
        let mut other = links.clone();
        other[2].blocks = Hash([1; 32]);
        assert_eq!(unpacked(&start, &other), Err(LinkError::Spelling(Seq(9))));
        let elsewhere = Start {
            config: Hash([7; 32]),
            ..start
        };
        let whole = unpacked(&start, &links).unwrap();
        let other = unpacked(&elsewhere, &links).unwrap();
        assert_ne!(other[2].hash, whole[2].hash, "it is another chain");
    }
}
