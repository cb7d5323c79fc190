//! A node that seals what a test tells it to, honest until told otherwise, and the way from there into
//! a store.

use tallystick_common::ids::{BootId, Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::keys::{KeyRing, SecretKey};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Interval, Quality, Reading};
use tallystick_common::seal::{self, VerifiedSegment};
use tallystick_common::segment::{
    Basis, Block, CloseReason, HeaderDraft, Previous, Purpose, RunDraft,
};
use tallystick_common::time::{Micros, QUARTER_HOUR_US, SECOND_US, Timestamp};

use super::admit::Verdict;
use super::commit;
use super::intake::Intake as _;
use crate::store::Store;
use crate::store::enrolment::{self, NewNode};

/// Commits into a store by a clock; ends when the handle is gone.
pub(crate) fn committing(store: &Store, clock: fn() -> Timestamp) -> commit::Handle {
    let (handle, committer) = commit::channel(store.clone(), clock, std::sync::Arc::default());
    tokio::spawn(committer.run());
    handle
}

/// Hands a segment over and waits until it is committed.
pub(crate) async fn send(to: &commit::Handle, segment: VerifiedSegment) -> Verdict {
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
    let verdict = to.segment(segment, peer).await.expect("commit runs");
    verdict.await.expect("it is committed")
}

/// The instant `seconds` after noon of a day in November.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_795_348_800 + seconds).expect("a year before 9999")
}

/// A register's part of a segment, to be changed before it is sealed.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) workload: &'static str,
    pub(crate) register: u64,
    pub(crate) meter: Meter,
    pub(crate) opened: Option<Basis>,
    pub(crate) closed: Option<CloseReason>,
    pub(crate) opening: u128,
    pub(crate) start: Timestamp,
    pub(crate) intervals: Vec<Interval>,
}

impl Part {
    fn end(&self) -> Timestamp {
        self.intervals.last().map_or(self.start, |last| last.end)
    }

    fn closing(&self) -> u128 {
        let kind = self.meter.kind();
        let add = |reading: Reading, interval: &Interval| {
            reading.advance(kind, interval.quantity).expect("128 bits")
        };
        self.intervals.iter().fold(Reading(self.opening), add).0
    }

    /// One exact interval to `end` in place of all others.
    pub(crate) fn measured(mut self, end: Timestamp, quantity: u128) -> Self {
        self.intervals = exact(self.start, end, quantity);
        self
    }
}

/// Exact intervals from `from` to `to`, cut at quarter-hours, the quantity in the last of them.
pub(crate) fn exact(from: Timestamp, to: Timestamp, quantity: u128) -> Vec<Interval> {
    let mut intervals = Vec::new();
    let mut start = from;
    while start < to {
        let end = start.next_multiple(QUARTER_HOUR_US).min(to);
        intervals.push(Interval {
            start,
            end,
            quantity: if end == to { quantity } else { 0 },
            quality: Quality::Exact,
            measured: end.since(start),
        });
        start = end;
    }
    intervals
}

/// One interpolated interval.
pub(crate) fn interpolated(from: Timestamp, to: Timestamp, quantity: u128) -> Vec<Interval> {
    vec![Interval {
        start: from,
        end: to,
        quantity,
        quality: Quality::Interpolated(Cause::AgentDown),
        measured: to.since(from),
    }]
}

/// What will be sealed.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) header: HeaderDraft,
    pub(crate) parts: Vec<Part>,
    /// Of every block.
    pub(crate) labels: Vec<(String, String)>,
}

impl Draft {
    /// The first part of a register.
    pub(crate) fn part(&mut self, register: u64) -> &mut Part {
        self.parts
            .iter_mut()
            .find(|part| part.register == register)
            .expect("such a register")
    }

    /// A part that opens a register at the segment's beginning and measures to its end.
    pub(crate) fn opening(&self, workload: &'static str, register: u64, meter: Meter) -> Part {
        let (start, end) = (self.header.from, self.header.covered_through);
        Part {
            workload,
            register,
            meter,
            opened: Some(Basis::FirstSeen { raw: 5 }),
            closed: None,
            opening: 0,
            start,
            intervals: exact(start, end, 1),
        }
    }
}

/// A node with one stream.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) stream: StreamId,
    pub(crate) boot: BootId,
    key: SecretKey,
    seq: u64,
    head: Option<Hash>,
    covered: Timestamp,
    open: Vec<Part>,
}

impl Agent {
    /// A node and a stream of its own, told apart by small numbers; it begins at `at(0)`.
    pub(crate) fn new(node: u8, stream: u8) -> Self {
        Self {
            node: NodeId([node; 16]),
            stream: StreamId([stream; 16]),
            boot: BootId([node; 16]),
            key: SecretKey::from_seed(&[node; 32]),
            seq: 0,
            head: None,
            covered: at(0),
            open: Vec::new(),
        }
    }

    /// The node goes on in a new stream from where this one stands, in a new boot: every register
    /// opens anew.
    pub(crate) fn succeeded(&self, stream: u8) -> Self {
        Self {
            boot: BootId([stream; 16]),
            covered: self.covered,
            ..Self::new(self.node.0[0], stream)
        }
    }

