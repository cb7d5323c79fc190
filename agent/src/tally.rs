//! The customer's half of the stick, kept for ever: what the registers stood at when each UTC day was
//! over, what was closed in it, and one receipt that covers it.
//!
//! Owns `tally.log`, an append-only file of checksummed records. Nothing in it is ever removed or
//! changed. Damage costs the records it is in and no others.
//!
//! ```text
//! 0   4  magic "TSTL"
//! 4   1  kind: 1 begun, 2 day, 3 closed, 4 receipt
//! 5   1  version of the body, 1
//! 6   2  zero
//! 8   4  length of the body in bytes, little-endian, as all numbers here
//! 12  4  CRC-32 of the body
//! 16  4  CRC-32 of bytes 0 to 15
//! 20     the body, bincode 2 standard configuration
//! ```
//!
//! A day's record is written at the first seal that reaches the day's end, and says up to when its
//! readings are. A receipt is for all days before it that have none: the segment it names chains to
//! every one of theirs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tallystick_common::ids::StreamId;
use tallystick_common::time::{HOUR_US, Micros, Timestamp};

use crate::accrue::RegisterView;
use crate::buffer::{Head, ReceiptMark};
use crate::durable;

mod days;
#[cfg(feature = "decoders")]
pub mod decoders;
mod record;

pub use days::{Day, Days, RegisterReading};
use record::{Begun, Closed, DayRecord, ReceiptRecord, Record, Row};

const DAY_US: u64 = 24 * HOUR_US;

/// Why the tally is not kept or shown.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct TallyError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The file, open for what is to come.
#[derive(Debug)]
pub struct Tally {
    path: PathBuf,
    file: File,
    /// Up to the end of the last whole record.
    bytes: u64,
    begun: bool,
    /// The last day that has a record, in days since 1970.
    last_day: Option<u64>,
    /// Up to when the days without a receipt are.
    unreceipted: Vec<Timestamp>,
    /// Closed registers that could not be written yet.
    closed: Vec<Row>,
}

impl Tally {
    /// Goes on with the tally in `data`, or begins it; an unfinished record at its end is cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(data: &Path) -> Result<Self, TallyError> {
        let path = file(data);
        let found = record::read_file(&path).map_err(failed("read", &path))?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        if found.torn_bytes > 0 {
            file.set_len(found.whole_bytes)
                .map_err(failed("truncate", &path))?;
        }
        let mut tally = Self {
            path,
            file,
            bytes: found.whole_bytes,
            begun: false,
            last_day: None,
            unreceipted: Vec::new(),
            closed: Vec::new(),
        };
        for record in &found.records {
            tally.note(record);
        }
        Ok(tally)
    }

    /// Takes note of what was sealed up to `head`: registers that closed, and, when a day is over, all
    /// readings.
    ///
    /// # Errors
    /// When the file cannot be written; what was to be written is with the next call.
    pub fn sealed(
        &mut self,
        stream: StreamId,
        head: &Head,
        registers: impl Iterator<Item = RegisterView>,
        closed: Vec<RegisterView>,
    ) -> Result<(), TallyError> {
        self.closed.extend(closed.into_iter().map(Row::from));
        let over = (head.covered_through.as_micros() / DAY_US).saturating_sub(1);
        if !self.begun {
            self.append(&Record::Begun(Begun {
                at: head.covered_through,
                day: over,
            }))?;
            durable::sync_dir(self.path.parent().unwrap_or(Path::new(".")))
                .map_err(failed("sync", &self.path))?;
        }
        if !self.closed.is_empty() {
            let record = Record::Closed(Closed {
                stream,
                rows: std::mem::take(&mut self.closed),
            });
            if let Err(error) = self.append(&record) {
                if let Record::Closed(Closed { rows, .. }) = record {
                    self.closed = rows;
                }
                return Err(error);
            }
        }
        if self.last_day.is_some_and(|last| over > last) {
            self.append(&Record::Day(DayRecord {
                day: over,
                stream,
                through: head.covered_through,
                rows: registers.map(Row::from).collect(),
            }))?;
            self.sync()?;
        }
        Ok(())
    }

    /// Whether a day waits for its receipt.
    #[must_use]
    pub fn wants_receipt(&self) -> bool {
        !self.unreceipted.is_empty()
    }

    /// Takes the last receipt; `covered_through` is what the segment it names accounts for.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn receipted(
        &mut self,
        receipt: &ReceiptMark,
        covered_through: Timestamp,
    ) -> Result<(), TallyError> {
        let first = self.unreceipted.first();
        if first.is_none_or(|through| *through > covered_through) {
            return Ok(());
        }
        self.append(&Record::Receipt(ReceiptRecord {
            covered_through,
            seq: receipt.through,
            hash: receipt.hash,
            bytes: receipt.bytes.clone(),
        }))?;
        self.sync()
    }

    fn append(&mut self, record: &Record) -> Result<(), TallyError> {
        let frame = record.frame();
        if let Err(error) = self.file.write_all_at(&frame, self.bytes) {
            let _ = self.file.set_len(self.bytes);
            return Err(failed("append to", &self.path)(error));
        }
        self.bytes += frame.len() as u64;
        self.note(record);
        Ok(())
    }

    fn sync(&self) -> Result<(), TallyError> {
        self.file.sync_data().map_err(failed("sync", &self.path))
    }

    fn note(&mut self, record: &Record) {
        match record {
            Record::Begun(begun) => {
                self.begun = true;
                self.last_day = Some(begun.day);
            }
            Record::Day(day) => {
                self.last_day = Some(day.day);
                self.unreceipted.push(day.through);
            }
            Record::Closed(_) => {}
            Record::Receipt(receipt) => {
                let covered = receipt.covered_through;
                self.unreceipted.retain(|through| *through > covered);
            }
        }
    }
}

fn file(data: &Path) -> PathBuf {
    data.join("tally.log")
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TallyError {
    let path = path.to_owned();
    move |source| TallyError {
        action,
        path,
        source,
    }
}

/// `2026-11-22` of a day since 1970.
fn date(day: u64) -> String {
    let midnight = Timestamp::EPOCH.saturating_add(Micros(day.saturating_mul(DAY_US)));
    midnight.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests;
