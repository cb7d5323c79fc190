//! What registers counted in a span, read from the sealed segments: the other side of I3.
//!
//! Usage comes from rollups, which add interval by interval; this comes from readings, so that a
//! mistake in the one is seen in the other. Only segments that hold a bound are opened: the counted
//! segments of a stream in a span are stretches, parted by quarantined ones, and within a stretch a
//! register's quantity is its closing minus its opening reading. What a quarantined segment added to a
//! reading lies between two stretches, and so in none. Registers that came or went within a stretch
//! are known by their derived rows and the stored tail; where those contradict the segments, the
//! whole stretch is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use tallystick_common::ids::{NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::odometer::{self, reading_at};
use tallystick_common::period::Period;
use tallystick_common::reading::Reading;
use tallystick_common::segment::{Block, Header, Run};
use tallystick_common::statement::RegisterSpan;
use tallystick_common::time::Timestamp;

use crate::store::readings::{self, Life, Stretch};
use crate::store::streams::{self, Stream};
use crate::store::{Connection, StoreError};

/// Segments read at once when a stretch, or its stored tail, is read whole.
const PAGE: u32 = 256;

/// What registers counted, by node, workload and meter. `host` is among them.
pub type Counted = BTreeMap<(NodeId, WorkloadName, Meter), Vec<RegisterSpan>>;

/// What the registers of these streams counted in a span.
///
/// # Errors
/// When the database fails or a segment cannot be read.
pub async fn counted<'a>(
    conn: &mut Connection,
    streams: impl Iterator<Item = &'a Stream>,
    span: Period,
) -> Result<Counted, StoreError> {
    let mut counted = Counted::new();
    for stream in streams {
        if stream.covered_from >= span.to || stream.covered_through <= span.from {
            continue;
        }
        for stretch in readings::stretches(conn, stream.row, span).await? {
            for part in parts(conn, stream, stretch, span).await? {
                let key = (stream.node, part.workload.clone(), part.meter);
                counted
                    .entry(key)
                    .or_default()
                    .push(part.into_span(stream.stream));
            }
        }
    }
    Ok(counted)
}

/// One register's part of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    workload: WorkloadName,
    meter: Meter,
    register: RegisterId,
    from: Timestamp,
    to: Timestamp,
    opening: Reading,
    closing: Reading,
    /// Whether it begins, and ends, in the segment it was read from.
    opened: bool,
    closed: bool,
}

impl Part {
    fn into_span(self, stream: StreamId) -> RegisterSpan {
        RegisterSpan {
            stream,
            register: self.register,
            from: self.from,
            to: self.to,
            opening: self.opening,
            closing: self.closing,
        }
    }
}

/// A segment, opened.
struct Opened {
    header: Header,
    blocks: Vec<Block>,
}

impl Opened {
    async fn read(conn: &mut Connection, stream: &Stream, seq: Seq) -> Result<Self, StoreError> {
        let stored = readings::segment(conn, stream.row, seq).await?;
        let (sealed, blocks) = stored.read()?;
        let header = sealed.header().clone();
        Ok(Self { header, blocks })
    }

    /// The registers of this segment, cut at the bounds of `span`.
    fn parts(&self, span: Period) -> Vec<Part> {
        let part = |(block, run): (&Block, &Run)| Part {
            workload: block.workload.clone(),
            meter: run.meter,
            register: run.register,
            from: block.shape(run).start.max(span.from),
            to: block.shape(run).end().min(span.to),
            opening: reading_at(block, run, span.from),
            closing: reading_at(block, run, span.to),
            opened: run.opened.is_some(),
            closed: run.closed.is_some(),
        };
        let runs = |block| Block::runs(block).iter().map(move |run| (block, run));
        self.blocks.iter().flat_map(runs).map(part).collect()
    }
}

/// The registers of one stretch, cut at the bounds of `span`.
async fn parts(
    conn: &mut Connection,
    stream: &Stream,
    stretch: Stretch,
    span: Period,
) -> Result<Vec<Part>, StoreError> {
    let first = Opened::read(conn, stream, stretch.first).await?;
    if stretch.first == stretch.last {
        return Ok(with_time(first.parts(span)));
    }
    let last = Opened::read(conn, stream, stretch.last).await?;
    let between = Between::of(&first, &last, span);
    let lives = between.lives(conn, stream, stretch, span).await?;
    let joined = match between.join(&lives) {
        Some(parts) => parts,
        None => {
            let lives = walked(conn, stream, stretch.first, stretch.last).await?;
            between.join(&lives).unwrap_or_else(|| between.known())
        }
    };
    Ok(with_time(joined))
}

fn with_time(mut parts: Vec<Part>) -> Vec<Part> {
    parts.retain(|part| part.from < part.to);
    parts
}

type Lives = BTreeMap<RegisterId, Life>;

/// The two ends of a stretch, and what is to be learnt of the time between them.
struct Between {
    /// Registers whose part is known whole.
    whole: Vec<Part>,
    /// Registers of the first segment that are gone in the last: their closing is not known.
    gone: Vec<Part>,
    /// Registers of the last segment that are not in the first: their opening is not known.
    come: Vec<Part>,
    /// The time between the two segments.
    from: Timestamp,
    to: Timestamp,
    /// The highest number in the first segment: what opens later has a higher one.
    highest: RegisterId,
}