    /// Another stream of the node, which begins at `at(seconds)`.
    pub(crate) fn beside(&self, stream: u8, seconds: u64) -> Self {
        Self {
            covered: at(seconds),
            ..self.succeeded(stream)
        }
    }

    /// Enrols the node in a store.
    pub(crate) async fn enrolled(self, store: &Store) -> Self {
        let mut tx = store.write().await.expect("a transaction");
        let new = NewNode {
            node: self.node,
            name: format!("node-{}", self.node.0[0]),
            signing_key: self.key.public(),
            tls_fingerprint: Hash([self.node.0[0]; 32]),
            record: Vec::new(),
            at: at(0),
        };
        enrolment::add_node(&mut tx, &new)
            .await
            .expect("a new node");
        tx.commit().await.expect("committed");
        self
    }

    /// What an honest node would seal next for `seconds`: uptime of the host (register 0) and CPU time
    /// of a unit (register 1), `quantity` of it.
    pub(crate) fn draft(&self, seconds: u64, quantity: u128) -> Draft {
        let from = self.covered;
        let through = from.saturating_add(Micros(seconds * SECOND_US));
        let header = HeaderDraft {
            node: self.node,
            stream: self.stream,
            seq: Seq(self.seq),
            previous: self
                .head
                .map_or(Previous::Opens { after: None }, Previous::Follows),
            from,
            covered_through: through,
            boot: self.boot,
            config: Hash::ZERO,
            purpose: Purpose::Readings,
            gaps: Vec::new(),
        };
        let mut draft = Draft {
            header,
            parts: Vec::new(),
            labels: Vec::new(),
        };
        if self.seq == 0 {
            let host = draft.opening("host", 0, Meter::UPTIME);
            let unit = draft.opening("cgroup/web", 1, Meter::CPU_TIME);
            draft.parts = vec![
                host.measured(through, u128::from(seconds)),
                unit.measured(through, quantity),
            ];
        } else {
            let goes_on = |part: &Part| {
                let host = part.workload == WorkloadName::HOST;
                let quantity = if host { u128::from(seconds) } else { quantity };
                let next = Part {
                    opened: None,
                    opening: part.closing(),
                    start: part.end(),
                    ..part.clone()
                };
                next.measured(through, quantity)
            };
            draft.parts = self.open.iter().map(goes_on).collect();
        }
        draft
    }

    /// Seals a draft without going on from it.
    pub(crate) fn sealed(&self, draft: &Draft) -> VerifiedSegment {
        let mut names: Vec<&'static str> = draft.parts.iter().map(|part| part.workload).collect();
        names.sort_unstable();
        names.dedup();
        let blocks = names.into_iter().map(|name| block(name, draft)).collect();
        let sealed =
            seal::seal(draft.header.clone(), blocks, [9; 32], &self.key).expect("it can be sealed");
        sealed
            .verify(&KeyRing::new(self.node, self.key.public()))
            .expect("it verifies")
    }

    /// Seals a draft and goes on from it.
    pub(crate) fn seal(&mut self, draft: &Draft) -> VerifiedSegment {
        let segment = self.sealed(draft);
        self.seq = draft.header.seq.0 + 1;
        self.head = Some(segment.hash());
        self.covered = draft.header.covered_through;
        let open = draft.parts.iter().filter(|part| part.closed.is_none());
        self.open = open.cloned().collect();
        segment
    }

    /// The next honest segment.
    pub(crate) fn next(&mut self, seconds: u64, quantity: u128) -> VerifiedSegment {
        let draft = self.draft(seconds, quantity);
        self.seal(&draft)
    }
}

/// The host is not accounted for in most of its second half: it goes on in a new register in the last second.
pub(crate) fn with_hole(agent: &Agent, seconds: u64, quantity: u128) -> Draft {
    let mut draft = agent.draft(seconds, quantity);
    let (from, to) = (draft.header.from, draft.header.covered_through);
    let half = from.saturating_add(Micros(to.since(from).0 / 2));
    let mut again = draft.opening("host", 100 + draft.header.seq.0, Meter::UPTIME);
    again.start = to.saturating_sub(Micros(SECOND_US));
    again.intervals = exact(again.start, to, 1);
    let parts = &mut draft.parts;
    let host = parts
        .iter_mut()
        .find(|part| part.workload == "host")
        .unwrap();
    host.intervals = exact(from, half, 1);
    host.closed = Some(CloseReason::Reboot);
    parts.push(again);
    draft
}

fn block(name: &'static str, draft: &Draft) -> Block {
    let workload = WorkloadName::new(name).expect("a workload");
    let mut block = Block::new(workload, draft.labels.clone());
    let parts = draft.parts.iter();
    let mut own: Vec<&Part> = parts.filter(|part| part.workload == name).collect();
    own.sort_by_key(|part| part.register);
    for part in own {
        let run = RunDraft {
            register: RegisterId(part.register),
            meter: part.meter,
            opened: part.opened,
            closed: part.closed,
            opening: Reading(part.opening),
            start: part.start,
            intervals: &part.intervals,
        };
        block.push(&run).expect("a run that can stand in a block");
    }
    block
}
