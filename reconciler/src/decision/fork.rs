//! Resolving forks: one branch of a stream was admitted, the segment that begins another is kept beside it.
//!
//! A forked stream is frozen: nothing is admitted, and nodes keep what they would send. Kept the admitted branch, it
//! goes on where it stood, and whoever holds the other one is told, and begins a new stream. Kept the other, the
//! admitted segments from the fork on count no longer and the stream is over: both holders begin new ones. Usage
//! that a new stream measured meanwhile, while the admitted branch still counted, is in quarantine as an
//! overlap, and can be accepted then. Of the other branch itself only what was sent is there, under the refusals: it
//! is not billed (I7).

use tallystick_common::decision::DecisionKind;
use tallystick_common::segment::Purpose;
use tallystick_common::time::Timestamp;

use super::hearing::{Hearing, Sentence};
use super::{Decided, DecisionError, Order};
use crate::ingest::admit::StreamStatus;
use crate::store::again::again;
use crate::store::{Store, StoreError, decisions, readings};

/// Which branch of a fork is the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The one that was admitted.
    Admitted,
    /// The other one.
    Other,
}

/// Why segments of a branch that was not kept do not count.
const FORK: (&str, &str) = (
    "fork",
    "the stream was forked before it, and the other branch was kept",
);

/// Resolves the fork of a frozen stream.
///
/// # Errors
/// When there is no such stream, or it is not forked.
pub async fn resolve(
    store: &Store,
    order: &Order<'_>,
    keep: Keep,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    again!(resolve_once(store, order, keep, now))
}

async fn resolve_once(
    store: &Store,
    order: &Order<'_>,
    keep: Keep,
    now: Timestamp,
) -> Result<Decided, DecisionError> {
    let mut hearing = Hearing::open(store, order).await?;
    let stream = hearing.stream.clone();
    let not_forked = || DecisionError::NotForked {
        stream: stream.stream,
    };
    let fork = decisions::latest_fork(&mut hearing.tx, stream.row).await?;
    let (first, _) = fork.ok_or_else(not_forked)?;
    let kind = match keep {
        Keep::Admitted => DecisionKind::KeepAdmitted,
        Keep::Other => DecisionKind::KeepOther,
    };
    let sentence = Sentence {
        kind,
        first,
        last: None,
    };
    if stream.status != StreamStatus::Frozen {
        let held = hearing.decided_before(sentence).await?;
        return held.map(Decided::before).ok_or_else(not_forked);
    }
    let status = match keep {
        Keep::Admitted => before_freezing(&mut hearing).await?,
        Keep::Other => {
            hearing.uncount(first, None, Some(FORK)).await?;
            StreamStatus::Ended
        }
    };
    decisions::set_status(&mut hearing.tx, stream.row, status).await?;
    hearing.close(order, sentence, Vec::new(), now).await
}

/// A stream does not go on when its last segment is the node's last words, or when another branch was kept before:
/// forks are heard of after that, too.
async fn before_freezing(hearing: &mut Hearing) -> Result<StreamStatus, StoreError> {
    let (row, next) = (hearing.stream.row, hearing.stream.next);
    let before = decisions::of_stream(&mut hearing.tx, row).await?;
    if before
        .iter()
        .any(|held| matches!(held.kind, DecisionKind::KeepOther | DecisionKind::Revoke))
    {
        return Ok(StreamStatus::Ended);
    }
    let last = tallystick_common::ids::Seq(next.0.saturating_sub(1));
    let last = readings::segment(&mut hearing.tx, row, last)
        .await?
        .sealed()?;
    Ok(match last.header().purpose {
        Purpose::Final => StreamStatus::Ended,
        Purpose::Readings | Purpose::RotateKey(_) => StreamStatus::Open,
    })
}
