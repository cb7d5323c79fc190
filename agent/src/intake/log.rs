//! The ledger on disk: what was counted, synced before any register says so.
//!
//! One append-only file. Each record is a batch: its number, when, and what was counted in it. The registers'
//! checkpoint names the last batch that is in them; a batch beyond that was logged but never counted (the
//! agent died between the two), and is forgotten on opening. So what is known as counted is in the
//! registers, and the other way round. When the file ends before that batch, part of it is lost: then every
//! series is forgotten, so that nothing is billed twice.
//!
//! A file written anew has all but the last of its records as batch 0, so that it is known to be whole.
//!
//! ```text
//! 0  4  length of the body, little-endian
//! 4  4  CRC-32 of the body
//! 8     the body, bincode 2 standard configuration: batch, at, entries
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use tallystick_common::codec;
use tallystick_common::time::Timestamp;

use super::IntakeError;
use super::ledger::{Entry, Ledger, Limits};
use crate::durable;

const FILE: &str = "counted.log";
const HEAD_BYTES: usize = 8;
/// Bytes from which on the file is written anew, when most of it is out of date.
const COMPACT_BYTES: u64 = 4 << 20;

#[derive(Debug, Encode, Decode)]
struct Record {
    batch: u64,
    at: Timestamp,
    entries: Vec<Entry>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Length at which it was last written anew.
    compacted: u64,
    last_batch: u64,
    /// The batch that the registers had on opening.
    counted: u64,
    /// What a failed append may have left could not be cut off.
    doubtful: bool,
}

impl Log {
    /// Opens or makes the log in `dir` and reads it: batches up to `counted` are in the registers. `None` says
    /// that the registers are lost; then everything logged stays known, so that nothing is billed twice.
    pub(super) fn open(
        dir: &Path,
        counted: Option<u64>,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(Self, Ledger), IntakeError> {
        durable::create_private_dir(dir).map_err(failed("create", dir))?;
        let path = dir.join(FILE);
        let (mut ledger, last_batch) = match std::fs::read(&path) {
            Ok(bytes) => replay(&bytes, counted, limits, now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Ledger::new(limits, now), 0),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        ledger.expire(now);
        let counted = counted.unwrap_or(last_batch);
        let last_batch = last_batch.max(counted);
        let (file, bytes) = rewrite(&path, &ledger, counted)?;
        let log = Self {
            path,
            file,
            bytes,
            compacted: bytes,
            last_batch,
            counted,
            doubtful: false,
        };
        Ok((log, ledger))
    }

    /// The batch that counts as being in the registers on opening.
    pub(super) fn counted(&self) -> u64 {
        self.counted
    }

    /// The number of the next batch.
    pub(super) fn next_batch(&self) -> u64 {
        self.last_batch + 1
    }

    /// Appends a batch; when this returns it is on the disk. On failure nothing has happened.
    pub(super) fn append(&mut self, at: Timestamp, entries: Vec<Entry>) -> Result<(), IntakeError> {
        let batch = self.next_batch();
        let frame = frame(&Record { batch, at, entries });
        if self.doubtful {
            self.take_back(self.bytes)?;
        }
        let written = self
            .file
            .write_all_at(&frame, self.bytes)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.doubtful = true;
            let _ = self.take_back(self.bytes);
            return Err(failed("append to", &self.path)(error));
        }
        self.bytes += frame.len() as u64;
        self.last_batch = batch;
        Ok(())
    }

    /// Takes the last batch back: the registers could not be kept. `bytes` is the length before it.
    pub(super) fn take_back(&mut self, bytes: u64) -> Result<(), IntakeError> {
        self.doubtful = true;
        self.bytes = bytes;
        self.file
            .set_len(bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(failed("cut", &self.path))?;
        self.doubtful = false;
        Ok(())
    }

    /// Its length.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes it anew when most of it is out of date. Every batch in it must be in the registers.
    pub(super) fn compact_if_due(&mut self, ledger: &Ledger) -> Result<(), IntakeError> {
        if self.bytes < COMPACT_BYTES.max(self.compacted.saturating_mul(2)) {
            return Ok(());
        }
        self.renew(ledger, self.last_batch)
    }

    /// Writes it anew: `counted` is the last batch in the registers, and so in `ledger`.
    pub(super) fn renew(&mut self, ledger: &Ledger, counted: u64) -> Result<(), IntakeError> {
        let (file, bytes) = rewrite(&self.path, ledger, counted)?;
        (self.file, self.bytes, self.compacted) = (file, bytes, bytes);
        self.doubtful = false;
        Ok(())
    }
}

/// Removes the log in `dir`, if there is one.
pub(super) fn remove(dir: &Path) -> Result<(), IntakeError> {
    let path = dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| durable::sync_dir(dir))
            .map_err(failed("remove", &path)),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IntakeError {
    let path = path.to_owned();
    move |source| IntakeError::Log {
        action,
        path,
        source,
    }
}

pub(super) fn replay(
    bytes: &[u8],
    counted: Option<u64>,
    limits: Limits,
    now: Timestamp,
) -> (Ledger, u64) {
    let mut ledger = Ledger::new(limits, Timestamp::EPOCH);
    let (mut rest, mut last) = (bytes, 0);
    while let Some((record, after)) = read_record(rest) {
        rest = after;
        last = last.max(record.batch);
        if counted.is_some_and(|counted| record.batch > counted) {
            continue;
        }
        for entry in record.entries {
            ledger.replay(record.at, entry);
        }
    }
    // A torn record after the last batch that was counted was never answered.
    let lost = match counted {
        Some(counted) => last < counted,
        None => !rest.is_empty(),
    };
    if lost || bytes.is_empty() {
        tracing::error!(
            bytes = rest.len(),
            "part of what was counted is not known any more: series count from where they are now, events may be counted again"
        );
        ledger.forget_series(now);
    }
    (ledger, last)
}

fn read_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?.first_chunk()?;
        Some(u32::from_le_bytes(*word))
    };
    let length = usize::try_from(word(0)?).ok()?;
    let body = bytes.get(HEAD_BYTES..)?.get(..length)?;
    if crc32fast::hash(body) != word(4)? {
        return None;
    }
    let record = codec::decode(body).ok()?;
    Some((record, &bytes[HEAD_BYTES + length..]))
}

