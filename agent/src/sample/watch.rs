//! What happens to control groups between samples, told by inotify.
//!
//! Owns the inotify descriptor and which place each of its watches is at. Two kinds of places: folders in which a
//! selected group may be made, and `cgroup.events` of metered groups, which the kernel touches when the
//! last process of a group has left it (v2). What follows from an event is decided in [`super::cgroup`].
//! Where nothing can be watched, sampling alone goes on: events are a gain, not a condition.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Places watched at most; the kernel keeps about a KiB for each.
const MOST: usize = 100_000;

/// The watches.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    by_number: BTreeMap<i32, Place>,
    places: HashSet<Place>,
    /// Why a place that is there could not be watched, the last time that happened.
    trouble: Option<String>,
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A folder of a hierarchy; the empty path is its root.
    Folder { hierarchy: usize, path: String },
    /// The `cgroup.events` of a group.
    Events { path: String },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A group was made.
    Made { hierarchy: usize, path: String },
    /// The last process of the group has left it, or the first has come, or it was frozen.
    Changed { path: String },
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            by_number: BTreeMap::new(),
            places: HashSet::new(),
            trouble: None,
        })
    }

    /// A descriptor to wait on: it is readable when [`Self::read`] has something to tell.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.inotify.try_clone()
    }

    /// Watches `place`, which is at `at`; whether that is new. What is gone by now is not watched.
    pub(super) fn add(&mut self, place: Place, at: &Path) -> bool {
        if self.places.len() >= MOST || self.places.contains(&place) {
            return false;
        }
        let flags = match place {
            Place::Folder { .. } => WatchFlags::CREATE | WatchFlags::ONLYDIR,
            Place::Events { .. } => WatchFlags::MODIFY,
        };
        let number = match inotify::add_watch(&self.inotify, at, flags) {
            Ok(number) => number,
            Err(Errno::NOENT) => return false,
            Err(error) => {
                self.trouble = Some(format!("{}: {error}", at.display()));
                return false;
            }
        };
        self.places.insert(place.clone());
        // The same inode again: the place had another name before.
        if let Some(old) = self.by_number.insert(number, place) {
            self.places.remove(&old);
        }
        true
    }

    /// Why not all that should be is watched, if so; asked again after everything was added again.
    pub(super) fn trouble(&mut self) -> Option<String> {
        self.trouble.take()
    }

    /// Everything that happened since it was asked last.
    pub(super) fn read(&mut self) -> Vec<Event> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut events = Vec::new();
        let mut gone = Vec::new();
        loop {
            let entry = match reader.next() {
                Ok(entry) => entry,
                Err(Errno::INTR) => continue,
                // Nothing more; and what an error hides, the next sample sees.
                Err(_) => break,
            };
            if entry.events().contains(ReadFlags::IGNORED) {
                gone.push(entry.wd());
                continue;
            }
            let name = entry.file_name().and_then(|name| name.to_str().ok());
            let is_folder = entry.events().contains(ReadFlags::ISDIR);
            let place = self.by_number.get(&entry.wd());
            events.extend(place.and_then(|place| place.event(name.filter(|_| is_folder))));
        }
        for number in gone {
            if let Some(place) = self.by_number.remove(&number) {
                self.places.remove(&place);
            }
        }
        events
    }
}

impl Place {
    /// What an event here means; `made` is the folder that appeared, if one did.
    fn event(&self, made: Option<&str>) -> Option<Event> {
        Some(match self {
            Self::Events { path } => Event::Changed { path: path.clone() },
            Self::Folder { hierarchy, path } => Event::Made {
                hierarchy: *hierarchy,
                path: match path.as_str() {
                    "" => made?.to_owned(),
                    around => format!("{around}/{}", made?),
                },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> Place {
        Place::Folder {
            hierarchy: 1,
            path: path.to_owned(),
        }
    }

    #[test]
    fn folders_that_appear_and_files_that_change_are_told_and_gone_places_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new().unwrap();
        assert!(watch.add(folder(""), dir.path()));
        assert!(!watch.add(folder(""), dir.path()), "already watched");
        assert!(!watch.add(folder("x"), &dir.path().join("x")), "not there");
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(watch.add(folder("a"), &dir.path().join("a")));
        std::fs::create_dir(dir.path().join("a/b")).unwrap();
        let changing = dir.path().join("a/cgroup.events");
        std::fs::write(&changing, "populated 1\n").unwrap();
        let events = Place::Events {
            path: "a".to_owned(),
        };
        assert!(watch.add(events, &changing));
        std::fs::write(&changing, "populated 0\n").unwrap();
        let made = |path: &str| Event::Made {
            hierarchy: 1,
            path: path.to_owned(),
        };
        let changed = Event::Changed {
            path: "a".to_owned(),
        };
        let mut told = watch.read();
        told.dedup();
        assert_eq!(told, [made("a"), made("a/b"), changed]);
        assert_eq!(watch.read(), []);
        std::fs::remove_dir_all(dir.path().join("a")).unwrap();
        watch.read();
        assert_eq!(watch.places, HashSet::from([folder("")]));
        assert_eq!(watch.trouble(), None);
    }
}
