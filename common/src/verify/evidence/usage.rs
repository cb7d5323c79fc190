//! What registers counted, from the runs that are shown: each begins where its span begins or where it was
//! opened, ends where its span ends or where it was closed, and goes on between (I3, I5).

use std::collections::{BTreeMap, BTreeSet};

use super::node::Node;
use super::stream::Stream;
use super::terms::{Held, Terms};
use super::{Difference, Step};
use crate::evidence::Linked;
use crate::ids::{NodeId, RegisterId, Seq, WorkloadName};
use crate::meter::{Kind, Meter};
use crate::odometer::{self, reading_at};
use crate::period::Period;
use crate::reading::Reading;
use crate::segment::{Block, Header, Run};
use crate::statement::{RegisterSpan, UsageItem};
use crate::tiling;
use crate::time::Micros;

/// What an account used, and the hosts that it used it on.
#[derive(Default)]
pub(super) struct Used {
    pub(super) items: Vec<UsageItem>,
    /// What the control registers of a node counted in a holding's time.
    pub(super) hosts: BTreeMap<(NodeId, Period, Meter), u128>,
}

/// One register's part of a span.
struct Part {
    meter: Meter,
    span: RegisterSpan,
}

/// A shown run and the segment it is in.
#[derive(Clone, Copy)]
struct Seen<'a> {
    header: &'a Header,
    block: &'a Block,
    run: &'a Run,
}

pub(super) fn used(terms: &Terms, nodes: &[Node]) -> Result<Used, Difference> {
    let mut used = Used::default();
    for node in nodes {
        for stream in &node.streams {
            check_stretches(stream)?;
            check_registers(stream)?;
        }
        for held in terms.of(node.id) {
            used.items.extend(items(node, held)?);
        }
        let spans: BTreeSet<Period> = terms.of(node.id).map(|held| held.span).collect();
        for span in spans {
            for (meter, quantity) in host(node, span)? {
                used.hosts.insert((node.id, span, meter), quantity);
            }
        }
    }
    Ok(used)
}

fn differs(stream: &Stream, seq: Seq, why: impl std::fmt::Display) -> Difference {
    let subject = format!("segment {seq} of stream {}", stream.id);
    Difference::new(Step::Usage, subject, why)
}

/// Counted segments follow one another in time, too.
fn check_stretches(stream: &Stream) -> Result<(), Difference> {
    for stretch in stream.stretches() {
        for pair in stretch.windows(2) {
            let (before, next) = (&pair[0].header, &pair[1].header);
            if before.covered_through != next.from {
                let why = format!(
                    "it accounts for time from {}, but the segment before ended at {}",
                    next.from, before.covered_through
                );
                return Err(differs(stream, next.seq, why));
            }
        }
    }
    Ok(())
}

/// Within a stretch every register that is shown is one: it is opened once, at nothing, and never moves back,
/// nor to another workload or meter. What a quarantined segment did to it is not counted, and not judged.
fn check_registers(stream: &Stream) -> Result<(), Difference> {
    for stretch in stream.stretches() {
        let mut known: BTreeMap<RegisterId, Seen<'_>> = BTreeMap::new();
        for link in stretch {
            let seq = link.header.seq;
            let blocks = stream.shown.get(&seq).map_or(&[][..], Vec::as_slice);
            for (block, run) in runs(blocks) {
                let seen = Seen {
                    header: &link.header,
                    block,
                    run,
                };
                let before = known.insert(run.register, seen);
                check_run(before, seen).map_err(|why| {
                    let why = format!("register {} of {}: {why}", run.register, block.workload);
                    differs(stream, seq, why)
                })?;
            }
        }
    }
    Ok(())
}

fn runs(blocks: &[Block]) -> impl Iterator<Item = (&Block, &Run)> {
    blocks
        .iter()
        .flat_map(|block| block.runs().iter().map(move |run| (block, run)))
}

