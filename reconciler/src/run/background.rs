//! What works behind the listeners: commit and rollups.

use std::net::SocketAddr;
use std::sync::Arc;

use tallystick_common::ids::{NodeId, StreamId};
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::wire::Position;
use tokio::sync::oneshot;

use crate::ingest::admit::Verdict;
use crate::ingest::intake::{Intake, Later, RefusedBytes, Stopped};
use crate::store::{Store, StoreError};

/// The running tasks.
pub(super) struct Background {
    /// Where sessions hand over what arrived.
    pub(super) intake: Arc<dyn Intake>,
}

/// Starts them.
pub(super) async fn background(_store: &Store) -> Result<Background, StoreError> {
    Ok(Background {
        intake: Arc::new(Nothing),
    })
}

impl Background {
    /// Lets them finish what they have.
    pub(super) async fn stop(self) {}
}

#[derive(Debug)]
pub(crate) struct Nothing;

impl Intake for Nothing {
    fn position(
        &self,
        _node: NodeId,
        _stream: StreamId,
    ) -> Later<'_, Result<Position, StoreError>> {
        Box::pin(async { Err(StoreError::damaged("intake", "commit has stopped")) })
    }

    fn segment(
        &self,
        _segment: VerifiedSegment,
        _peer: SocketAddr,
    ) -> Later<'_, Result<oneshot::Receiver<Verdict>, Stopped>> {
        Box::pin(async { Err(Stopped) })
    }

    fn refuse(&self, _refused: RefusedBytes) -> Later<'_, Result<oneshot::Receiver<()>, Stopped>> {
        Box::pin(async { Err(Stopped) })
    }
}
