//! Sealing: canonical bytes, Merkle root, signature, and back.
//!
//! Owns the sealed bytes of a segment (`PROTOCOL.md`, "Sealed segment"; these bytes last) and the one
//! way to a [`VerifiedSegment`]. A segment's hash is the root of a BLAKE3 Merkle tree over a header
//! leaf and one salted leaf for each block, so that one block can be shown beside the header without
//! revealing the others, nor letting anyone guess them.

use bincode::{Decode, Encode};

use crate::codec::{self, CodecError};
use crate::ids::{Hash, NodeId};
use crate::keys::{KeyRing, PublicKey, SecretKey, Signature};
use crate::segment::{Block, BlockError, Header, HeaderDraft, Previous};

pub mod merkle;

/// The number of this format of sealed bytes.
pub const FORMAT: u16 = 1;

/// Longest sealed segment in bytes.
pub const MAX_SEGMENT_BYTES: usize = 8 << 20;

/// What a segment signature is over, besides the root.
const DOMAIN: &str = "tallystick/1 segment";

/// Bytes that are not a segment of the node they should be of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Sealed in a format this version does not read.
    #[error("sealed in format {0}; this version reads format {FORMAT}: update the reader")]
    NewerFormat(u16),
    /// Longer than a segment may be.
    #[error("{0} bytes; a segment has at most {MAX_SEGMENT_BYTES}")]
    TooLong(usize),
    /// The envelope or the header.
    #[error("{part}: {error}")]
    Bytes {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        error: CodecError,
    },
    /// A block.
    #[error("block {index}: {error}")]
    Block {
        /// Which one, from 0.
        index: usize,
        /// What is wrong.
        error: BlockError,
    },
    /// Header and blocks disagree.
    #[error("{0}")]
    Inconsistent(&'static str),
    /// Another node's segment.
    #[error("it is of node {found}, not of {expected}")]
    Node {
        /// Whose it should be.
        expected: NodeId,
        /// Whose it is.
        found: NodeId,
    },
    /// The signature does not stand: a bit was changed, or another key signed.
    #[error("the signature is not by {key} over these bytes")]
    Signature {
        /// The key that should have signed.
        key: PublicKey,
    },
}

#[derive(Encode, Decode)]
struct Envelope {
    format: u16,
    header: Vec<u8>,
    seed: [u8; 32],
    blocks: Vec<Vec<u8>>,
    signature: Signature,
}

/// A sealed segment whose envelope and header have been read; its signature and blocks have not been
/// checked.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    bytes: Vec<u8>,
    header: Header,
    hash: Hash,
    seed: [u8; 32],
    blocks: Vec<Vec<u8>>,
    signature: Signature,
}

/// A segment whose hash, signature and canonical form have been checked against a node's keys.
/// Admission accepts nothing else, and [`SealedSegment::verify`] is the only way to one.
#[derive(Debug, Clone)]
pub struct VerifiedSegment {
    bytes: Vec<u8>,
    header: Header,
    hash: Hash,
    blocks: Vec<Block>,
}

/// Seals `blocks` (put in order by workload) under `draft` and signs.
///
/// `seed` is 32 random bytes, drawn anew for each segment.
///
/// # Errors
/// When two blocks have one workload, the header contradicts itself, or the result is too long.
pub fn seal(
    draft: HeaderDraft,
    mut blocks: Vec<Block>,
    seed: [u8; 32],
    key: &SecretKey,
) -> Result<SealedSegment, SealError> {
    blocks.sort_by(|a, b| a.workload.cmp(&b.workload));
    let from = draft.from;
    let header = Header {
        node: draft.node,
        stream: draft.stream,
        seq: draft.seq,
        previous: draft.previous,
        from,
        covered_through: draft.covered_through,
        boot: draft.boot,
        config: draft.config,
        purpose: draft.purpose,
        gaps: draft.gaps,
        salt_commitment: merkle::commitment(&seed),
        leaves: u32::try_from(blocks.len() + 1).map_err(|_| SealError::TooLong(usize::MAX))?,
    };
    check_consistent(&header, &blocks)?;
    let header_bytes = codec::encode(&header);
    let blocks: Vec<Vec<u8>> = blocks.iter().map(|block| block.encode(from)).collect();
    let hash = root(&header_bytes, &leaves(&seed, &blocks));
    let signature = key.sign(DOMAIN, hash.as_bytes());
    let envelope = Envelope {
        format: FORMAT,
        header: header_bytes,
        seed,
        blocks,
        signature,
    };
    let bytes = codec::encode(&envelope);
    if bytes.len() > MAX_SEGMENT_BYTES {
        return Err(SealError::TooLong(bytes.len()));
    }
    Ok(SealedSegment {
        bytes,
        header,
        hash,
        seed,
        blocks: envelope.blocks,
        signature,
    })
}

