//! One node's connection: carries messages between the socket, the session and commit.
//!
//! Two halves run side by side. Reading hands segments to commit as they come and a ticket for each,
//! in order, to answering; answering waits for the tickets and says receipts. The number of tickets
//! and the bytes behind them are bounded, so a peer that sends faster than the disk takes waits.

use std::net::SocketAddr;
use std::sync::Arc;

use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::keys::{KeyRing, PublicKey};
use tallystick_common::wire::{
    CloseCode, DEFAULT_WINDOW, FrameKind, Hello, Message, Position, RefusalReason, Refused, Welcome,
};
use tokio::sync::{Semaphore, mpsc, watch};

use self::answering::Receipts;
use self::reading::Reading;
use super::Services;
use super::bulletin::Bulletin;
use super::intake::{RefusedBytes, Stopped};
use super::listener::FIRST_MESSAGE_WITHIN;
use super::peer::{Line, Reader, Sender, Wire};
use super::session::{Replies, Shown, judge_hello, judge_peer, judge_read, refused};
use super::strangers::StrangerReason;
use crate::store::nodes::{self, Node};
use crate::store::{Store, StoreError};

mod answering;
mod reading;

/// Most bytes of one connection that wait for commit.
const UNCOMMITTED_BYTES: u32 = 16 << 20;
/// Most that is kept of a frame that was too long or not understood.
const KEPT_BYTES: usize = 256 << 10;

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
struct End {
    code: CloseCode,
    why: &'static str,
}

const DONE: End = End {
    code: CloseCode::Done,
    why: "",
};
const REFUSED: End = End {
    code: CloseCode::Refused,
    why: "refused",
};
const STOPPING: End = End {
    code: CloseCode::ShuttingDown,
    why: "the reconciler is being stopped",
};
const FAILED: End = End {
    code: CloseCode::Failed,
    why: "the reconciler failed; its log says why",
};

/// Serves one connection of a node to its end.
pub(super) async fn serve(
    line: Line,
    wire: Wire,
    node: NodeId,
    tls_key: PublicKey,
    services: Arc<Services>,
    shutdown: watch::Receiver<bool>,
) {
    let peer = line.from;
    let shown = Shown { node, tls_key };
    let opened = tokio::time::timeout(FIRST_MESSAGE_WITHIN, wire.open()).await;
    let Some((send, mut reader)) = opened.ok().flatten() else {
        services.stranger(peer, StrangerReason::Slow, "a node opened no stream");
        return line.cut(CloseCode::Slow, "too slow");
    };
    let mut talk = Talk {
        line,
        services,
        peer,
        shown,
        send,
    };
    match talk.greet(&mut reader).await {
        Ok(open) => talk.converse(open, reader, shutdown).await,
        Err(Parting::Refused(refused)) => talk.part(refused).await,
        Err(Parting::Gone) => {}
        Err(Parting::Failed) => talk.end(FAILED).await,
    }
}

/// Why there was no welcome.
enum Parting {
    Refused(Refused),
    Gone,
    Failed,
}

impl From<StoreError> for Parting {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "could not greet a node");
        Self::Failed
    }
}

impl From<Stopped> for Parting {
    fn from(_: Stopped) -> Self {
        Self::Failed
    }
}

/// What `Hello` and the store said.
struct Open {
    version: u16,
    stream: StreamId,
    keys: KeyRing,
    position: Position,
}

/// One connection and what it works with.
struct Talk {
    line: Line,
    services: Arc<Services>,
    peer: SocketAddr,
    shown: Shown,
    send: Sender,
}

impl Talk {
    /// `Hello`, answered by `Welcome`.
    async fn greet(&mut self, reader: &mut Reader) -> Result<Open, Parting> {
        let hello = self.first_message(reader).await?;
        let node = load(&self.services.store, self.shown.node).await?;
        let judged = judge_peer(&self.shown, node.as_ref().map(|(node, _)| node));
        let (judged, keys) = match (judged.and_then(|()| judge_hello(&self.shown, &hello)), node) {
            (Ok(version), Some((_, keys))) => (version, keys),
            (Ok(_), None) => return Err(Parting::Failed),
            (Err(said), node) => {
                if node.is_none() {
                    self.services
                        .stranger(self.peer, StrangerReason::UnknownNode, &said.detail);
                    return Err(Parting::Refused(said));
                }
                let frame = Message::Hello(hello).to_frame();
                self.keep(None, &said, frame).await?;
                return Err(Parting::Refused(said));
            }
        };
        let position = self
            .services
            .intake
            .position(self.shown.node, hello.stream)
            .await?;
        let welcome = Welcome {
            version: judged,
            server_time: self.services.now(),
            position,
            epoch: self.services.store.epoch(),
            window: DEFAULT_WINDOW,
            receipt_keys: self.services.authority.receipt_certificates(),
        };
        let sent = self.send.send(&Message::Welcome(welcome)).await;
        sent.map_err(|_| Parting::Gone)?;
        tracing::debug!(node.id = %self.shown.node, peer = %self.peer, "welcomed a node");
        Ok(Open {
            version: judged,
            stream: hello.stream,
            keys,
            position,
        })
    }

