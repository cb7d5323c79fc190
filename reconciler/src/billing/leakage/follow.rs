//! Keeps the leakage account up to date, an hour at a time.

use std::collections::{BTreeMap, BTreeSet};

use tallystick_common::ids::Seq;
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Micros, Timestamp};

use super::Tally;
use super::tally::{charged_by, tally};
use crate::rollup::within::hours_of;
use crate::store::again::again;
use crate::store::leakage::{self, DueHour, Unmarked};
use crate::store::streams::StreamRow;
use crate::store::{Connection, Store, StoreError};

/// How long an hour is believed to be as it was tallied.
const BELIEVED: Micros = Micros(24 * HOUR_US);
/// How far back the account goes in what newly comes.
const CLAIMED: Micros = Micros(400 * 24 * HOUR_US);
/// Documents read at once.
const DOCUMENTS: u32 = 16;

/// What one step of following did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The hour, since 1970.
    pub hour: u64,
    /// Meters that do not add up in it.
    pub differing: Vec<(Meter, Tally)>,
}

/// Does the next thing that is to be done: marks hours, notes what issued documents hold, tallies one hour. None when no
/// hour was to be tallied. The present hour is tallied when it is over.
///
/// # Errors
/// When the database fails or a segment cannot be read; what was done stays done.
pub async fn follow(store: &Store, now: Timestamp) -> Result<Option<Followed>, StoreError> {
    again!(mark(store, now))?;
    again!(read_documents(store))?;
    let (due, tallies) = {
        let mut tx = store.read().await?;
        let present = now.as_micros() / HOUR_US;
        let due = leakage::next(&mut tx, present, now.saturating_sub(BELIEVED)).await?;
        let Some(due) = due else {
            return Ok(None);
        };
        (due, tally(&mut tx, due.span()).await?)
    };
    again!(put(store, due, &tallies, now))?;
    let differing = tallies.into_iter();
    Ok(Some(Followed {
        hour: due.hour,
        differing: differing
            .filter(|(_, tally)| tally.difference() != 0)
            .collect(),
    }))
}

async fn put(
    store: &Store,
    due: DueHour,
    tallies: &BTreeMap<Meter, Tally>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut tx = store.write().await?;
    leakage::put(&mut tx, due, tallies, now).await?;
    Ok(tx.commit().await?)
}

/// Makes the hours due that segments admitted since last time have time in.
async fn mark(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    {
        let mut tx = store.read().await?;
        if leakage::unmarked(&mut tx).await?.is_empty() {
            return Ok(());
        }
    }
    let mut tx = store.write().await?;
    let streams = leakage::unmarked(&mut tx).await?;
    let hours: BTreeSet<u64> = streams
        .iter()
        .flat_map(|stream| hours(stream, now))
        .collect();
    let hours: Vec<u64> = hours.into_iter().collect();
    leakage::mark(&mut tx, &hours).await?;
    leakage::put_positions(&mut tx, &streams).await?;
    Ok(tx.commit().await?)
}

async fn read_documents(store: &Store) -> Result<(), StoreError> {
    loop {
        let unread = {
            let mut tx = store.read().await?;
            leakage::unread_documents(&mut tx, false, DOCUMENTS).await?
        };
        if unread.is_empty() {
            return Ok(());
        }
        let mut tx = store.write().await?;
        for (number, document) in unread {
            leakage::put_charged(&mut tx, &number, &charged_by(&document)?).await?;
        }
        tx.commit().await?;
    }
}

/// The hours that unmarked segments of a stream have time in. What is not counted may claim any time: of all of
/// it the account takes in no more than the last 400 days.
pub(super) fn hours(stream: &Unmarked, now: Timestamp) -> BTreeSet<u64> {
    let claimed = [stream.counted, stream.doubted].into_iter().flatten();
    near_hours(claimed, now)
}

/// Makes the hours due in which segments of a stream have time that a decision lets count or not. To be called in the
/// transaction that decides.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn decided(
    conn: &mut Connection,
    stream: StreamRow,
    (first, last): (Seq, Option<Seq>),
    now: Timestamp,
) -> Result<(), StoreError> {
    let spans = leakage::spans(conn, stream, first, last).await?;
    let hours: Vec<u64> = near_hours(spans, now).into_iter().collect();
    leakage::mark(conn, &hours).await
}

fn near_hours(spans: impl IntoIterator<Item = Period>, now: Timestamp) -> BTreeSet<u64> {
    let near = Period {
        from: now.saturating_sub(CLAIMED),
        // Clocks differ a little.
        to: now.saturating_add(Micros(HOUR_US)),
    };
    let spans = spans.into_iter().filter_map(|span| span.overlap(&near));
    spans
        .flat_map(|span| hours_of(span.from, span.to))
        .collect()
}