fn check_run(before: Option<Seen<'_>>, seen: Seen<'_>) -> Result<(), String> {
    let Seen { header, block, run } = seen;
    tiling::check(header, block, run, None).map_err(|error| error.to_string())?;
    odometer::close(block, run, run.opening).map_err(|error| error.to_string())?;
    if run.opened.is_some() && run.opening != Reading(0) {
        return Err("it is opened at another reading than 0".to_owned());
    }
    let start = block.shape(run).start;
    if run.opened.is_none() && start != header.from {
        return Err(format!(
            "it goes on at {start}, not where the segment begins"
        ));
    }
    before.map_or(Ok(()), |before| continues(before, seen))
}

fn continues(before: Seen<'_>, seen: Seen<'_>) -> Result<(), String> {
    let run = seen.run;
    if before.block.workload != seen.block.workload || before.run.meter != run.meter {
        return Err("it was of another workload or meter before".to_owned());
    }
    if run.opened.is_some() || before.run.closed.is_some() {
        return Err("it is opened twice, or goes on after it was closed".to_owned());
    }
    let stood = odometer::closing(before.block, before.run).unwrap_or(before.run.opening);
    let ended = before.block.shape(before.run).end();
    let start = seen.block.shape(run).start;
    let next = before.header.seq.0.saturating_add(1) == seen.header.seq.0;
    if run.opening < stood || (next && run.opening != stood) {
        return Err(format!(
            "it goes on at {}, but stood at {stood}",
            run.opening
        ));
    }
    if start < ended || (next && start != ended) {
        return Err(format!("it goes on at {start}, but had ended at {ended}"));
    }
    Ok(())
}

fn items(node: &Node, held: &Held) -> Result<Vec<UsageItem>, Difference> {
    let mut registers: BTreeMap<Meter, Vec<RegisterSpan>> = BTreeMap::new();
    for part in parts_of(node, &held.workload, held.span)? {
        registers.entry(part.meter).or_default().push(part.span);
    }
    let item = |(meter, registers): (Meter, Vec<RegisterSpan>)| {
        let quantity = match meter.kind() {
            Kind::Counter | Kind::Integral => sum(&registers),
            Kind::Peak => Some(highest(node, held, meter)),
        };
        let quantity = quantity.ok_or_else(|| {
            let why = format!("the sum of {meter} exceeds 128 bits");
            Difference::new(Step::Usage, &held.workload, why)
        })?;
        Ok(UsageItem {
            node: node.id,
            node_name: node.name.clone(),
            workload: held.workload.clone(),
            meter,
            from: held.span.from,
            to: held.span.to,
            quantity,
            registers,
            measured: Micros(0),
            interpolated: Micros(0),
            unmeasured: Micros(0),
        })
    };
    registers.into_iter().map(item).collect()
}

/// Registers are checked to rise, so no difference is below zero.
fn sum(registers: &[RegisterSpan]) -> Option<u128> {
    registers.iter().try_fold(0_u128, |sum, span| {
        sum.checked_add(span.closing.0.checked_sub(span.opening.0)?)
    })
}

/// The highest peak that is shown to have ended in the holding's time, in a counted segment.
fn highest(node: &Node, held: &Held, meter: Meter) -> u128 {
    let counted = node.streams.iter().flat_map(|stream| {
        let stretches = stream.stretches().into_iter().flatten();
        stretches.filter_map(|link| stream.shown.get(&link.header.seq))
    });
    let intervals = counted
        .flatten()
        .filter(|block| block.workload == held.workload)
        .flat_map(|block| block.runs().iter().map(move |run| (block, run)))
        .filter(|(_, run)| run.meter == meter)
        .flat_map(|(block, run)| block.intervals(run));
    let within =
        intervals.filter(|interval| interval.end > held.span.from && interval.end <= held.span.to);
    within.map(|interval| interval.quantity).max().unwrap_or(0)
}

/// What the node's control registers counted in a span; of peaks nothing is said.
fn host(node: &Node, span: Period) -> Result<BTreeMap<Meter, u128>, Difference> {
    let mut registers: BTreeMap<Meter, Vec<RegisterSpan>> = BTreeMap::new();
    for part in parts_of(node, &WorkloadName::host(), span)? {
        if part.meter.kind() != Kind::Peak {
            registers.entry(part.meter).or_default().push(part.span);
        }
    }
    let sums = registers
        .iter()
        .filter_map(|(meter, spans)| Some((*meter, sum(spans)?)));
    Ok(sums.collect())
}

