//! Coverage of nodes and of what is metered on them, in a span, with reasons.
//!
//! A workload's row has the time of its own registers; of time that its node sealed but is not counted, or
//! that nobody spoke of, nobody can say whether the workload ran, so that stands in its row too, from when it
//! was first seen. What is read is that of the nodes asked for: their rollups hour by hour, their gaps and
//! quarantined segments by index, and of segments only those in whose quarter-hours something is not exact.

use std::collections::BTreeSet;

use serde::Serialize;
use tallystick_common::ids::{NodeId, Seq, WorkloadName};
use tallystick_common::period::Period;
use tallystick_common::time::{Micros, QUARTER_HOUR_US, Timestamp};
use utoipa::ToSchema;

use super::super::Coverage;
use super::reason::{Class, Reason, SegmentLink, Spoken, Vague, unspoken, word};
use super::{longest, of, union};
use crate::billing::usage::{Known, Tails, UsageRow, of_workload};
use crate::catalog::assignment::NodeNames;
use crate::catalog::{AccountId, Assignments, Pattern};
use crate::store::coverage::{self, Metered};
use crate::store::nodes::{self, Node, NodeRow};
use crate::store::streams::{self, Stream, StreamRow};
use crate::store::{self, Connection, StoreError};

/// Reasons of one row; what exceeds them is left out, and that is said.
const REASONS: usize = 200;
/// Segments of one node opened to learn why time is not exact.
const SEGMENTS: usize = 2000;

/// Whose coverage, and of which time.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Between two quarter-hours.
    pub span: Period,
    /// Only of this node.
    pub node: Option<NodeRow>,
    /// Only what is this account's, and the nodes that it may own workloads of.
    pub account: Option<AccountId>,
    /// Only workloads that this stands for.
    pub workload: Option<Pattern>,
}

/// How a node's time, or that of a workload on it, is accounted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CoverageRow {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The workload; null for the node itself.
    #[schema(value_type = Option<String>)]
    pub workload: Option<WorkloadName>,
    /// First instant of the span.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// Microseconds by class.
    pub coverage: Coverage,
    /// Why it is not all exact, by time.
    pub reasons: Vec<Reason>,
    /// Whether there are more reasons than stand here: ask for a shorter span.
    pub more_reasons: bool,
}

impl Ask {
    /// Whether workloads are asked for beside nodes.
    fn is_of_workloads(&self) -> bool {
        self.node.is_some() || self.account.is_some() || self.workload.is_some()
    }

    /// The parts of the span in which a workload is what is asked for.
    fn windows(&self, rules: &Assignments, node: &NodeNames, workload: &str) -> Vec<Period> {
        let matches = |pattern: &Pattern| pattern.matches(workload);
        if !self.workload.as_ref().is_none_or(matches) {
            return Vec::new();
        }
        let Some(account) = &self.account else {
            return vec![self.span];
        };
        let Period { from, to } = self.span;
        let mut cuts = rules.changes(from, to);
        cuts.extend([from, to]);
        let cuts: Vec<Timestamp> = cuts.into_iter().collect();
        let owned = |at| {
            let rule = rules.owner(node, workload, at);
            rule.is_some_and(|rule| rule.account == *account)
        };
        let mut windows: Vec<Period> = Vec::new();
        for pair in cuts.windows(2).filter(|pair| owned(pair[0])) {
            match windows.last_mut() {
                Some(last) if last.to == pair[0] => last.to = pair[1],
                _ => windows.push(Period {
                    from: pair[0],
                    to: pair[1],
                }),
            }
        }
        windows
    }
}

/// Coverage as of `now`: for each node its own row, then those of its workloads if any are asked for.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn report(
    conn: &mut Connection,
    ask: &Ask,
    now: Timestamp,
) -> Result<Vec<CoverageRow>, StoreError> {
    let rules = store::catalog::assignments(conn).await?;
    let mut nodes = nodes::all(conn).await?;
    nodes.retain(|node| is_asked(ask, &rules, node));
    nodes.sort_by(|left, right| (&left.name, left.id).cmp(&(&right.name, right.id)));
    let mut rows = Vec::new();
    for node in &nodes {
        rows.extend(of_node(conn, ask, &rules, node, now).await?);
    }
    Ok(rows)
}

fn is_asked(ask: &Ask, rules: &Assignments, node: &Node) -> bool {
    let selected = |account| rules.selects_node(account, &names(node), ask.span.to);
    ask.node.is_none_or(|row| node.row == row) && ask.account.as_ref().is_none_or(selected)
}

fn names(node: &Node) -> NodeNames {
    NodeNames {
        id: node.id,
        name: node.name.clone(),
    }
}

