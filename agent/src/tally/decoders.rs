//! Doors to what the tally reads from disk, for tests that feed it anything.

use super::record;

/// A record of the tally around any body, with the checksums that belong to it.
#[must_use]
pub fn framed(kind: u8, version: u8, body: &[u8]) -> Vec<u8> {
    record::framed(kind, version, body)
}

/// How many records a file holds; none when a newer version wrote one.
#[must_use]
pub fn tally(bytes: &[u8]) -> Option<usize> {
    let found = record::read(bytes).ok()?;
    for record in &found.records {
        let frame = record.frame();
        let again = record::read(&frame).ok()?;
        assert_eq!(again.records.as_slice(), std::slice::from_ref(record));
    }
    Some(found.records.len())
}
