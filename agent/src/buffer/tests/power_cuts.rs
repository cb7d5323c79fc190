//! Power cuts, simulated: every prefix of what the journal asked of the disk, with what was not synced
//! lost, torn, or written in another order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::super::trace::{self, Event};
use super::*;

/// What becomes of writes that were not synced.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// All are there.
    Kept,
    /// None is.
    Lost,
    /// Of each, the first half is.
    Torn,
    /// Only the last one is; the room before it is zeros.
    Reordered,
}

const FATES: [Fate; 4] = [Fate::Kept, Fate::Lost, Fate::Torn, Fate::Reordered];

type Disk = BTreeMap<PathBuf, Vec<u8>>;

fn put(disk: &mut Disk, path: &Path, at: u64, bytes: &[u8]) {
    let file = disk.entry(path.to_owned()).or_default();
    let at = usize::try_from(at).unwrap();
    let end = at + bytes.len();
    file.resize(file.len().max(end), 0);
    file[at..end].copy_from_slice(bytes);
}

/// The disk after these events and a power cut.
fn disk_after(events: &[Event], fate: Fate) -> Disk {
    let mut disk = Disk::new();
    let mut loose: Vec<(&Path, u64, &[u8])> = Vec::new();
    for event in events {
        match event {
            Event::Created { path, bytes } => drop(disk.insert(path.clone(), bytes.clone())),
            Event::Written { path, at, bytes } => loose.push((path, *at, bytes)),
            Event::Synced { path } => {
                for (file, at, bytes) in loose.iter().filter(|(file, ..)| *file == path) {
                    put(&mut disk, file, *at, bytes);
                }
                loose.retain(|(file, ..)| *file != path);
            }
            Event::Removed { path } => {
                loose.retain(|(file, ..)| *file != path);
                // Whether a removal lasts is not certain before the next thing that does.
                if !matches!(
                    (fate, events.last()),
                    (Fate::Lost, Some(Event::Removed { .. }))
                ) {
                    disk.remove(path);
                }
            }
            Event::Sealed(_) | Event::Receipted(_) => {}
        }
    }
    let last = loose.len().saturating_sub(1);
    for (place, (path, at, bytes)) in loose.iter().enumerate() {
        match fate {
            Fate::Kept => put(&mut disk, path, *at, bytes),
            Fate::Torn => put(&mut disk, path, *at, &bytes[..bytes.len() / 2]),
            Fate::Reordered if place == last => put(&mut disk, path, *at, bytes),
            Fate::Lost | Fate::Reordered => {}
        }
    }
    disk
}

fn promised(events: &[Event]) -> (u64, u64) {
    let mut promised = (0, 0);
    for event in events {
        match event {
            Event::Sealed(segments) => promised.0 = *segments,
            Event::Receipted(segments) => promised.1 = *segments,
            _ => {}
        }
    }
    promised
}

/// Seals, receipts, marks, rotations and a thinning, as one agent would.
fn recorded(dir: &Path) -> Vec<Event> {
    let settings = Settings {
        rotate_bytes: 12_000,
        ..small_files()
    };
    trace::begin();
    let (mut buffer, _) = Buffer::open(dir, settings, STREAM).unwrap();
    let mut sealed = 0;
    for round in 0..6 {
        for _ in 0..3 {
            buffer.append(segment(sealed), &state(sealed)).unwrap();
            sealed += 1;
            trace::note(|| Event::Sealed(sealed));
        }
        if round % 2 == 0 {
            buffer.save_state(&state(sealed - 1)).unwrap();
        }
        if round % 2 == 1 {
            buffer.receipt(receipt(sealed - 2)).unwrap();
            trace::note(|| Event::Receipted(sealed - 1));
        }
    }
    trace::end()
}

/// Nothing that was sealed and not receipted is lost, nothing is there twice or changed, and the stream
/// goes on.
fn assert_whole(dir: &Path, events: &[Event], what: &str) {
    let (sealed, receipted) = promised(events);
    let (mut buffer, recovered) = Buffer::open(dir, small_files(), FRESH).unwrap();
    let ended = recovered
        .reports
        .iter()
        .any(|report| matches!(report, Report::StreamEnded { .. }));
    assert!(!ended, "{what}: {:?}", recovered.reports);
    let next = recovered.head.next.0;
    assert!(next >= sealed, "{what}: {next} of {sealed} sealed");
    assert!(
        next <= sealed + 1,
        "{what}: {next} where {sealed} were sealed"
    );
    if sealed == 0 && next == 0 {
        return;
    }
    // A receipt that was on its way may have come far enough.
    let taken = recovered
        .last_receipt
        .map_or(0, |receipt| receipt.through.0 + 1);
    let receipted = receipted.max(taken);
    let held = buffer.segments_from(Seq(receipted), usize::MAX, usize::MAX);
    let expected: Vec<_> = (receipted..next).map(segment).collect();
    assert_eq!(held.unwrap(), expected, "{what}");
    assert_eq!(recovered.state, Some(state(next - 1)), "{what}");
    buffer.append(segment(next), &state(next)).unwrap();
}

#[test]
fn no_power_cut_loses_or_doubles_what_was_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let events = recorded(folder.path());
    let kinds: BTreeSet<_> = events
        .iter()
        .map(std::mem::discriminant)
        .map(|kind| format!("{kind:?}"))
        .collect();
    assert_eq!(kinds.len(), 6, "every kind of event: {kinds:?}");
    let mut seen = BTreeSet::new();
    for cut in 1..=events.len() {
        for fate in FATES {
            let disk = disk_after(&events[..cut], fate);
            if !seen.insert((disk.clone(), promised(&events[..cut]))) {
                continue;
            }
            let crashed = tempfile::tempdir().unwrap();
            for (path, bytes) in &disk {
                let path = crashed
                    .path()
                    .join(path.strip_prefix(folder.path()).unwrap());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            assert_whole(
                crashed.path(),
                &events[..cut],
                &format!("cut {cut} of {}, {fate:?}", events.len()),
            );
        }
    }
    println!("{} events, {} different disks", events.len(), seen.len());
    assert!(seen.len() > events.len() / 2);
}
