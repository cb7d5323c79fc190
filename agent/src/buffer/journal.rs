//! The journal: append-only files that are the authority on what was sealed.
//!
//! Owns appending, syncing, going on in a new file and removing old ones. Each file begins with a
//! checkpoint and can be understood without its elders; a file appears under its name only when
//! its checkpoint is on the disk. What a crash left is read by `scan`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tallystick_common::failpoint;
use tallystick_common::ids::Seq;

use super::packing::Base;
use super::record::{self, Checkpoint, Found, Record, SealedRecord};
use super::scan::{Scan, file_path};
use super::{BufferError, ReceiptMark, StoredSegment};
use crate::durable;

/// When an appended record must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before the call returns.
    Now,
    /// With the next sync.
    Later,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    Clean,
    /// A record was begun and not finished: cut it off before the next.
    Unfinished,
    /// A sync failed: what the disk holds of this file is not known any more.
    Doubtful,
}

#[derive(Debug, Default)]
struct FileFacts {
    bytes: u64,
    places: Vec<(Seq, u64)>,
}

impl FileFacts {
    fn note(&mut self, record: &Record, at: u64, bytes: u64) {
        self.bytes = at + bytes;
        let seq = match record {
            Record::Sealed(sealed) => Some(sealed.segment.seq),
            Record::Packed(packed) => Some(packed.facts().seq),
            _ => None,
        };
        self.places.extend(seq.map(|seq| (seq, at)));
    }
}

/// The files, the last of them open.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    file: File,
    current: u64,
    next_record: u64,
    files: BTreeMap<u64, FileFacts>,
    tail: Tail,
    /// What segments in the current file are packed from.
    base: Base,
    /// A receipt that is to be written with the next record: a page that is written once more, a minute
    /// after the last time, for it alone, costs more than all the rest of it.
    held: Option<Record>,
}

