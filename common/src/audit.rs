//! Entries of the audit log (I12) and how each is hashed to the one before, and signed checkpoints.
//!
//! An entry's content is hashed under a random salt of its own, and the chain runs over those hashes:
//! so a part of the chain can be shown without what its entries say, nor letting anyone guess it.
//! Keeping the log is the reconciler's.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::ids::{Hash, StoreEpoch};
use crate::keys::{ReceiptKeyCertificate, Signed, Statement};
use crate::time::Timestamp;

const CONTENT: &str = "tallystick 2026 audit content";
const LINK: &str = "tallystick 2026 audit entry";
const PREFIX: &str = "tallystick-checkpoint-1.";

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuditContent {
    /// Random, drawn for each entry.
    pub salt: [u8; 32],
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More, as JSON.
    pub detail: String,
}

impl AuditContent {
    /// Its hash, which the chain runs over.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key(CONTENT, &codec::encode(self)))
    }
}

/// Where the log stands: what an outsider keeps to prove later that nothing before it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Number of entries.
    pub entries: u64,
    /// The hash of the last one, zero when there is none.
    pub head: Hash,
}

impl Checkpoint {
    /// Before the first entry.
    pub const NONE: Self = Self {
        entries: 0,
        head: Hash::ZERO,
    };

    /// After one more entry, whose content has this hash.
    #[must_use]
    pub fn then(self, content: &Hash) -> Self {
        let entries = self.entries.saturating_add(1);
        let link = codec::encode(&(entries, content, self.head));
        Self {
            entries,
            head: Hash(blake3::derive_key(LINK, &link)),
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.entries, self.head)
    }
}

/// "At `at` the log of this store stood there."
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuditCheckpoint {
    /// Where.
    pub checkpoint: Checkpoint,
    /// The store.
    pub epoch: StoreEpoch,
    /// When.
    pub at: Timestamp,
}

impl Statement for AuditCheckpoint {
    const DOMAIN: &'static str = "tallystick/1 audit checkpoint";
}

/// A signed checkpoint to be kept elsewhere: one line of text.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedCheckpoint {
    /// Where the log stood.
    pub statement: Signed<AuditCheckpoint>,
    /// The authority's word for the key that signed it.
    pub receipt_key: Signed<ReceiptKeyCertificate>,
}

/// A text that is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a checkpoint: write ENTRIES:HASH, or the line that `audit checkpoint` told, whole")]
pub struct NotACheckpoint;

impl FromStr for Checkpoint {
    type Err = NotACheckpoint;

    fn from_str(text: &str) -> Result<Self, NotACheckpoint> {
        let (entries, head) = text.trim().split_once(':').ok_or(NotACheckpoint)?;
        Ok(Self {
            entries: entries.parse().map_err(|_| NotACheckpoint)?,
            head: head.parse().map_err(|_| NotACheckpoint)?,
        })
    }
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = BASE64URL_NOPAD.encode(&codec::encode(self));
        write!(f, "{PREFIX}{encoded}")
    }
}

impl FromStr for SignedCheckpoint {
    type Err = NotACheckpoint;

    fn from_str(text: &str) -> Result<Self, NotACheckpoint> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(NotACheckpoint)?;
        let bytes = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| NotACheckpoint)?;
        codec::decode(&bytes).map_err(|_| NotACheckpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;

    #[test]
    fn a_checkpoint_is_read_as_it_is_told() {
        let held = Checkpoint {
            entries: 12,
            head: Hash([7; 32]),
        };
        assert_eq!(held.to_string().parse(), Ok(held));
        for bad in ["12", "12:", ":", "x:y"] {
            assert_eq!(bad.parse::<Checkpoint>(), Err(NotACheckpoint), "{bad}");
        }
        let key = SecretKey::from_seed(&[1; 32]);
        let statement = AuditCheckpoint {
            checkpoint: held,
            epoch: StoreEpoch([2; 16]),
            at: Timestamp::EPOCH,
        };
        let certificate = ReceiptKeyCertificate {
            key: key.public(),
            from: Timestamp::EPOCH,
        };
        let signed = SignedCheckpoint {
            statement: Signed::new(&statement, &key),
            receipt_key: Signed::new(&certificate, &key),
        };
        let text = signed.to_string();
        assert_eq!(text.parse(), Ok(signed));
        assert!(text[..text.len() - 1].parse::<SignedCheckpoint>().is_err());
    }
}
