//! A stream: one chain up to the invoice's cut, signed by the node, receipted, its shown blocks in place.

use std::collections::{BTreeMap, BTreeSet};

use super::terms::Terms;
use super::{Difference, Speakers, Step};
use crate::codec;
use crate::evidence::{Linked, ShownSegment, StreamPart, unpack};
use crate::ids::{Seq, StreamId};
use crate::invoice::{CutPosition, InvoiceDocument};
use crate::keys::{KeyRing, PublicKey};
use crate::period::Period;
use crate::receipt::Receipt;
use crate::seal::{check_signature, merkle};
use crate::segment::{Block, Header, Purpose};

/// A stream that stands.
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Every segment, in order.
    pub(super) chain: Vec<Linked>,
    /// The first that reaches into the period.
    pub(super) since: Seq,
    /// Segments that are held and not counted.
    pub(super) quarantined: BTreeSet<Seq>,
    /// Blocks by segment.
    pub(super) shown: BTreeMap<Seq, Vec<Block>>,
    /// Keys that segments were signed by.
    pub(super) keys: Vec<PublicKey>,
}

impl Stream {
    /// The link of a number.
    pub(super) fn link(&self, seq: Seq) -> Option<&Linked> {
        let first = self.chain.first()?.header.seq;
        let place = usize::try_from(seq.0.checked_sub(first.0)?).ok()?;
        self.chain.get(place)
    }

    /// Whether a segment counts.
    fn counts(&self, seq: Seq) -> bool {
        seq >= self.since && !self.quarantined.contains(&seq)
    }

    /// Counted segments that follow one another without a quarantined one between them.
    pub(super) fn stretches(&self) -> Vec<&[Linked]> {
        let counted = |link: &Linked| self.counts(link.header.seq);
        self.chain
            .chunk_by(|a, b| counted(a) == counted(b))
            .filter(|links| links.first().is_some_and(counted))
            .collect()
    }
}

struct Reading<'a> {
    part: &'a StreamPart,
    chain: Vec<Linked>,
    ring: KeyRing,
    keys: Vec<PublicKey>,
}

pub(super) fn read(
    part: &StreamPart,
    cut: &CutPosition,
    ring: KeyRing,
    speakers: &Speakers,
    document: &InvoiceDocument,
    terms: &Terms,
) -> Result<Stream, Difference> {
    let subject = format!("stream {}", part.stream);
    let differs = |step, why: String| Difference::new(step, &subject, why);
    let chain = unpack(ring.node(), part.stream, &part.start, &part.links)
        .map_err(|error| differs(Step::Chain, error.to_string()))?;
    let period = document.statement.period;
    let since = check_bounds(&chain, cut, period).map_err(|why| differs(Step::Chain, why))?;
    let mut reading = Reading {
        part,
        chain,
        ring,
        keys: Vec::new(),
    };
    reading.check_rotations()?;
    reading.check_signatures()?;
    check_receipt(&reading, cut, since, speakers.receipt_key)
        .map_err(|why| differs(Step::Receipt, why))?;
    let shown = reading.blocks(terms)?;
    Ok(Stream {
        id: part.stream,
        since,
        quarantined: cut.quarantined.iter().copied().collect(),
        shown,
        keys: reading.keys,
        chain: reading.chain,
    })
}

/// Where the period begins in the chain, if the chain reaches from before it to the cut.
fn check_bounds(chain: &[Linked], cut: &CutPosition, period: Period) -> Result<Seq, String> {
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
        return Err("it has no segment".to_owned());
    };
    if first.header.seq != Seq::FIRST && first.header.covered_through > period.from {
        return Err(format!(
            "it is shown from segment {} on, which is within the period",
            first.header.seq
        ));
    }
    if (last.header.seq, last.hash) != (cut.seq, cut.hash) {
        return Err(format!(
            "it leads to segment {} with hash {}, but the invoice counted up to {} with hash {}",
            last.header.seq, last.hash, cut.seq, cut.hash
        ));
    }
    chain
        .iter()
        .find(|link| link.header.covered_through > period.from)
        .map(|link| link.header.seq)
        .ok_or_else(|| "it does not reach into the period".to_owned())
}

fn check_receipt(
    reading: &Reading<'_>,
    cut: &CutPosition,
    since: Seq,
    key: PublicKey,
) -> Result<(), String> {
    let receipt: Receipt = reading
        .part
        .receipt
        .verify(&key)
        .map_err(|error| error.to_string())?;
    let of = (receipt.node, receipt.stream, receipt.seq, receipt.hash);
    if of != (cut.node, cut.stream, cut.seq, cut.hash) {
        return Err(format!(
            "it is for segment {} of stream {}, not for the invoice's cut",
            receipt.seq, receipt.stream
        ));
    }
    if receipt.since != since || receipt.quarantined != cut.quarantined {
        return Err("it counts other segments than the invoice".to_owned());
    }
    let within = |seq: &Seq| *seq >= since && *seq <= cut.seq;
    if !cut.quarantined.iter().all(within) || !cut.quarantined.is_sorted_by(|a, b| a < b) {
        return Err("it names quarantined segments that are not there".to_owned());
    }
    Ok(())
}

