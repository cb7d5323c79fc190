//! Trust from outside the file, and what rests on it.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::audit::Log;
use super::node::Node;
use super::{Difference, Speakers, Step, short};
use crate::audit::{AuditCheckpoint, Checkpoint, SignedCheckpoint};
use crate::ids::Hash;

/// Something a customer holds that did not come with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A node's signing key, an authority's key, or the fingerprint of its certificate.
    Key(Hash),
    /// Where the audit log stood once.
    Checkpoint(Checkpoint),
    /// The same, signed.
    Signed(Box<SignedCheckpoint>),
}

/// A text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is nothing to trust by: give a node's signing key or an authority's fingerprint (64 hexadecimal digits), or an audit checkpoint"
)]
pub struct NotTrust(String);

impl FromStr for Trust {
    type Err = NotTrust;

    fn from_str(text: &str) -> Result<Self, NotTrust> {
        let text = text.trim();
        let signed = || text.parse().map(|held| Self::Signed(Box::new(held))).ok();
        let bare = || text.parse().map(Self::Checkpoint).ok();
        let key = || text.parse().map(Self::Key).ok();
        key()
            .or_else(bare)
            .or_else(signed)
            .ok_or_else(|| NotTrust(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key}"),
            Self::Checkpoint(held) => write!(f, "{held}"),
            Self::Signed(_) => f.write_str("the signed checkpoint"),
        }
    }
}

/// What the agreement of a file with itself is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// Whether something held outside bears it out.
    pub authenticated: bool,
    /// What does, and what it bears out.
    pub by: Vec<String>,
    /// What is given and says nothing of this file.
    pub unused: Vec<String>,
}

/// What the given trust bears out.
///
/// The readings stand when each node's key is trusted, by itself or by an authority from a trusted one on.
/// The invoice stands when its entry comes before a checkpoint that was held.
pub(super) fn standing(
    given: &[Trust],
    speakers: &Speakers,
    nodes: &[Node],
    log: &Log,
) -> Result<Standing, Difference> {
    let (mut by, mut unused) = (Vec::new(), Vec::new());
    let mut from_authority = usize::MAX;
    let mut held = false;
    let mut keys = Vec::new();
    for trust in given {
        let said = match trust {
            Trust::Key(hash) => {
                if let Some(place) = authority(speakers, *hash) {
                    from_authority = from_authority.min(place);
                    Some(format!("authority {}", short(hash)))
                } else {
                    keys.push(*hash);
                    node(nodes, *hash).map(|node| format!("the key of node {}", node.name))
                }
            }
            Trust::Checkpoint(checkpoint) => passes(log, *checkpoint)?,
            Trust::Signed(signed) => passes(log, opened(signed, speakers)?)?,
        };
        held |= said.is_some() && !matches!(trust, Trust::Key(_));
        match said {
            Some(said) => by.push(said),
            None => unused.push(trust.to_string()),
        }
    }
    let stands = |node: &Node| {
        node.authority >= from_authority || node_keys(node).any(|key| keys.contains(&key))
    };
    let readings = !nodes.is_empty() && nodes.iter().all(stands);
    Ok(Standing {
        authenticated: readings || held || from_authority != usize::MAX && nodes.is_empty(),
        by,
        unused,
    })
}

fn authority(speakers: &Speakers, hash: Hash) -> Option<usize> {
    speakers
        .authorities
        .iter()
        .position(|known| known.fingerprint == hash || known.key.0 == hash.0)
}

fn node_keys(node: &Node) -> impl Iterator<Item = Hash> {
    let rotated = node.streams.iter().flat_map(|stream| stream.keys.iter());
    std::iter::once(&node.key)
        .chain(rotated)
        .map(|key| Hash(key.0))
}

fn node(nodes: &[Node], hash: Hash) -> Option<&Node> {
    nodes
        .iter()
        .find(|node| node_keys(node).any(|key| key == hash))
}

fn opened(signed: &SignedCheckpoint, speakers: &Speakers) -> Result<Checkpoint, Difference> {
    let differs = |error| Difference::new(Step::Audit, "the held checkpoint", error);
    let said: AuditCheckpoint = signed
        .statement
        .verify(&speakers.receipt_key)
        .map_err(differs)?;
    Ok(said.checkpoint)
}

/// What a held checkpoint bears out; nothing when it lies outside of what is shown.
fn passes(log: &Log, held: Checkpoint) -> Result<Option<String>, Difference> {
    match log.passes(held) {
        None => Ok(None),
        Some(true) => Ok(Some(format!(
            "audit checkpoint of {} entries: the invoice is entry {}",
            held.entries,
            log.entry()
        ))),
        Some(false) => {
            let why = format!("the log does not pass through the checkpoint {held} that you hold");
            Err(Difference::new(Step::Audit, "audit log", why))
        }
    }
}
