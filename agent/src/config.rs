//! The agent's configuration: `agent.toml`, then `conf.d/*.toml` beside it, later files winning.
//!
//! Every key has a default, so an empty or missing file is a valid configuration; unknown keys are
//! errors. Tables are merged key by key, everything else is replaced as a whole.
//!
//! ```toml
//! sample_seconds = 10              # time between samples
//! seal_seconds = 60                # time between segments
//! data = "/var/lib/tallystick/agent"
//! # addresses = ["tally.example.net:8621"]   # of the reconciler, instead of those told at enrolment
//! # metrics = "127.0.0.1:8622"     # GET /metrics for Prometheus; nothing listens without it
//!
//! [cgroups]                        # paths below the hierarchy's root; `*` stays within one level
//! include = ["*"]
//! exclude = []
//!
//! [container_labels]               # a container's own labels that travel with its usage, by key
//! include = ["**"]
//! exclude = ["desktop.docker.io/**", "maintainer", "org.label-schema.*", "org.opencontainers.*"]
//!
//! [interfaces]                     # names
//! include = ["*"]
//! exclude = ["lo"]
//!
//! [disks]                          # names; none, since their bytes are in the groups' and the host's already
//! include = []
//! exclude = []
//!
//! [filesystems]                    # mount points without the leading slash, `root` for `/`
//! include = ["**"]
//! exclude = []
//!
//! [buffer]
//! limit_bytes = 1073741824         # journal and sled together
//!
//! [registers]
//! limit = 10000                    # most open registers
//!
//! [intake]                         # what applications report of their own usage
//! enabled = true
//! # socket = "/run/tallystick/intake.sock"   # default: in $RUNTIME_DIRECTORY, else in the data folder
//! mode = 0o660                     # of the socket
//! # group = 990                    # of the socket, by number
//! report_for_others = []           # users, by number, who may report for other workloads than their own
//! meters = { include = ["*"], exclude = [] }   # names of application meters
//! events = 100000                  # most events remembered, so as not to count one twice
//! series = 10000                   # most series followed
//!
//! # [[scrape]]                       # Prometheus targets on loopback or a Unix socket; none by default
//! # url = "http://127.0.0.1:9100/metrics"      # or "unix:/path/of.sock:/metrics"
//! # interval_seconds = 60
//! # workload = "exporter"
//! # meters = [{ metric = "node_network_transmit_bytes_total", labels = { device = "eth0" }, meter = "sent", unit = "bytes" }]
//!
//! [labels]                         # on every workload of this node
//! # rack = "b7"
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallystick_common::ids::Hash;
use tallystick_common::keys::SecretKey;
use tallystick_common::time::{Micros, Timestamp};

use crate::accrue::Settings;

mod central;
mod check;
pub mod intake;
mod load;
mod selection;

pub use check::Problem;
pub use intake::{IntakeSettings, Scrape};
pub use load::ConfigError;
pub use selection::{GlobError, Globs, Selection};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time between samples, 1 to 300; divides 900, so that samples fall on quarter-hours.
    pub sample_seconds: u64,
    /// Time between segments; a multiple of `sample_seconds` that divides 900.
    pub seal_seconds: u64,
    /// Folder of everything the agent keeps, mode 0700.
    pub data: PathBuf,
    /// `host:port` of the reconciler, in the order in which to try; when empty, those that it told
    /// at enrolment and since.
    pub addresses: Vec<String>,
    /// Loopback address of the agent's own figures; none when absent.
    pub metrics: Option<SocketAddr>,
    /// Which cgroups are workloads.
    pub cgroups: Selection,
    /// Which of a container's own labels travel with its usage, by key.
    pub container_labels: Selection,
    /// Which network interfaces are workloads.
    pub interfaces: Selection,
    /// Which disks are workloads. Their bytes are those of the control groups and `host/other` seen again.
    pub disks: Selection,
    /// Which file systems are workloads.
    pub filesystems: Selection,
    /// Limits of the buffer.
    pub buffer: BufferLimits,
    /// Limits of metering.
    pub registers: RegisterLimits,
    /// What applications may report.
    pub intake: IntakeSettings,
    /// Targets that are asked for their counters.
    pub scrape: Vec<Scrape>,
    /// What every workload of this node calls itself.
    pub labels: BTreeMap<String, String>,
}

/// Limits of the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BufferLimits {
    /// Most bytes of journal and sled together.
    pub limit_bytes: u64,
}

/// Limits of metering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegisterLimits {
    /// Most open registers.
    pub limit: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sample_seconds: 10,
            seal_seconds: 60,
            data: PathBuf::from("/var/lib/tallystick/agent"),
            addresses: Vec::new(),
            metrics: None,
            cgroups: Selection::new(&["*"], &[]),
            container_labels: Selection::new(
                &["**"],
                &[
                    "desktop.docker.io/**",
                    "maintainer",
                    "org.label-schema.*",
                    "org.opencontainers.*",
                ],
            ),
            interfaces: Selection::new(&["*"], &["lo"]),
            disks: Selection::default(),
            filesystems: Selection::new(&["**"], &[]),
            buffer: BufferLimits::default(),
            registers: RegisterLimits::default(),
            intake: IntakeSettings::default(),
            scrape: Vec::new(),
            labels: BTreeMap::new(),
        }
    }
}

impl Default for BufferLimits {
    fn default() -> Self {
        Self {
            limit_bytes: 1 << 30,
        }
    }
}

impl Default for RegisterLimits {
    fn default() -> Self {
        Self { limit: 10_000 }
    }
}

impl Config {
    /// Reads `path` and the `conf.d/*.toml` beside it, in the order of their names. A missing
    /// `path` is an error; a missing `conf.d` is not. Does not check values: see [`Self::check`].
    ///
    /// # Errors
    /// Names the file and what is wrong in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        load::load(path)
    }

    /// As [`Self::load`], but `path` may be missing: then `conf.d` beside it is read alone.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_if_there(path: &Path) -> Result<Self, ConfigError> {
        load::load_if_there(path)
    }

    /// This one with central settings (`document`, TOML) over it.
    ///
    /// # Errors
    /// Says why the result cannot be run with.
    pub fn with_central(&self, document: &str) -> Result<Self, String> {
        central::overlaid(self, document)
    }

    /// Every problem, with its remedy; empty when the agent can run with it.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        check::check(self)
    }

    /// Digest of what is in force: BLAKE3 of its canonical JSON (fields in the order of this type). Goes
    /// into each segment's header, which every proof shows: keyed by a secret of the node, so that no
    /// customer can try out which other workloads it names.
    #[must_use]
    pub fn digest(&self, key: &SecretKey) -> Hash {
        let json = serde_json::to_vec(self).expect("a configuration has text keys only");
        let key = blake3::derive_key("tallystick agent configuration v1", &key.to_seed());
        Hash(*blake3::keyed_hash(&key, &json).as_bytes())
    }

    /// What accrual needs of it on a node that signs with `key` and was enrolled at `enrolled`.
    #[must_use]
    pub fn accrual(&self, key: &SecretKey, enrolled: Timestamp) -> Settings {
        Settings {
            sample: Micros::from_seconds(self.sample_seconds),
            register_limit: self.registers.limit,
            config: self.digest(key),
            labels: self.labels.clone().into_iter().collect(),
            begins: enrolled,
        }
    }
}

#[cfg(test)]
mod tests;