fn frame(record: &Record) -> Vec<u8> {
    framed(&codec::encode(record))
}

pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a batch is bounded by what a request may hold");
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Writes all that is known, one record for each instant; the last is batch `batch`.
fn rewrite(path: &Path, ledger: &Ledger, batch: u64) -> Result<(File, u64), IntakeError> {
    let mut bytes = Vec::new();
    let mut open: Option<Record> = None;
    for (at, entry) in ledger.entries() {
        match &mut open {
            Some(record) if record.at == at => record.entries.push(entry),
            _ => {
                let entries = vec![entry];
                let done = open.replace(Record {
                    batch: 0,
                    at,
                    entries,
                });
                bytes.extend(done.iter().flat_map(frame));
            }
        }
    }
    let last = open.map(|record| Record { batch, ..record });
    bytes.extend(last.iter().flat_map(frame));
    durable::replace_file(path, &bytes).map_err(failed("write", path))?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed("open", path))?;
    Ok((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Known;
    use super::super::series::{Point, Series};
    use super::*;

    const LIMITS: Limits = Limits {
        events: 100,
        series: 10,
    };

    fn at(second: u64) -> Timestamp {
        Timestamp::from_seconds(1_795_348_800 + second).unwrap()
    }

    fn event(key: u8) -> Vec<Entry> {
        vec![Entry::Event {
            key: [key; 16],
            content: 1,
        }]
    }

    fn known(ledger: &Ledger) -> Vec<u8> {
        (0..20)
            .filter(|key| ledger.known(&[*key; 16], 1) == Known::Same)
            .collect()
    }

    #[test]
    fn a_batch_that_the_registers_do_not_have_was_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path(), Some(0), LIMITS, at(0)).unwrap();
        log.append(at(1), event(1)).unwrap();
        log.append(at(2), event(2)).unwrap();
        drop(log);
        let (log, ledger) = Log::open(folder.path(), Some(1), LIMITS, at(3)).unwrap();
        assert_eq!(known(&ledger), [1]);
        assert!(log.next_batch() > 2, "no number is used twice");
        drop(log);
        let (_, ledger) = Log::open(folder.path(), Some(1), LIMITS, at(3)).unwrap();
        assert_eq!(known(&ledger), [1]);
    }

    #[test]
    fn without_registers_everything_logged_stays_known() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path(), None, LIMITS, at(0)).unwrap();
        log.append(at(1), event(1)).unwrap();
        drop(log);
        let (log, ledger) = Log::open(folder.path(), None, LIMITS, at(3)).unwrap();
        assert_eq!((known(&ledger), log.next_batch()), (vec![1], 2));
    }

    #[test]
    fn a_torn_end_costs_nothing_that_was_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counted.log");
        let (mut log, _) = Log::open(folder.path(), Some(0), LIMITS, at(0)).unwrap();
        log.append(at(1), event(1)).unwrap();
        let whole = log.bytes();
        log.append(at(2), event(2)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in usize::try_from(whole).unwrap()..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let (_, ledger) = Log::open(folder.path(), Some(2), LIMITS, at(3)).unwrap();
            assert_eq!(known(&ledger), [1], "cut at {length}");
        }
    }

    #[test]
    fn a_batch_taken_back_is_gone_and_the_file_stays_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path(), Some(0), LIMITS, at(0)).unwrap();
        log.append(at(1), event(1)).unwrap();
        let before = log.bytes();
        log.append(at(2), event(2)).unwrap();
        log.take_back(before).unwrap();
        log.append(at(3), event(3)).unwrap();
        drop(log);
        let (_, ledger) = Log::open(folder.path(), Some(9), LIMITS, at(4)).unwrap();
        assert_eq!(known(&ledger), [1, 3]);
    }

    fn series(mark: u128) -> Vec<Entry> {
        let point = |value| Point {
            start: None,
            time: at(1),
            value,
        };
        let (series, _) = Series::open(&point(mark), at(0), at(1));
        let key = [7; 16];
        vec![Entry::Series { key, series }]
    }

    /// What a series is billed that stood at 10 when it was logged and stands at 12 now.
    fn billed_of_series(ledger: &mut Ledger) -> u128 {
        let point = Point {
            start: None,
            time: at(5),
            value: 12,
        };
        let counted = ledger.count_series([7; 16], &point, at(5)).unwrap();
        counted.unwrap().0
    }

    #[test]
    fn where_counted_batches_cannot_be_read_series_count_from_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (mut log, _) = Log::open(folder.path(), Some(0), LIMITS, at(0)).unwrap();
        log.append(at(1), series(10)).unwrap();
        let whole = usize::try_from(log.bytes()).unwrap();
        log.append(at(2), event(1)).unwrap();
        drop(log);
        let good = std::fs::read(&path).unwrap();
        for (damage, counted, billed) in [
            (None, Some(2), 2),
            // Torn: the batch after what was counted was never answered.
            (Some(whole + 9), Some(1), 2),
            (Some(whole + 9), Some(2), 0),
            (Some(whole + 9), None, 0),
            (Some(whole - 1), Some(2), 0),
        ] {
            let mut bytes = good.clone();
            damage.into_iter().for_each(|byte| bytes[byte] ^= 1);
            std::fs::write(&path, &bytes).unwrap();
            let (_, mut ledger) = Log::open(folder.path(), counted, LIMITS, at(3)).unwrap();
            let found = billed_of_series(&mut ledger);
            assert_eq!(found, billed, "{damage:?} {counted:?}");
        }
    }

    #[test]
    fn a_file_written_anew_that_lost_its_end_is_told_from_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (mut log, _) = Log::open(folder.path(), Some(0), LIMITS, at(0)).unwrap();
        log.append(at(1), series(10)).unwrap();
        log.append(at(2), event(1)).unwrap();
        drop(log);
        drop(Log::open(folder.path(), Some(2), LIMITS, at(3)).unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let (_, mut whole) = Log::open(folder.path(), Some(2), LIMITS, at(3)).unwrap();
        assert_eq!(billed_of_series(&mut whole), 2);
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let (_, mut ledger) = Log::open(folder.path(), Some(2), LIMITS, at(3)).unwrap();
            assert_eq!(billed_of_series(&mut ledger), 0, "cut at {length}");
        }
    }
}
