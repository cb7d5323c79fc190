//! What holds between a node and its installation besides readings: whom to trust, where to connect, how
//! to meter. Message version 2, and the renewal of certificates.

use bincode::{Decode, Encode};

use super::Versions;
use crate::ids::{Hash, NodeId};
use crate::keys::{AuthorityRetirement, AuthoritySuccession, ReceiptKeyCertificate, Signed};
use crate::time::Timestamp;

/// Whom to trust and where to connect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Trust {
    /// Each authority's word for the next, the oldest first.
    pub successions: Vec<Signed<AuthoritySuccession>>,
    /// Which of them are to be trusted no longer.
    pub retirements: Vec<Signed<AuthorityRetirement>>,
    /// The keys that sign receipts, certified by every authority that is trusted.
    pub receipt_keys: Vec<Signed<ReceiptKeyCertificate>>,
    /// `host:port` of the reconciler, in the order in which to try; empty: as before.
    pub addresses: Vec<String>,
}

/// A node asks for a new certificate for the key of the one that it shows, expired or not.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Renew {
    /// What it speaks.
    pub versions: Versions,
    /// Its software, for people.
    pub software: String,
    /// The node.
    pub node: NodeId,
}

/// The answer to [`Renew`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Renewed {
    /// The version spoken.
    pub version: u16,
    /// The reconciler's clock.
    pub server_time: Timestamp,
    /// The node's TLS certificate chain (DER), its own first, without the CA's.
    pub certificates: Vec<Vec<u8>>,
    /// Whom to trust and where to connect from now on.
    pub trust: Trust,
}

/// Central settings of a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Settings {
    /// Rises with each change; from 1.
    pub version: u64,
    /// The keys of `agent.toml` that are set, as TOML; empty takes the node's own.
    pub document: String,
}

/// What holds now; the last one said counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Notice {
    /// Whom to trust and where to connect.
    pub trust: Trust,
    /// How to meter, if that was ever set centrally.
    pub settings: Option<Settings>,
}

/// What the agent meters by.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct InForce {
    /// The version of the central settings last heard of; 0 when of none.
    pub settings: u64,
    /// The configuration's digest, as in the segments sealed from now on.
    pub digest: Hash,
    /// Why those settings are not in force, if they are not.
    pub problem: Option<String>,
}

/// The end of a connection, where the transport has no word for it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Closing {
    /// How it ended (`CloseCode`).
    pub code: u32,
    /// For people.
    pub why: String,
}
