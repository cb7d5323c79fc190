//! What a connection needs of admission and commit.
//!
//! The seam between the network and the transaction: everything handed over here is answered after
//! it is on disk, in the order in which it was handed over.

use std::net::SocketAddr;
use std::pin::Pin;

use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::wire::{Position, Refused};
use tokio::sync::oneshot;

use super::admit::Verdict;
use crate::store::StoreError;

/// Bytes of an enrolled node that are not counted, with what is wrong with them.
#[derive(Debug, Clone)]
pub struct RefusedBytes {
    /// Who sent them.
    pub node: NodeId,
    /// The stream it was sending, as far as it had said.
    pub stream: Option<StreamId>,
    /// The number they claim.
    pub seq: Option<Seq>,
    /// Why they are not counted.
    pub refused: Refused,
    /// From where they came.
    pub peer: SocketAddr,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Commit has stopped; nothing more is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("commit has stopped")]
pub struct Stopped;

/// An answer that comes later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Admission and commit, as connections see them.
pub trait Intake: Send + Sync + std::fmt::Debug {
    /// Where a stream stands; the beginning for one never heard of.
    fn position(&self, node: NodeId, stream: StreamId) -> Later<'_, Result<Position, StoreError>>;

    /// Hands over a segment, waiting while there is no room. The verdict comes after commit.
    fn segment(
        &self,
        segment: VerifiedSegment,
        peer: SocketAddr,
    ) -> Later<'_, Result<oneshot::Receiver<Verdict>, Stopped>>;

    /// Hands over what is not counted. The answer comes after commit.
    fn refuse(&self, refused: RefusedBytes) -> Later<'_, Result<oneshot::Receiver<()>, Stopped>>;
}
