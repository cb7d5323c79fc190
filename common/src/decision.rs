//! What a person decided about segments that are stored: whether they count.
//!
//! Owns the statement that the reconciler signs for it. Why a segment was doubtful in the first place is
//! admission's; a decision names segments by their place in a stream, and the latest one holds.

use std::fmt;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Seq, StreamId};
use crate::keys::Statement;
use crate::time::Timestamp;

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    /// Quarantined segments count.
    Accept,
    /// Quarantined segments do not count.
    Reject,
    /// Of a fork, the branch that was admitted goes on.
    KeepAdmitted,
    /// Of a fork, the branch that was admitted does not count from the fork on, and its stream is over.
    KeepOther,
    /// The key that signed them is revoked: they do not count.
    Revoke,
}

impl DecisionKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Accept,
        Self::Reject,
        Self::KeepAdmitted,
        Self::KeepOther,
        Self::Revoke,
    ];

    /// The name in stores, API and pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::KeepAdmitted => "keep_admitted",
            Self::KeepOther => "keep_other",
            Self::Revoke => "revoke",
        }
    }

    /// By name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for DecisionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Decision {
    /// 1, 2, 3 in the order of deciding.
    pub number: u64,
    /// What was decided.
    pub kind: DecisionKind,
    /// Whose segments.
    pub node: NodeId,
    /// Their stream.
    pub stream: StreamId,
    /// The first of them.
    pub first: Seq,
    /// The last of them; none: everything from the first on.
    pub last: Option<Seq>,
    /// Why, in the words of who decided.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

impl Statement for Decision {
    const DOMAIN: &'static str = "tallystick/1 decision";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{SecretKey, Signed};

    #[test]
    fn kinds_are_found_by_their_names() {
        for kind in DecisionKind::ALL {
            assert_eq!(DecisionKind::from_name(kind.as_str()), Some(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert_eq!(DecisionKind::from_name("maybe"), None);
    }

    #[test]
    fn a_decision_is_read_back_by_who_knows_the_key() {
        let decision = Decision {
            number: 7,
            kind: DecisionKind::Revoke,
            node: NodeId([1; 16]),
            stream: StreamId([2; 16]),
            first: Seq(3),
            last: None,
            reason: "the disk was copied".to_owned(),
            by: "cli:anna".to_owned(),
            at: Timestamp::EPOCH,
        };
        let key = SecretKey::from_seed(&[4; 32]);
        let signed = Signed::new(&decision, &key);
        let read = Signed::<Decision>::from_bytes(&signed.to_bytes()).unwrap();
        assert_eq!(read.verify(&key.public()).unwrap(), decision);
        let other = SecretKey::from_seed(&[5; 32]).public();
        assert!(read.verify(&other).is_err());
    }
}