impl Between {
    fn of(first: &Opened, last: &Opened, span: Period) -> Self {
        let mut between = Self {
            whole: Vec::new(),
            gone: Vec::new(),
            come: Vec::new(),
            from: first.header.covered_through,
            to: last.header.from,
            highest: RegisterId(0),
        };
        let mut ends: BTreeMap<RegisterId, Part> = last
            .parts(span)
            .into_iter()
            .map(|part| (part.register, part))
            .collect();
        for part in first.parts(span) {
            between.highest = between.highest.max(part.register);
            if part.closed {
                between.whole.push(part);
                continue;
            }
            match ends.remove(&part.register) {
                Some(end) => between.whole.push(Part {
                    to: end.to,
                    closing: end.closing,
                    ..part
                }),
                None => between.gone.push(part),
            }
        }
        let (whole, come): (Vec<Part>, Vec<Part>) =
            ends.into_values().partition(|part| part.opened);
        between.whole.extend(whole);
        between.come = come;
        between
    }

    /// What is known without having opened the segments between.
    async fn lives(
        &self,
        conn: &mut Connection,
        stream: &Stream,
        stretch: Stretch,
        span: Period,
    ) -> Result<Lives, StoreError> {
        let above = readings::lives_above(conn, stream.row, self.highest, span.to).await?;
        let mut lives: Lives = above.into_iter().collect();
        for part in &self.gone {
            if let Some(life) = readings::life(conn, stream.row, part.register).await? {
                lives.insert(part.register, life);
            }
        }
        if stream.rolled <= stretch.last {
            let first = stream.rolled.max(stretch.first);
            for (register, tail) in walked(conn, stream, first, stretch.last).await? {
                let opened_at = lives.get(&register).map(|life| life.opened_at);
                let opened_at = opened_at.map_or(tail.opened_at, |at| at.min(tail.opened_at));
                lives.insert(register, Life { opened_at, ..tail });
            }
        }
        Ok(lives)
    }

    /// All parts, or none when `lives` lacks a register or contradicts the segments.
    fn join(&self, lives: &Lives) -> Option<Vec<Part>> {
        let mut parts = self.whole.clone();
        for part in &self.gone {
            let life = lives.get(&part.register)?;
            let same = life.workload == part.workload && life.meter == part.meter;
            if !same || !life.closed || !self.holds(life.last_at) {
                return None;
            }
            parts.push(Part {
                to: life.last_at,
                closing: life.reading,
                ..part.clone()
            });
        }
        for part in &self.come {
            let life = lives.get(&part.register)?;
            if !self.holds(life.opened_at) {
                return None;
            }
            parts.push(Part {
                from: life.opened_at,
                opening: Reading(0),
                ..part.clone()
            });
        }
        parts.extend(self.passed(lives));
        Some(parts)
    }

    /// Registers that came and went between the two segments.
    fn passed<'a>(&'a self, lives: &'a Lives) -> impl Iterator<Item = Part> + 'a {
        let within =
            |life: &Life| life.closed && life.opened_at >= self.from && self.holds(life.last_at);
        let still_there: BTreeSet<RegisterId> =
            self.come.iter().map(|part| part.register).collect();
        lives
            .range((Bound::Excluded(self.highest), Bound::Unbounded))
            .filter(move |(register, life)| within(life) && !still_there.contains(register))
            .map(|(register, life)| Part {
                workload: life.workload.clone(),
                meter: life.meter,
                register: *register,
                from: life.opened_at,
                to: life.last_at,
                opening: Reading(0),
                closing: life.reading,
                opened: true,
                closed: true,
            })
    }

    fn holds(&self, at: Timestamp) -> bool {
        at >= self.from && at <= self.to
    }

    /// Only what both segments say: the rest counts as nothing, and is seen as a discrepancy.
    fn known(&self) -> Vec<Part> {
        self.whole.clone()
    }
}

/// The registers of these segments, read one by one.
async fn walked(
    conn: &mut Connection,
    stream: &Stream,
    first: Seq,
    last: Seq,
) -> Result<Lives, StoreError> {
    let mut lives = Lives::new();
    let mut next = first;
    while next <= last {
        let page = streams::segments_from(conn, stream.row, next, PAGE).await?;
        let Some(end) = page.last().map(|segment| segment.seq) else {
            break;
        };
        for segment in page.into_iter().filter(|segment| segment.seq <= last) {
            for block in segment.read()?.1 {
                see(&mut lives, &block);
            }
        }
        next = end.next();
    }
    Ok(lives)
}

/// Moves lives on by one block.
fn see(lives: &mut Lives, block: &Block) {
    for run in block.runs() {
        let shape = block.shape(run);
        let life = lives.entry(run.register).or_insert_with(|| Life {
            workload: block.workload.clone(),
            meter: run.meter,
            opened_at: shape.start,
            last_at: shape.start,
            reading: run.opening,
            closed: false,
        });
        life.last_at = shape.end();
        life.reading = odometer::closing(block, run).unwrap_or(run.opening);
        life.closed = run.closed.is_some();
    }
}

#[cfg(test)]
mod tests;
