//! Drafts under the node's signature.
//!
//! Owns what a header says of a segment's place. Does not know where segments are kept.

use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::odometer;
use tallystick_common::seal::{SealError, seal};
use tallystick_common::segment::{HeaderDraft, Previous, Purpose, StreamPosition};

use crate::accrue::{Draft, RegisterView};
use crate::buffer::{Buffer, Head, StoredSegment};

/// Who signs.
#[derive(Debug)]
pub(super) struct Signer {
    node: NodeId,
    key: SecretKey,
}

/// Where in which stream a segment is to stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    stream: StreamId,
    predecessor: Option<StreamPosition>,
    head: Head,
}

impl Place {
    /// At the end of what is buffered.
    pub(super) fn of(buffer: &Buffer) -> Self {
        Self {
            stream: buffer.stream(),
            predecessor: buffer.predecessor(),
            head: buffer.head(),
        }
    }

    /// In the same stream, after another head.
    pub(super) fn after(self, head: Head) -> Self {
        Self { head, ..self }
    }
}

impl Signer {
    pub(super) fn new(node: NodeId, key: SecretKey) -> Self {
        Self { node, key }
    }

    /// Seals `draft` at `place`.
    pub(super) fn seal(
        &self,
        draft: Draft,
        place: &Place,
        seed: [u8; 32],
    ) -> Result<StoredSegment, SealError> {
        let Head {
            next: seq, hash, ..
        } = place.head;
        let header = HeaderDraft {
            node: self.node,
            stream: place.stream,
            seq,
            previous: match seq {
                Seq::FIRST => Previous::Opens {
                    after: place.predecessor,
                },
                _ => Previous::Follows(hash),
            },
            from: draft.from,
            covered_through: draft.covered_through,
            boot: draft.boot,
            config: draft.config,
            purpose: Purpose::Readings,
            gaps: draft.gaps,
        };
        let covered_through = header.covered_through;
        let sealed = seal(header, draft.blocks, seed_of(seed, seq), &self.key)?;
        Ok(StoredSegment {
            seq,
            previous: hash,
            hash: sealed.hash(),
            covered_through,
            bytes: sealed.bytes().to_vec(),
        })
    }
}

/// Several segments may be sealed with what was drawn for one call; none shares a seed with another.
fn seed_of(drawn: [u8; 32], seq: Seq) -> [u8; 32] {
    *blake3::keyed_hash(&drawn, &seq.0.to_be_bytes()).as_bytes()
}

/// Registers that `draft` closes, as they stand then.
pub(super) fn closed_in(draft: &Draft) -> impl Iterator<Item = RegisterView> + '_ {
    draft.blocks.iter().flat_map(|block| {
        let closed = block.runs().iter().filter(|run| run.closed.is_some());
        closed.map(|run| RegisterView {
            register: run.register,
            workload: block.workload.clone(),
            meter: run.meter,
            reading: odometer::closing(block, run).unwrap_or(run.opening),
            through: block.shape(run).end(),
        })
    })
}
