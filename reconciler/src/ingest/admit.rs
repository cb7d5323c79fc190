//! The verdict on a segment.
//!
//! Pure: what the stream stands at, what is known around it and the server's time are passed in.
//! Whatever verifies and chains advances its stream, counted or not; what is unclear about it is a
//! [`Doubt`], and it is kept but not counted until a person decides (I7).
//!
//! A stream's state after a doubtful segment is what that segment says, so that what follows it
//! consistently counts again; only the time accounted for never goes back, so nothing counts twice.

use std::collections::HashSet;

use tallystick_common::chain;
use tallystick_common::failpoint::is_removed;
use tallystick_common::ids::{BootId, Hash, NodeId, StreamId, WorkloadName};
use tallystick_common::keys::PublicKey;
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::reading::Quality;
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::segment::{Block, Header, Previous, Purpose, Run};
use tallystick_common::time::{Micros, QUARTER_HOUR_US, SECOND_US, Timestamp};
use tallystick_common::wire::RefusalReason;

mod state;
mod verdict;

pub use state::{StreamState, StreamStatus};
pub use tallystick_common::chain::OpenRegister;
pub(crate) use tallystick_common::chain::left_open;
pub use verdict::{Doubt, Refusal, Verdict};

/// How far a segment may reach beyond the server's clock: what two synchronised clocks may differ by.
pub const FUTURE_TOLERANCE: Micros = Micros(2 * SECOND_US);

/// Most that may accrue in a microsecond, in a meter's base unit: whatever intervals tile a
/// quarter-hour at this rate, their sum fits its BIGINT cell.
const CELL_RATE: u128 = (i64::MAX as u128) / (QUARTER_HOUR_US as u128) - 1;

/// Most that a cell holds.
const CELL_MAX: u128 = i64::MAX as u128;

/// Longest interval: an absence longer than a year is a broken clock, and every hour of it a row.
const INTERVAL_MAX: Micros = Micros(400 * 24 * 3600 * SECOND_US);

/// What is known besides the stream's own state.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'a> {
    /// The hash of the admitted segment with this number, when there is one.
    pub known: Option<Hash>,
    /// Which nodes claim the segment's boot.
    pub claims: &'a [Claim],
    /// Registers of the node's other streams that overlap the segment's time.
    pub lives: &'a [Life],
}

/// A node's claim to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The boot.
    pub boot: BootId,
    /// The node.
    pub node: NodeId,
    /// Its place among the claims to this boot, the first is the lowest.
    pub order: i64,
    /// Time of the segments it sent in this boot.
    pub seen: (Timestamp, Timestamp),
    /// The part of that which was counted; empty when nothing was.
    pub counted: (Timestamp, Timestamp),
}

/// A register of another stream of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The stream.
    pub stream: StreamId,
    /// What it measures on.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Its first instant.
    pub from: Timestamp,
    /// The first instant it does not account for.
    pub through: Timestamp,
}

/// Judges `segment` as the next of the stream that stands at `state`.
#[must_use]
pub fn admit(
    state: &StreamState,
    segment: &VerifiedSegment,
    around: &Surroundings<'_>,
    now: Timestamp,
) -> Verdict {
    if let Some(verdict) = place(state, segment, around) {
        return verdict;
    }
    let judge = &mut Err;
    match examine(
        state,
        segment.header(),
        segment.blocks(),
        around,
        now,
        judge,
    ) {
        Ok(()) => Verdict::Accepted,
        Err(doubt) => Verdict::Quarantined(doubt),
    }
}

/// Judges a kept segment again, whose stream stood at `state` before it, because a person wants it to count:
/// the doubts that the person sets aside by that.
///
/// Claims in `around` have as counted exactly what was counted within the segment's time.
///
/// # Errors
/// The first doubt that nobody may set aside.
pub fn appeal(
    state: &StreamState,
    header: &Header,
    blocks: &[Block],
    around: &Surroundings<'_>,
    now: Timestamp,
) -> Result<Vec<Doubt>, Doubt> {
    if let Some(claim) = counted_elsewhere(header, around.claims) {
        return Err(Doubt::SharedKernel { node: claim.node });
    }
    let mut set_aside = Vec::new();
    let judge = &mut |doubt: Doubt| {
        if !doubt.may_be_set_aside() {
            return Err(doubt);
        }
        set_aside.push(doubt);
        Ok(())
    };
    examine(state, header, blocks, around, now, judge)?;
    Ok(set_aside)
}