async fn of_node(
    conn: &mut Connection,
    ask: &Ask,
    rules: &Assignments,
    node: &Node,
    now: Timestamp,
) -> Result<Vec<CoverageRow>, StoreError> {
    let mut about = About::read(conn, ask, node, now).await?;
    let mut whose = Vec::new();
    for metered in about.metered(conn).await? {
        let windows = match metered.name.is_host() {
            true => vec![ask.span],
            false if !ask.is_of_workloads() => Vec::new(),
            false => ask.windows(rules, &names(node), metered.name.as_str()),
        };
        if !windows.is_empty() {
            let known = about.known(conn, &metered, &windows).await?;
            whose.push((metered, windows, known));
        }
    }
    let mut vague = about.vague(conn, &whose).await?;
    let mut rows = Vec::new();
    let host = whose.iter().find(|(metered, ..)| metered.name.is_host());
    let host_known = host.map(|(.., known)| known.rows.as_slice());
    let host_reasons = vague.take(&WorkloadName::host());
    rows.push(about.node_row(host_known.unwrap_or_default(), host_reasons));
    for (metered, windows, known) in whose.iter().filter(|(of, ..)| !of.name.is_host()) {
        let reasons = within(&vague.take(&metered.name), windows);
        rows.push(about.workload_row(metered, windows, known, reasons));
    }
    Ok(rows)
}

/// The parts of reasons that lie in windows.
fn within(reasons: &[Reason], windows: &[Period]) -> Vec<Reason> {
    let cut = |reason: &Reason| -> Vec<Reason> {
        let shared = windows
            .iter()
            .filter_map(|window| window.overlap(&reason.span()));
        let part = |span: Period| Reason {
            from: span.from,
            to: span.to,
            ..reason.clone()
        };
        shared.map(part).collect()
    };
    reasons.iter().flat_map(cut).collect()
}

/// What is read once for a node and all that is metered on it.
struct About<'a> {
    node: &'a Node,
    /// What was asked for.
    asked: Period,
    /// The part of it that the node has to account for by now.
    due: Period,
    streams: Vec<Stream>,
    tails: Tails,
    /// Reasons that concern the whole node.
    named: Vec<Reason>,
    doubted: Vec<Reason>,
    missing: Vec<Reason>,
    more: bool,
}

impl<'a> About<'a> {
    async fn read(
        conn: &mut Connection,
        ask: &Ask,
        node: &'a Node,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let to = node.owes_through(ask.span.to.min(now));
        let due = Period {
            from: ask.span.from.max(node.enrolled_at).min(to),
            to,
        };
        let streams = streams::of_node(conn, node.row).await?;
        let mut about = Self {
            node,
            asked: ask.span,
            due,
            tails: Tails::read(conn, &streams, ask.span).await?,
            streams,
            named: Vec::new(),
            doubted: Vec::new(),
            missing: Vec::new(),
            more: false,
        };
        about.missing = unspoken(due, about.spoken());
        about.missing.retain(|hole| hole.from < hole.to);
        about.named = about.named(conn).await?;
        about.doubted = about.doubted(conn).await?;
        Ok(about)
    }

    fn link(&self, stream: StreamRow, seq: Seq) -> Option<SegmentLink> {
        let held = self.streams.iter().find(|held| held.row == stream)?;
        let stream = held.stream;
        Some(SegmentLink { stream, seq })
    }

    /// Time that streams account for, however well.
    fn spoken(&self) -> Vec<Spoken> {
        let spoken = |stream: &Stream| {
            let last = stream.next.0.checked_sub(1)?;
            let link = |seq| SegmentLink {
                stream: stream.stream,
                seq,
            };
            Some(Spoken {
                span: Period {
                    from: stream.covered_from,
                    to: stream.covered_through,
                },
                first: link(Seq::FIRST),
                last: link(Seq(last)),
            })
        };
        self.streams.iter().filter_map(spoken).collect()
    }

    async fn named(&self, conn: &mut Connection) -> Result<Vec<Reason>, StoreError> {
        let gaps = coverage::gaps(conn, self.node.row, self.due).await?;
        let reason = |gap: coverage::NamedBy| Reason {
            class: Class::Unmeasured,
            from: gap.span.from,
            to: gap.span.to,
            why: word(gap.cause),
            meters: Vec::new(),
            segments: gap
                .seq
                .and_then(|seq| self.link(gap.stream, seq))
                .into_iter()
                .collect(),
        };
        Ok(gaps.into_iter().map(reason).collect())
    }

    async fn doubted(&self, conn: &mut Connection) -> Result<Vec<Reason>, StoreError> {
        let mut reasons = Vec::new();
        for stream in &self.streams {
            for doubt in coverage::doubted(conn, stream.row, self.due).await? {
                reasons.push(Reason {
                    class: Class::Quarantined,
                    from: doubt.span.from,
                    to: doubt.span.to,
                    why: doubt.code,
                    meters: Vec::new(),
                    segments: self.link(stream.row, doubt.seq).into_iter().collect(),
                });
            }
        }
        Ok(reasons)
    }

