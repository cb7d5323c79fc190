//! Network interfaces: bytes received and sent.
//!
//! An interface's incarnation is its index, which a re-created one does not share. Its counters may
//! outlive it (a device moved between network namespaces keeps them), so an index never proves birth.

use std::path::PathBuf;

use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;

use super::file::KernelFile;
use super::{Gathering, Roots, counter, parse};
use crate::config::Globs;

#[derive(Debug)]
pub(super) struct Interfaces {
    class: PathBuf,
    selection: Globs,
}

impl Interfaces {
    pub(super) fn new(roots: &Roots, selection: Globs) -> Self {
        Self {
            class: roots.sys.join("class/net"),
            selection,
        }
    }

    pub(super) fn sample(&self, buffer: &mut Vec<u8>, out: &mut Gathering) {
        // Without the folder (a container without /sys) there are no interfaces to meter.
        let Ok(entries) = std::fs::read_dir(&self.class) else {
            return;
        };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            if self.selection.selects(&name) {
                self.sample_one(&name, buffer, out);
            }
        }
    }

    fn sample_one(&self, name: &str, buffer: &mut Vec<u8>, out: &mut Gathering) {
        let folder = self.class.join(name);
        let index = KernelFile::at(folder.join("ifindex")).parse(buffer, parse::number);
        // Files that are no interfaces (`bonding_masters`) and those just removed have no index.
        let Some(index) = index.ok().and_then(|index| u64::try_from(index).ok()) else {
            return;
        };
        let Ok(workload) = WorkloadName::new(format!("interface/{name}")) else {
            return;
        };
        let identity = out.identity("interface", index);
        for (meter, file) in [
            (Meter::NETWORK_RX, "rx_bytes"),
            (Meter::NETWORK_TX, "tx_bytes"),
        ] {
            let file = KernelFile::at(folder.join("statistics").join(file));
            let raw = counter(file.parse(buffer, parse::number));
            out.push(&workload, meter, &identity, raw);
        }
    }
}
