//! Where streams, nodes and kernels stand, as of the last transaction.

use std::collections::{HashMap, HashSet};

use tallystick_common::ids::{BootId, NodeId, Seq, StreamId};
use tallystick_common::segment::Header;
use tallystick_common::time::Timestamp;

use crate::ingest::admit::{Claim, StreamState};
use crate::store::again::ATTEMPTS;
use crate::store::decisions::{self, Revocation};
use crate::store::nodes::{self, NodeRow, NodeState};
use crate::store::owners::{self, Replica};
use crate::store::sql;
use crate::store::streams::{self, Stream, StreamRow};
use crate::store::{Connection, StoreError};

/// Segments read at once when a stream is brought up from its stored tail.
const TAIL_PAGE: u32 = 256;

/// The cache. Empty, it is read again from the store.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// How often something was taken from this process, when its nodes were last looked at.
    taken: Option<i64>,
    /// Nodes that nobody else admits segments of.
    owned: HashMap<NodeRow, NodeId>,
    node_states: Option<i64>,
    nodes: HashMap<NodeId, (NodeRow, NodeState)>,
    /// Of nodes that have any.
    revocations: HashMap<NodeRow, Vec<Revocation>>,
    streams: HashMap<(NodeId, StreamId), Entry>,
    /// Streams of each node, with the time each accounts for.
    siblings: HashMap<NodeRow, Vec<Extent>>,
    claims: HashMap<BootId, Vec<Claim>>,
    changed_claims: HashSet<(BootId, NodeId)>,
    touched: HashSet<(NodeId, StreamId)>,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) row: Option<StreamRow>,
    pub(super) state: StreamState,
    /// The boot of its last segment.
    pub(super) boot: Option<BootId>,
    /// Changed in the open transaction.
    pub(super) touched: bool,
    stored: Seq,
}

/// The time that one stream accounts for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    row: StreamRow,
    stream: StreamId,
    from: Timestamp,
    through: Timestamp,
}

impl Entry {
    /// The stream's row, made if this is its first segment.
    pub(super) async fn begin(
        &mut self,
        conn: &mut Connection,
        node: NodeRow,
        header: &Header,
        now: Timestamp,
    ) -> Result<StreamRow, StoreError> {
        if let Some(row) = self.row {
            return Ok(row);
        }
        let row = streams::begin(conn, node, header, now).await?;
        self.row = Some(row);
        Ok(row)
    }
}

impl Book {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets what others have changed since the last transaction, or may change in this one. `false` when the
    /// store does not know this process (yet).
    pub(super) async fn refresh(
        &mut self,
        conn: &mut Connection,
        replica: Replica,
    ) -> Result<bool, StoreError> {
        self.refresh_nodes(conn).await?;
        // Kernels that several nodes claim may be claimed in other processes, too.
        self.claims.retain(|_, claims| claims.len() < 2);
        let taken = owners::losses(conn, replica).await?;
        if taken.is_none() || taken != self.taken {
            self.give_up_lost(conn, replica).await?;
            self.taken = taken;
        }
        Ok(taken.is_some())
    }

    async fn give_up_lost(
        &mut self,
        conn: &mut Connection,
        replica: Replica,
    ) -> Result<(), StoreError> {
        let held: HashSet<NodeRow> = owners::of(conn, replica).await?.into_iter().collect();
        let lost: HashMap<NodeRow, NodeId> = self
            .owned
            .extract_if(|row, _| !held.contains(row))
            .collect();
        let lost_ids: HashSet<&NodeId> = lost.values().collect();
        self.streams.retain(|(node, _), _| !lost_ids.contains(node));
        self.siblings.retain(|row, _| !lost.contains_key(row));
        self.claims.clear();
        Ok(())
    }

    /// Those of the enrolled among these nodes that this process does not own.
    pub(super) async fn not_owned(
        &mut self,
        conn: &mut Connection,
        nodes: impl Iterator<Item = NodeId>,
    ) -> Result<HashMap<NodeRow, NodeId>, StoreError> {
        let mut missing = HashMap::new();
        for id in nodes {
            if let Some((row, _)) = self.node(conn, id).await?
                && !self.owned.contains_key(&row)
            {
                missing.insert(row, id);
            }
        }
        Ok(missing)
    }

    /// Notes that this process has taken nodes. Whoever takes one from it is noticed by [`Self::refresh`].
    pub(super) fn own(&mut self, taken: HashMap<NodeRow, NodeId>) {
        self.owned.extend(taken);
    }

