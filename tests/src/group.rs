//! A control group of a test's own in every hierarchy that counts, as a manager would make one.
//!
//! [`crate::cgroup`] has one hierarchy only, which is enough where only CPU time matters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where hierarchies are mounted, v1 and hybrid; a unified host has the last one only.
const ROOTS: [&str; 6] = [
    "/sys/fs/cgroup/cpuacct",
    "/sys/fs/cgroup/memory",
    "/sys/fs/cgroup/blkio",
    "/sys/fs/cgroup/pids",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup",
];

/// Removed when dropped.
#[derive(Debug)]
pub struct Group {
    folders: Vec<PathBuf>,
    path: String,
}

impl Group {
    /// At `path` below each root. `None`, said aloud, where this user may not.
    #[must_use]
    pub fn make(path: &str) -> Option<Self> {
        Self::make_in(path, &ROOTS)
    }

    /// In the unified hierarchy alone, where emptying is announced.
    #[must_use]
    pub fn make_unified(path: &str) -> Option<Self> {
        Self::make_in(path, &ROOTS[4..])
    }

    /// In the v1 hierarchies alone, where it is not.
    #[must_use]
    pub fn make_v1(path: &str) -> Option<Self> {
        Self::make_in(path, &ROOTS[..4])
    }

    fn make_in(path: &str, roots: &[&str]) -> Option<Self> {
        let hierarchies = roots
            .iter()
            .map(Path::new)
            .filter(|root| root.join("cgroup.procs").exists());
        let folders: Vec<PathBuf> = hierarchies
            .map(|root| root.join(path))
            .filter(|folder| fs::create_dir(folder).is_ok())
            .collect();
        if folders.is_empty() {
            eprintln!("SKIPPED: no control group can be made below any of {roots:?}; run as root");
            return None;
        }
        let path = path.to_owned();
        Some(Self { folders, path })
    }

    /// What its workload is called.
    #[must_use]
    pub fn workload(&self) -> String {
        format!("cgroup/{}", self.path)
    }

    /// The first file of this name in one of its hierarchies.
    #[must_use]
    pub fn read(&self, file: &str) -> Option<String> {
        let mut texts = self
            .folders
            .iter()
            .map(|folder| fs::read_to_string(folder.join(file)));
        texts.find_map(Result::ok)
    }

    /// The kernel's figure in whole microseconds, cut.
    ///
    /// # Panics
    /// When the kernel does not give one.
    #[must_use]
    pub fn cpu_time(&self) -> u128 {
        if let Some(text) = self.read("cpuacct.usage") {
            return text.trim().parse::<u128>().expect("nanoseconds") / 1000;
        }
        let text = self.read("cpu.stat").expect("a group has cpu.stat");
        keyed(&text, "usage_usec").expect("cpu.stat has usage_usec")
    }

    /// Bytes in use, less inactive file pages; `None` where memory is not counted.
    #[must_use]
    pub fn working_set(&self) -> Option<u128> {
        let usage = self
            .read("memory.usage_in_bytes")
            .or_else(|| self.read("memory.current"))?;
        let stat = self.read("memory.stat")?;
        let inactive =
            keyed(&stat, "total_inactive_file").or_else(|| keyed(&stat, "inactive_file"));
        Some(usage.trim().parse::<u128>().ok()?.saturating_sub(inactive?))
    }

    /// Whether the last process has left it: from then on its counters stand still.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let procs = |folder: &PathBuf| fs::read_to_string(folder.join("cgroup.procs"));
        let empty = |folder| procs(folder).is_ok_and(|procs| procs.trim().is_empty());
        self.folders.iter().all(empty)
    }

    /// `sh -c SCRIPT`, in it.
    #[must_use]
    pub fn shell(&self, script: &str) -> Command {
        let enter: Vec<String> = self
            .folders
            .iter()
            .map(|folder| format!("echo $$ > '{}/cgroup.procs' || exit 9; ", folder.display()))
            .collect();
        let mut command = Command::new("sh");
        command.args(["-c", &(enter.concat() + script)]);
        command
    }
}

fn keyed(text: &str, key: &str) -> Option<u128> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // A child that was just killed may still be leaving.
            for _ in 0..100 {
                if fs::remove_dir(folder).is_ok() || !folder.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}
