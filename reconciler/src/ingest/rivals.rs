//! What other streams of a node measured at a time, by their counted segments: a segment that measures the same
//! then would count it twice.

use tallystick_common::ids::StreamId;
use tallystick_common::reading::Quality;
use tallystick_common::segment::{Block, Header, Run};

use super::admit::Life;
use crate::store::streams::{self, StreamRow};
use crate::store::{Connection, StoreError};

/// What these streams measured within a segment's time.
pub(crate) async fn rivals(
    conn: &mut Connection,
    others: impl Iterator<Item = (StreamRow, StreamId)>,
    header: &Header,
) -> Result<Vec<Life>, StoreError> {
    let (from, to) = (header.from, header.covered_through);
    let mut lives = Vec::new();
    for (row, stream) in others {
        let stored = streams::segments_between(conn, row, from, to).await?;
        for segment in stored.into_iter().filter(|segment| segment.counted) {
            for block in segment.read()?.1 {
                let runs = block.runs().iter();
                lives.extend(runs.filter_map(|run| life(stream, &block, run)));
            }
        }
    }
    Ok(lives)
}

/// The measured part of a run.
fn life(stream: StreamId, block: &Block, run: &Run) -> Option<Life> {
    let measured = || {
        block
            .intervals(run)
            .filter(|interval| !matches!(interval.quality, Quality::Unmeasured(_)))
    };
    let from = measured().map(|interval| interval.start).min()?;
    let through = measured().map(|interval| interval.end).max()?;
    Some(Life {
        stream,
        workload: block.workload.clone(),
        meter: run.meter,
        from,
        through,
    })
}
