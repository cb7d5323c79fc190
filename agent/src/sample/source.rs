//! What one sample says: raw values of sources, and what proves which incarnation they belong to.
//!
//! Owns the types between sampling and accrual. Nothing here reads anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};
use tallystick_common::ids::{BootId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::time::{Micros, Timestamp};

/// Everything read at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The boot in which it was read.
    pub boot: BootId,
    /// When. Taken before anything is read, so that what is born during the sample is born after it.
    pub moment: Moment,
    /// At most one entry per (workload, meter).
    pub sources: Vec<SourceReading>,
    /// What sources said last that are not there any more, each read after the sample before this one.
    pub last: Vec<LastReading>,
    /// What the listing of each domain with rising incarnation numbers saw.
    pub walks: Vec<Walk>,
    /// What each workload is called besides its name; the same map for as long as nothing changes.
    pub labels: Arc<WorkloadLabels>,
    /// What a person should know, said at every sample for as long as it holds.
    pub notes: Vec<Note>,
}

/// Labels by workload, as `key` and `value`; each key once.
pub type WorkloadLabels = BTreeMap<WorkloadName, Vec<(String, String)>>;

/// One instant on three clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// `CLOCK_MONOTONIC`: time since boot without suspended time.
    pub monotonic: Micros,
    /// `CLOCK_BOOTTIME`: time since boot with suspended time.
    pub boottime: Micros,
}

/// One source's raw value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceReading {
    /// Whose usage it is.
    pub workload: WorkloadName,
    /// What is measured.
    pub meter: Meter,
    /// Which life of the source it is.
    pub identity: Identity,
    /// The value, in the meter's base unit (bytes for integrals of bytes).
    pub raw: Raw,
}

/// What a source said between two samples, before it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastReading {
    /// The reading. Not in [`Sample::sources`] under this identity.
    pub source: SourceReading,
    /// Time on the monotonic clock since the sample before; zero if it was read before that one.
    pub since_sample: Micros,
}

/// One life of a source: two raw values are comparable only if their identities are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Identity {
    /// The kernel's boot.
    pub boot: BootId,
    /// Where the source is read, for example `cgroup1/cpuacct`, `cgroup2`, `interface`.
    pub domain: String,
    /// Number of the incarnation in its domain: cgroup id, ifindex, file system id.
    pub incarnation: u64,
}

/// A raw value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// Counts since the incarnation began.
    Counter(u128),
    /// Held at this moment, in bytes.
    Level(u128),
    /// The source exists but gave no value, because of this.
    Unreadable(String),
}

/// What listing a domain whose incarnation numbers only rise within one boot has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// The domain, as in [`Identity::domain`].
    pub domain: String,
    /// The highest incarnation number there.
    pub highest: u64,
    /// Whether nothing was left out. Only a complete walk proves a later birth.
    pub complete: bool,
}

/// What sampling has to tell a person.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// A selected cgroup lies in another selected one and is not metered by itself (I4).
    Nested {
        /// The inner one, not metered.
        inner: String,
        /// The outer one, metered.
        outer: String,
    },
    /// Not every place where cgroups come and go could be watched.
    Unwatched {
        /// Which, and why.
        why: String,
    },
    /// The cgroup's path cannot be a workload name.
    Unnameable {
        /// The path, escaped.
        path: String,
    },
    /// A cgroup tree could not be listed whole.
    Incomplete {
        /// The domain.
        domain: String,
        /// Why.
        why: String,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nested { inner, outer } => write!(
                f,
                "cgroup {inner} lies in {outer}, which is metered: it is not metered by itself; add \
                 {outer} to cgroups.exclude to meter its parts instead, or {inner} to leave it as it is"
            ),
            Self::Unwatched { why } => write!(
                f,
                "could not watch {why}; cgroups there that live for less than a sample are missed: \
                 raise fs.inotify.max_user_watches"
            ),
            Self::Unnameable { path } => {
                write!(
                    f,
                    "cgroup {path} cannot be a workload name and is not metered: rename it"
                )
            }
            Self::Incomplete { domain, why } => {
                write!(
                    f,
                    "could not list all of {domain}: {why}; new cgroups there are billed from first sight"
                )
            }
        }
    }
}

impl Sample {
    /// When this boot began, by the wall clock of this sample.
    #[must_use]
    pub fn booted_at(&self) -> Timestamp {
        self.moment.wall.saturating_sub(self.moment.boottime)
    }
}
