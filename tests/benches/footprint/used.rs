//! What a process uses of the machine, as the kernel counts it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::process::Process;

use super::others::Scraper;

/// One of those that are compared, in a control group of its own.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// Before the group, which can only be removed when it is empty: fields are dropped in order.
    process: Process,
    own: Cgroup,
    /// Asks it for its figures, where it has to be asked.
    pub(crate) scraper: Option<Scraper>,
}

impl Subject {
    pub(crate) fn start(
        name: &'static str,
        own: Cgroup,
        command: &Command,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            process: own.spawn(command)?,
            own,
            scraper: None,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// So far.
    pub(crate) fn used(&self) -> anyhow::Result<Used> {
        Ok(Used {
            cpu: Duration::from_micros(u64::try_from(self.own.cpu_time())?),
            written: figure(self.id(), "io", "write_bytes:")?,
        })
    }
}

/// A control group to run in.
pub(crate) fn own_group(name: &str) -> Option<Cgroup> {
    Cgroup::make(&format!("footprint-{name}"))
}

/// CPU time and bytes that it caused to be written to disk.
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    pub(crate) written: u64,
}

impl Used {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            written: self.written.saturating_sub(before.written),
        }
    }
}

/// What it holds.
pub(crate) struct Memory {
    pub(crate) now_kib: u64,
    pub(crate) most_kib: u64,
}

impl Memory {
    pub(crate) fn of(process: u32) -> anyhow::Result<Self> {
        Ok(Self {
            now_kib: figure(process, "status", "VmRSS:")?,
            most_kib: figure(process, "status", "VmHWM:")?,
        })
    }
}

/// The number behind `key` in a file of a process.
fn figure(process: u32, file: &str, key: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/{file}"))?;
    let found = text.lines().find_map(|line| line.strip_prefix(key));
    let number = found.and_then(|rest| rest.split_ascii_whitespace().next());
    Ok(number
        .with_context(|| format!("{file} has {key}"))?
        .parse()?)
}
