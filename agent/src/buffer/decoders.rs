//! Doors to what the buffer reads from disk, for tests that feed it anything.

use super::delta;
use super::record::{self, Found};
use super::scan::{Scan, scan_file};

/// Most bytes that a difference may make in these tests.
const MAX_BYTES: usize = 1 << 20;

/// A record of the journal around any body, with the checksums that belong to it.
#[must_use]
pub fn framed(kind: u8, version: u8, number: u64, body: &[u8]) -> Vec<u8> {
    record::head(kind, version, number, body).map_or_else(Vec::new, |head| [&head, body].concat())
}

/// Reads files of a journal as after a crash: how many segments they hold, none when a newer version wrote one.
#[must_use]
pub fn journal(files: &[Vec<u8>]) -> Option<usize> {
    let mut scan = Scan::default();
    for (number, bytes) in (1..).zip(files) {
        scan_file(&mut scan, number, bytes).ok()?;
        scan.last_file = number;
    }
    let _ = (scan.is_damaged(), scan.torn_tail());
    Some(scan.files.values().map(|file| file.places.len()).sum())
}

/// The record that begins there, before and after it is written and read again.
#[must_use]
pub fn written_again(bytes: &[u8]) -> Option<(String, String)> {
    let Found::Whole { record, number, .. } = record::read(bytes) else {
        return None;
    };
    let again = record.frame(number)?;
    match record::read(&again) {
        Found::Whole { record: read, .. } => Some((format!("{record:?}"), format!("{read:?}"))),
        other => Some((format!("{record:?}"), format!("{other:?}"))),
    }
}

/// What turns `base` into `target`.
#[must_use]
pub fn difference(base: &[u8], target: &[u8]) -> Vec<u8> {
    delta::encode(base, target)
}

/// What `steps` make of `base`, if they fit it.
#[must_use]
pub fn applied(base: &[u8], steps: &[u8]) -> Option<Vec<u8>> {
    delta::decode(base, steps, MAX_BYTES)
}

/// The same for steps as the first version wrote them.
#[must_use]
pub fn applied_first(base: &[u8], steps: &[u8]) -> Option<Vec<u8>> {
    delta::decode_first(base, steps, MAX_BYTES)
}