    /// Forgets what is known of nodes if another process changed the state of one.
    pub(super) async fn refresh_nodes(&mut self, conn: &mut Connection) -> Result<(), StoreError> {
        let states: i64 = sql::query_scalar("SELECT node_states FROM meta")
            .fetch_one(conn)
            .await?;
        if self.node_states != Some(states) {
            self.nodes.clear();
            self.revocations.clear();
            self.node_states = Some(states);
        }
        Ok(())
    }

    pub(super) async fn node(
        &mut self,
        conn: &mut Connection,
        id: NodeId,
    ) -> Result<Option<(NodeRow, NodeState)>, StoreError> {
        if let Some(known) = self.nodes.get(&id) {
            return Ok(Some(known.clone()));
        }
        let Some(node) = nodes::by_id(conn, id).await? else {
            return Ok(None);
        };
        let revoked = decisions::revocations(conn, node.row).await?;
        if !revoked.is_empty() {
            self.revocations.insert(node.row, revoked);
        }
        let known = (node.row, node.state);
        self.nodes.insert(id, known.clone());
        Ok(Some(known))
    }

    /// The revocation of the key that signed a segment of a node that is known here, if it is revoked.
    pub(super) async fn revoked(
        &self,
        conn: &mut Connection,
        node: NodeRow,
        header: &Header,
    ) -> Result<Option<Revocation>, StoreError> {
        let Some(revoked) = self.revocations.get(&node) else {
            return Ok(None);
        };
        let Some(node) = nodes::by_id(conn, header.node).await? else {
            return Ok(None);
        };
        let key = nodes::key_ring(conn, &node)
            .await?
            .key_at(header.stream, header.seq);
        let of = |revocation: &&Revocation| {
            let place = revocation.stream == header.stream && revocation.from <= header.seq;
            place || revocation.key == key
        };
        Ok(revoked.iter().find(of).cloned())
    }

    pub(super) async fn entry(
        &mut self,
        conn: &mut Connection,
        row: NodeRow,
        node: NodeId,
        stream: StreamId,
    ) -> Result<&mut Entry, StoreError> {
        let key = (node, stream);
        if let std::collections::hash_map::Entry::Vacant(e) = self.streams.entry(key) {
            let entry = read(conn, row, node, stream).await?;
            e.insert(entry);
        }
        self.touched.insert(key);
        Ok(self
            .streams
            .get_mut(&key)
            .expect("it was inserted when it was missing"))
    }

    /// The node's other streams that account for time of this segment.
    pub(super) async fn others(
        &mut self,
        conn: &mut Connection,
        node: NodeRow,
        header: &Header,
    ) -> Result<Vec<Extent>, StoreError> {
        if let std::collections::hash_map::Entry::Vacant(e) = self.siblings.entry(node) {
            let extents = streams::of_node(conn, node)
                .await?
                .iter()
                .map(Extent::of)
                .collect();
            e.insert(extents);
        }
        let overlap = |other: &&Extent| {
            other.stream != header.stream
                && other.from < header.covered_through
                && other.through > header.from
        };
        Ok(self.siblings[&node]
            .iter()
            .filter(overlap)
            .copied()
            .collect())
    }

    /// Which nodes claim the kernel of a segment. Where another does, nobody else changes that before this
    /// transaction ends.
    pub(super) async fn claims(
        &mut self,
        conn: &mut Connection,
        replica: Replica,
        header: &Header,
    ) -> Result<&[Claim], StoreError> {
        let boot = header.boot;
        if let std::collections::hash_map::Entry::Vacant(e) = self.claims.entry(boot) {
            let mut claims = streams::claims(conn, boot).await?;
            let mine = claims.iter().any(|claim| claim.node == header.node);
            if claims.len() > usize::from(mine) {
                if !mine {
                    owners::contest(conn, replica, boot).await?;
                }
                streams::hold_claims(conn, boot).await?;
                claims = streams::claims(conn, boot).await?;
            }
            e.insert(claims);
        }
        Ok(&self.claims[&boot])
    }

    /// Notes what time the stream of a segment just stored accounts for: another stream of the node
    /// may have its segment in the same transaction.
    pub(super) fn extend(&mut self, node: NodeRow, row: StreamRow, header: &Header) {
        let extents = self.siblings.entry(node).or_default();
        match extents.iter_mut().find(|extent| extent.row == row) {
            Some(extent) => extent.through = extent.through.max(header.covered_through),
            None => extents.push(Extent {
                row,
                stream: header.stream,
                from: header.from,
                through: header.covered_through,
            }),
        }
    }