    /// What is metered on the node: what rollups know, and what is stored beyond them.
    async fn metered(&self, conn: &mut Connection) -> Result<Vec<Metered>, StoreError> {
        let mut metered = coverage::metered(conn, self.node.row).await?;
        for (name, first_seen_at) in self.tails.workloads() {
            if !metered.iter().any(|held| held.name == *name) {
                metered.push(Metered {
                    row: None,
                    name: name.clone(),
                    first_seen_at,
                });
            }
        }
        metered.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(metered)
    }

    async fn known(
        &self,
        conn: &mut Connection,
        metered: &Metered,
        windows: &[Period],
    ) -> Result<Known, StoreError> {
        let mut all = Known::default();
        for window in windows {
            let of = (metered.row, &metered.name);
            let known = of_workload(conn, self.node, of, &self.tails, *window).await?;
            all.join(known)?;
        }
        Ok(all)
    }

    /// Why what is known of these is not all exact.
    async fn vague(
        &mut self,
        conn: &mut Connection,
        whose: &[(Metered, Vec<Period>, Known)],
    ) -> Result<Vague, StoreError> {
        let quarters: BTreeSet<u64> = whose
            .iter()
            .flat_map(|(.., known)| known.vague.iter().copied())
            .collect();
        let of: BTreeSet<&WorkloadName> = whose.iter().map(|(metered, ..)| &metered.name).collect();
        let mut vague = Vague::default();
        let mut opened = 0;
        for stream in &self.streams {
            for span in joined(&quarters) {
                let whole = Period {
                    from: span.from.max(self.asked.from),
                    to: span.to.min(self.asked.to),
                };
                if opened >= SEGMENTS || vague.len() >= REASONS * whose.len() {
                    self.more = true;
                    return Ok(vague);
                }
                let segments =
                    streams::segments_between(conn, stream.row, whole.from, whole.to).await?;
                opened += segments.len();
                for segment in segments.into_iter().filter(|segment| segment.counted) {
                    let link = SegmentLink {
                        stream: stream.stream,
                        seq: segment.seq,
                    };
                    vague.add(link, &segment.read()?.1, &of, whole);
                }
            }
        }
        Ok(vague)
    }

    fn node_row(&self, host: &[UsageRow], host_reasons: Vec<Reason>) -> CoverageRow {
        let spans = |reasons: &[Reason]| reasons.iter().map(Reason::span).collect::<Vec<_>>();
        let length = self.due.to.since(self.due.from);
        let coverage = of(
            longest(host.iter()),
            spans(&self.named),
            spans(&self.doubted),
            length,
        );
        let mut reasons = self.missing.clone();
        reasons.extend_from_slice(&self.named);
        reasons.extend_from_slice(&self.doubted);
        reasons.extend(host_reasons);
        self.row(None, coverage, reasons)
    }

    fn workload_row(
        &self,
        metered: &Metered,
        windows: &[Period],
        known: &Known,
        reasons: Vec<Reason>,
    ) -> CoverageRow {
        let since = |window: &Period| Period {
            from: window.from.max(metered.first_seen_at).min(window.to),
            to: window.to,
        };
        let own: Vec<Period> = windows.iter().map(since).collect();
        let time = |reasons: &[Reason]| {
            let shared = reasons.iter().flat_map(|reason| {
                own.iter()
                    .filter_map(|window| window.overlap(&reason.span()))
            });
            Micros(union(shared.collect()))
        };
        let (exact, interpolated, unmeasured) = longest(known.rows.iter())
            .map_or_else(Default::default, |row| {
                (row.exact, row.interpolated, row.unmeasured)
            });
        let coverage = Coverage {
            exact,
            interpolated,
            unmeasured,
            quarantined: time(&self.doubted),
            missing: time(&self.missing),
        };
        self.row(Some(metered.name.clone()), coverage, reasons)
    }

    fn row(
        &self,
        workload: Option<WorkloadName>,
        coverage: Coverage,
        mut reasons: Vec<Reason>,
    ) -> CoverageRow {
        reasons.sort_by_key(|reason| (reason.from, reason.class, reason.to));
        let more_reasons = self.more || reasons.len() > REASONS;
        reasons.truncate(REASONS);
        CoverageRow {
            node: self.node.id,
            node_name: self.node.name.clone(),
            workload,
            from: self.asked.from,
            to: self.asked.to,
            coverage,
            reasons,
            more_reasons,
        }
    }
}

/// Quarter-hours that follow one another, as spans of time: at most a day each.
fn joined(quarters: &BTreeSet<u64>) -> Vec<Period> {
    const DAY: u64 = 96;
    let at = |quarter: u64| {
        Timestamp::from_micros(quarter.saturating_mul(QUARTER_HOUR_US)).unwrap_or(Timestamp::MAX)
    };
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for quarter in quarters {
        match spans.last_mut() {
            Some((from, to)) if *to == *quarter && *quarter - *from < DAY => *to += 1,
            _ => spans.push((*quarter, *quarter + 1)),
        }
    }
    let period = |(from, to)| Period {
        from: at(from),
        to: at(to),
    };
    spans.into_iter().map(period).collect()
}
