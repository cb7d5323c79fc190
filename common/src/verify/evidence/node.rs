//! A node: who says that it is one, and whether all of its streams are there.

use super::stream::{self, Stream};
use super::terms::Terms;
use super::{Difference, Speakers, Step};
use crate::evidence::NodeEvidence;
use crate::ids::{NodeId, StreamId};
use crate::invoice::{CutPosition, InvoiceDocument};
use crate::keys::{KeyRing, PublicKey};

/// A node whose word stands.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) name: String,
    /// The key it enrolled with.
    pub(super) key: PublicKey,
    /// Which authority vouches for it, by place.
    pub(super) authority: usize,
    pub(super) streams: Vec<Stream>,
}

pub(super) fn read(
    part: &NodeEvidence,
    speakers: &Speakers,
    document: &InvoiceDocument,
    terms: &Terms,
) -> Result<Node, Difference> {
    let id = part.node.node;
    let differs = |why: &str| Difference::new(Step::Node, id, why);
    let mut records = speakers.authorities.iter().enumerate();
    let (authority, record) = records
        .find_map(|(place, by)| Some((place, part.node.record.verify(&by.key).ok()?)))
        .ok_or_else(|| differs("no authority vouches for it"))?;
    if record.node != id {
        return Err(differs("its enrolment record is of another node"));
    }
    terms.check_rules(id, &record.name)?;
    let mut node = Node {
        id,
        key: record.signing_key,
        authority,
        streams: Vec::new(),
        name: record.name,
    };
    let cuts = cuts(document, id);
    for found in &part.streams {
        let cut = cuts.iter().find(|cut| cut.stream == found.stream);
        let known = node.streams.iter().any(|held| held.id == found.stream);
        let (Some(cut), false) = (cut, known) else {
            return Err(not_there(
                found.stream,
                "the invoice's cut does not name it so",
            ));
        };
        let ring = KeyRing::new(id, node.key);
        node.streams
            .push(stream::read(found, cut, ring, speakers, document, terms)?);
    }
    let missing = cuts
        .iter()
        .find(|cut| node.streams.iter().all(|held| held.id != cut.stream));
    match missing {
        None => Ok(node),
        Some(cut) => Err(not_there(
            cut.stream,
            "the invoice counted it, but it is not in the file",
        )),
    }
}

/// The positions of a node's streams that reach into the period.
fn cuts(document: &InvoiceDocument, node: NodeId) -> Vec<&CutPosition> {
    let from = document.statement.period.from;
    let positions = document.cut.iter();
    positions
        .filter(|cut| cut.node == node && cut.covered_through > from)
        .collect()
}

fn not_there(stream: StreamId, why: &str) -> Difference {
    Difference::new(Step::Chain, format!("stream {stream}"), why)
}
