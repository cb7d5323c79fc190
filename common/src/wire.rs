//! What agent and reconciler say to each other: versions, frames, messages.
//!
//! Owns the frame codec and the messages of the protocols named by the ALPN strings
//! (`PROTOCOL.md`, "Wire"). No socket: bytes in, messages out.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::ids::{Hash, NodeId, Seq, StoreEpoch, StreamId};
use crate::keys::{EnrolmentRecord, PublicKey, ReceiptKeyCertificate, Signature, Signed};
use crate::receipt::Receipt;
use crate::seal::MAX_SEGMENT_BYTES;
use crate::time::Timestamp;

mod close;
mod frame;
mod standing;
mod token;

pub use close::CloseCode;
pub use frame::{FrameDecoder, FrameError, HEADER_BYTES};
pub use standing::{Closing, InForce, Notice, Renew, Renewed, Settings, Trust};
pub use token::{JoinToken, TokenError};

/// ALPN of the ingest protocol; the client shows its node certificate.
pub const ALPN_INGEST: &[u8] = b"tallystick/1";
/// ALPN of enrolment; the client has no certificate yet.
pub const ALPN_ENROLL: &[u8] = b"tallystick-enroll/1";
/// ALPN of renewal; the client shows its node certificate, which may have expired.
pub const ALPN_RENEW: &[u8] = b"tallystick-renew/1";
/// The TLS name of every reconciler, whatever its address.
pub const SERVER_NAME: &str = "reconciler.tallystick.internal";
/// The newest message version this build speaks.
pub const VERSION: u16 = 2;
/// The message version from which on `Notice` and `InForce` are spoken.
pub const VERSION_NOTICES: u16 = 2;
/// Segments that may be on their way without a receipt, unless `Welcome` says otherwise.
pub const DEFAULT_WINDOW: u32 = 256;

/// The message versions one side speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Self = Self {
        oldest: 1,
        newest: VERSION,
    };

    /// The newest version both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// A place in a stream as the reconciler has it: the next number it wants, and the hash before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Position {
    /// The next sequence number that is wanted.
    pub next: Seq,
    /// The hash of the segment before it; `None` when there is none.
    pub head: Option<Hash>,
}

/// The agent's first message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// What it speaks.
    pub versions: Versions,
    /// Its software, for people: `tallystick-agent 0.1.0`.
    pub software: String,
    /// The node.
    pub node: NodeId,
    /// The stream it will send.
    pub stream: StreamId,
    /// The oldest segment it can still send, the head of its stream.
    pub oldest: Seq,
    /// Where its stream stands.
    pub position: Position,
}

/// The reconciler's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// The version spoken from here on.
    pub version: u16,
    /// The reconciler's clock.
    pub server_time: Timestamp,
    /// What it has of the stream.
    pub position: Position,
    /// The store that has it.
    pub epoch: StoreEpoch,
    /// Segments that may be on their way without a receipt.
    pub window: u32,
    /// The keys that sign receipts, certified by the CA.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
}

/// Why something that was sent is not counted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// No version in common.
    Version,
    /// Not a frame, or one that ended early.
    Frame,
    /// A frame longer than its kind may be.
    Oversized,
    /// A message out of turn or unreadable.
    Message,
    /// Not canonical sealed bytes.
    Format,
    /// Sealed in a newer format.
    NewerFormat,
    /// The signature is not by the node's key.
    Signature,
    /// Another node's segment.
    WrongNode,
    /// No such node.
    UnknownNode,
    /// The node is banned.
    Banned,
    /// The node is retired.
    Retired,
    /// It does not name the segment before it.
    Chain,
    /// A number too far ahead.
    Ahead,
    /// The same number with another hash.
    Fork,
    /// The stream has ended.
    StreamClosed,
    /// The join token is unknown, used or expired.
    Token,
    /// The reconciler cannot take it now; nothing is wrong with it.
    Busy,
}

