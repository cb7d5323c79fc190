//! One conversation: both sides' own logic, and what is in flight between them.

use std::collections::VecDeque;
use std::time::Instant;

use tallystick_agent::buffer::StoredSegment;
use tallystick_agent::ship::session::{Party, Session};
use tallystick_common::ids::{Hash, NodeId, Seq, StoreEpoch, StreamId};
use tallystick_common::keys::{ReceiptKeyCertificate, SecretKey, Signed};
use tallystick_common::receipt::Receipt;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::Refused;
use tallystick_reconciler::ingest::session::Replies;

/// What is on its way to the agent.
#[derive(Debug)]
pub enum Answer {
    /// A receipt.
    Receipt(Box<Signed<Receipt>>),
    /// A refusal.
    Refused(Refused),
}

/// A connection while it lasts.
#[derive(Debug)]
pub struct Link {
    /// The agent's side.
    pub session: Session,
    /// The reconciler's.
    pub replies: Replies,
    /// Segments on their way.
    pub wire: VecDeque<StoredSegment>,
    /// Answers on theirs.
    pub back: VecDeque<Answer>,
    /// No more is taken: something was refused.
    pub over: bool,
}

/// The keys that receipts are signed with, and believed by.
#[derive(Debug)]
pub struct Authority {
    root: SecretKey,
    receipts: SecretKey,
}

impl Authority {
    /// Always the same.
    #[must_use]
    pub fn new() -> Self {
        Self {
            root: SecretKey::from_seed(&[0xca; 32]),
            receipts: SecretKey::from_seed(&[0xcb; 32]),
        }
    }

    /// What `Welcome` brings.
    #[must_use]
    pub fn receipt_keys(&self) -> Vec<Signed<ReceiptKeyCertificate>> {
        let certificate = ReceiptKeyCertificate {
            key: self.receipts.public(),
            from: Timestamp::EPOCH,
        };
        vec![Signed::new(&certificate, &self.root)]
    }

    /// What an agent brings to a conversation.
    #[must_use]
    pub fn party(&self, node: NodeId, stream: StreamId) -> Party {
        Party {
            node,
            stream,
            authorities: vec![self.root.public()],
            receipt_keys: Vec::new(),
            software: "simulated".to_owned(),
        }
    }

    /// Signs what the reconciler says.
    #[must_use]
    pub fn sign(&self, receipt: &Receipt) -> Signed<Receipt> {
        Signed::new(receipt, &self.receipts)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// After both have said hello.
    #[must_use]
    pub fn new(session: Session, held: Option<(Seq, Hash)>) -> Self {
        Self {
            session,
            replies: Replies::new(held),
            wire: VecDeque::new(),
            back: VecDeque::new(),
            over: false,
        }
    }

    /// Puts what there is to say on its way; `receipt` makes the rest of a receipt.
    pub fn speak(&mut self, authority: &Authority, about: &About) -> Vec<(Seq, Hash)> {
        use tallystick_reconciler::ingest::session::Reply;
        let mut said = Vec::new();
        while let Some(reply) = self.replies.poll() {
            match reply {
                Reply::Receipt {
                    seq,
                    hash,
                    since,
                    quarantined,
                } => {
                    said.push((seq, hash));
                    let receipt = Receipt {
                        node: about.node,
                        stream: about.stream,
                        seq,
                        hash,
                        epoch: about.epoch,
                        at: about.at,
                        since,
                        quarantined,
                    };
                    self.back
                        .push_back(Answer::Receipt(Box::new(authority.sign(&receipt))));
                }
                Reply::Refused(refused) => self.back.push_back(Answer::Refused(refused)),
            }
        }
        if self.replies.has_refused() {
            self.over = true;
            self.wire.clear();
        }
        said
    }
}

/// What every receipt of a conversation says alike.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// Whose.
    pub node: NodeId,
    /// Which stream.
    pub stream: StreamId,
    /// Which store.
    pub epoch: StoreEpoch,
    /// When.
    pub at: Timestamp,
}

/// An instant on a clock that nothing here waits for.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}
