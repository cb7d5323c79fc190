//! Holds what the store has against the ledger: segments one by one, registers, usage, bills.
//!
//! The product decodes; the comparing is plain arithmetic over plain facts.

use std::collections::BTreeMap;

use tallystick_common::ids::{Hash, NodeId, RegisterId, StreamId};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::period::Period;
use tallystick_common::segment::Previous;
use tallystick_common::time::Timestamp;
use tallystick_reconciler::billing::usage::usage;
use tallystick_reconciler::rollup;
use tallystick_reconciler::store::streams;

use super::finding::{Found, violated};
use super::ground::{BEGIN, NODES};
use super::machine::GROUPS;
use super::model::meter::{HOST, LEVEL, OTHER};
use super::model::{Item, QUARTER};
use super::office::unexpected;
use super::world::World;

/// One register's part of one stored segment.
#[derive(Debug)]
struct Run {
    register: RegisterId,
    opens: bool,
    closes: bool,
    opening: u128,
    start: u64,
    /// Start, end and quantity.
    intervals: Vec<(u64, u64, u128)>,
    counter: bool,
}

/// One stored segment.
#[derive(Debug)]
struct Stored {
    hash: Hash,
    previous: Option<Hash>,
    counts: bool,
    through: u64,
    runs: Vec<Run>,
}

impl World {
    /// Compares everything; `last` once more with all rollups made.
    pub(super) async fn audit(&mut self, last: bool) -> Found<()> {
        self.audits += 1;
        self.check_segments().await?;
        let span = (BEGIN / QUARTER, self.now / QUARTER + 1);
        if last {
            rollup::catch_up(&self.reconciler.store)
                .await
                .map_err(unexpected)?;
            for quarter in span.0..span.1 {
                self.check_usage(quarter, quarter + 1).await?;
            }
            let again = rollup::check(&self.reconciler.store)
                .await
                .map_err(unexpected)?;
            if again.differing > 0 {
                return violated(
                    "I1",
                    format!("rollups counted again differ: {:?}", again.first),
                );
            }
        } else {
            let cut = span.0 + self.audits * 5 % (span.1 - span.0);
            self.check_usage(span.0, cut).await?;
            self.check_usage(cut, span.1).await?;
        }
        self.check_truth()?;
        self.check_bills().await?;
        if last {
            self.check_leakage().await?;
        }
        Ok(())
    }

    async fn check_segments(&self) -> Found<()> {
        let mut tx = self.reconciler.store.read().await.map_err(unexpected)?;
        let mut stored: BTreeMap<(NodeId, StreamId), Vec<Stored>> = BTreeMap::new();
        for stream in streams::all(&mut tx).await.map_err(unexpected)? {
            let segments = streams::segments_from(
                &mut tx,
                stream.row,
                tallystick_common::ids::Seq::FIRST,
                10_000,
            );
            let segments = segments.await.map_err(unexpected)?;
            let facts = segments.into_iter().map(facts).collect::<Found<Vec<_>>>()?;
            stored.insert((stream.node, stream.stream), facts);
        }
        for (stream, segments) in &stored {
            follow(segments)?;
            self.check_stream(*stream, segments)?;
        }
        let held = |(_, stream): &(_, &super::model::ledger::Stream)| !stream.segments.is_empty();
        if self.ledger.streams.iter().filter(held).count() != stored.len() {
            return violated("I2", "the store has other streams than arrived");
        }
        Ok(())
    }

    fn check_stream(&self, stream: (NodeId, StreamId), segments: &[Stored]) -> Found<()> {
        let due = self
            .ledger
            .streams
            .get(&stream)
            .map_or(&[][..], |stream| &stream.segments);
        if due.len() != segments.len() {
            let said = format!(
                "{} of {} segments of {} are held",
                segments.len(),
                due.len(),
                stream.1
            );
            return violated("I2", said);
        }
        for (kept, stored) in due.iter().zip(segments) {
            let content = &kept.content;
            if content.hash != stored.hash {
                return violated(
                    "I6",
                    format!("segment {} of {} is another one", content.seq, stream.1),
                );
            }
            if kept.counts != stored.counts {
                let said = format!(
                    "segment {} of {}: counted is {}",
                    content.seq, stream.1, stored.counts
                );
                return violated("I3, I5, I7", said);
            }
        }
        Ok(())
    }

