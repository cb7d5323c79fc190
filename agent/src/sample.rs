//! Reads the meters of this host. The only user of sysinfo, `/proc` and `/sys`.
//!
//! Owns which file says what, and what proves which incarnation a value belongs to. Keeps nothing
//! but open descriptors: what values mean is decided in [`crate::accrue`]. Never lists processes.
//!
//! | workload | meters | from |
//! |---|---|---|
//! | `host` | `cpu.time` | root cgroup: `cpuacct.usage` (v1) or `cpu.stat` (v2); else `/proc/stat`, in ticks of 10 ms |
//! | | `cpu.steal` | `/proc/stat`, in ticks of 10 ms; in no other meter |
//! | | `memory.usage`, `memory.peak` | sysinfo's total − free, less `Inactive(file)` of `/proc/meminfo`: the working set, as of a cgroup |
//! | | `process.count` | `/proc/loadavg`: tasks that exist, threads among them |
//! | | `disk.*` | root cgroup: `blkio.throttle.*_recursive` (v1) or `io.stat` (v2) where it counts; else `/proc/diskstats` |
//! | | `uptime` | `CLOCK_MONOTONIC`, whole seconds: suspended time is not up |
//! | `cgroup/PATH` | `cpu.time` | `cpuacct.usage` (v1) where the cgroup is there; else `cpu.stat` (v2) |
//! | | `memory.*` | `memory.usage_in_bytes` − `total_inactive_file` (v1); else `memory.current` − `inactive_file` (v2) |
//! | | `disk.*` | as for the host |
//! | | `process.count` | `pids.current` |
//! | `disk/NAME` | `disk.*` | `/proc/diskstats`, for disks that `[disks]` selects |
//! | `interface/NAME` | `network.*` | `/sys/class/net/NAME/statistics`; sysinfo reads the same files, but says 0 where it cannot |
//! | `filesystem/PATH` | `storage.used` | listed by sysinfo; total − free blocks, so that blocks reserved for root are not billed as used |
//!
//! What a control group is (unit, container, pod, machine) is told from its path, and from what its runtime has
//! written down; both become labels of the workload. Its name stays `cgroup/PATH`.
//!
//! Disk meters count whole real devices: no partitions, and none of loop, ram, zram, dm, md, whose
//! bytes are counted on the devices below them. When a disk comes or goes, the host's sum is another counter.

use std::path::PathBuf;

use tallystick_common::ids::BootId;
use tallystick_common::time::Micros;

use crate::config::Config;

mod cgroup;
mod clock;
#[cfg(feature = "decoders")]
pub mod decoders;
mod devices;
mod file;
mod filesystem;
mod host;
mod interface;
mod mounts;
mod origin;
mod parse;
mod record;
mod source;
mod walk;
mod watch;

pub use clock::moment;
pub use source::{
    Identity, LastReading, Moment, Note, Raw, Sample, SourceReading, Walk, WorkloadLabels,
};

/// Where the kernel's file systems are mounted; tests lay out their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// `/proc`; its `self/mountinfo` says where cgroups are.
    pub proc: PathBuf,
    /// `/sys`, for network interfaces and block devices.
    pub sys: PathBuf,
    /// `/`, for what container runtimes write below `/var` and `/run`.
    pub root: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            sys: PathBuf::from("/sys"),
            root: PathBuf::from("/"),
        }
    }
}