impl Journal {
    /// Begins a journal, or goes on after what could not be used, with file `number`.
    pub(super) fn begin(
        dir: &Path,
        number: u64,
        next_record: u64,
        checkpoint: Checkpoint,
    ) -> Result<Self, BufferError> {
        durable::create_private_dir(dir).map_err(BufferError::io("create", dir))?;
        let (file, bytes) = create_file(dir, number, next_record, checkpoint)?;
        let files = BTreeMap::from([(
            number,
            FileFacts {
                bytes,
                ..FileFacts::default()
            },
        )]);
        let next_record = next_record + 1;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            current: number,
            next_record,
            files,
            tail: Tail::Clean,
            base: Base::default(),
            held: None,
        })
    }

    /// Goes on in the last file of `scan`, which must have one, after cutting off a torn end.
    pub(super) fn resume(dir: &Path, scan: &Scan) -> Result<Self, BufferError> {
        let current = scan.last_file;
        let path = file_path(dir, current);
        let file = open_file(&path)?;
        let files: BTreeMap<_, _> = scan
            .files
            .iter()
            .map(|(number, file)| {
                (
                    *number,
                    FileFacts {
                        bytes: file.whole_bytes,
                        places: file.places.clone(),
                    },
                )
            })
            .collect();
        let tail = if scan.torn_tail().is_some() {
            Tail::Unfinished
        } else {
            Tail::Clean
        };
        let mut journal = Self {
            dir: dir.to_owned(),
            file,
            current,
            next_record: scan.next_record,
            files,
            tail,
            base: Base::default(),
            held: None,
        };
        journal.cut_unfinished()?;
        // What is read back counts as sealed, so it has to be on the disk, not only in the cache.
        journal.sync()?;
        Ok(journal)
    }

    /// Takes a receipt along with the next record, in the place of any before it. Losing it is harmless:
    /// it is given again.
    pub(super) fn hold(&mut self, receipt: ReceiptMark) {
        self.held = Some(Record::Receipt(receipt));
    }

    /// Appends a record; gives the bytes that its segment takes. On failure the journal is as it was before.
    ///
    /// # Errors
    /// [`BufferError::Full`] when the disk is.
    pub(super) fn append(
        &mut self,
        record: &Record,
        durability: Durability,
    ) -> Result<u64, BufferError> {
        let record = self.base.pack(record).unwrap_or_else(|| record.clone());
        let records: Vec<Record> = self.held.clone().into_iter().chain([record]).collect();
        let stored = records.iter().map(Record::segment_bytes).sum();
        self.write(&records, durability)?;
        self.held = None;
        Ok(stored)
    }

    fn write(&mut self, records: &[Record], durability: Durability) -> Result<(), BufferError> {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for (record, number) in records.iter().zip(self.next_record..) {
            bytes.extend(record.frame(number).ok_or(BufferError::TooLarge)?);
            ends.push(bytes.len() as u64);
        }
        self.cut_unfinished()?;
        let at = self.bytes_in_current();
        if let Err(error) = self.file.write_all_at(&bytes, at) {
            self.tail = Tail::Unfinished;
            let _ = self.cut_unfinished();
            return Err(BufferError::io("append to", &self.current_path())(error));
        }
        #[cfg(test)]
        super::trace::note(|| super::trace::Event::Written {
            path: self.current_path(),
            at,
            bytes: bytes.clone(),
        });
        failpoint!("agent.journal.appended");
        if durability == Durability::Now
            && let Err(error) = self.file.sync_data()
        {
            let _ = self.file.set_len(at);
            self.tail = Tail::Doubtful;
            return Err(BufferError::io("sync", &self.current_path())(error));
        }
        if durability == Durability::Now {
            self.leave_cache();
            #[cfg(test)]
            self.trace_sync();
        }
        let facts = self.files.entry(self.current).or_default();
        let mut begin = 0;
        for (record, end) in records.iter().zip(ends) {
            facts.note(record, at + begin, end - begin);
            self.base.note(record, at + begin);
            begin = end;
            self.next_record += 1;
        }
        Ok(())
    }

    fn write_held(&mut self) -> Result<(), BufferError> {
        if let Some(held) = self.held.clone() {
            self.write(&[held], Durability::Later)?;
            self.held = None;
        }
        Ok(())
    }

    /// Goes on in a new file that begins with `checkpoint`.
    pub(super) fn rotate(&mut self, checkpoint: Checkpoint) -> Result<(), BufferError> {
        let number = self.current + 1;
        let (file, bytes) = create_file(&self.dir, number, self.next_record, checkpoint)?;
        self.file = file;
        self.current = number;
        self.next_record += 1;
        self.tail = Tail::Clean;
        self.base = Base::default();
        // The checkpoint knows the receipt.
        self.held = None;
        self.files.insert(
            number,
            FileFacts {
                bytes,
                ..FileFacts::default()
            },
        );
        failpoint!("agent.journal.rotated");
        Ok(())
    }

    /// Begins the file that is to supersede all there are.
    pub(super) fn draft(&self, checkpoint: Checkpoint) -> Result<FileDraft, BufferError> {
        let number = self.current + 1;
        let path = file_path(&self.dir, number).with_extension("log.tmp");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(BufferError::io("create", &path))?;
        let mut draft = FileDraft {
            path,
            file: Some(file),
            number,
            next_record: self.next_record,
            facts: FileFacts::default(),
            base: Base::default(),
        };
        draft.append(&Record::Checkpoint(checkpoint))?;
        Ok(draft)
    }

    /// Gives the draft its name, from which instant on it is the journal, and removes its elders.
    pub(super) fn put_in_force(&mut self, mut draft: FileDraft) -> Result<(), BufferError> {
        let path = file_path(&self.dir, draft.number);
        let Some(file) = draft.file.take() else {
            return Ok(());
        };
        let named = file
            .sync_all()
            .and_then(|()| fs::rename(&draft.path, &path))
            .and_then(|()| durable::sync_dir(&self.dir));
        if let Err(error) = named {
            let _ = fs::remove_file(&draft.path);
            let _ = fs::remove_file(&path);
            return Err(BufferError::io("put in force", &path)(error));
        }
        #[cfg(test)]
        super::trace::created(&path);
        self.file = file;
        self.current = draft.number;
        self.next_record = draft.next_record;
        self.tail = Tail::Clean;
        self.base = std::mem::take(&mut draft.base);
        self.held = None;
        self.files
            .insert(draft.number, std::mem::take(&mut draft.facts));
        // Elders that cannot be removed now are when the buffer is opened again.
        let _ = self.remove_elders();
        Ok(())
    }

    fn remove_elders(&mut self) -> Result<(), BufferError> {
        let current = self.current;
        for number in self.files.keys().filter(|number| **number != current) {
            let path = file_path(&self.dir, *number);
            fs::remove_file(&path).map_err(BufferError::io("remove", &path))?;
            #[cfg(test)]
            super::trace::removed(&path);
        }
        self.files.retain(|number, _| *number == current);
        durable::sync_dir(&self.dir).map_err(BufferError::io("sync", &self.dir))
    }

    /// Writes the file before the current one again without open registers, which the current one's
    /// checkpoint has: they are more than half of a file, and only the last ones count. One that has
    /// nothing else, as the checkpoint has its marks too, is removed.
    pub(super) fn shed_states(&mut self) -> Result<(), BufferError> {
        let Some(number) = self.files.range(..self.current).next_back() else {
            return Ok(());
        };
        let number = *number.0;
        let path = file_path(&self.dir, number);
        let bytes = fs::read(&path).map_err(BufferError::io("read", &path))?;
        let Some((frames, facts)) = without_states(&bytes) else {
            // Damaged: what is left of it is worth more as it is.
            return Ok(());
        };
        if facts.places.is_empty() {
            fs::remove_file(&path).map_err(BufferError::io("remove", &path))?;
            #[cfg(test)]
            super::trace::removed(&path);
            self.files.remove(&number);
            return durable::sync_dir(&self.dir).map_err(BufferError::io("sync", &self.dir));
        }
        durable::replace_file(&path, &frames).map_err(BufferError::io("replace", &path))?;
        #[cfg(test)]
        super::trace::created(&path);
        self.files.insert(number, facts);
        Ok(())
    }

    /// Removes the files before the current one of which every segment is receipted. The current
    /// file knows the receipt: it is synced first.
    pub(super) fn remove_receipted(&mut self, through: Seq) -> Result<(), BufferError> {
        let done: Vec<u64> = self
            .files
            .iter()
            .take_while(|(number, facts)| {
                **number != self.current && facts.places.iter().all(|(seq, _)| *seq <= through)
            })
            .map(|(number, _)| *number)
            .collect();
        if done.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for number in done {
            let path = file_path(&self.dir, number);
            fs::remove_file(&path).map_err(BufferError::io("remove", &path))?;
            #[cfg(test)]
            super::trace::removed(&path);
            self.files.remove(&number);
        }
        durable::sync_dir(&self.dir).map_err(BufferError::io("sync", &self.dir))
    }

    /// Moves every file but the current one to `to`, which is created.
    pub(super) fn move_elders(&mut self, to: &Path) -> Result<(), BufferError> {
        let elders: Vec<u64> = self
            .files
            .keys()
            .copied()
            .filter(|number| *number != self.current)
            .collect();
        move_files(&self.dir, &elders, to)?;
        self.files.retain(|number, _| *number == self.current);
        Ok(())
    }

    /// Forces everything appended to the disk.
    pub(super) fn sync(&mut self) -> Result<(), BufferError> {
        self.write_held()?;
        self.file.sync_data().map_err(|error| {
            self.tail = Tail::Doubtful;
            BufferError::io("sync", &self.current_path())(error)
        })?;
        #[cfg(test)]
        self.trace_sync();
        Ok(())
    }

    /// What is on the disk is not read again soon. Kept in memory it lies in ever larger pieces, each of which is
    /// written whole when the next record touches its end: up to four times the bytes.
    fn leave_cache(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }

    #[cfg(test)]
    fn trace_sync(&self) {
        super::trace::note(|| super::trace::Event::Synced {
            path: self.current_path(),
        });
    }

    /// Whether the next record belongs into a new file.
    pub(super) fn wants_new_file(&self, rotate_bytes: u64) -> bool {
        self.needs_new_file() || self.bytes_in_current() >= rotate_bytes
    }

    /// Whether the next record must not go into this file: what the disk holds of it is not known.
    pub(super) fn needs_new_file(&self) -> bool {
        self.tail == Tail::Doubtful
    }

    /// The segment at `seq`, if a file has it and it is whole.
    pub(super) fn segment(&self, seq: Seq) -> Result<Option<StoredSegment>, BufferError> {
        for (number, facts) in self.files.iter().rev() {
            let Some((_, at)) = facts.places.iter().rev().find(|(held, _)| *held == seq) else {
                continue;
            };
            let path = file_path(&self.dir, *number);
            let found = segment_at(&path, *at).map_err(BufferError::io("read", &path))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|facts| facts.bytes).sum()
    }

    fn bytes_in_current(&self) -> u64 {
        self.files.get(&self.current).map_or(0, |facts| facts.bytes)
    }

    fn current_path(&self) -> PathBuf {
        file_path(&self.dir, self.current)
    }

    fn cut_unfinished(&mut self) -> Result<(), BufferError> {
        if self.tail == Tail::Unfinished {
            self.file
                .set_len(self.bytes_in_current())
                .map_err(BufferError::io("truncate", &self.current_path()))?;
            self.tail = Tail::Clean;
        }
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Not worth a word: it is given again.
        let _ = self.write_held();
    }
}

