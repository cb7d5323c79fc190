//! What one node's words mean and what it is answered.
//!
//! Pure: no socket, no store, no clock. `connection` carries messages; admission and commit give the
//! verdicts. After the first refusal nothing further can be admitted on the connection (segments
//! follow one another), so it ends once that refusal has been said.

use tallystick_common::ids::{Hash, NodeId, Seq};
use tallystick_common::keys::PublicKey;
use tallystick_common::seal::SealError;
use tallystick_common::wire::{FrameError, Hello, RefusalReason, Refused, Versions};

use super::admit::{Refusal, Verdict};
use super::enroll::tls_fingerprint;
use super::peer::ReadError;
use crate::store::nodes::{Node, NodeState};

/// What the TLS certificate says about the peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    /// The node it was issued to.
    pub(super) node: NodeId,
    /// The key in it.
    pub(super) tls_key: PublicKey,
}

/// What a node comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    /// To bring segments.
    Bring,
    /// For what it is owed: a receipt of the last segment it sealed, or a certificate.
    Fetch,
}

/// Whether the node that showed this certificate may talk to us; `node` is what the store knows of it.
pub(super) fn judge_peer(
    shown: &Shown,
    node: Option<&Node>,
    errand: Errand,
) -> Result<(), Refused> {
    let Some(node) = node else {
        return Err(refused(
            RefusalReason::UnknownNode,
            "no such node here; enrol it again",
        ));
    };
    if tls_fingerprint(&shown.tls_key).as_bytes() != &node.tls_fingerprint {
        let detail = "this certificate is not the node's; enrol it again";
        return Err(refused(RefusalReason::UnknownNode, detail));
    }
    match &node.state {
        NodeState::Active => Ok(()),
        NodeState::Banned { at, reason } => Err(refused(
            RefusalReason::Banned,
            format!("the node is banned since {at}: {reason}"),
        )),
        NodeState::Retired { .. } if errand == Errand::Fetch => Ok(()),
        NodeState::Retired { at, .. } => Err(refused(
            RefusalReason::Retired,
            format!("the node is retired since {at}"),
        )),
    }
}

/// The version to speak with a peer that said `hello`.
pub(super) fn judge_hello(shown: &Shown, hello: &Hello) -> Result<u16, Refused> {
    let Versions { oldest, newest } = Versions::OURS;
    let version = hello.versions.common(Versions::OURS).ok_or_else(|| {
        let theirs = hello.versions;
        let detail = format!(
            "the agent speaks versions {} to {}, this reconciler {oldest} to {newest}",
            theirs.oldest, theirs.newest
        );
        refused(RefusalReason::Version, detail)
    })?;
    if hello.node != shown.node {
        let detail = format!(
            "it calls itself {} but shows the certificate of {}",
            hello.node, shown.node
        );
        return Err(refused(RefusalReason::WrongNode, detail));
    }
    Ok(version)
}

/// What is wrong with bytes that should have been a segment of the node's.
pub(super) fn judge_seal(seq: Option<Seq>, error: &SealError) -> Refused {
    let reason = match error {
        SealError::NewerFormat(_) => RefusalReason::NewerFormat,
        SealError::TooLong(_) => RefusalReason::Oversized,
        SealError::Node { .. } => RefusalReason::WrongNode,
        SealError::Signature { .. } => RefusalReason::Signature,
        SealError::Bytes { .. } | SealError::Block { .. } | SealError::Inconsistent(_) => {
            RefusalReason::Format
        }
    };
    Refused {
        seq,
        reason,
        detail: error.to_string(),
    }
}

/// What is wrong with a stream that cannot be read on; `None` when nothing is.
pub(super) fn judge_read(error: &ReadError) -> Option<Refused> {
    let reason = match error {
        ReadError::Ended | ReadError::Lost(_) => return None,
        ReadError::CutOff | ReadError::Frame(FrameError::UnknownKind(_)) => RefusalReason::Frame,
        ReadError::Frame(FrameError::Oversized { .. }) => RefusalReason::Oversized,
        ReadError::Frame(FrameError::Payload { .. }) | ReadError::OutOfTurn { .. } => {
            RefusalReason::Message
        }
    };
    Some(refused(reason, error.to_string()))
}

