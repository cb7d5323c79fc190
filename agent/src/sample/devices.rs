//! Which block devices count.
//!
//! Whole devices that hold data of their own. Partitions are part of one; loop, ram, zram, dm and md
//! devices pass their bytes on to devices that are counted, or hold them in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::Roots;
use super::file::KernelFile;
use super::parse::{self, DiskUse};

const STACKED: [&str; 5] = ["loop", "ram", "zram", "dm-", "md"];

/// The devices of `/proc/diskstats`.
#[derive(Debug)]
pub(super) struct Devices {
    diskstats: KernelFile,
    block_class: PathBuf,
    /// By `major:minor` and name, whether it counts: sysfs is asked once.
    known: BTreeMap<(String, String), bool>,
    counted: BTreeSet<String>,
    total: Result<DiskUse, String>,
}

impl Devices {
    pub(super) fn new(roots: &Roots) -> Self {
        Self {
            diskstats: KernelFile::at(roots.proc.join("diskstats")),
            block_class: roots.sys.join("class/block"),
            known: BTreeMap::new(),
            counted: BTreeSet::new(),
            total: Err("not read yet".to_owned()),
        }
    }

    /// Reads `/proc/diskstats` again.
    pub(super) fn refresh(&mut self) {
        let mut buffer = Vec::new();
        let text = match self.diskstats.read(&mut buffer) {
            Ok(text) => text,
            Err(why) => {
                self.total = Err(why);
                return;
            }
        };
        let mut total = DiskUse::default();
        self.counted.clear();
        for device in parse::diskstats(text) {
            let key = (device.number, device.name.to_owned());
            let class = &self.block_class;
            let counts = *self.known.entry(key.clone()).or_insert_with(|| {
                !STACKED.iter().any(|prefix| key.1.starts_with(prefix))
                    && !class.join(&key.1).join("partition").exists()
            });
            if counts {
                self.counted.insert(key.0);
                total += device.usage;
            }
        }
        self.total = Ok(total);
    }

    /// `major:minor` of those that count.
    pub(super) fn counted(&self) -> &BTreeSet<String> {
        &self.counted
    }

    /// What all of them did since boot.
    pub(super) fn total(&self) -> &Result<DiskUse, String> {
        &self.total
    }
}