fn leaves(seed: &[u8; 32], blocks: &[Vec<u8>]) -> Vec<Hash> {
    (0u64..)
        .zip(blocks)
        .map(|(index, block)| merkle::block_leaf(&merkle::salt(seed, index), block))
        .collect()
}

fn root(header: &[u8], leaves: &[Hash]) -> Hash {
    let blocks = (!leaves.is_empty()).then(|| merkle::root(leaves));
    merkle::segment(&merkle::header_leaf(header), blocks.as_ref())
}

pub(crate) fn check_header(header: &Header) -> Result<(), SealError> {
    let wrong = |why| Err(SealError::Inconsistent(why));
    if header.covered_through <= header.from {
        return wrong("it covers no time: covered_through is not after from");
    }
    let opens = matches!(header.previous, Previous::Opens { .. });
    if opens != (header.seq.0 == 0) {
        return wrong("only the first segment of a stream, and that one always, follows none");
    }
    let mut at = header.from;
    for gap in &header.gaps {
        if gap.from < at || gap.to <= gap.from || gap.to > header.covered_through {
            return wrong("a gap is empty, out of order or outside the segment");
        }
        at = gap.to;
    }
    Ok(())
}

fn check_consistent(header: &Header, blocks: &[Block]) -> Result<(), SealError> {
    check_header(header)?;
    if !blocks.is_sorted_by(|a, b| a.workload < b.workload) {
        return Err(SealError::Inconsistent(
            "blocks are not sorted by workload, each workload once",
        ));
    }
    check_inside(header, blocks)
}

fn check_inside(header: &Header, blocks: &[Block]) -> Result<(), SealError> {
    let inside = |block: &Block| {
        block.runs().iter().all(|run| {
            let shape = block.shape(run);
            shape.start >= header.from && shape.end() <= header.covered_through
        })
    };
    if !blocks.iter().all(inside) {
        return Err(SealError::Inconsistent(
            "an interval lies outside the segment's time",
        ));
    }
    Ok(())
}

impl SealedSegment {
    /// Reads envelope and header. Nothing is verified yet.
    ///
    /// # Errors
    /// When the bytes are too long, of another format, or not canonical.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, SealError> {
        if bytes.len() > MAX_SEGMENT_BYTES {
            return Err(SealError::TooLong(bytes.len()));
        }
        let named = |part| move |error| SealError::Bytes { part, error };
        let format = read_format(&bytes).map_err(named("format number"))?;
        if format != FORMAT {
            return Err(SealError::NewerFormat(format));
        }
        let envelope: Envelope = codec::decode(&bytes).map_err(named("envelope"))?;
        let header: Header = codec::decode(&envelope.header).map_err(named("header"))?;
        check_header(&header)?;
        if u64::from(header.leaves) != envelope.blocks.len() as u64 + 1 {
            return Err(SealError::Inconsistent(
                "the header names another number of blocks",
            ));
        }
        if header.salt_commitment != merkle::commitment(&envelope.seed) {
            return Err(SealError::Inconsistent(
                "the header commits to another salt seed",
            ));
        }
        let hash = root(&envelope.header, &leaves(&envelope.seed, &envelope.blocks));
        let Envelope {
            seed,
            blocks,
            signature,
            ..
        } = envelope;
        Ok(Self {
            bytes,
            header,
            hash,
            seed,
            blocks,
            signature,
        })
    }

    /// The sealed bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header. Only [`Self::verify`] tells whether it is true.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The Merkle root: what the successor names and the receipt repeats.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Checks node, signature and every block.
    ///
    /// # Errors
    /// Names the first check that fails.
    pub fn verify(self, keys: &KeyRing) -> Result<VerifiedSegment, SealError> {
        let header = &self.header;
        if header.node != keys.node() {
            return Err(SealError::Node {
                expected: keys.node(),
                found: header.node,
            });
        }
        let key = keys.key_at(header.stream, header.seq);
        check_signature(&self.hash, &self.signature, key)?;
        let blocks = self.decode_blocks()?;
        check_consistent(header, &blocks)?;
        Ok(VerifiedSegment {
            bytes: self.bytes,
            header: self.header,
            hash: self.hash,
            blocks,
        })
    }

    /// The blocks, without the signature being checked again: for bytes that were verified before
    /// they were kept. Admission takes only what [`Self::verify`] gives.
    ///
    /// # Errors
    /// When a block is not canonical: the kept bytes are damaged.
    pub fn kept_blocks(&self) -> Result<Vec<Block>, SealError> {
        self.decode_blocks()
    }

    fn decode_blocks(&self) -> Result<Vec<Block>, SealError> {
        let from = self.header.from;
        self.blocks
            .iter()
            .enumerate()
            .map(|(index, bytes)| {
                Block::decode(bytes, from).map_err(|error| SealError::Block { index, error })
            })
            .collect()
    }

    /// Shows the block at `index` and the header, and proves both under the segment's hash, without
    /// revealing any other block. `None` when there is no such block.
    #[must_use]
    pub fn prove(&self, index: usize) -> Option<BlockProof> {
        let shown = self.show(index)?;
        Some(BlockProof {
            header: codec::encode(&self.header),
            shown,
            signature: self.signature,
        })
    }

    /// The block at `index` and its way to the root over the blocks. `None` when there is no such block.
    #[must_use]
    pub fn show(&self, index: usize) -> Option<ShownBlock> {
        let block = self.blocks.get(index)?.clone();
        Some(ShownBlock {
            index: u32::try_from(index).ok()?,
            block,
            salt: merkle::salt(&self.seed, index as u64),
            path: merkle::path(&leaves(&self.seed, &self.blocks), index),
        })
    }

    /// The root over the blocks; none when there is no block.
    #[must_use]
    pub fn blocks_root(&self) -> Option<Hash> {
        let leaves = leaves(&self.seed, &self.blocks);
        (!leaves.is_empty()).then(|| merkle::root(&leaves))
    }

    /// The node's signature, which [`Self::verify`] checks.
    #[must_use]
    pub fn signature(&self) -> Signature {
        self.signature
    }
}