/// A journal file that has no name yet, so that nobody takes it for one. Removed when dropped.
#[derive(Debug)]
pub(super) struct FileDraft {
    path: PathBuf,
    file: Option<File>,
    number: u64,
    next_record: u64,
    facts: FileFacts,
    base: Base,
}

impl FileDraft {
    /// Appends a record. On failure the draft is as it was before.
    pub(super) fn append(&mut self, record: &Record) -> Result<(), BufferError> {
        let packed = self.base.pack(record);
        let record = packed.as_ref().unwrap_or(record);
        let frame = record
            .frame(self.next_record)
            .ok_or(BufferError::TooLarge)?;
        let at = self.facts.bytes;
        if let Some(file) = &self.file {
            let written = file.write_all_at(&frame, at);
            written.map_err(BufferError::io("append to", &self.path))?;
        }
        self.next_record += 1;
        self.facts.note(record, at, frame.len() as u64);
        self.base.note(record, at);
        Ok(())
    }
}

impl Drop for FileDraft {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The records of a whole file but for the open registers in them.
fn without_states(bytes: &[u8]) -> Option<(Vec<u8>, FileFacts)> {
    let mut frames = Vec::new();
    let mut facts = FileFacts::default();
    let (mut base, mut packing) = (Base::default(), Base::default());
    let mut at = 0;
    while at < bytes.len() {
        let Found::Whole {
            record,
            number,
            bytes,
        } = record::read(&bytes[at..])
        else {
            return None;
        };
        base.note(&record, at as u64);
        at += bytes;
        let record = match base.unpack(*record).ok()? {
            Record::State(_) => continue,
            Record::Sealed(sealed) => Record::Sealed(SealedRecord {
                state: None,
                ..sealed
            }),
            Record::Checkpoint(checkpoint) => Record::Checkpoint(Checkpoint {
                state: None,
                ..checkpoint
            }),
            other => other,
        };
        let record = packing.pack(&record).unwrap_or(record);
        let frame = record.frame(number)?;
        facts.note(&record, frames.len() as u64, frame.len() as u64);
        packing.note(&record, frames.len() as u64);
        frames.extend(frame);
    }
    Some((frames, facts))
}

/// Moves files of the journal in `dir` to another folder, which is created.
pub(super) fn move_files(dir: &Path, files: &[u64], to: &Path) -> Result<(), BufferError> {
    if files.is_empty() {
        return Ok(());
    }
    durable::create_private_dir(to).map_err(BufferError::io("create", to))?;
    for number in files {
        let path = file_path(dir, *number);
        fs::rename(&path, file_path(to, *number)).map_err(BufferError::io("move", &path))?;
    }
    durable::sync_dir(to).map_err(BufferError::io("sync", to))?;
    durable::sync_dir(dir).map_err(BufferError::io("sync", dir))
}

fn create_file(
    dir: &Path,
    number: u64,
    next_record: u64,
    checkpoint: Checkpoint,
) -> Result<(File, u64), BufferError> {
    let path = file_path(dir, number);
    let frame = Record::Checkpoint(checkpoint)
        .frame(next_record)
        .ok_or(BufferError::TooLarge)?;
    durable::replace_file(&path, &frame).map_err(BufferError::io("create", &path))?;
    #[cfg(test)]
    super::trace::created(&path);
    Ok((open_file(&path)?, frame.len() as u64))
}

fn open_file(path: &Path) -> Result<File, BufferError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(BufferError::io("open", path))
}

