//! Many nodes with segments sealed beforehand, and what their registers stand at.

use std::collections::BTreeMap;

use tallystick_common::ids::{Hash, NodeId, WorkloadName};
use tallystick_common::keys::KeyRing;
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US, Timestamp};
use tallystick_reconciler::billing::usage;
use tallystick_reconciler::store::enrolment::{self, NewNode};
use tallystick_reconciler::store::{Store, StoreError};

use crate::fixture::{Chain, Size};
use crate::world::now;

/// Time of one segment: the default of the agent.
pub const SEAL_S: u64 = 60;

/// One node's part.
#[derive(Debug)]
pub struct Member {
    /// Its stream, as far as it is sealed.
    pub chain: Chain,
    /// The sealed bytes, in order.
    pub segments: Vec<Vec<u8>>,
}

impl Member {
    /// Seals the next `segments` of `chain`.
    #[must_use]
    pub fn sealed(mut chain: Chain, segments: usize) -> Self {
        let segments = (0..segments)
            .map(|_| chain.seal_next().bytes().to_vec())
            .collect();
        Self { chain, segments }
    }

    /// What verifies its segments.
    #[must_use]
    pub fn ring(&self) -> KeyRing {
        self.chain.ring()
    }
}

/// All nodes of a run.
#[derive(Debug)]
pub struct Fleet {
    /// Each with its segments.
    pub members: Vec<Member>,
    size: Size,
    from: Timestamp,
    segments: usize,
}

impl Fleet {
    /// `nodes` of them with `segments` each, the last of which is over by now.
    #[must_use]
    pub fn seal(nodes: usize, segments: usize, size: Size) -> Self {
        let from = beginning(segments);
        let members = (0..nodes).map(|place| {
            let chain = Chain::new(node(place), from, SEAL_S, size);
            Member::sealed(chain, segments)
        });
        Self::of(members.collect(), segments, size, from)
    }

    /// Of members that are sealed already, from `from` on.
    #[must_use]
    pub fn of(members: Vec<Member>, segments: usize, size: Size, from: Timestamp) -> Self {
        Self {
            members,
            size,
            from,
            segments,
        }
    }

    /// Segments of all nodes.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.members.len() * self.segments
    }

    /// Intervals of all nodes.
    #[must_use]
    pub fn intervals(&self) -> usize {
        self.segments() * self.size.intervals()
    }

    /// Enrols every node.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn enrol(&self, store: &Store) -> Result<(), StoreError> {
        let mut tx = store.write().await?;
        for (place, member) in self.members.iter().enumerate() {
            let mut fingerprint = [0; 32];
            fingerprint[..8].copy_from_slice(&(place as u64).to_le_bytes());
            let new = NewNode {
                node: member.chain.node,
                name: format!("node-{place:04}"),
                signing_key: member.chain.key.public(),
                tls_fingerprint: Hash(fingerprint),
                record: Vec::new(),
                at: self.from,
            };
            enrolment::add_node(&mut tx, &new).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Usage as billing reads it is what every register counted, register by register (I3).
    ///
    /// # Errors
    /// When the store fails.
    ///
    /// # Panics
    /// When they differ.
    pub async fn check(&self, store: &Store) -> Result<(), StoreError> {
        let seconds = self.segments as u64 * SEAL_S;
        let through = self.from.saturating_add(Micros::from_seconds(seconds));
        let span = Period {
            from: self.from,
            to: through.next_multiple(QUARTER_HOUR_US),
        };
        let mut tx = store.read().await?;
        let rows = usage::usage(&mut tx, span).await?;
        let read: BTreeMap<_, _> = rows
            .into_iter()
            .map(|row| ((row.node, row.workload, row.meter), row.quantity))
            .collect();
        let sealed: BTreeMap<(NodeId, WorkloadName, Meter), u128> = self
            .members
            .iter()
            .flat_map(|member| member.chain.totals())
            .collect();
        assert!(!sealed.is_empty());
        assert!(read == sealed, "the usage read back is not what was sealed");
        Ok(())
    }
}

/// An hour's beginning from which on so many segments fit before now.
#[must_use]
pub fn beginning(segments: usize) -> Timestamp {
    let time = Micros::from_seconds(segments as u64 * SEAL_S);
    now().saturating_sub(time).floor_to(HOUR_US)
}

fn node(place: usize) -> NodeId {
    let number = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut id = [0x6e; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    NodeId(id)
}