impl RefusalReason {
    /// The name in stores, API and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Frame => "frame",
            Self::Oversized => "oversized",
            Self::Message => "message",
            Self::Format => "format",
            Self::NewerFormat => "newer_format",
            Self::Signature => "signature",
            Self::WrongNode => "wrong_node",
            Self::UnknownNode => "unknown_node",
            Self::Banned => "banned",
            Self::Retired => "retired",
            Self::Chain => "chain",
            Self::Ahead => "ahead",
            Self::Fork => "fork",
            Self::StreamClosed => "stream_closed",
            Self::Token => "token",
            Self::Busy => "busy",
        }
    }

    /// Whether sending the same again can never succeed.
    #[must_use]
    pub fn is_permanent(self) -> bool {
        !matches!(self, Self::Busy | Self::Ahead)
    }
}

impl std::fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// "This is not counted, because."
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Refused {
    /// The segment it is about, when it is about one.
    pub seq: Option<Seq>,
    /// Why.
    pub reason: RefusalReason,
    /// For people: what was expected and found, and what to do.
    pub detail: String,
}

/// A host's request to become a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnrollRequest {
    /// What it speaks.
    pub versions: Versions,
    /// The token's public half.
    pub token_id: [u8; 16],
    /// The token's secret half.
    pub secret: [u8; 32],
    /// The name it wants to be shown by.
    pub name: String,
    /// The key that will sign its segments.
    pub signing_key: PublicKey,
    /// PKCS #10 request (DER) for its TLS certificate.
    pub tls_request: Vec<u8>,
    /// By the signing key over [`EnrollRequest::possession`].
    pub proof: Signature,
}

impl EnrollRequest {
    /// The domain of [`EnrollRequest::proof`].
    pub const PROOF_DOMAIN: &'static str = "tallystick/1 possession";

    /// What the proof of possession is over: the token's id, then the TLS request.
    #[must_use]
    pub fn possession(token_id: &[u8; 16], tls_request: &[u8]) -> Vec<u8> {
        [token_id.as_slice(), tls_request].concat()
    }
}

/// The answer to [`EnrollRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Enrolled {
    /// The version spoken.
    pub version: u16,
    /// The CA's record of the node.
    pub record: Signed<EnrolmentRecord>,
    /// The node's TLS certificate chain (DER), its own first, without the CA's.
    pub certificates: Vec<Vec<u8>>,
    /// The CA's certificate (DER).
    pub ca: Vec<u8>,
    /// The keys that sign receipts, certified by the CA.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    /// Where to connect from now on.
    pub addresses: Vec<String>,
}

/// Everything that can be in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Agent → reconciler, first.
    Hello(Hello),
    /// Reconciler → agent, in answer.
    Welcome(Welcome),
    /// Agent → reconciler: sealed bytes as they are.
    Segment(Vec<u8>),
    /// Reconciler → agent, after commit; cumulative.
    Receipt(Signed<Receipt>),
    /// Reconciler → agent.
    Refused(Refused),
    /// Host → reconciler, on the enrolment protocol.
    Enroll(EnrollRequest),
    /// Reconciler → host.
    Enrolled(Enrolled),
    /// Node → reconciler, on the renewal protocol.
    Renew(Renew),
    /// Reconciler → node.
    Renewed(Renewed),
    /// Reconciler → agent, after `Welcome` and whenever it changes.
    Notice(Notice),
    /// Agent → reconciler, after `Notice` and whenever it changes.
    InForce(InForce),
    /// Either way, last, over TCP.
    Closing(Closing),
}

/// The kinds of frame, by the number that stands in the frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// [`Message::Hello`]
    Hello = 1,
    /// [`Message::Welcome`]
    Welcome = 2,
    /// [`Message::Segment`]
    Segment = 3,
    /// [`Message::Receipt`]
    Receipt = 4,
    /// [`Message::Refused`]
    Refused = 5,
    /// [`Message::Enroll`]
    Enroll = 6,
    /// [`Message::Enrolled`]
    Enrolled = 7,
    /// [`Message::Renew`]
    Renew = 8,
    /// [`Message::Renewed`]
    Renewed = 9,
    /// [`Message::Notice`]
    Notice = 10,
    /// [`Message::InForce`]
    InForce = 11,
    /// [`Message::Closing`]
    Closing = 12,
}

