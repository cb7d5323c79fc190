//! The reading half: verifies segments as they come and hands everything to commit.

use std::net::SocketAddr;
use std::sync::Arc;

use tallystick_common::failpoint;
use tallystick_common::ids::{NodeId, Seq, StreamId};
use tallystick_common::keys::KeyRing;
use tallystick_common::keys::PublicKey;
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::segment::Purpose;
use tallystick_common::wire::{InForce, Message, RefusalReason, Refused, VERSION_NOTICES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::answering::{About, Ticket};
use super::{DONE, End, FAILED, STOPPING, UNCOMMITTED_BYTES, kept};
use crate::ingest::Services;
use crate::ingest::intake::{RefusedBytes, Stopped};
use crate::ingest::peer::Reader;
use crate::ingest::session::{judge_read, judge_seal, refused};
use crate::store::{StoreError, nodes, settings};

/// What one connection's reading half works with.
pub(super) struct Reading {
    pub(super) services: Arc<Services>,
    pub(super) peer: SocketAddr,
    pub(super) node: NodeId,
    pub(super) stream: StreamId,
    pub(super) version: u16,
    pub(super) keys: KeyRing,
    pub(super) room: Arc<Semaphore>,
    pub(super) tickets: mpsc::Sender<Ticket>,
}

impl Reading {
    /// Reads until the peer is done, something cannot be read on, or the server stops.
    pub(super) async fn run(
        mut self,
        reader: &mut Reader,
        mut shutdown: watch::Receiver<bool>,
    ) -> End {
        loop {
            let arrived = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => return STOPPING,
                arrived = reader.next() => arrived,
            };
            let taken = match arrived {
                Ok(Message::Segment(bytes)) => self.take(bytes).await,
                Ok(Message::InForce(in_force)) if self.version >= VERSION_NOTICES => {
                    self.note(&in_force).await;
                    Ok(())
                }
                Ok(other) => {
                    let detail = format!("a {:?} message out of turn", other.kind());
                    let said = refused(RefusalReason::Message, detail);
                    self.refuse(said, other.to_frame()).await
                }
                Err(error) => {
                    let Some(said) = judge_read(&error) else {
                        return DONE;
                    };
                    let end = self.refuse(said, kept(reader.unread())).await;
                    return if end.is_ok() { DONE } else { FAILED };
                }
            };
            if taken.is_err() {
                return FAILED;
            }
        }
    }

    async fn take(&mut self, bytes: Vec<u8>) -> Result<(), Stopped> {
        let room = self.wait_for_room(bytes.len()).await?;
        match verify(&self.keys, self.stream, bytes) {
            Ok(segment) => {
                failpoint!("reconciler.segment.verified");
                self.follow_rotation(&segment);
                let (seq, hash) = (segment.header().seq, segment.hash());
                let verdict = self.services.intake.segment(segment, self.peer).await?;
                self.issue(About::Segment(seq, hash, verdict), room).await
            }
            Err((said, bytes)) => self.keep(said, bytes, room).await,
        }
    }

    /// Keeps what the node says it meters by. Losing it is no reason to lose the connection.
    async fn note(&self, in_force: &InForce) {
        let kept = async {
            let store = &self.services.store;
            let mut tx = store.read().await?;
            let node = nodes::by_id(&mut tx, self.node).await?;
            let Some(row) = node.map(|node| node.row) else {
                return Ok(());
            };
            let before = settings::told(&mut tx, row).await?;
            drop(tx);
            if before.is_some_and(|told| told.in_force == *in_force) {
                return Ok(());
            }
            let mut tx = store.write().await?;
            settings::note(&mut tx, row, in_force, self.services.now()).await?;
            tx.commit().await.map_err(StoreError::from)
        };
        let kept: Result<(), StoreError> = kept.await;
        if let Err(error) = kept {
            tracing::error!(%error, node.id = %self.node, "what a node has in force was not kept");
        }
    }

    async fn refuse(&self, said: Refused, bytes: Vec<u8>) -> Result<(), Stopped> {
        let room = self.wait_for_room(bytes.len()).await?;
        self.keep(said, bytes, room).await
    }

    async fn keep(
        &self,
        said: Refused,
        bytes: Vec<u8>,
        room: OwnedSemaphorePermit,
    ) -> Result<(), Stopped> {
        let record = RefusedBytes {
            node: self.node,
            stream: Some(self.stream),
            seq: said.seq,
            refused: said.clone(),
            peer: self.peer,
            bytes,
        };
        let kept = self.services.intake.refuse(record).await?;
        self.issue(About::Refused(said, kept), room).await
    }

    async fn issue(&self, about: About, room: OwnedSemaphorePermit) -> Result<(), Stopped> {
        self.tickets
            .send(Ticket { about, room })
            .await
            .map_err(|_| Stopped)
    }

    /// Waits until so many more bytes may wait for commit.
    async fn wait_for_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Stopped> {
        let permits = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .clamp(1, UNCOMMITTED_BYTES);
        Arc::clone(&self.room)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| Stopped)
    }

    /// A segment that names a new key speaks for those behind it in the pipe.
    fn follow_rotation(&mut self, segment: &VerifiedSegment) {
        let header = segment.header();
        if let Purpose::RotateKey(key) = header.purpose {
            self.keys
                .rotate(header.stream, header.seq.next(), PublicKey(key));
        }
    }
}

/// The segment, or what is wrong with the bytes, and the bytes.
fn verify(
    keys: &KeyRing,
    stream: StreamId,
    bytes: Vec<u8>,
) -> Result<VerifiedSegment, (Refused, Vec<u8>)> {
    let mut seq: Option<Seq> = None;
    let verified = SealedSegment::parse(bytes.clone()).and_then(|sealed| {
        seq = Some(sealed.header().seq);
        sealed.verify(keys)
    });
    match verified {
        Ok(segment) if segment.header().stream == stream => Ok(segment),
        Ok(_) => Err((
            Refused {
                seq,
                ..refused(
                    RefusalReason::WrongNode,
                    "it is of another stream than the hello",
                )
            },
            bytes,
        )),
        Err(error) => Err((judge_seal(seq, &error), bytes)),
    }
}
