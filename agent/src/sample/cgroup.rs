//! Selected cgroups: which there are, where each is read, and what they say.
//!
//! Every hierarchy that counts something is listed at every sample; known cgroups keep their open
//! files. A cgroup's workload joins the hierarchies that have its path. For each group of meters the
//! first hierarchy that has the cgroup and counts is taken, v1 before v2 (in a hybrid layout the
//! unified tree has no controllers), and kept for as long as the cgroup lives there. A controller
//! that a cgroup does not have gives no source at all, rather than zero.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tallystick_common::ids::{BootId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::time::Micros;

use super::file::Directory;
use super::mounts::Hierarchy;
use super::origin::Origin;
use super::record::Records;
use super::source::{LastReading, Note, Walk, WorkloadLabels};
use super::walk::{Tree, walk};
use super::watch::{Event, Place, Watch};
use super::{Gathering, clock, counter};
use crate::config::Globs;

mod between;
mod files;

use between::Between;

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
    watch: Option<Watch>,
    between: Between,
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
            watch: None,
            between: Between::default(),
        }
    }

    /// From the next sample on, groups that come and go are noticed at once: a descriptor that is
    /// readable when something happened.
    pub(super) fn begin_watching(&mut self) -> io::Result<OwnedFd> {
        let watch = Watch::new()?;
        let descriptor = watch.descriptor()?;
        self.watch = Some(watch);
        Ok(descriptor)
    }

    /// Sees to what happened; whether groups were made that are metered.
    pub(super) fn notice(&mut self, boot: BootId, devices: &BTreeSet<String>) -> bool {
        let events = self.watch.as_mut().map(Watch::read).unwrap_or_default();
        let mut met = false;
        for event in events {
            match event {
                Event::Made { hierarchy, path } => met |= self.meet(hierarchy, path, boot, devices),
                Event::Changed { path } => self.glimpse(&path, boot, devices),
            }
        }
        met
    }

    /// When a group is due to be looked at, on the monotonic clock.
    pub(super) fn look_due(&self) -> Option<Micros> {
        self.between.due()
    }

    /// Looks at the groups that are due.
    pub(super) fn look(&mut self, boot: BootId, devices: &BTreeSet<String>, period: Micros) {
        let now = clock::moment().monotonic;
        for path in self.between.take_due(now, period) {
            self.glimpse(&path, boot, devices);
        }
    }

    /// What sources said last that the sample does not have any more.
    pub(super) fn last(&mut self, out: &Gathering) -> Vec<LastReading> {
        let known = &self.known;
        self.between.forget(|path| !known.contains_key(path));
        self.between.settle(&out.sources, out.moment.monotonic)
    }

    /// A group was made; so may have been others in it, before it could be watched.
    fn meet(
        &mut self,
        hierarchy: usize,
        path: String,
        boot: BootId,
        devices: &BTreeSet<String>,
    ) -> bool {
        let at = self.hierarchies[hierarchy].mount.join(&path);
        let mut met = self.begin(&path, boot, devices);
        if self.selection.may_select_inside(&path)
            && let Some(watch) = &mut self.watch
        {
            let inside = path.clone();
            let place = Place::Folder { hierarchy, path };
            if watch.add(place, &at) {
                for name in super::walk::folders(&at) {
                    met |= self.meet(hierarchy, format!("{inside}/{name}"), boot, devices);
                }
            }
        }
        met
    }

    /// Meters a group from now on, if it is selected and in none that is (I4); whether it does.
    fn begin(&mut self, path: &str, boot: BootId, devices: &BTreeSet<String>) -> bool {
        let selects = |path: &str| self.selection.selects(path);
        if !selects(path) || ancestors(path).any(selects) {
            return false;
        }
        let Ok(workload) = WorkloadName::new(format!("cgroup/{path}")) else {
            return false;
        };
        let trees: Vec<Tree> = self
            .hierarchies
            .iter()
            .map(|hierarchy| Tree::at(&hierarchy.mount, path))
            .collect();
        let kept: usize = self.known.values().map(Known::kept).sum();
        let finder = Finder {
            hierarchies: &self.hierarchies,
            trees: &trees,
            path,
            keep: kept < KEEP_OPEN,
        };
        self.known
            .entry(path.to_owned())
            .or_insert_with(|| Known::new(workload))
            .locate(&finder, &self.without_disk);
        self.watch_emptying(&trees, path);
        self.between.meet(path, clock::moment().monotonic);
        self.glimpse(path, boot, devices);
        true
    }

    /// Reads a group out of turn.
    fn glimpse(&mut self, path: &str, boot: BootId, devices: &BTreeSet<String>) {
        let Some(known) = self.known.get(path) else {
            return;
        };
        let mut out = Gathering::new(boot, clock::moment());
        known.read(&self.hierarchies, devices, &mut Vec::new(), &mut out);
        self.between.keep(out.sources, out.moment.monotonic);
    }

    /// Watches every folder in which a selected group may appear, and every metered one for its end.
    fn watch_all(&mut self, trees: &[Tree], out: &mut Gathering) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        for (hierarchy, (root, tree)) in self.hierarchies.iter().zip(trees).enumerate() {
            let folders = std::iter::once("").chain(tree.cgroups.keys().map(String::as_str));
            for path in folders.filter(|path| self.selection.may_select_inside(path)) {
                let at = root.mount.join(path);
                let path = path.to_owned();
                watch.add(Place::Folder { hierarchy, path }, &at);
            }
        }
        let paths: Vec<String> = self.known.keys().cloned().collect();
        for path in paths {
            self.watch_emptying(trees, &path);
        }
        let trouble = self.watch.as_mut().and_then(Watch::trouble);
        out.notes.extend(trouble.map(|why| Note::Unwatched { why }));
    }

    /// The unified hierarchy says when a group has become empty, also of one that v1 counts.
    fn watch_emptying(&mut self, trees: &[Tree], path: &str) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        let both = self.hierarchies.iter().zip(trees);
        for (hierarchy, tree) in both.filter(|(hierarchy, _)| hierarchy.is_v2()) {
            if tree.cgroups.contains_key(path) {
                let file = hierarchy.mount.join(path).join("cgroup.events");
                let path = path.to_owned();
                watch.add(Place::Events { path }, &file);
            }
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
        self.watch_all(&trees, out);
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
    /// `now` if the cgroup still lives there, else the first hierarchy that has these files: of v1, one with
    /// this controller.
    fn find<F>(
        &self,
        now: Option<Located<F>>,
        controller: &str,
        open: Open<F>,
        skip: &BTreeSet<String>,
    ) -> Option<Located<F>> {
        let alive =
            |now: &Located<F>| self.id_in(now.hierarchy) == Some(now.id) && now.files.is_ok();
        if let Some(now) = now.filter(alive) {
            return Some(now);
        }
        let v1 =
            (0..self.hierarchies.len()).filter(|index| self.hierarchies[*index].has_v1(controller));
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
        self.cpu = finder.find(self.cpu.take(), "cpuacct", CpuFile::open, &none);
        self.memory = finder.find(self.memory.take(), "memory", MemoryFiles::open, &none);
        self.disk = finder.find(self.disk.take(), "blkio", DiskFiles::open, without_disk);
        self.tasks = finder.find(self.tasks.take(), "pids", TaskFile::open, &none);
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
