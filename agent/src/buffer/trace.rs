//! What the journal asks of the disk, in order: for tests that lose or reorder some of it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// One thing asked of the disk, or one thing that was promised to somebody because of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A file appeared under its name, with these bytes, and both are durable.
    Created { path: PathBuf, bytes: Vec<u8> },
    /// Bytes were written and may be lost.
    Written {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    /// What was written to this file is durable.
    Synced { path: PathBuf },
    /// A file was removed, which may be undone until more is durable.
    Removed { path: PathBuf },
    /// So many segments were promised to be sealed.
    Sealed(u64),
    /// So many were receipted, and the receipt was taken.
    Receipted(u64),
}

thread_local! {
    static TRACE: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

/// Records from now on, in this thread.
pub(super) fn begin() {
    TRACE.with_borrow_mut(|trace| *trace = Some(Vec::new()));
}

/// What was recorded.
pub(super) fn end() -> Vec<Event> {
    TRACE.with_borrow_mut(Option::take).unwrap_or_default()
}

/// Takes note, where recording.
pub(super) fn note(event: impl FnOnce() -> Event) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            trace.push(event());
        }
    });
}

pub(super) fn removed(path: &Path) {
    note(|| Event::Removed {
        path: path.to_owned(),
    });
}

pub(super) fn created(path: &Path) {
    note(|| Event::Created {
        path: path.to_owned(),
        bytes: std::fs::read(path).unwrap_or_default(),
    });
}
