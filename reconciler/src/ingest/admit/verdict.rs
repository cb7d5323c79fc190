//! What can be said of a segment.

use tallystick_common::chain::Break;
use tallystick_common::ids::{Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::odometer::OdometerError;
use tallystick_common::tiling::TilingError;
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::RefusalReason;

/// What a segment is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It advances its stream and counts.
    Accepted,
    /// It advances its stream and is kept, but does not count until a person decides.
    Quarantined(Doubt),
    /// It was admitted before; nothing changes.
    Duplicate,
    /// It is not its turn yet.
    Ahead {
        /// Whose turn it is.
        expected: Seq,
    },
    /// The same number was admitted with another hash: a cloned or rolled-back node (I6).
    Fork {
        /// The hash admitted.
        known: Hash,
    },
    /// Its stream is frozen by a fork until a person resolves it: nothing is wrong with the segment.
    Held,
    /// It is not this node's next segment.
    Refused(Refusal),
}

impl Verdict {
    /// Whether the stream advances.
    #[must_use]
    pub fn advances(&self) -> bool {
        matches!(self, Self::Accepted | Self::Quarantined(_))
    }

    /// Whether a receipt for it may be given: it is kept, by this or an earlier transaction.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.advances() || *self == Self::Duplicate
    }
}

/// Why bytes are not this node's next segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, as sent and counted.
    pub reason: RefusalReason,
    /// For people.
    pub detail: String,
}

/// Why a segment is kept but not counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It accounts for time that has not come yet.
    #[error("it accounts for time up to {covered_through}, but it is only {server_time}")]
    Future {
        /// Up to when.
        covered_through: Timestamp,
        /// The server's clock.
        server_time: Timestamp,
    },
    /// It does not begin where the segment before it ended.
    #[error("it begins at {found}, but the segment before it ended at {expected}")]
    From {
        /// Where it should.
        expected: Timestamp,
        /// Where it does.
        found: Timestamp,
    },
    /// I3 is broken.
    #[error(transparent)]
    Odometer(#[from] OdometerError),
    /// I5 is broken.
    #[error(transparent)]
    Tiling(#[from] TilingError),
    /// A register that is open has no run.
    #[error("register {register} is open but missing")]
    Missing {
        /// The register.
        register: RegisterId,
    },
    /// A register goes on that was never opened.
    #[error("register {register} goes on without having been opened")]
    Unopened {
        /// The register.
        register: RegisterId,
    },
    /// A register opens under a number used before.
    #[error("register {register} is opened under a number that was used before")]
    Reused {
        /// The register.
        register: RegisterId,
    },
    /// A register stands twice in one segment.
    #[error("register {register} stands there twice")]
    Twice {
        /// The register.
        register: RegisterId,
    },
    /// A register changed its workload or meter.
    #[error("register {register} moved to another workload or meter")]
    Moved {
        /// The register.
        register: RegisterId,
    },
    /// Two registers measure one thing at one time.
    #[error(
        "{meter} of {workload} is measured by another register at the same time, in stream {stream}"
    )]
    Overlap {
        /// The workload.
        workload: WorkloadName,
        /// The meter.
        meter: Meter,
        /// The stream of the other register.
        stream: StreamId,
    },
    /// More than can have accrued.
    #[error("register {register} claims {quantity} in {} µs, more than there can be", duration.0)]
    Impossible {
        /// The register.
        register: RegisterId,
        /// How much.
        quantity: u128,
        /// In what time.
        duration: Micros,
    },
    /// An interval of more than 400 days.
    #[error("register {register} has an interval of {} µs, longer than 400 days", duration.0)]
    TooLong {
        /// The register.
        register: RegisterId,
        /// How long.
        duration: Micros,
    },
    /// Time in which no host register is open and no gap is named.
    #[error("nothing accounts for the host from {from} to {to}, and no gap names it")]
    Hole {
        /// Its first instant.
        from: Timestamp,
        /// The first instant after it.
        to: Timestamp,
    },
    /// The last segment of a node leaves a register open.
    #[error("it is the node's last segment but leaves register {register} open")]
    LeftOpen {
        /// The register.
        register: RegisterId,
    },
    /// Another node runs on the same kernel at the same time.
    #[error("node {node} metered the same kernel at the same time")]
    SharedKernel {
        /// The other node.
        node: NodeId,
    },
}

impl From<Break> for Doubt {
    fn from(found: Break) -> Self {
        match found {
            Break::From { expected, found } => Self::From { expected, found },
            Break::NotOpen(register) => Self::Unopened { register },
            Break::NotNew { register, .. } => Self::Reused { register },
            Break::Twice(register) => Self::Twice { register },
            Break::Moved(register) => Self::Moved { register },
            Break::Missing(register) => Self::Missing { register },
            Break::Odometer(error) => Self::Odometer(error),
            Break::Tiling(error) => Self::Tiling(error),
        }
    }
}

impl Doubt {
    /// Whether a person may let a segment count nevertheless: neither what it measured nor when is in doubt.
    /// All else would count something twice, or what nobody can know (I3, I5, I7).
    #[must_use]
    pub fn may_be_set_aside(&self) -> bool {
        matches!(
            self,
            Self::Hole { .. } | Self::LeftOpen { .. } | Self::SharedKernel { .. }
        )
    }

    /// The name in stores, API and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Future { .. } => "future",
            Self::From { .. } => "from",
            Self::Odometer(_) => "odometer",
            Self::Tiling(_) => "tiling",
            Self::Missing { .. } => "missing_register",
            Self::Unopened { .. } => "unopened_register",
            Self::Reused { .. } => "reused_register",
            Self::Twice { .. } => "register_twice",
            Self::Moved { .. } => "moved_register",
            Self::Overlap { .. } => "overlap",
            Self::Impossible { .. } => "impossible_quantity",
            Self::TooLong { .. } => "interval_too_long",
            Self::Hole { .. } => "hole",
            Self::LeftOpen { .. } => "left_open",
            Self::SharedKernel { .. } => "shared_kernel",
        }
    }
}
