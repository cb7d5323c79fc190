//! Which cgroup hierarchies this process sees, from `/proc/self/mountinfo`.
//!
//! Owns that file's format (proc(5)) and the choice among several mounts of one hierarchy. What a
//! hierarchy counts is found in [`super::cgroup`].

use std::path::{Path, PathBuf};

/// A mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its name in identities: `cgroup2` or `cgroup1/cpu,cpuacct`.
    pub(super) domain: String,
    pub(super) mount: PathBuf,
    pub(super) version: Version,
}

/// Which interface the hierarchy has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Version {
    /// One hierarchy per set of controllers.
    V1 { controllers: Vec<String> },
    /// The unified hierarchy.
    V2,
}

impl Hierarchy {
    /// Whether its mount point is the root of all cgroups, not of a namespace or a subtree: only
    /// there do the kernel's files for the root stand.
    pub(super) fn is_whole(&self) -> bool {
        match self.version {
            Version::V1 { .. } => self.mount.join("release_agent").exists(),
            Version::V2 => !self.mount.join("cgroup.events").exists(),
        }
    }

    /// Whether it is a v1 hierarchy with this controller.
    pub(super) fn has_v1(&self, controller: &str) -> bool {
        matches!(&self.version, Version::V1 { controllers } if controllers.iter().any(|c| c == controller))
    }

    /// Whether it is the unified hierarchy.
    pub(super) fn is_v2(&self) -> bool {
        self.version == Version::V2
    }
}

/// The controllers of v1 that count something we meter.
const COUNTING: [&str; 4] = ["cpuacct", "memory", "blkio", "pids"];

/// The hierarchies in the text of `mountinfo`: v1 ones that count something, and the unified one.
/// Of several mounts of one hierarchy the first that shows its root stands, else the first.
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(Hierarchy, bool)> = Vec::new();
    for (hierarchy, whole) in mountinfo.lines().filter_map(line) {
        match found
            .iter_mut()
            .find(|(known, _)| known.domain == hierarchy.domain)
        {
            Some(known) if whole && !known.1 => *known = (hierarchy, true),
            Some(_) => {}
            None => found.push((hierarchy, whole)),
        }
    }
    found.into_iter().map(|(hierarchy, _)| hierarchy).collect()
}

/// One line; whether it mounts the root of what this namespace sees.
fn line(line: &str) -> Option<(Hierarchy, bool)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, mount) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, _source, options) = (right.next()?, right.next()?, right.next()?);
    let (domain, version) = match kind {
        "cgroup2" => ("cgroup2".to_owned(), Version::V2),
        "cgroup" => {
            let controllers: Vec<String> = options
                .split(',')
                .filter(|option| COUNTING.contains(option) || *option == "cpu")
                .map(str::to_owned)
                .collect();
            controllers
                .iter()
                .find(|controller| COUNTING.contains(&controller.as_str()))?;
            (
                format!("cgroup1/{}", controllers.join(",")),
                Version::V1 { controllers },
            )
        }
        _ => return None,
    };
    Some((
        Hierarchy {
            domain,
            mount: unescaped(mount),
            version,
        },
        root == "/",
    ))
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (code, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        path = path.replace(code, plain);
    }
    Path::new(&path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_hybrid_and_v2_are_told_apart() {
        let text = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
35 31 0:32 /docker/x /mnt/a\\040b rw - cgroup cgroup rw,memory
36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
        let found = hierarchies(text);
        let shown: Vec<_> = found
            .iter()
            .map(|h| (h.domain.as_str(), h.mount.to_str().unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                ("cgroup1/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
                ("cgroup1/memory", "/sys/fs/cgroup/memory"),
                ("cgroup2", "/sys/fs/cgroup/unified"),
            ]
        );
        assert!(found[0].has_v1("cpuacct") && !found[0].has_v1("memory") && found[2].is_v2());
        assert_eq!(unescaped("/mnt/a\\040b"), Path::new("/mnt/a b"));
    }

    #[test]
    fn garbage_mounts_nothing() {
        assert_eq!(hierarchies("x\n1 2 3 - cgroup2\n - - -\n"), []);
    }
}
