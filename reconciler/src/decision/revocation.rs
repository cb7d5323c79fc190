//! Revoking a node's key from a place in a stream on.
//!
//! From there on nothing of the stream counts, the stream is over, and the key signs nothing new in any stream:
//! what was not admitted, and so receipted, before is refused. What was admitted before that place, and in other
//! streams, stays. The host enrols again, with new keys, as a new node; the old one is banned or given up.

use tallystick_common::decision::DecisionKind;
use tallystick_common::ids::Seq;
use tallystick_common::time::Timestamp;

use super::hearing::{Hearing, Sentence};
use super::{Decided, DecisionError, Order};
use crate::bans::Entry;
use crate::ingest::admit::StreamStatus;
use crate::store::again::again;
use crate::store::decisions::{self, Revocation};
use crate::store::nodes::{self, Node};
use crate::store::{Store, StoreError};

/// Revokes the key that signed segment `from` of a stream, from there on. With `only_ask`, says what that would come
/// to and does nothing.
///
/// # Errors
/// When there is no such stream.
pub async fn revoke(
    store: &Store,
    order: &Order<'_>,
    from: Seq,
    only_ask: bool,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    again!(revoke_once(store, order, from, only_ask, now))
}

async fn revoke_once(
    store: &Store,
    order: &Order<'_>,
    from: Seq,
    only_ask: bool,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    let mut hearing = Hearing::open(store, order).await?;
    // Nothing new is taken of the key anyway.
    let from = from.min(hearing.stream.next);
    let sentence = Sentence {
        kind: DecisionKind::Revoke,
        first: from,
        last: None,
    };
    if let Some(held) = hearing.decided_before(sentence).await? {
        return Ok(Decided::before(held));
    }
    let why = format!("its key was revoked: {}", order.reason.trim());
    hearing.uncount(from, None, Some(("revoked", &why))).await?;
    if only_ask {
        return hearing.only_ask().await;
    }
    let ring = nodes::key_ring(&mut hearing.tx, &hearing.node).await?;
    let revocation = Revocation {
        stream: order.stream,
        from,
        key: ring.key_at(order.stream, from),
        reason: order.reason.trim().to_owned(),
        at: now,
    };
    decisions::revoke(&mut hearing.tx, hearing.node.row, &revocation).await?;
    store
        .note_ban(&entry(&hearing.node, revocation))
        .map_err(StoreError::from)?;
    let row = hearing.stream.row;
    decisions::set_status(&mut hearing.tx, row, StreamStatus::Ended).await?;
    hearing.close(order, sentence, Vec::new(), now).await
}

fn entry(node: &Node, revoked: Revocation) -> Entry {
    Entry::Revoke {
        at: revoked.at,
        node: node.id,
        stream: revoked.stream,
        from_seq: revoked.from,
        key: revoked.key,
        reason: revoked.reason,
    }
}
