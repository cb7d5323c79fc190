//! A look at a buffer changes nothing and misses nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::station::tests::{NODE, key, meter, station};

const LIMIT: u64 = 1 << 30;

fn ring() -> KeyRing {
    KeyRing::new(NODE, key().public())
}

fn verified(dir: &Path, live: bool) -> Verified {
    verify(dir, LIMIT, &ring(), live).unwrap().unwrap()
}

/// Every file below `dir`, whole.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            files.extend(contents(&entry.path()));
        } else if entry.file_name() != "reserve" {
            files.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    files
}

/// Ten minutes of three control groups, closed.
fn dead() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..601, 3);
    station.buffer().lock().flush().unwrap();
    folder
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn journal_file(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir.join("journal")).unwrap();
    files.next().unwrap().unwrap().path()
}

#[test]
fn a_sound_buffer_verifies_alive_and_dead_and_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut station = station(folder.path(), 1);
    meter(&mut station, 0..601, 3);
    let alive = verified(folder.path(), true);
    assert_eq!(
        (alive.verdict, alive.segments, alive.store_compared),
        (Verdict::Sound, 10, false)
    );
    let shown = show(folder.path(), LIMIT, true).unwrap().unwrap();
    assert_eq!(
        (
            shown.unreceipted,
            shown.files.len(),
            shown.files[0].segments
        ),
        (10, 1, 10)
    );
    assert!(
        shown
            .full_in_seconds
            .is_some_and(|seconds| seconds > 86_400),
        "{shown:?}"
    );
    drop(station);
    let before = contents(folder.path());
    let dead = verified(folder.path(), false);
    assert_eq!(
        (dead.verdict, dead.segments, dead.store_compared),
        (Verdict::Sound, 10, true)
    );
    show(folder.path(), LIMIT, false).unwrap();
    assert!(contents(folder.path()) == before, "something was changed");
    assert!(
        verified(folder.path(), false)
            .to_string()
            .ends_with("sound\n")
    );
}

#[test]
fn nothing_begun_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(show(folder.path(), LIMIT, false).unwrap(), None);
    assert_eq!(verify(folder.path(), LIMIT, &ring(), false).unwrap(), None);
}

#[test]
fn a_damaged_journal_is_told_from_a_lost_segment() {
    let folder = dead();
    let path = journal_file(folder.path());
    flip(&path, fs::read(&path).unwrap().len() / 2);
    let before = contents(folder.path());
    let found = verified(folder.path(), false);
    assert_eq!(found.verdict, Verdict::Damaged, "{found}");
    assert_eq!(found.segments, 10, "sled has what the journal lost");
    assert!(contents(folder.path()) == before);
    fs::remove_dir_all(folder.path().join("store")).unwrap();
    let found = verified(folder.path(), false);
    assert_eq!(found.verdict, Verdict::Lost, "{found}");
    assert!(!found.problems.is_empty());
}

#[test]
fn a_damaged_sled_is_no_loss() {
    let folder = dead();
    fs::write(folder.path().join("store/db"), [0xff; 5_000]).unwrap();
    let found = verified(folder.path(), false);
    assert_eq!(
        (found.verdict, found.segments),
        (Verdict::Damaged, 10),
        "{found}"
    );
}

#[test]
fn what_another_key_signed_is_lost() {
    let folder = dead();
    let stranger = KeyRing::new(
        NODE,
        tallystick_common::keys::SecretKey::from_seed(&[9; 32]).public(),
    );
    let found = verify(folder.path(), LIMIT, &stranger, false)
        .unwrap()
        .unwrap();
    assert_eq!(found.verdict, Verdict::Lost);
    assert!(found.problems[0].contains("segment 0"), "{found}");
}
