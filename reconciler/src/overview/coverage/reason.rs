//! Why time is not exact, and which segments say so. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tallystick_common::ids::{Seq, StreamId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::reading::{Cause, Quality};
use tallystick_common::segment::Block;
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

/// How time is accounted for that is not exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The quantity is known in sum only.
    Interpolated,
    /// Named as not measured.
    Unmeasured,
    /// Sealed and kept, not counted.
    Quarantined,
    /// Nobody spoke of it.
    Missing,
}

/// Where a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub struct SegmentLink {
    /// Its stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// Its number in the stream.
    #[schema(value_type = u64)]
    pub seq: Seq,
}

/// Why a span of time is not exact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reason {
    /// How it is accounted for.
    pub class: Class,
    /// First instant.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// A word: a gap's or an interval's cause (`agent_down`, `node_down`, …), the doubt of a quarantined
    /// segment, `unspoken` for time of which no segment speaks.
    pub why: String,
    /// The meters it is true of; empty where it is true of the whole node.
    #[schema(value_type = Vec<String>)]
    pub meters: Vec<Meter>,
    /// The first and the last segment that say so; of missing time, those before and after it.
    pub segments: Vec<SegmentLink>,
}

impl Reason {
    /// Its time.
    #[must_use]
    pub fn span(&self) -> Period {
        Period {
            from: self.from,
            to: self.to,
        }
    }
}

/// The word for a cause, as in JSON.
pub(super) fn word(cause: Cause) -> String {
    cause.to_string().replace(' ', "_")
}

/// Time that a stream accounts for, with its first and its last segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken {
    pub(super) span: Period,
    pub(super) first: SegmentLink,
    pub(super) last: SegmentLink,
}

/// The parts of `span` of which none of these speaks.
pub(super) fn unspoken(span: Period, mut spoken: Vec<Spoken>) -> Vec<Reason> {
    spoken.sort_by_key(|stream| stream.span.from);
    let mut missing = Vec::new();
    let (mut at, mut before) = (span.from, None);
    let mut latest = Timestamp::EPOCH;
    let hole = |from: Timestamp, to: Timestamp, links: [Option<SegmentLink>; 2]| Reason {
        class: Class::Missing,
        from,
        to,
        why: "unspoken".to_owned(),
        meters: Vec::new(),
        segments: links.into_iter().flatten().collect(),
    };
    for stream in spoken {
        let from = stream.span.from.min(span.to);
        if from > at {
            missing.push(hole(at, from, [before, Some(stream.first)]));
        }
        if stream.span.to > latest {
            (latest, before) = (stream.span.to, Some(stream.last));
        }
        at = at.max(stream.span.to);
    }
    if at < span.to {
        missing.push(hole(at, span.to, [before, None]));
    }
    missing
}

/// What makes two pieces of vague time one reason, if they touch.
type Kind = (Class, Cause, Vec<Meter>);

/// Gathers, segment by segment in order, why intervals of workloads are not exact.
#[derive(Debug, Default)]
pub(super) struct Vague {
    by_workload: BTreeMap<WorkloadName, Vec<Reason>>,
    /// Which reason of a workload goes on.
    latest: BTreeMap<(WorkloadName, Kind), usize>,
}

impl Vague {
    /// Looks at the blocks of these workloads, within `span`.
    pub(super) fn add(
        &mut self,
        link: SegmentLink,
        blocks: &[Block],
        of: &BTreeSet<&WorkloadName>,
        span: Period,
    ) {
        for block in blocks.iter().filter(|block| of.contains(&block.workload)) {
            for ((piece, class, cause), meters) in pieces(block, span) {
                let kind = (class, cause, meters.into_iter().collect());
                self.put(&block.workload, kind, piece, link);
            }
        }
    }

    /// How many reasons there are.
    pub(super) fn len(&self) -> usize {
        self.by_workload.values().map(Vec::len).sum()
    }

