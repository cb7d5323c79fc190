//! The answering half: waits for commits in the order of arrival and says what became of them.

use std::sync::Arc;

use tallystick_common::failpoint;
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::keys::Signed;
use tallystick_common::receipt::Receipt;
use tallystick_common::wire::{Message, Refused};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{DONE, End, FAILED, REFUSED};
use crate::ingest::Services;
use crate::ingest::admit::Verdict;
use crate::ingest::bulletin::Bulletin;
use crate::ingest::peer::{Gone, Sender};
use crate::ingest::session::{Replies, Reply};

/// Something handed to commit, in the order of arrival.
pub(super) struct Ticket {
    pub(super) about: About,
    /// Its bytes' share of what may wait.
    pub(super) room: OwnedSemaphorePermit,
}

/// What was handed over.
pub(super) enum About {
    /// A segment, to be judged.
    Segment(Seq, Hash, oneshot::Receiver<Verdict>),
    /// Bytes that are not counted, to be kept.
    Refused(Refused, oneshot::Receiver<()>),
}

/// Commit went away.
struct Failed;

/// Who signs receipts for what.
pub(super) struct Receipts {
    pub(super) services: Arc<Services>,
    pub(super) node: NodeId,
    pub(super) stream: StreamId,
}

/// Answers until nothing is due any more (`None`), or something ends the connection.
pub(super) async fn run(
    receipts: &Receipts,
    mut replies: Replies,
    mut bulletin: Bulletin,
    send: &mut Sender,
    due: &mut mpsc::Receiver<Ticket>,
) -> Option<End> {
    let mut waiting = None;
    loop {
        if speak(receipts, &mut replies, send).await.is_err() {
            return Some(DONE);
        }
        if replies.has_refused() {
            return Some(REFUSED);
        }
        if waiting.is_none() {
            tokio::select! {
                ticket = due.recv() => waiting = Some(ticket?),
                () = bulletin.changed() => {
                    if bulletin.speak(send).await.is_err() {
                        return Some(DONE);
                    }
                    continue;
                }
            }
        }
        if settle(&mut replies, &mut waiting, due).await.is_err() {
            return Some(FAILED);
        }
    }
}

/// Waits for the first that is due and takes whatever else was committed with it.
async fn settle(
    replies: &mut Replies,
    waiting: &mut Option<Ticket>,
    due: &mut mpsc::Receiver<Ticket>,
) -> Result<(), Failed> {
    let Some(first) = waiting.take() else {
        return Ok(());
    };
    wait(replies, first).await?;
    while let Ok(next) = due.try_recv() {
        if let Some(unready) = try_take(replies, next)? {
            *waiting = Some(unready);
            break;
        }
    }
    Ok(())
}

async fn wait(replies: &mut Replies, ticket: Ticket) -> Result<(), Failed> {
    match ticket.about {
        About::Segment(seq, hash, verdict) => {
            let verdict = verdict.await.map_err(|_| Failed)?;
            replies.handle_verdict(seq, hash, &verdict);
        }
        About::Refused(refused, kept) => {
            kept.await.map_err(|_| Failed)?;
            replies.handle_refused(refused);
        }
    }
    drop(ticket.room);
    Ok(())
}

/// The ticket itself, while its commit is not done.
fn try_take(replies: &mut Replies, mut ticket: Ticket) -> Result<Option<Ticket>, Failed> {
    let state = match &mut ticket.about {
        About::Segment(seq, hash, verdict) => verdict
            .try_recv()
            .map(|verdict| replies.handle_verdict(*seq, *hash, &verdict)),
        About::Refused(refused, kept) => kept
            .try_recv()
            .map(|()| replies.handle_refused(refused.clone())),
    };
    match state {
        Ok(()) => Ok(None),
        Err(oneshot::error::TryRecvError::Empty) => Ok(Some(ticket)),
        Err(oneshot::error::TryRecvError::Closed) => Err(Failed),
    }
}

async fn speak(receipts: &Receipts, replies: &mut Replies, send: &mut Sender) -> Result<(), Gone> {
    while let Some(reply) = replies.poll() {
        match reply {
            Reply::Receipt {
                seq,
                hash,
                since,
                quarantined,
            } => {
                let signed = receipts.sign(seq, hash, since, quarantined);
                failpoint!("reconciler.receipt.signed");
                send.send(&Message::Receipt(signed)).await?;
                failpoint!("reconciler.receipt.sent");
            }
            Reply::Refused(refused) => {
                tracing::info!(
                    node.id = %receipts.node,
                    reason = %refused.reason,
                    detail = refused.detail,
                    "refused what a node sent"
                );
                send.send(&Message::Refused(refused)).await?;
            }
        }
    }
    Ok(())
}

impl Receipts {
    fn sign(&self, seq: Seq, hash: Hash, since: Seq, quarantined: Vec<Seq>) -> Signed<Receipt> {
        let receipt = Receipt {
            node: self.node,
            stream: self.stream,
            seq,
            hash,
            epoch: self.services.store.epoch(),
            at: self.services.now(),
            since,
            quarantined,
        };
        Signed::new(&receipt, self.services.authority.receipt_key())
    }
}
