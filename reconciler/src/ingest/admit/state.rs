//! Where a stream stands: its head, the time it accounts for, its open registers.
//!
//! How registers go on is [`tallystick_common::chain`]'s, which a verifier follows too. Here is what only
//! the reconciler knows: whose the stream is, whether it may go on, and what of its time is proved.

use std::fmt;

use tallystick_common::chain::{self, OpenRegisters};
use tallystick_common::ids::{Hash, NodeId, RegisterId, Seq, StreamId};
use tallystick_common::segment::{Block, Header, Purpose};
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
    pub open: OpenRegisters,
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
            open: OpenRegisters::new(),
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
        chain::advance(&mut self.open, &mut self.next_register, blocks);
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
}
