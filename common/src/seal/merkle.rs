//! The BLAKE3 Merkle tree over a segment's leaves.
//!
//! The header's leaf stands beside the root of the blocks' tree, so that a chain of headers can be shown
//! with one hash for each segment's blocks. The blocks' tree has the shape of RFC 6962, section 2.1: a
//! tree of n > 1 leaves splits after the largest power of two below n. Leaves, nodes, salts and the
//! commitment are hashed under different keys, so none can pass for another.

use crate::ids::Hash;

// Each key is 32 bytes of ASCII; PROTOCOL.md lists them.
const HEADER_KEY: &[u8; 32] = b"tallystick/1 segment header leaf";
const BLOCK_KEY: &[u8; 32] = b"tallystick/1 segment block  leaf";
const NODE_KEY: &[u8; 32] = b"tallystick/1 segment merkle node";
const SEED_KEY: &[u8; 32] = b"tallystick/1 segment salt commit";

fn hash(key: &[u8; 32], parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(part);
    }
    Hash(*hasher.finalize().as_bytes())
}

/// Commits to the salt seed without revealing it.
#[must_use]
pub fn commitment(seed: &[u8; 32]) -> Hash {
    hash(SEED_KEY, &[seed])
}

/// The salt of the block at `index`: keyed BLAKE3(seed, index as 8 bytes little-endian).
#[must_use]
pub fn salt(seed: &[u8; 32], index: u64) -> [u8; 32] {
    *blake3::keyed_hash(seed, &index.to_le_bytes()).as_bytes()
}

/// The header's leaf.
#[must_use]
pub fn header_leaf(header: &[u8]) -> Hash {
    hash(HEADER_KEY, &[header])
}

/// A block's leaf.
#[must_use]
pub fn block_leaf(salt: &[u8; 32], block: &[u8]) -> Hash {
    hash(BLOCK_KEY, &[salt, block])
}

fn node(left: &Hash, right: &Hash) -> Hash {
    hash(NODE_KEY, &[left.as_bytes(), right.as_bytes()])
}

/// The largest power of two below `n`, for `n > 1`.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// A segment's hash: its header's leaf beside the root over its blocks, the leaf alone when it has none.
#[must_use]
pub fn segment(header: &Hash, blocks: Option<&Hash>) -> Hash {
    blocks.map_or(*header, |blocks| node(header, blocks))
}

/// The root over `leaves` (all zero for none).
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Hash::ZERO,
        [leaf] => *leaf,
        many => {
            let (left, right) = many.split_at(split(many.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The siblings from the leaf at `index` up to the root.
#[must_use]
pub fn path(leaves: &[Hash], index: usize) -> Vec<Hash> {
    if leaves.len() < 2 || index >= leaves.len() {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut path, sibling) = if index < at {
        (path(left, index), root(right))
    } else {
        (path(right, index - at), root(left))
    };
    path.push(sibling);
    path
}

/// The root that `leaf` at `index` of `leaves` has with these siblings; `None` when their number does
/// not fit.
#[must_use]
pub fn root_from(leaf: Hash, index: usize, leaves: usize, path: &[Hash]) -> Option<Hash> {
    if index >= leaves {
        return None;
    }
    if leaves == 1 {
        return path.is_empty().then_some(leaf);
    }
    let (sibling, below) = path.split_last()?;
    let at = split(leaves);
    if index < at {
        Some(node(&root_from(leaf, index, at, below)?, sibling))
    } else {
        Some(node(
            sibling,
            &root_from(leaf, index - at, leaves - at, below)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_has_a_path_to_the_root_and_no_other() {
        for count in 1..20usize {
            let leaves: Vec<Hash> = (0..count).map(|i| header_leaf(&i.to_le_bytes())).collect();
            let root = root(&leaves);
            for index in 0..count {
                let path = path(&leaves, index);
                assert_eq!(root_from(leaves[index], index, count, &path), Some(root));
                let elsewhere = (index + 1) % count;
                if elsewhere != index {
                    assert_ne!(
                        root_from(leaves[index], elsewhere, count, &path),
                        Some(root)
                    );
                }
            }
        }
    }
}
