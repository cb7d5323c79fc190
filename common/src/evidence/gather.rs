//! Which segments and blocks of a stream are shown: as few as prove what was counted.
//!
//! Segments are pushed in order, once. Shown are, of the workloads that were the account's and of
//! `host`:
//!
//! - where something begins or ends: a holding, counted segments beside quarantined ones, the stream;
//! - where a register was opened or closed;
//! - of peaks the segment that holds the maximum of each holding, for readings only bound it.
//!
//! Of counters and integrals the readings at these places prove all that lies between (I3).

use std::collections::BTreeMap;

use super::{Holding, ShownSegment, SignedHeader, Start, StreamPart, links};
use crate::ids::{Hash, Seq, StreamId};
use crate::keys::Signed;
use crate::meter::{Kind, Meter};
use crate::receipt::Receipt;
use crate::seal::{SealError, SealedSegment, ShownBlock};
use crate::segment::{Block, Header, Purpose};

/// Gathers what is shown of one stream.
#[derive(Debug)]
pub struct Gather<'a> {
    /// Of this node alone.
    holdings: Vec<&'a Holding>,
    /// Show every segment's blocks.
    full: bool,
    headers: Vec<(Header, Option<Hash>)>,
    shown: BTreeMap<Seq, Shown>,
    peaks: BTreeMap<(usize, Meter), Peak>,
    /// The last counted segment, while it may yet be the last before a quarantined one.
    pending: Option<(SealedSegment, Vec<Block>)>,
    last: Option<SealedSegment>,
}

#[derive(Debug)]
struct Shown {
    signature: crate::keys::Signature,
    blocks: BTreeMap<u32, ShownBlock>,
}

#[derive(Debug)]
struct Peak {
    quantity: u128,
    seq: Seq,
    signature: crate::keys::Signature,
    block: ShownBlock,
}

impl<'a> Gather<'a> {
    /// For a stream of the node that these holdings are of.
    #[must_use]
    pub fn new(holdings: Vec<&'a Holding>, full: bool) -> Self {
        Self {
            holdings,
            full,
            headers: Vec::new(),
            shown: BTreeMap::new(),
            peaks: BTreeMap::new(),
            pending: None,
            last: None,
        }
    }

    /// Takes the next segment.
    ///
    /// # Errors
    /// When its blocks cannot be read: the bytes are damaged.
    pub fn push(&mut self, segment: SealedSegment, counted: bool) -> Result<(), SealError> {
        let header = segment.header().clone();
        if matches!(header.purpose, Purpose::RotateKey(_)) {
            self.sign(&segment);
        }
        if counted {
            self.count(&segment)?;
        } else if let Some((last, blocks)) = self.pending.take() {
            self.bound(&last, &blocks);
        }
        self.headers.push((header, segment.blocks_root()));
        self.last = Some(segment);
        Ok(())
    }

    fn count(&mut self, segment: &SealedSegment) -> Result<(), SealError> {
        let blocks = segment.kept_blocks()?;
        if self.full || self.pending.is_none() || self.holds_bound(segment.header()) {
            self.bound(segment, &blocks);
        }
        self.lives(segment, &blocks);
        self.note_peaks(segment, &blocks);
        self.pending = Some((segment.clone(), blocks));
        Ok(())
    }

    /// Whether a holding begins or ends in a segment: it begins where time from its instant on is accounted
    /// for, and ends where time up to its instant is.
    fn holds_bound(&self, header: &Header) -> bool {
        let (from, through) = (header.from, header.covered_through);
        self.holdings.iter().any(|holding| {
            (from <= holding.from && holding.from < through)
                || (from < holding.to && holding.to <= through)
        })
    }

    fn is_held(&self, header: &Header, block: &Block) -> bool {
        self.holdings.iter().any(|holding| {
            holding.workload == block.workload.as_str()
                && holding.from < header.covered_through
                && holding.to > header.from
        })
    }

