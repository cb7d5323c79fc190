//! Where a stream stands: its head, the time it accounts for, its open registers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tallystick_common::ids::{Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::odometer;
use tallystick_common::reading::Reading;
use tallystick_common::segment::{Block, Header, Purpose, Run};
use tallystick_common::time::Timestamp;
use tallystick_common::wire::Position;

/// Whether a stream may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamStatus {
    /// It may.
    Open,
    /// Not before a person resolves its fork.
    Frozen,
    /// Its last segment has come.
    Ended,
}

impl StreamStatus {
    /// The name in stores, API and pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Frozen => "frozen",
            Self::Ended => "ended",
        }
    }

    /// By name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Frozen, Self::Ended]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

impl fmt::Display for StreamStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A register that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRegister {
    /// What it measures on.
    pub workload: Arc<WorkloadName>,
    /// What it measures.
    pub meter: Meter,
    /// Where it stands.
    pub reading: Reading,
    /// Up to when it accounts for time.
    pub end: Timestamp,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// The node.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// Whether it may go on.
    pub status: StreamStatus,
    /// The next sequence number.
    pub next: Seq,
    /// The hash of the segment before that.
    pub head: Option<Hash>,
    /// The time it accounts for ends here; never goes back.
    pub covered_through: Option<Timestamp>,
    /// The same without segments that account for time ahead of the server's clock: a claim about the
    /// future continues the chain, and proves nothing.
    pub proved_through: Option<Timestamp>,
    /// Registers below this number were opened before.
    pub next_register: RegisterId,
    /// The registers that are open.
    pub open: BTreeMap<RegisterId, OpenRegister>,
}

impl StreamState {
    /// A stream of which nothing is known.
    #[must_use]
    pub fn new(node: NodeId, stream: StreamId) -> Self {
        Self {
            node,
            stream,
            status: StreamStatus::Open,
            next: Seq::FIRST,
            head: None,
            covered_through: None,
            proved_through: None,
            next_register: RegisterId(0),
            open: BTreeMap::new(),
        }
    }

    /// Next number and head, as messages carry them.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            next: self.next,
            head: self.head,
        }
    }

    /// Moves on by a segment that was admitted, counted or not.
    pub fn advance(&mut self, header: &Header, blocks: &[Block], hash: Hash) {
        for block in blocks {
            for run in block.runs() {
                self.advance_register(block, run);
            }
        }
        // A register that a doubtful segment left out is over.
        let named = left_open(blocks);
        if self.open.len() > named.len() {
            self.open
                .retain(|register, _| named.binary_search(register).is_ok());
        }
        self.next = header.seq.next();
        self.head = Some(hash);
        let through = header.covered_through;
        self.covered_through = Some(
            self.covered_through
                .map_or(through, |held| held.max(through)),
        );
        if header.purpose == Purpose::Final {
            self.status = StreamStatus::Ended;
        }
    }

    /// Takes the time up to `through` as accounted for by a segment that was not ahead of the clock.
    pub fn prove(&mut self, through: Timestamp) {
        self.proved_through = self.proved_through.max(Some(through));
    }

    fn advance_register(&mut self, block: &Block, run: &Run) {
        self.next_register = self
            .next_register
            .max(RegisterId(run.register.0.saturating_add(1)));
        if run.closed.is_some() {
            self.open.remove(&run.register);
            return;
        }
        let reading = odometer::closing(block, run).unwrap_or(run.opening);
        let end = block.shape(run).end();
        match self.open.get_mut(&run.register) {
            Some(open) if *open.workload == block.workload && open.meter == run.meter => {
                open.reading = reading;
                open.end = open.end.max(end);
            }
            _ => {
                let workload = Arc::new(block.workload.clone());
                let open = OpenRegister {
                    workload,
                    meter: run.meter,
                    reading,
                    end,
                };
                self.open.insert(run.register, open);
            }
        }
    }
}

/// The registers that a segment leaves open, sorted, each once.
pub(crate) fn left_open(blocks: &[Block]) -> Vec<RegisterId> {
    let runs = blocks.iter().flat_map(Block::runs);
    let mut open: Vec<RegisterId> = runs
        .filter(|run| run.closed.is_none())
        .map(|run| run.register)
        .collect();
    open.sort_unstable();
    open.dedup();
    open
}