impl Reading<'_> {
    fn differs(&self, step: Step, seq: Seq, why: impl std::fmt::Display) -> Difference {
        let subject = format!("segment {seq} of stream {}", self.part.stream);
        Difference::new(step, subject, why)
    }

    /// Rotations before the chain: each by the key that held then.
    fn check_rotations(&mut self) -> Result<(), Difference> {
        let mut next = Seq::FIRST;
        for rotation in &self.part.rotations {
            let unread = |error| self.differs(Step::Signature, next, error);
            let header: Header = codec::decode(&rotation.header).map_err(unread)?;
            let seq = header.seq;
            let of = (header.node, header.stream) == (self.ring.node(), self.part.stream);
            let before = seq >= next && seq < self.part.start.first;
            let (Purpose::RotateKey(key), true, true) = (header.purpose, of, before) else {
                return Err(self.differs(Step::Signature, seq, "it does not rotate the key"));
            };
            let leaf = merkle::header_leaf(&rotation.header);
            let hash = merkle::segment(&leaf, rotation.blocks.as_ref());
            let signed = self.ring.key_at(self.part.stream, seq);
            check_signature(&hash, &rotation.signature, signed)
                .map_err(|error| self.differs(Step::Signature, seq, error))?;
            next = Seq(seq.0.saturating_add(1));
            self.ring.rotate(self.part.stream, next, PublicKey(key));
        }
        Ok(())
    }

    fn check_signatures(&mut self) -> Result<(), Difference> {
        let shown = &self.part.shown;
        if !shown.is_sorted_by(|a, b| a.seq < b.seq) {
            let why = "shown segments are out of order";
            return Err(self.differs(Step::Signature, self.part.start.first, why));
        }
        let mut left: &[ShownSegment] = shown;
        let last = self.chain.len().saturating_sub(1);
        for place in 0..self.chain.len() {
            let link = &self.chain[place];
            let seq = link.header.seq;
            let rotates = match link.header.purpose {
                Purpose::RotateKey(key) => Some(PublicKey(key)),
                Purpose::Readings | Purpose::Final => None,
            };
            let signed = left.first().filter(|shown| shown.seq == seq);
            if let Some(shown) = signed {
                let key = self.ring.key_at(self.part.stream, seq);
                check_signature(&link.hash, &shown.signature, key)
                    .map_err(|error| self.differs(Step::Signature, seq, error))?;
                left = &left[1..];
                if !self.keys.contains(&key) {
                    self.keys.push(key);
                }
            } else if place == last || rotates.is_some() {
                return Err(self.differs(Step::Signature, seq, "its signature is missing"));
            }
            if let Some(key) = rotates {
                let next = Seq(seq.0.saturating_add(1));
                self.ring.rotate(self.part.stream, next, key);
            }
        }
        match left.first() {
            None => Ok(()),
            Some(other) => Err(self.differs(Step::Proof, other.seq, "it is not in the chain")),
        }
    }

    fn blocks(&self, terms: &Terms) -> Result<BTreeMap<Seq, Vec<Block>>, Difference> {
        let first = self.part.start.first.0;
        let mut all = BTreeMap::new();
        for shown in &self.part.shown {
            let place = usize::try_from(shown.seq.0.saturating_sub(first)).unwrap_or(usize::MAX);
            let Some(link) = self.chain.get(place) else {
                return Err(self.differs(Step::Proof, shown.seq, "it is not in the chain"));
            };
            all.insert(shown.seq, self.opened(shown, link, terms)?);
        }
        Ok(all)
    }

    fn opened(
        &self,
        shown: &ShownSegment,
        link: &Linked,
        terms: &Terms,
    ) -> Result<Vec<Block>, Difference> {
        let differs = |why: String| self.differs(Step::Proof, shown.seq, why);
        if !shown.blocks.is_sorted_by(|a, b| a.index() < b.index()) {
            return Err(differs("blocks are out of order".to_owned()));
        }
        let mut blocks = Vec::new();
        for block in &shown.blocks {
            let (block, root) = block
                .open(&link.header)
                .map_err(|error| differs(error.to_string()))?;
            if Some(root) != link.blocks {
                let why = format!("the block of {} is not of this segment", block.workload);
                return Err(differs(why));
            }
            let time = Period {
                from: link.header.from,
                to: link.header.covered_through,
            };
            if !terms.may_show(self.ring.node(), &block.workload, time) {
                let why = format!("it shows {}, which is not the account's", block.workload);
                return Err(differs(why));
            }
            blocks.push(block);
        }
        Ok(blocks)
    }
}
