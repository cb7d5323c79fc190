//! sled brought into agreement with the journal, or put aside.
//!
//! Owns what is done with a store that is behind, ahead, of an older generation or unusable.

use std::fs;
use std::path::{Path, PathBuf};

use tallystick_common::ids::Seq;

use super::Settings;
use super::journal::Journal;
use super::record::{Mark, StateAt};
use super::scan::Facts;
use super::store::{Store, StoreError};
use crate::durable;

/// What is written to sled at once; more under way can lock it up.
const BATCH_BYTES: usize = 128 << 10;
/// How many stores that were set aside are kept to look at.
const STORES_KEPT: usize = 2;

/// sled again in order after it was not; set aside and made anew if need be.
pub(super) fn attach(
    dir: &Path,
    settings: &Settings,
    journal: &Journal,
    mark: &Mark,
) -> Result<Store, StoreError> {
    fill(dir, settings, journal, mark).or_else(|error| {
        if error.is_full_disk() {
            return Err(error);
        }
        tracing::warn!(%error, kept_in = %set_aside(dir).display(), "the store was set aside");
        fill(dir, settings, journal, mark)
    })
}

/// sled as a copy of itself, without what its files grew by.
pub(super) fn compact(dir: &Path, settings: &Settings, store: Store) -> Result<Store, StoreError> {
    let (old, new) = (dir.join("store"), dir.join("store.new"));
    let _ = fs::remove_dir_all(&new);
    let copy = Store::open(&new, settings.cache_bytes)?;
    let copied = store.copy_to(&copy);
    drop((copy, store));
    if let Err(error) = copied {
        let _ = fs::remove_dir_all(&new);
        return Err(error);
    }
    fs::remove_dir_all(&old)
        .and_then(|()| fs::rename(&new, &old))
        .and_then(|()| durable::sync_dir(dir))
        .map_err(StoreError::Sync)?;
    Store::open(&old, settings.cache_bytes)
}

/// Finishes, or forgets, what a crash left of [`compact`]: the copy is whole once the old is gone.
pub(super) fn finish_compaction(dir: &Path) {
    let (old, new) = (dir.join("store"), dir.join("store.new"));
    if old.exists() {
        let _ = fs::remove_dir_all(&new);
    } else if new.exists() {
        let _ = fs::rename(&new, &old);
    }
}

/// Removes sled's files, which must be closed.
pub(super) fn wipe(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir.join("store"))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the store could not be removed");
    }
}

/// Opens sled and adds what only the journal has.
pub(super) fn fill(
    dir: &Path,
    settings: &Settings,
    journal: &Journal,
    mark: &Mark,
) -> Result<Store, StoreError> {
    let store = Store::open(&dir.join("store"), settings.cache_bytes)?;
    fill_open(store, dir, settings, journal, mark)
}

/// Adds to sled what only the journal has.
pub(super) fn fill_open(
    mut store: Store,
    dir: &Path,
    settings: &Settings,
    journal: &Journal,
    mark: &Mark,
) -> Result<Store, StoreError> {
    let path = dir.join("store");
    let superseded = store.mark()?.is_some_and(|known| {
        known.life.stream == mark.life.stream && known.life.generation < mark.life.generation
    });
    if superseded {
        // What it holds was thinned.
        drop(store);
        wipe(dir);
        store = Store::open(&path, settings.cache_bytes)?;
    }
    let (first, before_first) = mark.first_unreceipted();
    let from = match store.mark()? {
        None => first,
        Some(known) if known.life != mark.life => return Err(StoreError::Disagrees),
        Some(known) => {
            let next = known.head.next;
            let last = known.head.last();
            let expected = match last {
                Some(last) if last >= first && next <= mark.head.next => journal
                    .segment(last)
                    .ok()
                    .flatten()
                    .map(|segment| segment.hash),
                Some(last) if last.next() == first => Some(before_first),
                _ => None,
            };
            if next > mark.head.next || expected.is_some_and(|hash| hash != known.head.hash) {
                return Err(StoreError::Disagrees);
            }
            // Receipted ones too, as far as the journal still has them.
            next
        }
    };
    append(&store, journal, from, mark, &[])?;
    Ok(store)
}

/// Adds what the journal has from `from` on, and what holds after it.
pub(super) fn append(
    store: &Store,
    journal: &Journal,
    from: Seq,
    mark: &Mark,
    states: &[StateAt],
) -> Result<(), StoreError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for seq in (from.0..mark.head.next.0).map(Seq) {
        let Ok(Some(segment)) = journal.segment(seq) else {
            continue;
        };
        bytes += segment.bytes.len();
        let head = Facts::from(&segment).head_after();
        batch.push(segment);
        if bytes >= BATCH_BYTES && head.next < mark.head.next {
            let mark = Mark {
                head,
                ..mark.clone()
            };
            store.insert(&batch, &mark, &[])?;
            (batch, bytes) = (Vec::new(), 0);
        }
    }
    if batch.is_empty() && states.is_empty() {
        return Ok(());
    }
    store.insert(&batch, mark, states)
}

/// Moves the store out of the way and says where to.
pub(super) fn set_aside(dir: &Path) -> PathBuf {
    let quarantine = dir.join("quarantine");
    let to = free_name(&quarantine, "store");
    let moved =
        durable::create_private_dir(&quarantine).and_then(|()| fs::rename(dir.join("store"), &to));
    if let Err(error) = moved {
        tracing::warn!(%error, "the store could not be moved and is removed");
        let _ = fs::remove_dir_all(dir.join("store"));
    }
    forget_old_stores(&quarantine);
    to
}

fn forget_old_stores(quarantine: &Path) {
    let Ok(entries) = fs::read_dir(quarantine) else {
        return;
    };
    let mut stores: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix("store-")?
                .parse()
                .ok()?;
            Some((number, entry.path()))
        })
        .collect();
    stores.sort_unstable();
    let surplus = stores.len().saturating_sub(STORES_KEPT);
    for (_, path) in stores.into_iter().take(surplus) {
        let _ = fs::remove_dir_all(path);
    }
}

/// `parent/what-N` with the first N above all that are there.
pub(super) fn free_name(parent: &Path, what: &str) -> PathBuf {
    let taken = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix(what)?
                .strip_prefix('-')?
                .parse::<u64>()
                .ok()
        });
    let number = taken.max().map_or(1, |number| number + 1);
    parent.join(format!("{what}-{number}"))
}
