//! The other half of the stick: the reconciler's signed word for a stream up to a position.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::ids::{Hash, NodeId, Seq, StoreEpoch, StreamId};
use crate::keys::Statement;
use crate::time::Timestamp;

/// "Of this stream I hold everything up to and including `seq`, whose hash is `hash`. Of that, I have
/// counted everything from `since` on, except what `quarantined` names."
///
/// Of what lies before `since` it says only that it is held: whether that is counted was said by
/// receipts before.
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
    /// The first segment of which it says whether it is counted; `seq` + 1 when of none.
    pub since: Seq,
    /// Segments from `since` on that are stored but not counted, in order.
    pub quarantined: Vec<Seq>,
}

impl Statement for Receipt {
    const DOMAIN: &'static str = "tallystick/1 receipt";
}
