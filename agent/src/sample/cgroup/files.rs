//! The files of one cgroup, v1 or v2, by group of meters.
//!
//! Opening says whether the cgroup counts: `None` means that this hierarchy or cgroup has no such
//! controller.

use std::collections::BTreeSet;
use std::io;

use crate::sample::file::{Directory, KernelFile};
use crate::sample::mounts::Hierarchy;
use crate::sample::parse::{self, DiskUse};

/// CPU time.
#[derive(Debug)]
pub(in crate::sample) enum CpuFile {
    /// `cpuacct.usage`, in nanoseconds.
    V1(KernelFile),
    /// `cpu.stat`, which every cgroup of the unified hierarchy has.
    V2(KernelFile),
}

/// The working set: memory less inactive file pages, which the kernel takes back when asked.
#[derive(Debug)]
pub(in crate::sample) enum MemoryFiles {
    V1 {
        usage: KernelFile,
        stat: KernelFile,
    },
    V2 {
        current: KernelFile,
        stat: KernelFile,
    },
}

/// Bytes and operations on block devices.
#[derive(Debug)]
pub(in crate::sample) enum DiskFiles {
    V1 {
        bytes: KernelFile,
        operations: KernelFile,
    },
    V2(KernelFile),
}

/// Processes that exist: tasks, in v1 and v2 alike.
#[derive(Debug)]
pub(in crate::sample) struct TaskFile(KernelFile);

const BLKIO_BYTES: &str = "blkio.throttle.io_service_bytes_recursive";
const BLKIO_OPERATIONS: &str = "blkio.throttle.io_serviced_recursive";

impl CpuFile {
    pub(super) fn open(
        hierarchy: &Hierarchy,
        directory: &Directory,
        keep: bool,
    ) -> io::Result<Option<Self>> {
        if hierarchy.is_v2() {
            Ok(directory.file("cpu.stat", keep)?.map(Self::V2))
        } else if hierarchy.has_v1("cpuacct") {
            Ok(directory.file("cpuacct.usage", keep)?.map(Self::V1))
        } else {
            Ok(None)
        }
    }

    /// The root's, if this hierarchy counts CPU time.
    pub(in crate::sample) fn of_root(hierarchy: &Hierarchy) -> Option<Self> {
        Self::open(hierarchy, &root(hierarchy)?, true).ok()?
    }

    pub(super) fn kept(&self) -> usize {
        let (Self::V1(file) | Self::V2(file)) = self;
        usize::from(file.is_kept())
    }

    /// Microseconds.
    pub(in crate::sample) fn read(&self, buffer: &mut Vec<u8>) -> Result<u128, String> {
        match self {
            Self::V1(file) => file.parse(buffer, |text| Some(parse::number(text)? / 1_000)),
            Self::V2(file) => file.parse(buffer, |text| parse::keyed(text, "usage_usec")),
        }
    }
}

impl MemoryFiles {
    pub(super) fn open(
        hierarchy: &Hierarchy,
        directory: &Directory,
        keep: bool,
    ) -> io::Result<Option<Self>> {
        let usage = match hierarchy {
            v2 if v2.is_v2() => directory.file("memory.current", keep)?,
            v1 if v1.has_v1("memory") => directory.file("memory.usage_in_bytes", keep)?,
            _ => None,
        };
        let (Some(usage), Some(stat)) = (usage, directory.file("memory.stat", keep)?) else {
            return Ok(None);
        };
        Ok(Some(if hierarchy.is_v2() {
            Self::V2 {
                current: usage,
                stat,
            }
        } else {
            Self::V1 { usage, stat }
        }))
    }

    pub(super) fn kept(&self) -> usize {
        let (Self::V1 { usage, stat }
        | Self::V2 {
            current: usage,
            stat,
        }) = self;
        usize::from(usage.is_kept()) + usize::from(stat.is_kept())
    }

    /// Bytes.
    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> Result<u128, String> {
        let (usage, stat, key) = match self {
            Self::V1 { usage, stat } => (usage, stat, "total_inactive_file"),
            Self::V2 { current, stat } => (current, stat, "inactive_file"),
        };
        let usage = usage.parse(buffer, parse::number)?;
        let inactive = stat.parse(buffer, |text| parse::keyed(text, key))?;
        Ok(usage.saturating_sub(inactive))
    }
}

impl TaskFile {
    pub(super) fn open(
        hierarchy: &Hierarchy,
        directory: &Directory,
        keep: bool,
    ) -> io::Result<Option<Self>> {
        if hierarchy.is_v2() || hierarchy.has_v1("pids") {
            return Ok(directory.file("pids.current", keep)?.map(Self));
        }
        Ok(None)
    }

    pub(super) fn kept(&self) -> usize {
        usize::from(self.0.is_kept())
    }

    /// Of the cgroup and those inside it.
    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> Result<u128, String> {
        self.0.parse(buffer, parse::number)
    }
}

impl DiskFiles {
    pub(super) fn open(
        hierarchy: &Hierarchy,
        directory: &Directory,
        keep: bool,
    ) -> io::Result<Option<Self>> {
        if hierarchy.is_v2() {
            return Ok(directory.file("io.stat", keep)?.map(Self::V2));
        }
        if !hierarchy.has_v1("blkio") {
            return Ok(None);
        }
        let bytes = directory.file(BLKIO_BYTES, keep)?;
        let operations = directory.file(BLKIO_OPERATIONS, keep)?;
        Ok(bytes
            .zip(operations)
            .map(|(bytes, operations)| Self::V1 { bytes, operations }))
    }

    /// The root's, if this hierarchy has them.
    pub(in crate::sample) fn of_root(hierarchy: &Hierarchy) -> Option<Self> {
        Self::open(hierarchy, &root(hierarchy)?, true).ok()?
    }

    /// Whether they count at all: newer kernels leave v1's files empty unless throttling is in use.
    pub(in crate::sample) fn names_a_device(&self, devices: &BTreeSet<String>) -> bool {
        let (Self::V1 { bytes: file, .. } | Self::V2(file)) = self;
        file.parse(&mut Vec::new(), |text| {
            Some(parse::names_a_device(text, devices))
        })
        .unwrap_or(false)
    }

    pub(super) fn kept(&self) -> usize {
        match self {
            Self::V1 { bytes, operations } => {
                usize::from(bytes.is_kept()) + usize::from(operations.is_kept())
            }
            Self::V2(file) => usize::from(file.is_kept()),
        }
    }

    /// What all counted devices did for the cgroup.
    pub(in crate::sample) fn read(
        &self,
        devices: &BTreeSet<String>,
        buffer: &mut Vec<u8>,
    ) -> Result<DiskUse, String> {
        match self {
            Self::V1 { bytes, operations } => {
                let bytes = bytes.parse(buffer, |text| parse::blkio(text, devices))?;
                let operations = operations.parse(buffer, |text| parse::blkio(text, devices))?;
                Ok(DiskUse {
                    read_bytes: bytes.0,
                    write_bytes: bytes.1,
                    read_operations: operations.0,
                    write_operations: operations.1,
                })
            }
            Self::V2(file) => file.parse(buffer, |text| parse::io_stat(text, devices)),
        }
    }
}

fn root(hierarchy: &Hierarchy) -> Option<Directory> {
    use std::os::unix::fs::MetadataExt;
    let inode = std::fs::metadata(&hierarchy.mount).ok()?.ino();
    Directory::open(&hierarchy.mount, inode).ok()
}