fn parts_of(node: &Node, workload: &WorkloadName, span: Period) -> Result<Vec<Part>, Difference> {
    let mut parts = Vec::new();
    for stream in &node.streams {
        for stretch in stream.stretches() {
            parts.extend(parts_in(stream, stretch, workload, span)?);
        }
    }
    Ok(parts)
}

/// The registers of a workload in one stretch, cut at the bounds of `span`.
fn parts_in(
    stream: &Stream,
    stretch: &[Linked],
    workload: &WorkloadName,
    span: Period,
) -> Result<Vec<Part>, Difference> {
    let begin = stretch.partition_point(|link| link.header.covered_through <= span.from);
    let end = stretch.partition_point(|link| link.header.from < span.to);
    let Some([first, .., last] | [first @ last]) = stretch.get(begin..end) else {
        return Ok(Vec::new());
    };
    let (first, last) = (&first.header, &last.header);
    for bound in [first, last] {
        check_bound(stream, bound)?;
    }
    let mut registers: BTreeMap<RegisterId, Vec<Seen<'_>>> = BTreeMap::new();
    for (seq, blocks) in stream.shown.range(first.seq..=last.seq) {
        let Some(link) = stream.link(*seq) else {
            continue;
        };
        for (block, run) in runs(blocks).filter(|(block, _)| block.workload == *workload) {
            let seen = Seen {
                header: &link.header,
                block,
                run,
            };
            registers.entry(run.register).or_default().push(seen);
        }
    }
    let mut parts = Vec::new();
    for (register, seen) in registers {
        let part = part(register, &seen, (first, last), span)
            .map_err(|(seq, why)| differs(stream, seq, format!("{workload}: {why}")))?;
        parts.extend(part.map(|part| part.of(stream)));
    }
    Ok(parts)
}

impl Part {
    fn of(mut self, stream: &Stream) -> Self {
        self.span.stream = stream.id;
        self
    }
}

/// Where a span or a stretch begins or ends, the segment is shown, and in it `host`, unless nothing was
/// measured in it.
fn check_bound(stream: &Stream, header: &Header) -> Result<(), Difference> {
    let Some(blocks) = stream.shown.get(&header.seq) else {
        let why = "something begins or ends here, and it is not shown";
        return Err(differs(stream, header.seq, why));
    };
    let silent: u64 = header.gaps.iter().map(|gap| gap.to.since(gap.from).0).sum();
    let measured = silent < header.covered_through.since(header.from).0;
    if measured && !blocks.iter().any(|block| block.workload.is_host()) {
        return Err(differs(
            stream,
            header.seq,
            "the block of host is not shown",
        ));
    }
    Ok(())
}

/// A register's part, from the runs that are shown of it between the first and the last segment.
fn part(
    register: RegisterId,
    seen: &[Seen<'_>],
    (first, last): (&Header, &Header),
    span: Period,
) -> Result<Option<Part>, (Seq, String)> {
    let Some([begin, .., end] | [begin @ end]) = Some(seen) else {
        return Ok(None);
    };
    if begin.header.seq != first.seq && begin.run.opened.is_none() {
        let why = format!(
            "register {register} goes on here, but neither its reading where the span begins nor its opening is shown"
        );
        return Err((begin.header.seq, why));
    }
    if end.header.seq != last.seq && end.run.closed.is_none() {
        let why = format!(
            "register {register} stays open here, but neither its reading where the span ends nor its closing is shown"
        );
        return Err((end.header.seq, why));
    }
    let shown = RegisterSpan {
        stream: crate::ids::StreamId::ZERO,
        register,
        from: begin.block.shape(begin.run).start.max(span.from),
        to: end.block.shape(end.run).end().min(span.to),
        opening: reading_at(begin.block, begin.run, span.from),
        closing: reading_at(end.block, end.run, span.to),
    };
    let meter = begin.run.meter;
    Ok((shown.from < shown.to).then_some(Part { meter, span: shown }))
}