/// Checks the signature that a node puts under a segment with this hash.
///
/// # Errors
/// When `key` did not sign it.
pub fn check_signature(
    hash: &Hash,
    signature: &Signature,
    key: PublicKey,
) -> Result<(), SealError> {
    key.verify(DOMAIN, hash.as_bytes(), signature)
        .map_err(|_| SealError::Signature { key })
}

fn read_format(bytes: &[u8]) -> Result<u16, CodecError> {
    bincode::decode_from_slice::<u16, _>(bytes, bincode::config::standard())
        .map(|(format, _)| format)
        .map_err(|error| CodecError::Invalid(error.to_string()))
}

impl VerifiedSegment {
    /// The sealed bytes, as received.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The Merkle root.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The blocks, by workload.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Number of intervals of all blocks.
    #[must_use]
    pub fn interval_count(&self) -> usize {
        self.blocks.iter().map(Block::interval_count).sum()
    }
}

/// One block of a segment and its way to the root over all of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShownBlock {
    index: u32,
    block: Vec<u8>,
    salt: [u8; 32],
    path: Vec<Hash>,
}

impl ShownBlock {
    /// Its place among the blocks, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The block, and the root that it leads to among the blocks of a segment with this header.
    ///
    /// # Errors
    /// When it leads to none, is not canonical, or lies outside the segment's time.
    pub fn open(&self, header: &Header) -> Result<(Block, Hash), SealError> {
        let blocks = (header.leaves as usize).saturating_sub(1);
        let leaf = merkle::block_leaf(&self.salt, &self.block);
        let index = self.index as usize;
        let root = merkle::root_from(leaf, index, blocks, &self.path).ok_or(
            SealError::Inconsistent("the path of a shown block does not fit its place"),
        )?;
        let block = Block::decode(&self.block, header.from)
            .map_err(|error| SealError::Block { index, error })?;
        check_inside(header, std::slice::from_ref(&block))?;
        Ok((block, root))
    }
}

/// One block of a segment, shown without the others.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BlockProof {
    header: Vec<u8>,
    shown: ShownBlock,
    signature: Signature,
}

impl BlockProof {
    /// Header, block and segment hash, if the node signed a segment that holds both.
    ///
    /// # Errors
    /// Names the first check that fails.
    pub fn verify(&self, keys: &KeyRing) -> Result<(Header, Block, Hash), SealError> {
        let header: Header = codec::decode(&self.header).map_err(|error| SealError::Bytes {
            part: "header",
            error,
        })?;
        check_header(&header)?;
        if header.node != keys.node() {
            return Err(SealError::Node {
                expected: keys.node(),
                found: header.node,
            });
        }
        let (block, blocks) = self.shown.open(&header)?;
        let hash = merkle::segment(&merkle::header_leaf(&self.header), Some(&blocks));
        let key = keys.key_at(header.stream, header.seq);
        check_signature(&hash, &self.signature, key)?;
        Ok((header, block, hash))
    }
}

#[cfg(test)]
mod tests;
