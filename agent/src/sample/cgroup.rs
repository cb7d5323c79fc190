//! Selected cgroups: which there are, where each is read, and what they say.
//!
//! Every hierarchy that counts something is listed at every sample; known cgroups keep their open
//! files. A cgroup's workload joins the hierarchies that have its path. For each group of meters the
//! first hierarchy that has the cgroup and counts is taken, v1 before v2 (in a hybrid layout the
//! unified tree has no controllers), and kept for as long as the cgroup lives there. A controller
//! that a cgroup does not have gives no source at all, rather than zero.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;

use super::file::Directory;
use super::mounts::Hierarchy;
use super::origin::Origin;
use super::record::Records;
use super::source::{Note, Walk, WorkloadLabels};
use super::walk::{Tree, walk};
use super::{Gathering, counter};
use crate::config::Globs;

mod files;

pub(super) use files::{CpuFile, DiskFiles, MemoryFiles, TaskFile};

/// Most descriptors kept open; further files are opened for each reading.
const KEEP_OPEN: usize = 512;
/// Samples at which a container's record is looked for: a runtime may write it after the group is made.
const LOOK_FOR_RECORD: u8 = 4;

#[derive(Debug)]
pub(super) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    selection: Globs,
    /// v1 hierarchies whose disk files count nothing (no throttling in this kernel).
    without_disk: BTreeSet<String>,
    known: BTreeMap<String, Known>,
    records: Records,
    labels: Arc<WorkloadLabels>,
}

/// A cgroup that is metered.
#[derive(Debug)]
struct Known {
    workload: WorkloadName,
    labels: Vec<(String, String)>,
    /// How often its labels are looked for yet.
    looks: u8,
    cpu: Option<Located<CpuFile>>,
    memory: Option<Located<MemoryFiles>>,
    disk: Option<Located<DiskFiles>>,
    tasks: Option<Located<TaskFile>>,
}

/// Where a group of meters is read.
#[derive(Debug)]
struct Located<F> {
    hierarchy: usize,
    id: u64,
    /// The files, or why they could not be opened.
    files: Result<F, String>,
}

impl Cgroups {
    pub(super) fn new(
        hierarchies: Vec<Hierarchy>,
        selection: Globs,
        records: Records,
        devices: &BTreeSet<String>,
    ) -> Self {
        let without_disk = hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.has_v1("blkio"))
            .filter(|root| {
                !DiskFiles::of_root(root).is_some_and(|files| files.names_a_device(devices))
            })
            .map(|hierarchy| hierarchy.domain.clone())
            .collect();
        Self {
            hierarchies,
            selection,
            without_disk,
            known: BTreeMap::new(),
            records,
            labels: Arc::default(),
        }
    }

    /// What the metered cgroups are called besides their names.
    pub(super) fn labels(&self) -> Arc<WorkloadLabels> {
        Arc::clone(&self.labels)
    }

    /// Reads all selected cgroups; says what listing them saw.
    pub(super) fn sample(
        &mut self,
        devices: &BTreeSet<String>,
        buffer: &mut Vec<u8>,
        out: &mut Gathering,
    ) -> Vec<Walk> {
        let trees: Vec<Tree> = self
            .hierarchies
            .iter()
            .map(|hierarchy| walk(&hierarchy.mount))
            .collect();
        let selected = self.select(&trees, out);
        let before = self.known.len();
        self.known.retain(|path, _| selected.contains(path));
        let mut renamed = self.known.len() < before;
        let mut kept: usize = self.known.values().map(Known::kept).sum();
        for path in selected {
            let Ok(workload) = WorkloadName::new(format!("cgroup/{path}")) else {
                out.notes.push(Note::Unnameable { path });
                continue;
            };
            let known = self
                .known
                .entry(path.clone())
                .or_insert_with(|| Known::new(workload));
            renamed |= known.look(&path, &self.records);
            let before = known.kept();
            let finder = Finder {
                hierarchies: &self.hierarchies,
                trees: &trees,
                path: &path,
                keep: kept < KEEP_OPEN,
            };
            known.locate(&finder, &self.without_disk);
            kept = (kept + known.kept()).saturating_sub(before);
            known.read(&self.hierarchies, devices, buffer, out);
        }
        if renamed {
            let labels = self
                .known
                .values()
                .map(|known| (known.workload.clone(), known.labels.clone()));
            self.labels = Arc::new(labels.collect());
        }
        self.walks(&trees, out)
    }

    /// Paths that the configuration selects, without those inside another one (I4).
    fn select(&self, trees: &[Tree], out: &mut Gathering) -> BTreeSet<String> {
        let paths: BTreeSet<&String> = trees.iter().flat_map(|tree| tree.cgroups.keys()).collect();
        let all: BTreeSet<&str> = paths
            .into_iter()
            .map(String::as_str)
            .filter(|path| self.selection.selects(path))
            .collect();
        let mut selected = BTreeSet::new();
        for path in &all {
            match ancestors(path).find(|outer| all.contains(outer)) {
                None => drop(selected.insert((*path).to_owned())),
                Some(outer) => out.notes.push(Note::Nested {
                    inner: (*path).to_owned(),
                    outer: outer.to_owned(),
                }),
            }
        }
        for path in trees.iter().flat_map(|tree| &tree.unnameable) {
            out.notes.push(Note::Unnameable { path: path.clone() });
        }
        selected
    }

    fn walks(&self, trees: &[Tree], out: &mut Gathering) -> Vec<Walk> {
        let both = self.hierarchies.iter().zip(trees);
        both.map(|(hierarchy, tree)| {
            let domain = hierarchy.domain.clone();
            if let Some(why) = &tree.incomplete {
                out.notes.push(Note::Incomplete {
                    domain: domain.clone(),
                    why: why.clone(),
                });
            }
            Walk {
                domain,
                highest: tree.highest,
                complete: tree.incomplete.is_none(),
            }
        })
        .collect()
    }
}

