//! Decides what to send next and what each answer means.
//!
//! Pure: no socket, no buffer, no clock. `connection` does the talking, the buffer holds the
//! segments; the hash of a segment that an answer is about is passed in. One `Session` lives as long
//! as one connection.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::keys::{PublicKey, ReceiptKeyCertificate, Signed};
use tallystick_common::receipt::Receipt;
use tallystick_common::wire::{Hello, Position, RefusalReason, Refused, Versions, Welcome};

/// A receipt that is so long in coming will not come on this connection.
const RECEIPT_WITHIN: Duration = Duration::from_secs(60);
/// The most that is ever sent ahead of receipts, whatever a reconciler allows.
const WINDOW_MAX: u32 = 4096;

/// Whose segments these are, and whom their receipts are believed from.
#[derive(Debug, Clone)]
pub struct Party {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// The keys of the authorities that are trusted, which certify receipt keys.
    pub authorities: Vec<PublicKey>,
    /// Receipt keys known so far.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    /// Software name and version, told in `Hello`.
    pub software: String,
}

/// What the buffer has of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holdings {
    /// The oldest segment it can still send (`position.next` when there is none).
    pub oldest: Seq,
    /// The end of the stream.
    pub position: Position,
    /// The last segment receipted.
    pub receipted: Option<Seq>,
}

/// Why this stream cannot go on; a new one, naming it as its predecessor, can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamOver {
    /// The reconciler has more of the stream than we do: our buffer was rolled back.
    #[error(
        "the reconciler has segments up to {theirs} of this stream, the buffer only up to {ours}"
    )]
    RolledBack {
        /// The next number it wants.
        theirs: Seq,
        /// The next number we would give.
        ours: Seq,
    },
    /// The reconciler has another segment under a number of ours: a clone of this node, or a rollback.
    #[error("the reconciler has another segment {seq} of this stream than the buffer")]
    OtherHash {
        /// Which.
        seq: Seq,
    },
    /// A segment was refused for ever.
    #[error("segment {seq} was refused for ever: {reason}: {detail}")]
    Refused {
        /// Which.
        seq: Seq,
        /// Why.
        reason: RefusalReason,
        /// For people.
        detail: String,
    },
}

impl StreamOver {
    /// Whether another copy of the stream may have sealed what is not sealed here.
    #[must_use]
    pub fn lives_on(&self) -> bool {
        match self {
            Self::RolledBack { .. } | Self::OtherHash { .. } => true,
            Self::Refused { reason, .. } => matches!(
                reason,
                RefusalReason::Chain | RefusalReason::Fork | RefusalReason::StreamClosed
            ),
        }
    }
}

/// How the conversation goes on after something went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consequence {
    /// This stream is over; the run loop has to begin a new one.
    StreamOver(StreamOver),
    /// Nothing this node does will help; somebody has to act. Ask again seldom.
    Hold(String),
    /// Connect again soon.
    Retry(String),
}

/// A receipt that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReceipt {
    /// None of the certified keys signed it.
    #[error("a receipt that no certified key signed")]
    Signature,
    /// It is about another node or stream.
    #[error("a receipt of another stream")]
    Stream,
    /// It is about a segment that is not in the buffer.
    #[error("a receipt for segment {0}, which the buffer does not have")]
    Unknown(Seq),
    /// It names another hash than ours.
    #[error("a receipt for segment {0} that names another hash")]
    Hash(Seq),
}

/// What is known while one connection lasts.
#[derive(Debug)]
pub struct Session {
    party: Party,
    keys: Vec<PublicKey>,
    version: u16,
    window: usize,
    next: Seq,
    in_flight: VecDeque<Seq>,
    receipted: Option<Seq>,
    progress: Instant,
    came_forward: bool,
}

impl Session {
    /// Before `Hello`. Receipt keys that the CA did not certify are left out.
    #[must_use]
    pub fn new(party: Party, now: Instant) -> Self {
        let keys = certified(&party.receipt_keys, &party.authorities);
        Self {
            party,
            keys,
            version: 0,
            window: 0,
            next: Seq::FIRST,
            in_flight: VecDeque::new(),
            receipted: None,
            progress: now,
            came_forward: false,
        }
    }

    /// The first message.
    #[must_use]
    pub fn hello(&self, holdings: &Holdings) -> Hello {
        Hello {
            versions: Versions::OURS,
            software: self.party.software.clone(),
            node: self.party.node,
            stream: self.party.stream,
            oldest: holdings.oldest,
            position: holdings.position,
        }
    }

    /// The answer to `Hello`: from here on segments are sent, from the number the reconciler wants.
    /// `known` is the hash that the buffer has of the last segment the reconciler has.
    ///
    /// # Errors
    /// When the two positions cannot be of one stream, or the version is none of ours.
    pub fn handle_welcome(
        &mut self,
        now: Instant,
        welcome: &Welcome,
        holdings: &Holdings,
        known: Option<Hash>,
    ) -> Result<(), Consequence> {
        let ours = Versions::OURS;
        if welcome.version < ours.oldest || welcome.version > ours.newest {
            let told = format!(
                "the reconciler speaks version {}; update this agent",
                welcome.version
            );
            return Err(Consequence::Hold(told));
        }
        self.version = welcome.version;
        let authorities = self.party.authorities.clone();
        self.learn_keys(&welcome.receipt_keys, &authorities);
        reconcile(&welcome.position, holdings, known)?;
        self.next = welcome.position.next;
        self.receipted = holdings.receipted;
        self.window = usize::try_from(welcome.window.clamp(1, WINDOW_MAX)).unwrap_or(1);
        self.progress = now;
        Ok(())
    }