    /// Shows everything of a segment that may be shown.
    fn bound(&mut self, segment: &SealedSegment, blocks: &[Block]) {
        self.sign(segment);
        for (index, block) in blocks.iter().enumerate() {
            if block.workload.is_host() || self.is_held(segment.header(), block) {
                self.show(segment, index);
            }
        }
    }

    /// Shows blocks in which registers were opened or closed.
    fn lives(&mut self, segment: &SealedSegment, blocks: &[Block]) {
        for (index, block) in blocks.iter().enumerate() {
            let mut runs = block.runs().iter();
            let bounded = runs.any(|run| run.opened.is_some() || run.closed.is_some());
            let ours = block.workload.is_host() || self.is_held(segment.header(), block);
            if bounded && ours {
                self.show(segment, index);
            }
        }
    }

    fn note_peaks(&mut self, segment: &SealedSegment, blocks: &[Block]) {
        for (index, block) in blocks.iter().enumerate() {
            for place in 0..self.holdings.len() {
                if self.holdings[place].workload == block.workload.as_str() {
                    self.note_peak(place, segment, index, block);
                }
            }
        }
    }

    fn note_peak(&mut self, place: usize, segment: &SealedSegment, index: usize, block: &Block) {
        let holding = self.holdings[place];
        let peaks = block.runs().iter();
        for run in peaks.filter(|run| run.meter.kind() == Kind::Peak) {
            let within = block
                .intervals(run)
                .filter(|interval| interval.end > holding.from && interval.end <= holding.to);
            let Some(quantity) = within.map(|interval| interval.quantity).max() else {
                continue;
            };
            let key = (place, run.meter);
            let higher = self
                .peaks
                .get(&key)
                .is_none_or(|held| held.quantity < quantity);
            if let Some(block) = higher.then(|| segment.show(index)).flatten() {
                let peak = Peak {
                    quantity,
                    seq: segment.header().seq,
                    signature: segment.signature(),
                    block,
                };
                self.peaks.insert(key, peak);
            }
        }
    }

    fn sign(&mut self, segment: &SealedSegment) -> &mut Shown {
        self.entry(segment.header().seq, segment.signature())
    }

    fn entry(&mut self, seq: Seq, signature: crate::keys::Signature) -> &mut Shown {
        self.shown.entry(seq).or_insert_with(|| Shown {
            signature,
            blocks: BTreeMap::new(),
        })
    }

    fn show(&mut self, segment: &SealedSegment, index: usize) {
        let place = u32::try_from(index).unwrap_or(u32::MAX);
        let held = self.sign(segment);
        if !held.blocks.contains_key(&place)
            && let Some(block) = segment.show(index)
        {
            held.blocks.insert(place, block);
        }
    }

    /// The number and hash of the last segment so far.
    #[must_use]
    pub fn head(&self) -> Option<(Seq, Hash)> {
        let last = self.last.as_ref()?;
        Some((last.header().seq, last.hash()))
    }

    /// What is shown; none when there was no segment. `rotations` are segments before the first that
    /// rotated the key.
    #[must_use]
    pub fn finish(
        mut self,
        stream: StreamId,
        rotations: Vec<SignedHeader>,
        receipt: Signed<Receipt>,
    ) -> Option<StreamPart> {
        if let Some((last, blocks)) = self.pending.take() {
            self.bound(&last, &blocks);
        }
        let last = self.last.take()?;
        self.sign(&last);
        for peak in std::mem::take(&mut self.peaks).into_values() {
            let held = self.entry(peak.seq, peak.signature);
            held.blocks.entry(peak.block.index()).or_insert(peak.block);
        }
        let (start, links): (Start, _) = links::pack(&self.headers)?;
        let shown = self.shown.into_iter().map(|(seq, shown)| ShownSegment {
            seq,
            signature: shown.signature,
            blocks: shown.blocks.into_values().collect(),
        });
        Some(StreamPart {
            stream,
            start,
            links,
            rotations,
            shown: shown.collect(),
            receipt,
        })
    }
}
