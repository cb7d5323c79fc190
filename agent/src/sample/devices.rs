//! Disks: which block devices count, what all of them did, and each by itself where selected.
//!
//! Whole devices that hold data of their own count. Partitions are part of one; loop, ram, zram, dm and md
//! devices pass their bytes on to devices that are counted, or hold them in memory.
//!
//! A disk's incarnation is its sequence number, which one plugged in again does not share. The sum of
//! all disks falls when one is unplugged, so the set of disks is the incarnation of the sum.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tallystick_common::ids::WorkloadName;

use super::file::KernelFile;
use super::parse::{self, DiskUse};
use super::{Gathering, Roots};
use crate::config::Globs;

const STACKED: [&str; 5] = ["loop", "ram", "zram", "dm-", "md"];

/// The devices of `/proc/diskstats`.
#[derive(Debug)]
pub(super) struct Devices {
    diskstats: KernelFile,
    block_class: PathBuf,
    selection: Globs,
    /// By `major:minor` and name, whether it counts: sysfs is asked once.
    known: BTreeMap<(String, String), bool>,
    counted: BTreeSet<String>,
    disks: Vec<Disk>,
    set: u64,
    total: Result<DiskUse, String>,
}

/// A disk that is a workload.
#[derive(Debug)]
struct Disk {
    workload: WorkloadName,
    sequence: u64,
    usage: Result<DiskUse, String>,
}

impl Devices {
    pub(super) fn new(roots: &Roots, selection: Globs) -> Self {
        Self {
            diskstats: KernelFile::at(roots.proc.join("diskstats")),
            block_class: roots.sys.join("class/block"),
            selection,
            known: BTreeMap::new(),
            counted: BTreeSet::new(),
            disks: Vec::new(),
            set: 0,
            total: Err("not read yet".to_owned()),
        }
    }

    /// Reads `/proc/diskstats` again. When it cannot be read, the disks are still there.
    pub(super) fn refresh(&mut self) {
        let mut buffer = Vec::new();
        let text = match self.diskstats.read(&mut buffer) {
            Ok(text) => text,
            Err(why) => {
                for disk in &mut self.disks {
                    disk.usage = Err(why.clone());
                }
                self.total = Err(why);
                return;
            }
        };
        let mut total = DiskUse::default();
        let mut set = blake3::Hasher::new();
        self.counted.clear();
        self.disks.clear();
        for device in parse::diskstats(text) {
            let (number, name) = (device.number, device.name);
            if !self.counts(&number, name) {
                continue;
            }
            let sequence = self.sequence(name, &number);
            set.update(name.as_bytes()).update(&sequence.to_le_bytes());
            total += device.usage;
            self.keep(name, sequence, device.usage);
            self.counted.insert(number);
        }
        let [a, b, c, d, e, f, g, h, ..] = *set.finalize().as_bytes();
        self.set = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        self.total = Ok(total);
    }

    /// The disks that are workloads.
    pub(super) fn sample(&self, out: &mut Gathering) {
        for disk in &self.disks {
            let identity = out.identity("disk", disk.sequence);
            out.push_disk(&disk.workload, &identity, &disk.usage);
        }
    }

    /// `major:minor` of those that count.
    pub(super) fn counted(&self) -> &BTreeSet<String> {
        &self.counted
    }

    /// Which disks these are, in one number.
    pub(super) fn set(&self) -> u64 {
        self.set
    }

    /// What all of them did since boot.
    pub(super) fn total(&self) -> &Result<DiskUse, String> {
        &self.total
    }

    fn counts(&mut self, number: &str, name: &str) -> bool {
        let class = &self.block_class;
        *self
            .known
            .entry((number.to_owned(), name.to_owned()))
            .or_insert_with(|| {
                !STACKED.iter().any(|prefix| name.starts_with(prefix))
                    && !class.join(name).join("partition").exists()
            })
    }

    /// Kernels before 5.15 give none: there the device number stands for it.
    fn sequence(&self, name: &str, number: &str) -> u64 {
        let file = KernelFile::at(self.block_class.join(name).join("diskseq"));
        let read = file.parse(&mut Vec::new(), parse::number);
        let by_number = || {
            let (major, minor) = number.split_once(':')?;
            Some((major.parse::<u64>().ok()? << 32) | minor.parse::<u64>().ok()?)
        };
        read.ok()
            .and_then(|sequence| u64::try_from(sequence).ok())
            .or_else(by_number)
            .unwrap_or_default()
    }

    fn keep(&mut self, name: &str, sequence: u64, usage: DiskUse) {
        // A `!` in the kernel's name stands for a `/` in the device's.
        let workload = WorkloadName::new(format!("disk/{}", name.replace('!', "/")));
        if let Ok(workload) = workload
            && self.selection.selects(name)
        {
            self.disks.push(Disk {
                workload,
                sequence,
                usage: Ok(usage),
            });
        }
    }
}
