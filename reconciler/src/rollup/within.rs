//! Rollups of one node within a transaction that changes which of its segments count.
//!
//! Verdicts, and the rows that follow from them, change in one transaction. First the node's rollups are
//! brought up to all that is stored ([`hold`]), which keeps other writers from moving its positions; then the
//! hours concerned are counted again from segments ([`count_again`]). So a segment stands in the rows
//! exactly when it counts (I1), and a row is to the byte what rolling up makes. The transaction is for whoever
//! released the node ([`crate::store::owners::release`]): nothing is admitted of it meanwhile.

use std::collections::BTreeSet;
use std::ops::Range;

use tallystick_common::time::{HOUR_US, Timestamp};

use super::recount::bounds;
use super::{Advance, Cells, PAGE, add_up};
use crate::store::nodes::NodeRow;
use crate::store::streams::{self, Stream};
use crate::store::{Connection, Store, StoreError, rollups};

/// Hours counted at once.
const HOURS: u64 = 6;

/// Brings the rollups of a node's streams up before the transaction that holds them, so that it is short.
///
/// # Errors
/// When the database fails.
pub async fn catch_up_node(store: &Store, node: NodeRow) -> Result<(), StoreError> {
    let mut behind = {
        let mut tx = store.read().await?;
        let mut behind = streams::behind(&mut tx, None).await?;
        behind.retain(|stream| stream.node_row == node);
        behind.into()
    };
    super::follow_those(store, &mut behind).await
}

/// The streams of a node, whose rollups hold all that is stored of them until the transaction ends.
///
/// # Errors
/// When the database fails, or somebody else moved a position: then the transaction must not be committed.
pub async fn hold(conn: &mut Connection, node: NodeRow) -> Result<Vec<Stream>, StoreError> {
    let mut held = streams::of_node(conn, node).await?;
    for stream in &mut held {
        while stream.rolled < stream.next {
            *stream = next_page(conn, stream.clone()).await?;
        }
        let stays = Advance {
            to: stream.rolled,
            cells: Cells::default(),
            stream: stream.clone(),
        };
        moved(streams::roll(conn, &[stays]).await?)?;
    }
    Ok(held)
}

async fn next_page(conn: &mut Connection, stream: Stream) -> Result<Stream, StoreError> {
    let most = u32::try_from(PAGE).unwrap_or(u32::MAX);
    let segments = streams::segments_from(conn, stream.row, stream.rolled, most).await?;
    if segments.is_empty() {
        let missing = format!("segment {} is missing", stream.rolled);
        return Err(StoreError::damaged("segments", missing));
    }
    let advances = add_up(vec![(stream, segments)])?;
    rollups::add(conn, &advances).await?;
    moved(streams::roll(conn, &advances).await?)?;
    let mut rolled = advances.into_iter();
    let advance = rolled.next().ok_or(StoreError::Moved)?;
    Ok(Stream {
        rolled: advance.to,
        ..advance.stream
    })
}

fn moved(held: bool) -> Result<(), StoreError> {
    if held { Ok(()) } else { Err(StoreError::Moved) }
}

/// Counts hours (since 1970) of a node again, whose streams are held.
///
/// # Errors
/// When the database fails or a segment cannot be read.
pub async fn count_again(
    conn: &mut Connection,
    node: NodeRow,
    held: &[Stream],
    hours: &BTreeSet<u64>,
) -> Result<(), StoreError> {
    for hours in stretches(hours) {
        let (from, to) = (bounds(hours.start).0, bounds(hours.end).0);
        let mut advances = Vec::new();
        for stream in held {
            advances.push(counted(conn, stream, from, to).await?);
        }
        rollups::replace_hours(conn, node, hours, &advances).await?;
    }
    Ok(())
}

/// What the counted segments of a stream with time in a span come to.
async fn counted(
    conn: &mut Connection,
    stream: &Stream,
    from: Timestamp,
    to: Timestamp,
) -> Result<Advance, StoreError> {
    let mut cells = Cells::default();
    if stream.covered_from < to && stream.covered_through > from {
        let segments = streams::segments_between(conn, stream.row, from, to).await?;
        let counts = segments
            .into_iter()
            .filter(|segment| segment.counted && segment.seq < stream.rolled);
        for segment in counts {
            cells.add(&segment.read()?.1, true);
        }
    }
    Ok(Advance {
        to: stream.rolled,
        cells,
        stream: stream.clone(),
    })
}

/// Hours that follow one another, a few at once.
fn stretches(hours: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for hour in hours {
        match stretches.last_mut() {
            Some(last) if last.end == *hour && last.end - last.start < HOURS => last.end += 1,
            _ => stretches.push(*hour..hour.saturating_add(1)),
        }
    }
    stretches
}

/// The hours in which a span has time.
#[must_use]
pub fn hours_of(from: Timestamp, to: Timestamp) -> Range<u64> {
    from.as_micros() / HOUR_US..to.as_micros().div_ceil(HOUR_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_counted_a_few_at_once() {
        let hours: BTreeSet<u64> = [3, 4, 5, 9].into_iter().chain(20..34).collect();
        let expected = [3..6, 9..10, 20..26, 26..32, 32..34];
        assert_eq!(stretches(&hours), expected);
    }

    #[test]
    fn a_span_has_the_hours_that_it_touches() {
        let at = |hours: u64| Timestamp::from_micros(hours * HOUR_US).unwrap();
        assert_eq!(hours_of(at(2), at(4)), 2..4);
        let late = Timestamp::from_micros(4 * HOUR_US + 1).unwrap();
        assert_eq!(hours_of(at(2), late), 2..5);
    }
}