    /// Notes that the segment's node saw, and counted, its time in its boot.
    pub(super) fn claim(&mut self, header: &Header, counted: bool) {
        let claims = self.claims.entry(header.boot).or_default();
        let order = claims
            .iter()
            .map(|claim| claim.order)
            .max()
            .map_or(1, |last| last + 1);
        let (from, through) = (header.from, header.covered_through);
        let place = claims
            .iter()
            .position(|claim| claim.node == header.node)
            .unwrap_or_else(|| {
                claims.push(Claim {
                    boot: header.boot,
                    node: header.node,
                    order,
                    seen: (from, through),
                    counted: (from, from),
                });
                claims.len() - 1
            });
        let claim = &mut claims[place];
        claim.seen = (claim.seen.0.min(from), claim.seen.1.max(through));
        if counted {
            let empty = claim.counted.0 == claim.counted.1;
            claim.counted = if empty {
                (from, through)
            } else {
                (claim.counted.0.min(from), claim.counted.1.max(through))
            };
        }
        self.changed_claims.insert((header.boot, header.node));
    }

    /// Writes what changed in the open transaction: heads (compare-and-set) and claims.
    pub(super) async fn settle(&mut self, conn: &mut Connection) -> Result<(), StoreError> {
        let touched = std::mem::take(&mut self.touched);
        let moved = touched.iter().filter_map(|key| {
            let entry = self.streams.get(key).filter(|entry| entry.touched)?;
            Some(streams::Move {
                stream: entry.row?,
                from: entry.stored,
                to: &entry.state,
                boot: entry.boot,
            })
        });
        if !streams::advance(conn, &moved.collect::<Vec<_>>()).await? {
            return Err(StoreError::Moved);
        }
        for key in touched {
            if let Some(entry) = self.streams.get_mut(&key) {
                entry.stored = entry.state.next;
                entry.touched = false;
            }
        }
        let changed = std::mem::take(&mut self.changed_claims);
        let claims: Vec<(NodeRow, Claim)> = changed
            .iter()
            .filter_map(|(boot, node)| {
                let claim = self.claims.get(boot)?.iter().find(|c| c.node == *node)?;
                Some((self.nodes.get(node)?.0, *claim))
            })
            .collect();
        streams::put_claims(conn, &claims).await
    }
}

impl Extent {
    /// Which stream it is of.
    pub(super) fn stream(&self) -> (StreamRow, StreamId) {
        (self.row, self.stream)
    }

    fn of(stream: &Stream) -> Self {
        Self {
            row: stream.row,
            stream: stream.stream,
            from: stream.covered_from,
            through: stream.covered_through,
        }
    }
}

/// A stream from its row, the registers derived so far, and the stored tail beyond them. Rollups may go on
/// between two statements, and registers of another position are none of this row's: then read again.
async fn read(
    conn: &mut Connection,
    row: NodeRow,
    node: NodeId,
    stream: StreamId,
) -> Result<Entry, StoreError> {
    for _ in 0..ATTEMPTS {
        let Some(found) = streams::find(conn, row, stream).await? else {
            return Ok(Entry {
                row: None,
                state: StreamState::new(node, stream),
                boot: None,
                touched: false,
                stored: Seq::FIRST,
            });
        };
        let open = streams::open_registers(conn, found.row).await?;
        let after = streams::find(conn, row, stream).await?;
        if after.is_some_and(|after| after.rolled == found.rolled) {
            let mut state = StreamState::new(node, stream);
            state.open = open;
            return with_tail(conn, found, state).await;
        }
    }
    Err(StoreError::Moved)
}

async fn with_tail(
    conn: &mut Connection,
    found: Stream,
    mut state: StreamState,
) -> Result<Entry, StoreError> {
    let mut next = found.rolled;
    while next < found.next {
        let page = streams::segments_from(conn, found.row, next, TAIL_PAGE).await?;
        if page.is_empty() {
            return Err(StoreError::damaged(
                "segments",
                format!("segment {next} is missing"),
            ));
        }
        for stored in page {
            let seq = stored.seq;
            let (sealed, blocks) = stored.read()?;
            state.advance(sealed.header(), &blocks, sealed.hash());
            next = seq.next();
        }
    }
    state.status = found.status;
    state.next = found.next;
    state.head = (found.next > Seq::FIRST).then_some(found.head);
    state.covered_through = Some(found.covered_through);
    state.proved_through = found.proved_through;
    state.next_register = state.next_register.max(found.next_register);
    Ok(Entry {
        row: Some(found.row),
        state,
        boot: None,
        touched: false,
        stored: found.next,
    })
}