impl FrameKind {
    /// By number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::Hello,
            Self::Welcome,
            Self::Segment,
            Self::Receipt,
            Self::Refused,
            Self::Enroll,
            Self::Enrolled,
            Self::Renew,
            Self::Renewed,
            Self::Notice,
            Self::InForce,
            Self::Closing,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == code)
    }

    /// Longest payload in bytes.
    #[must_use]
    pub fn max_payload(self) -> usize {
        match self {
            Self::Segment => MAX_SEGMENT_BYTES,
            Self::Hello | Self::Refused | Self::Renew | Self::InForce | Self::Closing => 4 << 10,
            Self::Welcome | Self::Receipt | Self::Enroll | Self::Enrolled | Self::Renewed => {
                64 << 10
            }
            Self::Notice => 128 << 10,
        }
    }
}

impl Message {
    /// The kind of frame it travels in.
    #[must_use]
    pub fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Welcome(_) => FrameKind::Welcome,
            Self::Segment(_) => FrameKind::Segment,
            Self::Receipt(_) => FrameKind::Receipt,
            Self::Refused(_) => FrameKind::Refused,
            Self::Enroll(_) => FrameKind::Enroll,
            Self::Enrolled(_) => FrameKind::Enrolled,
            Self::Renew(_) => FrameKind::Renew,
            Self::Renewed(_) => FrameKind::Renewed,
            Self::Notice(_) => FrameKind::Notice,
            Self::InForce(_) => FrameKind::InForce,
            Self::Closing(_) => FrameKind::Closing,
        }
    }

    /// The whole frame.
    #[must_use]
    pub fn to_frame(&self) -> Vec<u8> {
        let payload = match self {
            Self::Segment(bytes) => return frame::encode(FrameKind::Segment, bytes),
            Self::Hello(hello) => codec::encode(hello),
            Self::Welcome(welcome) => codec::encode(welcome),
            Self::Receipt(receipt) => receipt.to_bytes(),
            Self::Refused(refused) => codec::encode(refused),
            Self::Enroll(request) => codec::encode(request),
            Self::Enrolled(enrolled) => codec::encode(enrolled),
            Self::Renew(renew) => codec::encode(renew),
            Self::Renewed(renewed) => codec::encode(renewed),
            Self::Notice(notice) => codec::encode(notice),
            Self::InForce(in_force) => codec::encode(in_force),
            Self::Closing(closing) => codec::encode(closing),
        };
        frame::encode(self.kind(), &payload)
    }

    /// From a frame's kind and payload.
    ///
    /// # Errors
    /// When the payload is not one canonical message of that kind.
    pub fn from_payload(kind: FrameKind, payload: Vec<u8>) -> Result<Self, CodecError> {
        Ok(match kind {
            FrameKind::Segment => Self::Segment(payload),
            FrameKind::Hello => Self::Hello(codec::decode(&payload)?),
            FrameKind::Welcome => Self::Welcome(codec::decode(&payload)?),
            FrameKind::Receipt => Self::Receipt(codec::decode(&payload)?),
            FrameKind::Refused => Self::Refused(codec::decode(&payload)?),
            FrameKind::Enroll => Self::Enroll(codec::decode(&payload)?),
            FrameKind::Enrolled => Self::Enrolled(codec::decode(&payload)?),
            FrameKind::Renew => Self::Renew(codec::decode(&payload)?),
            FrameKind::Renewed => Self::Renewed(codec::decode(&payload)?),
            FrameKind::Notice => Self::Notice(codec::decode(&payload)?),
            FrameKind::InForce => Self::InForce(codec::decode(&payload)?),
            FrameKind::Closing => Self::Closing(codec::decode(&payload)?),
        })
    }
}