/// A refusal that is not about a segment.
pub(super) fn refused(reason: RefusalReason, detail: impl Into<String>) -> Refused {
    Refused {
        seq: None,
        reason,
        detail: detail.into(),
    }
}

/// Something to be said.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Everything up to here is on disk.
    Receipt {
        /// The last segment.
        seq: Seq,
        /// Its hash.
        hash: Hash,
        /// The first segment of which it is said whether it counts; after `seq` when of none.
        since: Seq,
        /// Those from there on that do not.
        quarantined: Vec<Seq>,
    },
    /// This is not counted.
    Refused(Refused),
}

/// Turns verdicts, given in the order of arrival, into as few receipts as say the same.
#[derive(Debug, Default)]
pub struct Replies {
    held: Option<(Seq, Hash)>,
    receipted: Option<Seq>,
    since: Option<Seq>,
    quarantined: Vec<Seq>,
    refused: Option<Refused>,
    refused_before: bool,
}

impl Replies {
    /// After `Welcome` said that everything up to `held` is here already: it is receipted first, for
    /// an earlier receipt may have been lost.
    pub fn new(held: Option<(Seq, Hash)>) -> Self {
        Self {
            held,
            ..Self::default()
        }
    }

    /// The committed verdict on the next segment.
    pub fn handle_verdict(&mut self, seq: Seq, hash: Hash, verdict: &Verdict) {
        match verdict {
            Verdict::Accepted => self.judged(seq, hash),
            Verdict::Quarantined(_) => {
                self.quarantined.push(seq);
                self.judged(seq, hash);
            }
            Verdict::Duplicate => self.known(seq, hash),
            Verdict::Ahead { expected } => {
                let detail = format!("segment {expected} is expected next");
                self.refuse(Some(seq), RefusalReason::Ahead, detail);
            }
            Verdict::Fork { known } => {
                let detail =
                    format!("another segment of that number is admitted, with hash {known}");
                self.refuse(Some(seq), RefusalReason::Fork, detail);
            }
            Verdict::Held => {
                let detail =
                    "the stream is forked, and waits until a person decides (`node resolve`)";
                self.refuse(Some(seq), RefusalReason::Busy, detail.to_owned());
            }
            Verdict::Refused(Refusal { reason, detail }) => {
                self.refuse(Some(seq), *reason, detail.clone());
            }
        }
    }

    /// Something else was refused.
    pub fn handle_refused(&mut self, refused: Refused) {
        if !self.has_refused() {
            self.refused = Some(refused);
        }
    }

    /// What to say now.
    pub fn poll(&mut self) -> Option<Reply> {
        let news = self
            .held
            .filter(|(seq, _)| self.receipted.is_none_or(|said| *seq > said));
        if let Some((seq, hash)) = news {
            self.receipted = Some(seq);
            let since = self.since.take().unwrap_or(seq.next());
            let quarantined = std::mem::take(&mut self.quarantined);
            return Some(Reply::Receipt {
                seq,
                hash,
                since,
                quarantined,
            });
        }
        self.refused_before |= self.refused.is_some();
        self.refused.take().map(Reply::Refused)
    }

    /// Whether the conversation is over.
    pub fn has_refused(&self) -> bool {
        self.refused_before || self.refused.is_some()
    }

    fn judged(&mut self, seq: Seq, hash: Hash) {
        self.since.get_or_insert(seq);
        self.held = Some((seq, hash));
    }

    /// Admitted before, maybe on another connection: whether it counts was said there, if anywhere.
    fn known(&mut self, seq: Seq, hash: Hash) {
        if self.held.is_none_or(|(held, _)| seq > held) {
            self.held = Some((seq, hash));
            self.since = None;
            self.quarantined.clear();
        }
    }

