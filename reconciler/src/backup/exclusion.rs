//! Who was shut out after a backup was made, and shutting them out of what is restored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tallystick_common::ids::NodeId;
use tallystick_common::time::Timestamp;

use super::{BackupError, Manifest};
use crate::authority::Authority;
use crate::bans::{self, Entry};
use crate::catalog::change::{known_node, set_node_state};
use crate::decision::{self, Order};
use crate::store::decisions::{self, Revocation};
use crate::store::nodes::{self, NodeState};
use crate::store::{Store, StoreError, streams};

/// Why a node is banned that a person named.
pub(super) const NAMED: &str = "banned when the store was restored";

/// What a person says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Files that tell ([`crate::bans`]); when none, that of the data folder restored into, if it is there.
    pub files: Vec<PathBuf>,
    /// Nodes to ban, by id or name.
    pub nodes: Vec<String>,
    /// Nobody else was shut out.
    pub accept_unknown: bool,
}

/// Entries of files, in the order of time, and nodes that a person named.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) entries: Vec<Entry>,
    nodes: Vec<String>,
}

impl Exclusions {
    /// Reads the files.
    ///
    /// # Errors
    /// When nobody says who was shut out since the backup was made.
    pub(super) fn read(&self, data: &Path, manifest: &Manifest) -> Result<Known, BackupError> {
        let own = data.join(bans::FILE_NAME);
        let files = match &self.files[..] {
            [] if own.exists() => vec![own],
            files => files.to_vec(),
        };
        let said = self.accept_unknown || !self.nodes.is_empty();
        let unknown = |why: String| BackupError::UnknownBans {
            made_at: manifest.made_at,
            why,
        };
        if files.is_empty() && !said {
            return Err(unknown("nothing tells who was banned since".to_owned()));
        }
        let mut entries = Vec::new();
        for file in files {
            let held = bans::read(&file)?;
            let begun = held.iter().find_map(|entry| match entry {
                Entry::Begun { at } => Some(*at),
                _ => None,
            });
            if !said && begun.is_none_or(|at| at > manifest.made_at) {
                return Err(unknown(format!("{} begins later", file.display())));
            }
            entries.extend(held);
        }
        entries.sort_by_key(Entry::at);
        let nodes = self.nodes.clone();
        Ok(Known { entries, nodes })
    }
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Applied {
    /// Nodes that the backup took for active.
    pub shut_out: Vec<NodeId>,
    /// Keys that the backup took for good.
    pub keys_revoked: u64,
    /// Nodes that enrolled after the backup: they are unknown, and let in by nobody.
    pub unknown: Vec<NodeId>,
}

impl Known {
    /// Shuts them out of a store.
    pub(super) async fn apply(
        &self,
        store: &Store,
        authority: &Authority,
        actor: &str,
        now: Timestamp,
    ) -> Result<Applied, BackupError> {
        let mut applied = Applied::default();
        for named in &self.nodes {
            let reason = NAMED.to_owned();
            let state = NodeState::Banned { at: now, reason };
            let node = {
                let mut tx = store.read().await?;
                known_node(&mut tx, named).await?.id
            };
            shut_out(store, node, state, actor, now, &mut applied).await?;
        }
        let mut last = BTreeMap::new();
        for entry in &self.entries {
            match entry {
                Entry::Ban { at, node, reason } => {
                    let (at, reason) = (*at, reason.clone());
                    last.insert(*node, NodeState::Banned { at, reason });
                }
                Entry::Retire { at, node, lost } => {
                    let (at, lost) = (*at, lost.clone());
                    last.insert(*node, NodeState::Retired { at, lost });
                }
                Entry::Activate { node, .. } => drop(last.remove(node)),
                Entry::Begun { .. } | Entry::Revoke { .. } => {}
            }
        }
        for (node, state) in last {
            shut_out(store, node, state, actor, now, &mut applied).await?;
        }
        for entry in &self.entries {
            revoke(store, authority, entry, actor, now, &mut applied).await?;
        }
        applied.unknown.sort_unstable();
        applied.unknown.dedup();
        Ok(applied)
    }
}

async fn shut_out(
    store: &Store,
    id: NodeId,
    state: NodeState,
    actor: &str,
    now: Timestamp,
    applied: &mut Applied,
) -> Result<(), BackupError> {
    let node = {
        let mut tx = store.read().await?;
        nodes::by_id(&mut tx, id).await?
    };
    let Some(node) = node else {
        applied.unknown.push(id);
        return Ok(());
    };
    if node.state == NodeState::Active {
        set_node_state(store, &id.to_string(), state, actor, now).await?;
        applied.shut_out.push(id);
    }
    Ok(())
}

async fn revoke(
    store: &Store,
    authority: &Authority,
    entry: &Entry,
    actor: &str,
    now: Timestamp,
    applied: &mut Applied,
) -> Result<(), BackupError> {
    let Entry::Revoke {
        at,
        node: id,
        stream,
        from_seq,
        key,
        reason,
    } = entry
    else {
        return Ok(());
    };
    let mut tx = store.read().await?;
    let Some(node) = nodes::by_id(&mut tx, *id).await? else {
        applied.unknown.push(*id);
        return Ok(());
    };
    let held = decisions::revocations(&mut tx, node.row).await?;
    if held
        .iter()
        .any(|held| held.stream == *stream && held.key == *key)
    {
        return Ok(());
    }
    let streams = streams::of_node(&mut tx, node.row).await?;
    drop(tx);
    if streams.iter().any(|held| held.stream == *stream) {
        let node = id.to_string();
        let order = Order {
            node: &node,
            stream: *stream,
            reason,
            actor,
            signer: authority.receipt_key(),
        };
        decision::revoke(store, &order, *from_seq, false, now).await?;
    }
    // Where the stream came to lie before that place, the key is one that the backup does not know.
    let mut tx = store.write().await?;
    let held = decisions::revocations(&mut tx, node.row).await?;
    if !held.iter().any(|held| held.key == *key) {
        let revocation = Revocation {
            stream: *stream,
            from: *from_seq,
            key: *key,
            reason: reason.clone(),
            at: *at,
        };
        decisions::revoke(&mut tx, node.row, &revocation).await?;
        tx.commit().await.map_err(StoreError::from)?;
    }
    applied.keys_revoked += 1;
    Ok(())
}
