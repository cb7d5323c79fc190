//! `node list|show|ban|retire`.

use clap::Subcommand;

use super::Session;
use crate::api::nodes::NodeView;
use crate::catalog::change::{known_node, set_node_state};
use crate::clock;
use crate::store::nodes::{self, NodeState};

/// Enrolled hosts.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Every node.
    List,
    /// One node, by id or name.
    Show {
        /// Id or name.
        node: String,
    },
    /// Take nothing from a node any more.
    Ban {
        /// Id or name.
        node: String,
        /// Why, for the audit log and the node's page.
        #[arg(long)]
        reason: String,
    },
    /// Say that a node's last segment has come.
    Retire {
        /// Id or name.
        node: String,
    },
}

impl NodeCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (store, now) = (&session.store, clock::now());
        let node = match self {
            Self::List => return list(session).await,
            Self::Show { node } => known_node(&mut *store.read().await?, &node).await?,
            Self::Ban { node, reason } => {
                let state = NodeState::Banned { at: now, reason };
                set_node_state(store, &node, state, &session.actor, now).await?
            }
            Self::Retire { node } => {
                let state = NodeState::Retired { at: now };
                set_node_state(store, &node, state, &session.actor, now).await?
            }
        };
        session.output.one(&NodeView::from(node))
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let nodes: Vec<NodeView> = nodes::all(&mut tx)
        .await?
        .into_iter()
        .map(NodeView::from)
        .collect();
    session.output.list(
        &nodes,
        &["id", "name", "state", "enrolled_at", "last_seen_at"],
    )
}