/// The verdict on a segment that is not the stream's next one; `None` when it is.
fn place(
    state: &StreamState,
    segment: &VerifiedSegment,
    around: &Surroundings<'_>,
) -> Option<Verdict> {
    let header = segment.header();
    let refused = |reason, detail| Some(Verdict::Refused(Refusal { reason, detail }));
    if (header.node, header.stream) != (state.node, state.stream) {
        return refused(
            RefusalReason::WrongNode,
            "it is of another stream".to_owned(),
        );
    }
    if header.seq < state.next && !is_removed("I1 admission") {
        return Some(match around.known {
            Some(known) if known == segment.hash() || is_removed("I6") => Verdict::Duplicate,
            Some(known) => Verdict::Fork { known },
            None => Verdict::Refused(Refusal {
                reason: RefusalReason::Chain,
                detail: format!(
                    "segment {} lies before what is kept of this stream",
                    header.seq
                ),
            }),
        });
    }
    match state.status {
        StreamStatus::Open => {}
        StreamStatus::Frozen => return Some(Verdict::Held),
        StreamStatus::Ended => {
            return refused(
                RefusalReason::StreamClosed,
                "the stream is ended".to_owned(),
            );
        }
    }
    if header.seq > state.next {
        return Some(Verdict::Ahead {
            expected: state.next,
        });
    }
    let follows = match header.previous {
        Previous::Opens { .. } => state.head.is_none(),
        Previous::Follows(hash) => state.head == Some(hash),
    };
    if follows || is_removed("I6") {
        return None;
    }
    let detail = format!(
        "segment {} does not name the hash of the segment before it",
        header.seq
    );
    refused(RefusalReason::Chain, detail)
}

/// Whether the segment counts, if `judge` lets pass what is in doubt.
fn examine(
    state: &StreamState,
    header: &Header,
    blocks: &[Block],
    around: &Surroundings<'_>,
    now: Timestamp,
    judge: &mut dyn FnMut(Doubt) -> Result<(), Doubt>,
) -> Result<(), Doubt> {
    in_time(state, header, now)?;
    let mut seen = HashSet::new();
    for block in blocks {
        for run in block.runs() {
            if !seen.insert(run.register) {
                return Err(Doubt::Twice {
                    register: run.register,
                });
            }
            chain::continues(&state.open, state.next_register, header, block, run)?;
            possible(block, run)?;
        }
        siblings(state, block)?;
        rivals(block, around.lives)?;
    }
    if let Some(register) = chain::missing(&state.open, &seen) {
        return Err(Doubt::Missing { register });
    }
    final_is_final(header, blocks).or_else(&mut *judge)?;
    host_tiles(header, blocks).or_else(&mut *judge)?;
    kernel_is_its_own(header, around.claims).or_else(judge)
}

fn in_time(state: &StreamState, header: &Header, now: Timestamp) -> Result<(), Doubt> {
    if header.covered_through > now.saturating_add(FUTURE_TOLERANCE) {
        let covered_through = header.covered_through;
        return Err(Doubt::Future {
            covered_through,
            server_time: now,
        });
    }
    match state.covered_through {
        Some(expected) if expected != header.from && !is_removed("I5") => Err(Doubt::From {
            expected,
            found: header.from,
        }),
        _ => Ok(()),
    }
}

/// Every quantity fits its cells, however the intervals of a quarter-hour add up.
fn possible(block: &Block, run: &Run) -> Result<(), Doubt> {
    let register = run.register;
    for interval in block.intervals(run) {
        let duration = interval.duration();
        if duration > INTERVAL_MAX {
            return Err(Doubt::TooLong { register, duration });
        }
        let most = CELL_RATE * u128::from(duration.0);
        let quantity_max = if run.meter.kind() == Kind::Peak {
            CELL_MAX
        } else {
            most
        };
        if interval.quantity > quantity_max || u128::from(interval.measured.0) > most {
            let quantity = interval.quantity;
            return Err(Doubt::Impossible {
                register,
                quantity,
                duration,
            });
        }
    }
    Ok(())
}