    /// The version spoken; 0 before `Welcome`.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Keys that sign receipts, where one of `authorities` certified them.
    pub fn learn_keys(
        &mut self,
        keys: &[Signed<ReceiptKeyCertificate>],
        authorities: &[PublicKey],
    ) {
        for key in certified(keys, authorities) {
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
    }

    /// A segment is on its way.
    pub fn handle_sent(&mut self, now: Instant, seq: Seq) {
        if self.in_flight.is_empty() {
            self.progress = now;
        }
        self.in_flight.push_back(seq);
        self.next = self.next.max(seq.next());
    }

    /// What a receipt says, if a certified key signed it and it is about this stream.
    ///
    /// # Errors
    /// When it is not believed; the connection should not be used further.
    pub fn read_receipt(&self, signed: &Signed<Receipt>) -> Result<Receipt, BadReceipt> {
        let receipt = self
            .keys
            .iter()
            .find_map(|key| signed.verify(key).ok())
            .ok_or(BadReceipt::Signature)?;
        if receipt.node != self.party.node || receipt.stream != self.party.stream {
            return Err(BadReceipt::Stream);
        }
        Ok(receipt)
    }

    /// A receipt, read, and the hash that the buffer has of the segment it is for. True when it says
    /// more than those before: everything up to its number may be deleted once it is stored.
    ///
    /// # Errors
    /// When it is not believed; the connection should not be used further.
    pub fn handle_receipt(
        &mut self,
        now: Instant,
        receipt: &Receipt,
        known: Option<Hash>,
    ) -> Result<bool, BadReceipt> {
        let news = self.receipted.is_none_or(|before| receipt.seq > before);
        match known {
            Some(hash) if hash == receipt.hash => {}
            Some(_) => return Err(BadReceipt::Hash(receipt.seq)),
            None if news => return Err(BadReceipt::Unknown(receipt.seq)),
            None => {}
        }
        self.progress = now;
        while self
            .in_flight
            .front()
            .is_some_and(|sent| *sent <= receipt.seq)
        {
            self.in_flight.pop_front();
        }
        if news {
            self.came_forward = true;
            self.receipted = Some(receipt.seq);
            // Held without being sent again: the receipt for it had been lost.
            self.next = self.next.max(receipt.seq.next());
        }
        Ok(news)
    }

    /// Whether this connection brought a receipt that was not there before. One that brings none has
    /// not been of use, however friendly the welcome was.
    #[must_use]
    pub fn came_forward(&self) -> bool {
        self.came_forward
    }

    /// The reconciler refused something.
    #[must_use]
    pub fn handle_refused(&self, refused: &Refused) -> Consequence {
        let told = format!("{}: {}", refused.reason, refused.detail);
        match (refused.seq, refused.reason) {
            (_, RefusalReason::Busy | RefusalReason::Ahead) => Consequence::Retry(told),
            // About the node, or a new stream of the same make would be refused alike: somebody has
            // to act.
            (
                _,
                RefusalReason::Banned
                | RefusalReason::Retired
                | RefusalReason::UnknownNode
                | RefusalReason::NewerFormat
                | RefusalReason::Signature
                | RefusalReason::WrongNode,
            )
            | (None | Some(Seq::FIRST), _) => Consequence::Hold(told),
            (Some(seq), reason) => Consequence::StreamOver(StreamOver::Refused {
                seq,
                reason,
                detail: refused.detail.clone(),
            }),
        }
    }

    /// The segment to send now, if the stream ends at `end` (the next number to be sealed).
    #[must_use]
    pub fn poll_send(&self, end: Seq) -> Option<Seq> {
        (self.in_flight.len() < self.window && self.next < end).then_some(self.next)
    }

    /// When to give the connection up unless a receipt arrives.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.in_flight.is_empty()).then(|| self.progress + RECEIPT_WITHIN)
    }

    /// How many segments may be sent now without waiting for a receipt.
    #[must_use]
    pub fn room(&self) -> usize {
        self.window.saturating_sub(self.in_flight.len())
    }

    /// Whether everything up to `end` (the next number to be sealed) has its receipt.
    #[must_use]
    pub fn is_settled(&self, end: Seq) -> bool {
        self.in_flight.is_empty() && self.next >= end
    }
}

/// Keys among `keys` that one of the authorities certified.
fn certified(keys: &[Signed<ReceiptKeyCertificate>], authorities: &[PublicKey]) -> Vec<PublicKey> {
    let by_one = |signed: &Signed<ReceiptKeyCertificate>| {
        authorities.iter().find_map(|key| signed.verify(key).ok())
    };
    keys.iter()
        .filter_map(by_one)
        .map(|certificate| certificate.key)
        .collect()
}

/// Whether what the reconciler has is a beginning of what we have, and we can go on from there.
fn reconcile(
    theirs: &Position,
    holdings: &Holdings,
    known: Option<Hash>,
) -> Result<(), Consequence> {
    let ours = holdings.position.next;
    if theirs.next > ours {
        let over = StreamOver::RolledBack {
            theirs: theirs.next,
            ours,
        };
        return Err(Consequence::StreamOver(over));
    }
    if theirs.next < holdings.oldest {
        return Err(Consequence::Hold(format!(
            "the reconciler wants segment {}, but the oldest kept is {}: was it restored from an old backup?",
            theirs.next, holdings.oldest
        )));
    }
    let Some(last) = theirs.next.0.checked_sub(1).map(Seq) else {
        return Ok(());
    };
    if known.is_some() && known == theirs.head {
        return Ok(());
    }
    Err(Consequence::StreamOver(StreamOver::OtherHash { seq: last }))
}

#[cfg(test)]
mod tests;