/// The cgroups around this one, outermost first.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// Finds one cgroup's files in the hierarchies.
struct Finder<'a> {
    hierarchies: &'a [Hierarchy],
    trees: &'a [Tree],
    path: &'a str,
    keep: bool,
}

type Open<F> = fn(&Hierarchy, &Directory, bool) -> io::Result<Option<F>>;

impl Finder<'_> {
    /// `now` if the cgroup still lives there, else the first hierarchy that has these files.
    fn find<F>(
        &self,
        now: Option<Located<F>>,
        open: Open<F>,
        skip: &BTreeSet<String>,
    ) -> Option<Located<F>> {
        let alive =
            |now: &Located<F>| self.id_in(now.hierarchy) == Some(now.id) && now.files.is_ok();
        if let Some(now) = now.filter(alive) {
            return Some(now);
        }
        let v1 = (0..self.hierarchies.len()).filter(|index| !self.hierarchies[*index].is_v2());
        let v2 = (0..self.hierarchies.len()).filter(|index| self.hierarchies[*index].is_v2());
        v1.chain(v2).find_map(|index| {
            let hierarchy = &self.hierarchies[index];
            let id = self
                .id_in(index)
                .filter(|_| !skip.contains(&hierarchy.domain))?;
            let directory = match Directory::open(&hierarchy.mount.join(self.path), id) {
                Ok(directory) => directory,
                // Removed, or another one by now: the next sample sees it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                Err(error) => {
                    let files = Err(format!("could not open cgroup {}: {error}", self.path));
                    return Some(Located {
                        hierarchy: index,
                        id,
                        files,
                    });
                }
            };
            let files = open(hierarchy, &directory, self.keep)
                .map_err(|error| format!("could not open files of cgroup {}: {error}", self.path))
                .transpose()?;
            Some(Located {
                hierarchy: index,
                id,
                files,
            })
        })
    }

    fn id_in(&self, hierarchy: usize) -> Option<u64> {
        self.trees[hierarchy].cgroups.get(self.path).copied()
    }
}

impl Known {
    fn new(workload: WorkloadName) -> Self {
        Self {
            workload,
            labels: Vec::new(),
            looks: LOOK_FOR_RECORD,
            cpu: None,
            memory: None,
            disk: None,
            tasks: None,
        }
    }

    /// Looks for its labels, if any may still come; whether they are others now.
    fn look(&mut self, path: &str, records: &Records) -> bool {
        if self.looks == 0 {
            return false;
        }
        let (labels, whole) = records.labels(&Origin::of(path));
        self.looks = if whole { 0 } else { self.looks - 1 };
        let others = labels != self.labels;
        self.labels = labels;
        others
    }

    fn locate(&mut self, finder: &Finder<'_>, without_disk: &BTreeSet<String>) {
        let none = BTreeSet::new();
        self.cpu = finder.find(self.cpu.take(), CpuFile::open, &none);
        self.memory = finder.find(self.memory.take(), MemoryFiles::open, &none);
        self.disk = finder.find(self.disk.take(), DiskFiles::open, without_disk);
        self.tasks = finder.find(self.tasks.take(), TaskFile::open, &none);
    }

    /// Descriptors kept open.
    fn kept(&self) -> usize {
        fn of<F>(located: Option<&Located<F>>, kept: fn(&F) -> usize) -> usize {
            located
                .and_then(|located| located.files.as_ref().ok())
                .map_or(0, kept)
        }
        of(self.cpu.as_ref(), CpuFile::kept)
            + of(self.memory.as_ref(), MemoryFiles::kept)
            + of(self.disk.as_ref(), DiskFiles::kept)
            + of(self.tasks.as_ref(), TaskFile::kept)
    }

    fn read(
        &self,
        hierarchies: &[Hierarchy],
        devices: &BTreeSet<String>,
        buffer: &mut Vec<u8>,
        out: &mut Gathering,
    ) {
        if let Some(at) = &self.cpu {
            let identity = out.identity(&hierarchies[at.hierarchy].domain, at.id);
            let used = at.read(|files| files.read(buffer));
            out.push(&self.workload, Meter::CPU_TIME, &identity, counter(used));
        }
        if let Some(at) = &self.memory {
            let identity = out.identity(&hierarchies[at.hierarchy].domain, at.id);
            let level = at.read(|files| files.read(buffer));
            out.push_memory(&self.workload, &identity, level);
        }
        if let Some(at) = &self.disk {
            let identity = out.identity(&hierarchies[at.hierarchy].domain, at.id);
            let usage = at.read(|files| files.read(devices, buffer));
            out.push_disk(&self.workload, &identity, &usage);
        }
        if let Some(at) = &self.tasks {
            let identity = out.identity(&hierarchies[at.hierarchy].domain, at.id);
            let tasks = super::level(at.read(|files| files.read(buffer)));
            out.push(&self.workload, Meter::PROCESS_COUNT, &identity, tasks);
        }
    }
}

impl<F> Located<F> {
    fn read<T>(&self, read: impl FnOnce(&F) -> Result<T, String>) -> Result<T, String> {
        self.files.as_ref().map_err(Clone::clone).and_then(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_go_from_the_outermost() {
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(ancestors("a").count(), 0);
    }
}
