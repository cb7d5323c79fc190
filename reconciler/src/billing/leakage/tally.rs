//! What hours come to: registers on one side, rollups on the other.

use std::collections::{BTreeMap, BTreeSet};

use tallystick_common::meter::Meter;
use tallystick_common::odometer::reading_at;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Timestamp};

use super::{Charged, DifferingHour, Leakage, MeterLeakage, Tally, charged, is_tallied};
use crate::billing::document::InvoiceDocument;
use crate::billing::{registers, usage};
use crate::store::coverage::doubted;
use crate::store::leakage::{self, DueHour};
use crate::store::streams::{self, Stream};
use crate::store::{Connection, StoreError, readings};

/// Differing hours that a report names.
const DIFFERING: usize = 100;

type Tallies = BTreeMap<Meter, Tally>;

/// What a span between two quarter-hours comes to, by meter, in one view of the store.
///
/// # Errors
/// When the database fails or a segment cannot be read.
pub async fn tally(conn: &mut Connection, span: Period) -> Result<Tallies, StoreError> {
    let streams = streams::all(conn).await?;
    let mut tallies = Tallies::new();
    for ((_, workload, meter), spans) in registers::counted(conn, streams.iter(), span).await? {
        if is_tallied(&workload, meter) {
            let rose = |sum: u128, of: &tallystick_common::statement::RegisterSpan| {
                sum.saturating_add(of.closing.0.saturating_sub(of.opening.0))
            };
            let tally = tallies.entry(meter).or_default();
            tally.received = spans.iter().fold(tally.received, rose);
        }
    }
    for stream in &streams {
        hold_doubted(conn, &mut tallies, stream, span).await?;
    }
    for row in usage::usage(conn, span).await? {
        if is_tallied(&row.workload, row.meter) {
            let tally = tallies.entry(row.meter).or_default();
            tally.counted = tally.counted.saturating_add(row.quantity);
        }
    }
    Ok(tallies)
}

/// Adds what registers rose by in the segments of a stream that do not count: quarantined, or written off by whoever
/// rejected them, kept another branch or revoked their key.
async fn hold_doubted(
    conn: &mut Connection,
    tallies: &mut Tallies,
    stream: &Stream,
    span: Period,
) -> Result<(), StoreError> {
    for doubt in doubted(conn, stream.row, span).await? {
        let segment = readings::segment(conn, stream.row, doubt.seq).await?;
        for block in segment.read()?.1 {
            for run in block.runs() {
                if !is_tallied(&block.workload, run.meter) {
                    continue;
                }
                let closing = reading_at(&block, run, span.to).0;
                let rose = closing.saturating_sub(reading_at(&block, run, span.from).0);
                let tally = tallies.entry(run.meter).or_default();
                tally.received = tally.received.saturating_add(rose);
                let class = match doubt.written_off {
                    true => &mut tally.written_off,
                    false => &mut tally.quarantined,
                };
                *class = class.saturating_add(rose);
            }
        }
    }
    Ok(())
}

/// The account as of `now`: hours as they were tallied, and up to `most` of those that are due as they are now.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn report(
    conn: &mut Connection,
    most: u32,
    now: Timestamp,
) -> Result<Leakage, StoreError> {
    let (fresh, hours_due) = fresh(conn, most, now).await?;
    let mut sums = Tallies::new();
    let mut differing = Vec::new();
    let held = leakage::tallies(conn, false).await?;
    let held = held
        .into_iter()
        .filter(|(hour, ..)| !fresh.contains_key(hour));
    let live = fresh.iter().flat_map(|(hour, tallies)| {
        let of_hour = move |(meter, tally): (&Meter, &Tally)| (*hour, *meter, *tally);
        tallies.iter().map(of_hour)
    });
    for (hour, meter, tally) in held.chain(live) {
        sums.entry(meter).or_default().add(&tally);
        if tally.difference() != 0 {
            differing.push(differs(hour, meter, &tally));
        }
    }
    differing.sort_by_key(|hour| (hour.from, hour.meter));
    differing.truncate(DIFFERING);
    let charged = all_charged(conn).await?;
    let meters: BTreeSet<Meter> = sums.keys().chain(charged.keys()).copied().collect();
    let meter = |meter: Meter| {
        let tally = sums.get(&meter).copied().unwrap_or_default();
        MeterLeakage::new(
            meter,
            &tally,
            charged.get(&meter).copied().unwrap_or_default(),
        )
    };
    Ok(Leakage {
        at: now,
        hours_due,
        meters: meters.into_iter().map(meter).collect(),
        differing,
    })
}

pub(super) fn differs(hour: u64, meter: Meter, tally: &Tally) -> DifferingHour {
    let from = Timestamp::from_micros(hour.saturating_mul(HOUR_US));
    DifferingHour {
        from: from.unwrap_or(Timestamp::MAX),
        meter,
        difference: tally.difference().to_string(),
    }
}

/// Up to `most` hours that are due, the latest first, tallied now; and how many more are due.
async fn fresh(
    conn: &mut Connection,
    most: u32,
    now: Timestamp,
) -> Result<(BTreeMap<u64, Tallies>, u64), StoreError> {
    let (due, mut count) = leakage::due(conn, most).await?;
    let mut hours: BTreeSet<u64> = due.iter().map(|due| due.hour).collect();
    // What came since hours were marked.
    for stream in leakage::unmarked(conn).await? {
        for hour in super::follow::hours(&stream, now) {
            if hours.insert(hour) {
                count += 1;
            }
        }
    }
    let mut fresh = BTreeMap::new();
    for hour in hours.into_iter().rev().take(most as usize) {
        let span = DueHour { hour, marked: 0 }.span();
        fresh.insert(hour, tally(conn, span).await?);
    }
    Ok((
        std::mem::take(&mut fresh),
        count.saturating_sub(u64::from(most)),
    ))
}

/// What the latest documents of all periods hold, those among them whose usage was not noted yet.
async fn all_charged(conn: &mut Connection) -> Result<BTreeMap<Meter, Charged>, StoreError> {
    let mut sums = leakage::charged(conn).await?;
    for (_, document) in leakage::unread_documents(conn, true, u32::MAX).await? {
        for (meter, more) in charged_by(&document)? {
            sums.entry(meter).or_default().add(more);
        }
    }
    Ok(sums)
}

/// What an issued document holds: of a correction, all of the period as it states it.
pub(super) fn charged_by(document: &str) -> Result<BTreeMap<Meter, Charged>, StoreError> {
    let document: InvoiceDocument = serde_json::from_str(document)
        .map_err(|error| StoreError::damaged("an issued document", error))?;
    Ok(charged(&document.statement))
}
