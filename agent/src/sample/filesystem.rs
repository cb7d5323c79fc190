//! File systems on block devices: bytes used.
//!
//! Each device once, by its shortest mount point. The list is renewed now and then, used bytes at
//! every sample.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use sysinfo::{DiskRefreshKind, Disks};
use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;

use super::{Gathering, Raw};
use crate::config::Globs;

/// Samples between two listings.
const LIST_EVERY: u32 = 6;

#[derive(Debug)]
pub(super) struct Filesystems {
    selection: Globs,
    mounted: Vec<(WorkloadName, PathBuf)>,
    until_listing: u32,
}

impl Filesystems {
    pub(super) fn new(selection: Globs) -> Self {
        Self {
            selection,
            mounted: Vec::new(),
            until_listing: 0,
        }
    }

    pub(super) fn sample(&mut self, out: &mut Gathering) {
        if self.until_listing == 0 {
            self.mounted = self.list();
            self.until_listing = LIST_EVERY;
        }
        self.until_listing -= 1;
        for (workload, mount) in &self.mounted {
            match statvfs(mount) {
                Ok(stat) => {
                    let used = u128::from(stat.f_blocks.saturating_sub(stat.f_bfree));
                    let raw = Raw::Level(used.saturating_mul(u128::from(stat.f_frsize)));
                    let identity = out.identity("filesystem", stat.f_fsid);
                    out.push(workload, Meter::STORAGE_USED, &identity, raw);
                }
                // Unmounted: the next listing drops it.
                Err(_) => self.until_listing = 0,
            }
        }
    }

    fn list(&self) -> Vec<(WorkloadName, PathBuf)> {
        let Ok(disks) = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing()) else {
            return Vec::new();
        };
        let mut by_device: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for disk in &disks {
            let mount = disk.mount_point();
            if !on_block_device(&disk.name().to_string_lossy()) || !mount.is_dir() {
                continue;
            }
            let chosen = by_device
                .entry(disk.name().to_owned())
                .or_insert_with(|| mount.to_owned());
            if mount.as_os_str().len() < chosen.as_os_str().len() {
                *chosen = mount.to_owned();
            }
        }
        by_device
            .into_values()
            .filter(|mount| self.selection.selects(glob_path(mount)))
            .filter_map(|mount| Some((workload(&mount)?, mount)))
            .collect()
    }
}

/// File systems in memory and on the network are somebody else's storage; loop devices are files.
fn on_block_device(name: &str) -> bool {
    name.starts_with("/dev/") && !name.starts_with("/dev/loop")
}

/// What globs see: the mount point without its leading slash, `root` for the root.
fn glob_path(mount: &Path) -> &str {
    match mount.to_str().map(|path| path.trim_start_matches('/')) {
        Some("") | None => "root",
        Some(path) => path,
    }
}

/// `/` is `filesystem/root`; a file system at `/root` is therefore `filesystem//root`.
fn workload(mount: &Path) -> Option<WorkloadName> {
    let name = match mount.to_str()? {
        "/" => "filesystem/root".to_owned(),
        "/root" => "filesystem//root".to_owned(),
        path => format!("filesystem{path}"),
    };
    WorkloadName::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_named_apart() {
        let name = |path: &str| workload(Path::new(path)).unwrap().as_str().to_owned();
        assert_eq!(name("/"), "filesystem/root");
        assert_eq!(name("/root"), "filesystem//root");
        assert_eq!(name("/var/lib"), "filesystem/var/lib");
        assert_eq!(glob_path(Path::new("/")), "root");
        assert!(on_block_device("/dev/vda1") && !on_block_device("/dev/loop3"));
        assert!(!on_block_device("tmpfs"));
    }
}
