//! Lists the directories of one cgroup hierarchy with their ids.
//!
//! The inode number of a cgroup's directory is its kernfs id: unique in its hierarchy, and rising
//! for as long as the kernel runs. `readdir` gives it without opening the directory. Most have no
//! directories in them, which their number of links says: they are not listed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

/// Most directories listed in one hierarchy; beyond that the listing is incomplete, and says so.
const LIMIT: usize = 200_000;

/// What a hierarchy holds.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Path below the root, without a leading slash, and id. The root is not in it.
    pub(super) cgroups: BTreeMap<String, u64>,
    /// The highest id, also of those that cannot be named.
    pub(super) highest: u64,
    /// Paths that are not UTF-8.
    pub(super) unnameable: Vec<String>,
    /// Why something may be missing, if so.
    pub(super) incomplete: Option<String>,
}

impl Tree {
    /// One cgroup of the hierarchy, if it is there.
    pub(super) fn at(root: &Path, path: &str) -> Self {
        let inode = std::fs::symlink_metadata(root.join(path)).map(|found| found.ino());
        Self {
            cgroups: inode
                .into_iter()
                .map(|inode| (path.to_owned(), inode))
                .collect(),
            ..Self::default()
        }
    }
}

/// Walks the whole hierarchy below `root`.
pub(super) fn walk(root: &Path) -> Tree {
    let mut tree = Tree::default();
    let mut below = vec![String::new()];
    while let Some(path) = below.pop() {
        if let Err(error) = list(root, &path, &mut tree, &mut below) {
            tree.incomplete.get_or_insert(format!("{path:?}: {error}"));
        }
        if tree.cgroups.len() > LIMIT {
            tree.incomplete = Some(format!("it has more than {LIMIT} cgroups"));
            break;
        }
    }
    tree
}

/// Names of the folders in this one; none of those that cannot be listed or named.
pub(super) fn folders(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn list(root: &Path, path: &str, tree: &mut Tree, below: &mut Vec<String>) -> io::Result<()> {
    let entries = match std::fs::read_dir(root.join(path)) {
        // It was removed meanwhile, and a cgroup is removed only after its children.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        tree.highest = tree.highest.max(entry.ino());
        match entry.file_name().into_string() {
            Ok(name) => {
                let child = if path.is_empty() {
                    name
                } else {
                    format!("{path}/{name}")
                };
                if !is_leaf(&entry) {
                    below.push(child.clone());
                }
                tree.cgroups.insert(child, entry.ino());
            }
            Err(name) => {
                // Its children stay unlisted, so a birth among them cannot be proved.
                tree.incomplete
                    .get_or_insert(format!("{name:?} is not UTF-8"));
                tree.unnameable
                    .push(format!("{path}/{}", name.to_string_lossy()));
            }
        }
    }
    Ok(())
}

/// Whether certainly no directory is in it: one more link would be that one's `..`. File systems that
/// do not count say 1.
fn is_leaf(entry: &std::fs::DirEntry) -> bool {
    entry.metadata().is_ok_and(|facts| facts.nlink() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_is_listed_with_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("a/file"), "").unwrap();
        let tree = walk(dir.path());
        assert_eq!(
            tree.cgroups.keys().collect::<Vec<_>>(),
            ["a", "a/b", "a/b/c", "d"]
        );
        assert_eq!(
            tree.cgroups["a/b"],
            std::fs::metadata(dir.path().join("a/b")).unwrap().ino()
        );
        assert_eq!(Some(&tree.highest), tree.cgroups.values().max());
        assert_eq!(tree.incomplete, None);
    }

    #[test]
    fn a_missing_hierarchy_is_incomplete() {
        assert!(walk(Path::new("/does/not/exist")).incomplete.is_some());
    }
}