/// Why nothing can be sampled at all.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A file that every Linux has.
    #[error("could not read {path}: {source}; is /proc mounted?")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The boot id is not a UUID.
    #[error("{path} holds {text:?}, which is not a boot id")]
    BootId {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// A glob of the configuration.
    #[error(transparent)]
    Selection(#[from] crate::config::GlobError),
}

/// Reads all selected sources.
#[derive(Debug)]
pub struct Sampler {
    boot: BootId,
    cgroups: cgroup::Cgroups,
    devices: devices::Devices,
    host: host::Host,
    interfaces: interface::Interfaces,
    filesystems: filesystem::Filesystems,
    period: Micros,
    buffer: Vec<u8>,
}

impl Sampler {
    /// Of this machine.
    ///
    /// # Errors
    /// When the boot id cannot be read, or the configuration has a bad glob.
    pub fn new(config: &Config) -> Result<Self, SampleError> {
        Self::with_roots(config, &Roots::default())
    }

    /// Of the machine that these folders show (memory, file systems and clocks are always this one's).
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_roots(config: &Config, roots: &Roots) -> Result<Self, SampleError> {
        let boot = clock::boot_id(&roots.proc)?;
        // Without mountinfo there are no cgroups to be found, as on a system that has none.
        let mountinfo =
            std::fs::read_to_string(roots.proc.join("self/mountinfo")).unwrap_or_default();
        let mut devices = devices::Devices::new(roots, config.disks.compile()?);
        devices.refresh();
        let mut hierarchies = mounts::hierarchies(&mountinfo);
        // A sandbox may have mounted something over them.
        hierarchies.retain(|hierarchy| !is_gone(&hierarchy.mount));
        Ok(Self {
            boot,
            host: host::Host::new(roots, &hierarchies, devices.counted()),
            cgroups: cgroup::Cgroups::new(
                hierarchies,
                config.cgroups.compile()?,
                record::Records::new(roots.root.clone(), config.container_labels.compile()?),
                devices.counted(),
            ),
            interfaces: interface::Interfaces::new(roots, config.interfaces.compile()?),
            filesystems: filesystem::Filesystems::new(config.filesystems.compile()?),
            devices,
            period: Micros::from_seconds(config.sample_seconds),
            buffer: Vec::new(),
        })
    }

    /// From the next sample on, control groups that come and go are noticed between samples as well: a
    /// descriptor that is readable when [`Self::notice`] has something to see to.
    ///
    /// # Errors
    /// When the kernel has no inotify to give; sampling goes on without.
    pub fn begin_watching(&mut self) -> std::io::Result<std::os::fd::OwnedFd> {
        self.cgroups.begin_watching()
    }

    /// Sees to what happened: reads groups that were made or have become empty. Whether groups were made
    /// that are metered.
    pub fn notice(&mut self) -> bool {
        self.cgroups.notice(self.boot, self.devices.counted())
    }

    /// How long until [`Self::look`] has something to read; `None` while there is nothing.
    #[must_use]
    pub fn look_in(&self) -> Option<Micros> {
        let due = self.cgroups.look_due()?;
        Some(Micros(due.0.saturating_sub(clock::moment().monotonic.0)))
    }

    /// Reads the young groups that are due.
    pub fn look(&mut self) {
        self.cgroups
            .look(self.boot, self.devices.counted(), self.period);
    }

    /// Reads everything now. What cannot be read says so in its place.
    pub fn sample(&mut self) -> Sample {
        let mut out = Gathering::new(self.boot, clock::moment());
        self.devices.refresh();
        // Cgroups before the host: what is used in between is then the host's, not a deficit.
        let walks = self
            .cgroups
            .sample(self.devices.counted(), &mut self.buffer, &mut out);
        let last = self.cgroups.last(&out);
        self.host.sample(&self.devices, &mut self.buffer, &mut out);
        self.devices.sample(&mut out);
        self.interfaces.sample(&mut self.buffer, &mut out);
        self.filesystems.sample(&mut out);
        let Gathering {
            boot,
            moment,
            sources,
            notes,
        } = out;
        Sample {
            boot,
            moment,
            sources,
            last,
            walks,
            labels: self.cgroups.labels(),
            notes,
        }
    }
}

/// A sample being made.
#[derive(Debug)]
struct Gathering {
    boot: BootId,
    moment: Moment,
    sources: Vec<SourceReading>,
    notes: Vec<Note>,
}

impl Gathering {
    fn new(boot: BootId, moment: Moment) -> Self {
        Self {
            boot,
            moment,
            sources: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn identity(&self, domain: &str, incarnation: u64) -> Identity {
        Identity {
            boot: self.boot,
            domain: domain.to_owned(),
            incarnation,
        }
    }

    fn push(
        &mut self,
        workload: &tallystick_common::ids::WorkloadName,
        meter: tallystick_common::meter::Meter,
        identity: &Identity,
        raw: Raw,
    ) {
        let (workload, identity) = (workload.clone(), identity.clone());
        self.sources.push(SourceReading {
            workload,
            meter,
            identity,
            raw,
        });
    }

    /// The four disk meters.
    fn push_disk(
        &mut self,
        workload: &tallystick_common::ids::WorkloadName,
        identity: &Identity,
        usage: &Result<parse::DiskUse, String>,
    ) {
        use tallystick_common::meter::Meter;
        type Field = fn(&parse::DiskUse) -> u128;
        let fields: [(Meter, Field); 4] = [
            (Meter::DISK_READ, |usage| usage.read_bytes),
            (Meter::DISK_WRITE, |usage| usage.write_bytes),
            (Meter::DISK_READ_OPS, |usage| usage.read_operations),
            (Meter::DISK_WRITE_OPS, |usage| usage.write_operations),
        ];
        for (meter, field) in fields {
            let raw = counter(usage.as_ref().map(field).map_err(Clone::clone));
            self.push(workload, meter, identity, raw);
        }
    }

    /// Both memory meters, from one level.
    fn push_memory(
        &mut self,
        workload: &tallystick_common::ids::WorkloadName,
        identity: &Identity,
        level: Result<u128, String>,
    ) {
        use tallystick_common::meter::Meter;
        let raw = self::level(level);
        self.push(workload, Meter::MEMORY_USAGE, identity, raw.clone());
        self.push(workload, Meter::MEMORY_PEAK, identity, raw);
    }
}

fn is_gone(folder: &std::path::Path) -> bool {
    std::fs::metadata(folder).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn level(value: Result<u128, String>) -> Raw {
    value.map_or_else(Raw::Unreadable, Raw::Level)
}

fn counter(value: Result<u128, String>) -> Raw {
    value.map_or_else(Raw::Unreadable, Raw::Counter)
}

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod machine_tests;