/// The segment whose record begins at `at`, if it is whole.
pub(super) fn segment_at(path: &Path, at: u64) -> io::Result<Option<StoredSegment>> {
    let file = File::open(path)?;
    Ok(match record_at(&file, at)? {
        Some(Record::Sealed(sealed)) => Some(sealed.segment),
        Some(Record::Packed(packed)) => match record_at(&file, packed.base_at)? {
            Some(Record::Sealed(base)) => packed
                .unpacked(&base.segment.bytes)
                .map(|sealed| sealed.segment),
            _ => None,
        },
        _ => None,
    })
}

fn record_at(file: &File, at: u64) -> io::Result<Option<Record>> {
    Ok(match record::read(&read_frame(file, at)?) {
        Found::Whole { record, .. } => Some(*record),
        _ => None,
    })
}

fn read_frame(file: &File, at: u64) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; record::HEAD_BYTES];
    file.read_exact_at(&mut frame, at)?;
    frame.resize(record::HEAD_BYTES + record::body_bytes(&frame), 0);
    file.read_exact_at(&mut frame, at)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::StreamId;

    use super::super::record::{Life, Mark};
    use super::super::scan::scan;
    use super::*;

    fn journal(dir: &Path) -> Journal {
        let life = Life {
            generation: 0,
            stream: StreamId([1; 16]),
            predecessor: None,
        };
        let checkpoint = Checkpoint {
            mark: Mark::beginning(life),
            state: None,
        };
        Journal::begin(dir, 1, 0, checkpoint).unwrap()
    }

    #[test]
    fn a_record_that_could_not_be_written_leaves_the_journal_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        journal
            .append(&Record::Offered(Seq(1)), Durability::Now)
            .unwrap();
        let path = file_path(folder.path(), 1);
        let whole = fs::read(&path).unwrap();
        let writable = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
        assert!(
            journal
                .append(&Record::Offered(Seq(2)), Durability::Now)
                .is_err()
        );
        // What a write cut short by a full disk leaves.
        writable
            .write_all_at(b"half a record", whole.len() as u64)
            .unwrap();
        journal.file = writable;
        journal
            .append(&Record::Offered(Seq(3)), Durability::Now)
            .unwrap();
        assert_eq!(fs::read(&path).unwrap()[..whole.len()], whole);
        let scan = scan(folder.path()).unwrap();
        assert!(!scan.is_damaged() && scan.torn_tail().is_none());
        assert_eq!(scan.mark.unwrap().offered, Some(Seq(3)));
    }

    #[test]
    fn after_a_failed_sync_the_next_record_goes_into_a_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(folder.path());
        assert!(!journal.wants_new_file(1 << 20));
        journal.tail = Tail::Doubtful;
        assert!(journal.wants_new_file(1 << 20));
    }
}