    /// What the product says was used in these quarter-hours is what the ledger counts.
    async fn check_usage(&self, from: u64, to: u64) -> Found<()> {
        if from >= to {
            return Ok(());
        }
        let mut due: BTreeMap<(NodeId, Item), u128> = BTreeMap::new();
        for node in NODES {
            for ((item, quarter), quantity) in self.ledger.counted(node) {
                if (from..to).contains(&quarter) {
                    *due.entry((node, item)).or_default() += quantity;
                }
            }
        }
        due.retain(|_, quantity| *quantity > 0);
        let mut tx = self.reconciler.store.read().await.map_err(unexpected)?;
        let at =
            |quarter: u64| Timestamp::from_micros(quarter * QUARTER).unwrap_or(Timestamp::EPOCH);
        let rows = usage(
            &mut tx,
            Period {
                from: at(from),
                to: at(to),
            },
        )
        .await
        .map_err(unexpected)?;
        let mut found = BTreeMap::new();
        for row in rows.into_iter().filter(|row| row.quantity > 0) {
            let item = item_of(row.workload.as_str(), row.meter)?;
            found.insert((row.node, item), row.quantity);
        }
        if due == found {
            return Ok(());
        }
        let differs = |key: &&(NodeId, Item)| due.get(*key) != found.get(*key);
        let key = due.keys().chain(found.keys()).find(differs);
        let said = key.map(|key| (key, due.get(key), found.get(key)));
        violated(
            "I1",
            format!("usage of quarter-hours {from} to {to}, due and found: {said:?}"),
        )
    }

    /// Nobody is billed more than was used (I7).
    fn check_truth(&self) -> Found<()> {
        for node in NODES {
            let mut sums: BTreeMap<Item, u128> = BTreeMap::new();
            for ((item, _), quantity) in self.ledger.counted(node) {
                *sums.entry(item).or_default() += quantity;
            }
            for (item, sum) in sums {
                let whole = self.truth.used.get(&(node, item)).copied().unwrap_or(0);
                // What a group used before it was lost from sight is the host's own.
                let whole = if item == OTHER {
                    self.truth.used.get(&(node, HOST)).copied().unwrap_or(0)
                } else {
                    whole
                };
                if sum > whole {
                    return violated(
                        "I7",
                        format!("{item:?} of {node}: {sum} is counted, {whole} was used"),
                    );
                }
            }
        }
        Ok(())
    }
}

fn item_of(workload: &str, meter: Meter) -> Found<Item> {
    let group = GROUPS.into_iter().find(|group| *group == workload);
    match (group, meter.name()) {
        (Some(group), "cpu.time") => Ok((group, "cpu.time")),
        (Some(group), LEVEL) => Ok((group, LEVEL)),
        (None, "cpu.time") if workload == HOST.0 => Ok(HOST),
        (None, "cpu.time") if workload == OTHER.0 => Ok(OTHER),
        _ => violated("I7", format!("{meter} of {workload} was never used")),
    }
}

fn facts(stored: streams::StoredSegment) -> Found<Stored> {
    let counts = stored.counted;
    let (sealed, blocks) = stored.read().map_err(unexpected)?;
    let header = sealed.header();
    let mut runs = Vec::new();
    for block in &blocks {
        for run in block.runs() {
            let intervals = block.intervals(run).map(|interval| {
                (
                    interval.start.as_micros(),
                    interval.end.as_micros(),
                    interval.quantity,
                )
            });
            runs.push(Run {
                register: run.register,
                opens: run.opened.is_some(),
                closes: run.closed.is_some(),
                opening: run.opening.0,
                start: block.shape(run).start.as_micros(),
                intervals: intervals.collect(),
                counter: run.meter.kind() != Kind::Peak,
            });
        }
    }
    Ok(Stored {
        hash: sealed.hash(),
        previous: match header.previous {
            Previous::Opens { .. } => None,
            Previous::Follows(hash) => Some(hash),
        },
        counts,
        through: header.covered_through.as_micros(),
        runs,
    })
}

/// Follows one stream: its chain (I6), and whatever counts goes on where the segment before stopped, in
/// reading (I3) and time (I5).
fn follow(segments: &[Stored]) -> Found<()> {
    let mut head = None;
    let mut open: BTreeMap<RegisterId, (u128, u64)> = BTreeMap::new();
    for segment in segments {
        if segment.previous != head {
            return violated("I6", format!("{:?} does not follow {head:?}", segment.hash));
        }
        head = Some(segment.hash);
        for run in &segment.runs {
            let (reading, at) = if run.opens {
                (0, run.start)
            } else {
                open.get(&run.register).copied().unwrap_or((0, 0))
            };
            let sum: u128 = run.intervals.iter().map(|(_, _, quantity)| quantity).sum();
            let end = tiled(run)?;
            if segment.counts && run.counter && run.opening != reading {
                return violated(
                    "I3",
                    format!("{run:?} counts from another reading than {reading}"),
                );
            }
            if segment.counts && run.start != at {
                return violated("I5", format!("{run:?} goes on elsewhere than at {at}"));
            }
            if segment.counts && !run.closes && end != segment.through {
                return violated("I5", format!("{run:?} stops before {}", segment.through));
            }
            open.insert(run.register, (run.opening + sum, end));
        }
    }
    Ok(())
}

/// Where its intervals end, if they lie side by side.
fn tiled(run: &Run) -> Found<u64> {
    let mut at = run.start;
    for (start, end, _) in &run.intervals {
        if *start != at || end <= start {
            return violated("I5", format!("{run:?} leaves a hole or an overlap at {at}"));
        }
        at = *end;
    }
    Ok(at)
}
