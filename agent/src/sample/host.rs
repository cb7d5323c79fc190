//! The control reading of the whole node.

use std::collections::BTreeSet;

use sysinfo::{MemoryRefreshKind, RefreshKind, System};
use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;

use super::cgroup::{CpuFile, DiskFiles};
use super::devices::Devices;
use super::file::KernelFile;
use super::mounts::Hierarchy;
use super::{Gathering, Raw, Roots, counter, level, parse};

/// Sources of `host`. Chosen once, so that a register never changes its source.
#[derive(Debug)]
pub(super) struct Host {
    workload: WorkloadName,
    cpu: (String, Cpu),
    disk: Option<(String, DiskFiles)>,
    system: Option<System>,
    meminfo: KernelFile,
    stat: KernelFile,
    loadavg: KernelFile,
}

#[derive(Debug)]
enum Cpu {
    Cgroup(CpuFile),
    ProcStat(KernelFile),
}

impl Host {
    pub(super) fn new(
        roots: &Roots,
        hierarchies: &[Hierarchy],
        devices: &BTreeSet<String>,
    ) -> Self {
        let whole = || hierarchies.iter().filter(|hierarchy| hierarchy.is_whole());
        let cpu = whole().find_map(|hierarchy| {
            Some((
                format!("host/{}", hierarchy.domain),
                Cpu::Cgroup(CpuFile::of_root(hierarchy)?),
            ))
        });
        let disk = whole().find_map(|hierarchy| {
            let files = DiskFiles::of_root(hierarchy)?;
            files
                .names_a_device(devices)
                .then(|| (format!("host/{}", hierarchy.domain), files))
        });
        let proc_stat = || {
            (
                "host/stat".to_owned(),
                Cpu::ProcStat(KernelFile::at(roots.proc.join("stat"))),
            )
        };
        Self {
            workload: WorkloadName::host(),
            cpu: cpu.unwrap_or_else(proc_stat),
            disk,
            system: System::new_with_specifics(
                RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()),
            )
            .ok(),
            meminfo: KernelFile::at(roots.proc.join("meminfo")),
            stat: KernelFile::at(roots.proc.join("stat")),
            loadavg: KernelFile::at(roots.proc.join("loadavg")),
        }
    }

    pub(super) fn sample(&mut self, devices: &Devices, buffer: &mut Vec<u8>, out: &mut Gathering) {
        let (domain, cpu) = &self.cpu;
        let used = match cpu {
            Cpu::Cgroup(file) => file.read(buffer),
            Cpu::ProcStat(file) => file.parse(buffer, parse::proc_stat_cpu),
        };
        let identity = out.identity(domain, 0);
        out.push(&self.workload, Meter::CPU_TIME, &identity, counter(used));

        let (domain, usage) = match &self.disk {
            Some((domain, files)) => (domain.as_str(), files.read(devices.counted(), buffer)),
            None => ("host/diskstats", devices.total().clone()),
        };
        let identity = out.identity(domain, devices.set());
        out.push_disk(&self.workload, &identity, &usage);

        let steal = counter(self.stat.parse(buffer, parse::proc_stat_steal));
        let identity = out.identity("host/stat", 0);
        out.push(&self.workload, Meter::CPU_STEAL, &identity, steal);

        let identity = out.identity("host", 0);
        let tasks = level(self.loadavg.parse(buffer, parse::tasks));
        out.push(&self.workload, Meter::PROCESS_COUNT, &identity, tasks);
        let memory = self.memory(buffer);
        out.push_memory(&self.workload, &identity, memory);
        let up = Raw::Counter(u128::from(out.moment.monotonic.0 / 1_000_000));
        out.push(&self.workload, Meter::UPTIME, &identity, up);
    }

    /// The working set, as of a cgroup: what is neither free nor an inactive file page, so that the
    /// host's is never less than its workloads' (I4). sysinfo does not tell the latter.
    fn memory(&mut self, buffer: &mut Vec<u8>) -> Result<u128, String> {
        let system = self
            .system
            .as_mut()
            .ok_or("sysinfo does not support this system")?;
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let (total, free) = (system.total_memory(), system.free_memory());
        if total == 0 {
            return Err("could not read /proc/meminfo".to_owned());
        }
        let inactive = self
            .meminfo
            .parse(buffer, |text| parse::meminfo(text, "Inactive(file)"))?;
        Ok(u128::from(total.saturating_sub(free)).saturating_sub(inactive))
    }
}
