//! The other half of the stick: the reconciler's signed word for a stream up to a position.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{Hash, NodeId, Seq, StoreEpoch, StreamId};
use crate::keys::Statement;
use crate::time::Timestamp;

/// "Of this stream I hold everything up to and including `seq`, whose hash is `hash`, and have
/// counted it, except what `quarantined` names."
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Receipt {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// The last segment held; everything before it is held too.
    pub seq: Seq,
    /// The hash of that segment.
    pub hash: Hash,
    /// The store that holds it.
    pub epoch: StoreEpoch,
    /// When the receipt was given, by the reconciler's clock.
    pub at: Timestamp,
    /// Segments stored but not counted, since the receipt before in the same session; in order.
    pub quarantined: Vec<Seq>,
}

impl Statement for Receipt {
    const DOMAIN: &'static str = "tallystick/1 receipt";
}