    async fn first_message(&self, reader: &mut Reader) -> Result<Hello, Parting> {
        let first = tokio::time::timeout(FIRST_MESSAGE_WITHIN, reader.next_of(FrameKind::Hello));
        let said = match first.await {
            Ok(Ok(Message::Hello(hello))) => return Ok(hello),
            Ok(Ok(_)) => refused(RefusalReason::Message, "a hello was expected"),
            Ok(Err(error)) => judge_read(&error).ok_or(Parting::Gone)?,
            Err(_) => refused(RefusalReason::Frame, "no hello came in time"),
        };
        let known = load(&self.services.store, self.shown.node).await?;
        if known.is_some() && !reader.unread().is_empty() {
            self.keep(None, &said, kept(reader.unread())).await?;
        } else {
            self.services
                .stranger(self.peer, StrangerReason::Malformed, &said.detail);
        }
        Err(Parting::Refused(said))
    }

    /// Keeps what is not counted, and waits until it is on disk.
    async fn keep(
        &self,
        stream: Option<StreamId>,
        refused: &Refused,
        bytes: Vec<u8>,
    ) -> Result<(), Stopped> {
        let refused = refused.clone();
        let (node, peer) = (self.shown.node, self.peer);
        let record = RefusedBytes {
            node,
            stream,
            seq: refused.seq,
            refused,
            peer,
            bytes,
        };
        self.services
            .intake
            .refuse(record)
            .await?
            .await
            .map_err(|_| Stopped)
    }

    async fn part(mut self, refused: Refused) {
        let _ = self.send.send(&Message::Refused(refused)).await;
        self.end(REFUSED).await;
    }

    async fn end(self, end: End) {
        self.send.close(&self.line, end.code, end.why).await;
    }

    /// Segments in, receipts out, until something ends it.
    async fn converse(mut self, open: Open, mut reader: Reader, shutdown: watch::Receiver<bool>) {
        let (tickets, mut due) = mpsc::channel(DEFAULT_WINDOW as usize);
        let services = Arc::clone(&self.services);
        let receipts = Receipts {
            services,
            node: self.shown.node,
            stream: open.stream,
        };
        let reading = Reading {
            services: Arc::clone(&self.services),
            peer: self.peer,
            node: self.shown.node,
            stream: open.stream,
            version: open.version,
            keys: open.keys,
            room: Arc::new(Semaphore::new(UNCOMMITTED_BYTES as usize)),
            tickets,
        };
        let end = {
            let replies = Replies::new(held(&open.position));
            let bulletin = Bulletin::new(&self.services, self.shown.node, open.version);
            let answer = answering::run(&receipts, replies, bulletin, &mut self.send, &mut due);
            let read = reading.run(&mut reader, shutdown);
            tokio::pin!(read, answer);
            // Answering ends first when something was refused; what was read is with commit already.
            tokio::select! {
                end = &mut answer => end.unwrap_or(DONE),
                stop = &mut read => answer.await.unwrap_or(stop),
            }
        };
        self.end(end).await;
    }
}

fn held(position: &Position) -> Option<(Seq, Hash)> {
    Some((Seq(position.next.0.checked_sub(1)?), position.head?))
}

fn kept(bytes: &[u8]) -> Vec<u8> {
    bytes.get(..KEPT_BYTES).unwrap_or(bytes).to_vec()
}

async fn load(store: &Store, node: NodeId) -> Result<Option<(Node, KeyRing)>, StoreError> {
    let mut tx = store.read().await?;
    let Some(node) = nodes::by_id(&mut tx, node).await? else {
        return Ok(None);
    };
    let keys = nodes::key_ring(&mut tx, &node).await?;
    Ok(Some((node, keys)))
}
