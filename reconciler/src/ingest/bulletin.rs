//! What an agent is told besides receipts: whom to trust, where to connect, how to meter.
//!
//! Owns when that is said: after `Welcome`, and again whenever it has changed. Versions of the protocol that
//! have no word for it hear nothing.

use std::sync::Arc;

use tallystick_common::ids::NodeId;
use tallystick_common::wire::{Message, Notice, VERSION_NOTICES};
use tokio::sync::watch;

use super::Services;
use super::peer::{Gone, Sender};
use crate::store::StoreError;
use crate::store::settings;

/// Rises whenever what nodes are told may have changed.
#[derive(Debug, Clone)]
pub struct Changes(watch::Receiver<u64>);

impl Changes {
    /// Told by the sender.
    #[must_use]
    pub fn new(told: watch::Receiver<u64>) -> Self {
        Self(told)
    }
}

impl Default for Changes {
    /// Nothing changes.
    fn default() -> Self {
        Self(watch::channel(0).1)
    }
}

/// What one connection was told, and hears next.
pub(super) struct Bulletin {
    services: Arc<Services>,
    node: NodeId,
    told: Option<Notice>,
    changes: Option<watch::Receiver<u64>>,
}

impl Bulletin {
    /// Of a session in that version.
    pub(super) fn new(services: &Arc<Services>, node: NodeId, version: u16) -> Self {
        let mut changes = (version >= VERSION_NOTICES).then(|| services.changes.0.clone());
        if let Some(changes) = &mut changes {
            changes.mark_changed();
        }
        Self {
            services: Arc::clone(services),
            node,
            told: None,
            changes,
        }
    }

    /// When there may be something to say.
    pub(super) async fn changed(&mut self) {
        let Some(changes) = &mut self.changes else {
            return std::future::pending().await;
        };
        if changes.changed().await.is_err() {
            self.changes = None;
            std::future::pending::<()>().await;
        }
    }

    /// Says what holds now, if it is not what was said last.
    pub(super) async fn speak(&mut self, sender: &mut Sender) -> Result<(), Gone> {
        let notice = match self.compose().await {
            Ok(notice) => notice,
            Err(error) => {
                tracing::error!(%error, node.id = %self.node, "a node was not told what holds");
                return Ok(());
            }
        };
        if self.told.as_ref() == Some(&notice) {
            return Ok(());
        }
        sender.send(&Message::Notice(notice.clone())).await?;
        self.told = Some(notice);
        Ok(())
    }

    async fn compose(&self) -> Result<Notice, StoreError> {
        let mut tx = self.services.store.read().await?;
        Ok(Notice {
            trust: self.services.authority.trust(&self.services.addresses),
            settings: settings::of(&mut tx, self.node).await?,
        })
    }
}