/// No two registers of one stream measure one thing at one time.
fn siblings(state: &StreamState, block: &Block) -> Result<(), Doubt> {
    let mut runs: Vec<(Meter, Timestamp, Timestamp)> = block
        .runs()
        .iter()
        .map(|run| (run.meter, block.shape(run).start, block.shape(run).end()))
        .filter(|(_, start, end)| start < end)
        .collect();
    runs.sort_unstable();
    match runs
        .windows(2)
        .find(|pair| pair[0].0 == pair[1].0 && pair[1].1 < pair[0].2)
    {
        Some(pair) => Err(Doubt::Overlap {
            workload: block.workload.clone(),
            meter: pair[0].0,
            stream: state.stream,
        }),
        None => Ok(()),
    }
}

/// No register of another stream of the node measured the same at the same time.
fn rivals(block: &Block, lives: &[Life]) -> Result<(), Doubt> {
    for life in lives.iter().filter(|life| life.workload == block.workload) {
        let overlaps = |run: &Run| {
            run.meter == life.meter
                && block.intervals(run).any(|interval| {
                    !matches!(interval.quality, Quality::Unmeasured(_))
                        && interval.start < life.through
                        && interval.end > life.from
                })
        };
        if block.runs().iter().any(overlaps) {
            let workload = block.workload.clone();
            return Err(Doubt::Overlap {
                workload,
                meter: life.meter,
                stream: life.stream,
            });
        }
    }
    Ok(())
}

fn final_is_final(header: &Header, blocks: &[Block]) -> Result<(), Doubt> {
    if header.purpose != Purpose::Final {
        return Ok(());
    }
    match blocks
        .iter()
        .flat_map(Block::runs)
        .find(|run| run.closed.is_none())
    {
        Some(run) => Err(Doubt::LeftOpen {
            register: run.register,
        }),
        None => Ok(()),
    }
}

/// Every instant is accounted for by a register of the host or by a named gap (I5).
fn host_tiles(header: &Header, blocks: &[Block]) -> Result<(), Doubt> {
    if is_removed("I5") {
        return Ok(());
    }
    let mut known: Vec<(Timestamp, Timestamp)> =
        header.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
    for block in blocks.iter().filter(|block| block.workload.is_host()) {
        let extent = |run| (block.shape(run).start, block.shape(run).end());
        known.extend(block.runs().iter().map(extent));
    }
    known.sort_unstable();
    let mut at = header.from;
    for (from, to) in known {
        if from > at {
            return Err(Doubt::Hole { from: at, to: from });
        }
        at = at.max(to);
    }
    if at < header.covered_through {
        return Err(Doubt::Hole {
            from: at,
            to: header.covered_through,
        });
    }
    Ok(())
}

/// The first node to claim a boot keeps it; nobody counts time that another node counted in it (I4).
fn kernel_is_its_own(header: &Header, claims: &[Claim]) -> Result<(), Doubt> {
    let mine = claims.iter().find(|claim| claim.node == header.node);
    let order = mine.map_or(i64::MAX, |claim| claim.order);
    let from = mine.map_or(header.from, |claim| claim.seen.0.min(header.from));
    let first =
        |claim: &&Claim| claim.node != header.node && claim.order < order && claim.seen.1 > from;
    let rival = claims.iter().find(first);
    match rival.or_else(|| counted_elsewhere(header, claims)) {
        Some(claim) => Err(Doubt::SharedKernel { node: claim.node }),
        None => Ok(()),
    }
}

/// Another node that counted time of the segment in its kernel.
fn counted_elsewhere<'a>(header: &Header, claims: &'a [Claim]) -> Option<&'a Claim> {
    claims.iter().find(|claim| {
        let (start, end) = claim.counted;
        let overlaps = start < end && start < header.covered_through && end > header.from;
        claim.node != header.node && overlaps
    })
}

/// The key that signs from the next segment on, when this one names one.
#[must_use]
pub fn rotation(header: &Header) -> Option<PublicKey> {
    match header.purpose {
        Purpose::RotateKey(key) => Some(PublicKey(key)),
        Purpose::Readings | Purpose::Final => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
