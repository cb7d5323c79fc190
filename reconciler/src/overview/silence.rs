//! Which nodes say nothing, though they should.
//!
//! An active node seals at an interval of its own; one that sent no segment for longer than that and a while
//! is silent. Nothing is changed by that: it is told wherever nodes are, and counted.

use std::collections::HashMap;

use serde::Deserialize;
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

use crate::store::nodes::{Node, NodeRow, NodeState};
use crate::store::{Connection, StoreError, settings};

/// How often a node seals unless it was told otherwise.
const SEAL: Micros = Micros(60 * SECOND_US);

/// How long each node may say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Silence {
    after: Micros,
    /// Sealing intervals of nodes that were told one and keep it.
    seals: HashMap<NodeRow, Micros>,
}

#[derive(Deserialize)]
struct Sealing {
    seal_seconds: Option<u64>,
}

impl Silence {
    /// With what nodes say is in force of their central settings.
    ///
    /// # Errors
    /// When the database fails or a row is damaged.
    pub async fn read(conn: &mut Connection, after: Micros) -> Result<Self, StoreError> {
        let kept = settings::kept(conn).await?.into_iter();
        let seal = |(node, document): (NodeRow, String)| {
            let sealing: Sealing = toml::from_str(&document).ok()?;
            Some((node, Micros::from_seconds(sealing.seal_seconds?)))
        };
        let seals = kept.filter_map(seal).collect();
        Ok(Self { after, seals })
    }

    /// Since when a node is silent, if it is: when its last segment came, or it was enrolled.
    #[must_use]
    pub fn since(&self, node: &Node, now: Timestamp) -> Option<Timestamp> {
        let last = node.last_seen_at.unwrap_or(node.enrolled_at);
        let seal = self.seals.get(&node.row).copied().unwrap_or(SEAL);
        let allowed = self.after.0.saturating_add(seal.0);
        let silent = node.state == NodeState::Active && now.since(last).0 > allowed;
        silent.then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::Hash;
    use tallystick_common::wire::{InForce, Settings};

    use super::*;
    use crate::ingest::testing::{Agent, at, committing, send};
    use crate::store::testing::{ENGINES, store};
    use crate::store::{Store, nodes};

    const AFTER: Micros = Micros(900 * SECOND_US);

    async fn since(store: &Store, now: u64) -> Option<Timestamp> {
        let mut tx = store.read().await.unwrap();
        let silence = Silence::read(&mut tx, AFTER).await.unwrap();
        let node = nodes::all(&mut tx).await.unwrap().remove(0);
        silence.since(&node, at(now))
    }

    #[tokio::test]
    async fn a_node_is_silent_when_it_missed_its_seal_and_a_while() {
        for engine in ENGINES {
            let (_home, store) = store(engine).await;
            let mut agent = Agent::new(1, 1).enrolled(&store).await;
            assert_eq!(since(&store, 960).await, None);
            assert_eq!(since(&store, 961).await, Some(at(0)), "it never spoke");
            let commit = committing(&store, || at(1000));
            send(&commit, agent.next(60, 1)).await;
            assert_eq!(since(&store, 1960).await, None);
            assert_eq!(since(&store, 1961).await, Some(at(1000)));
            // It seals every ten minutes, and says so.
            let mut tx = store.write().await.unwrap();
            let row = nodes::all(&mut tx).await.unwrap()[0].row;
            let settings = Settings {
                version: 1,
                document: "seal_seconds = 600\n".to_owned(),
            };
            settings::add(&mut tx, row, &settings, "test", at(0))
                .await
                .unwrap();
            tx.commit().await.unwrap();
            assert_eq!(since(&store, 1961).await, Some(at(1000)), "not in force");
            let mut tx = store.write().await.unwrap();
            let in_force = InForce {
                settings: 1,
                digest: Hash::ZERO,
                problem: None,
            };
            settings::note(&mut tx, row, &in_force, at(0))
                .await
                .unwrap();
            tx.commit().await.unwrap();
            assert_eq!(since(&store, 2500).await, None);
            assert_eq!(since(&store, 2501).await, Some(at(1000)));
            let mut tx = store.write().await.unwrap();
            let banned = NodeState::Banned {
                at: at(0),
                reason: "x".to_owned(),
            };
            nodes::set_state(&mut tx, agent.node, &banned, at(0))
                .await
                .unwrap();
            tx.commit().await.unwrap();
            assert_eq!(since(&store, 9999).await, None, "nothing is awaited");
        }
    }
}