    fn refuse(&mut self, seq: Option<Seq>, reason: RefusalReason, detail: String) {
        self.handle_refused(Refused {
            seq,
            reason,
            detail,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(seq: u64) -> Hash {
        Hash([u8::try_from(seq).unwrap(); 32])
    }

    fn receipt(seq: u64, since: u64, quarantined: &[u64]) -> Option<Reply> {
        let quarantined = quarantined.iter().copied().map(Seq).collect();
        Some(Reply::Receipt {
            seq: Seq(seq),
            hash: hash(seq),
            since: Seq(since),
            quarantined,
        })
    }

    fn doubtful() -> Verdict {
        Verdict::Quarantined(super::super::admit::Doubt::Missing {
            register: tallystick_common::ids::RegisterId(1),
        })
    }

    #[test]
    fn many_commits_are_one_receipt() {
        let mut replies = Replies::new(None);
        for seq in 0..5 {
            replies.handle_verdict(Seq(seq), hash(seq), &Verdict::Accepted);
        }
        assert_eq!(replies.poll(), receipt(4, 0, &[]));
        assert_eq!(replies.poll(), None);
        replies.handle_verdict(Seq(3), hash(3), &Verdict::Duplicate);
        assert_eq!(replies.poll(), None, "said already");
        replies.handle_verdict(Seq(5), hash(5), &Verdict::Accepted);
        assert_eq!(replies.poll(), receipt(5, 5, &[]));
    }

    #[test]
    fn a_receipt_does_not_call_counted_what_was_judged_elsewhere() {
        let mut replies = Replies::new(None);
        replies.handle_verdict(Seq(0), hash(0), &Verdict::Accepted);
        replies.handle_verdict(Seq(1), hash(1), &doubtful());
        replies.handle_verdict(Seq(2), hash(2), &Verdict::Duplicate);
        assert_eq!(replies.poll(), receipt(2, 3, &[]));
        replies.handle_verdict(Seq(3), hash(3), &Verdict::Duplicate);
        replies.handle_verdict(Seq(4), hash(4), &doubtful());
        assert_eq!(replies.poll(), receipt(4, 4, &[4]));
    }

    #[test]
    fn a_lost_receipt_is_said_again_first() {
        let mut replies = Replies::new(Some((Seq(9), hash(9))));
        assert_eq!(replies.poll(), receipt(9, 10, &[]));
        assert_eq!(replies.poll(), None);
    }

    #[test]
    fn what_is_held_is_to_be_sent_again() {
        let mut replies = Replies::new(None);
        replies.handle_verdict(Seq(4), hash(4), &Verdict::Held);
        let Some(Reply::Refused(said)) = replies.poll() else {
            panic!("a word is due")
        };
        assert_eq!((said.seq, said.reason), (Some(Seq(4)), RefusalReason::Busy));
        assert!(!said.reason.is_permanent());
    }

    #[test]
    fn a_receipt_names_what_is_quarantined_and_comes_before_the_refusal() {
        let mut replies = Replies::new(None);
        replies.handle_verdict(Seq(0), hash(0), &Verdict::Accepted);
        replies.handle_verdict(Seq(1), hash(1), &doubtful());
        replies.handle_verdict(Seq(2), hash(2), &Verdict::Fork { known: hash(7) });
        replies.handle_verdict(Seq(3), hash(3), &Verdict::Ahead { expected: Seq(2) });
        assert_eq!(replies.poll(), receipt(1, 0, &[1]));
        let Some(Reply::Refused(said)) = replies.poll() else {
            panic!("a refusal is due")
        };
        assert_eq!((said.seq, said.reason), (Some(Seq(2)), RefusalReason::Fork));
        assert_eq!(
            replies.poll(),
            None,
            "what follows a refusal follows from it"
        );
        assert!(replies.has_refused());
    }
}