    /// The reasons of a workload.
    pub(super) fn take(&mut self, workload: &WorkloadName) -> Vec<Reason> {
        self.by_workload.remove(workload).unwrap_or_default()
    }

    fn put(&mut self, workload: &WorkloadName, kind: Kind, piece: Period, link: SegmentLink) {
        let reasons = self.by_workload.entry(workload.clone()).or_default();
        let key = (workload.clone(), kind);
        if let Some(place) = self.latest.get(&key)
            && let Some(reason) = reasons.get_mut(*place)
            && reason.to == piece.from
        {
            reason.to = piece.to;
            reason.segments.truncate(1);
            if reason.segments.first() != Some(&link) {
                reason.segments.push(link);
            }
            return;
        }
        let (class, cause, meters) = key.1.clone();
        self.latest.insert(key, reasons.len());
        reasons.push(Reason {
            class,
            from: piece.from,
            to: piece.to,
            why: word(cause),
            meters,
            segments: vec![link],
        });
    }
}

/// The parts of a block that are not exact, each with the meters it is true of.
fn pieces(block: &Block, span: Period) -> BTreeMap<(Period, Class, Cause), BTreeSet<Meter>> {
    let mut pieces: BTreeMap<_, BTreeSet<Meter>> = BTreeMap::new();
    for run in block.runs() {
        for interval in block.intervals(run) {
            let (class, cause) = match interval.quality {
                Quality::Exact => continue,
                Quality::Interpolated(cause) => (Class::Interpolated, cause),
                Quality::Unmeasured(cause) => (Class::Unmeasured, cause),
            };
            let whole = Period {
                from: interval.start,
                to: interval.end,
            };
            if let Some(part) = whole.overlap(&span) {
                let key = (part, class, cause);
                pieces.entry(key).or_default().insert(run.meter);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    fn span(from: u64, to: u64) -> Period {
        Period {
            from: at(from),
            to: at(to),
        }
    }

    fn stream(number: u8, from: u64, to: u64) -> Spoken {
        let link = |seq| SegmentLink {
            stream: StreamId([number; 16]),
            seq: Seq(seq),
        };
        Spoken {
            span: span(from, to),
            first: link(0),
            last: link(9),
        }
    }

    #[test]
    fn missing_time_names_the_segments_around_it() {
        let reasons = unspoken(span(10, 100), vec![stream(2, 50, 80), stream(1, 0, 30)]);
        let told: Vec<_> = reasons
            .iter()
            .map(|reason| {
                let links = reason.segments.iter();
                let links: Vec<_> = links.map(|link| (link.stream.0[0], link.seq.0)).collect();
                (reason.span(), links)
            })
            .collect();
        let expected = [
            (span(30, 50), vec![(1, 9), (2, 0)]),
            (span(80, 100), vec![(2, 9)]),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_node_that_never_spoke_is_missing_altogether() {
        let reasons = unspoken(span(0, 100), Vec::new());
        assert_eq!(reasons.len(), 1);
        assert_eq!(
            (reasons[0].span(), reasons[0].segments.len()),
            (span(0, 100), 0)
        );
    }

    proptest! {
        /// Each second of the span is spoken of or missing, never both.
        #[test]
        fn missing_is_what_nobody_spoke_of(
            streams in prop::collection::vec((0_u64..60, 1_u64..30), 0..6),
            bounds in (0_u64..50, 1_u64..50),
        ) {
            let whole = span(bounds.0, bounds.0 + bounds.1);
            let streams: Vec<_> = (0_u8..)
                .zip(streams)
                .map(|(number, (from, length))| stream(number, from, from + length))
                .collect();
            let missing = unspoken(whole, streams.clone());
            for second in bounds.0..bounds.0 + bounds.1 {
                let instant = at(second);
                let spoken = streams.iter().any(|stream| stream.span.contains(instant));
                let held = missing.iter().filter(|hole| hole.span().contains(instant)).count();
                prop_assert_eq!(held, usize::from(!spoken), "second {}", second);
            }
        }
    }
}
