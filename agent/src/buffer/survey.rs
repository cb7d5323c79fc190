//! A buffer looked through, record by record, without changing anything.
//!
//! Owns what `buffer show` and `buffer verify` are told. Works while an agent has the buffer open, too:
//! then only the journal is read, for sled lets nobody else in. sled of a buffer that nobody has open is
//! read from a copy, for opening it would change its files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tallystick_common::ids::{Hash, Seq};
use tallystick_common::time::Micros;

use super::journal::segment_at;
use super::record::Mark;
use super::scan::{self, Scan, file_path};
use super::scratch::Scratch;
use super::store::Store;
use super::union::Union;
use super::{BufferError, Peek, Settings, StoredSegment, peek};

/// One journal file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFile {
    /// Which.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// How many of them are no records, not counting an unfinished one at the end.
    pub damaged_bytes: u64,
    /// How many stand after the last whole record.
    pub unfinished_bytes: u64,
    /// Segments in it.
    pub segments: usize,
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// In short.
    pub peek: Peek,
    /// The first segment without a receipt.
    pub oldest_unreceipted: Seq,
    /// What the segment before that is called.
    pub before: Hash,
    /// Up to which segment the other side may know the stream.
    pub offered: Option<Seq>,
    /// The files in force.
    pub files: Vec<JournalFile>,
    /// The first segment that was sealed and is neither in the journal nor in sled.
    pub lost_from: Option<Seq>,
    /// Whether the open registers after the last seal are known.
    pub knows_registers: bool,
    /// What is wrong with sled; it can be made anew. `None` when it is sound, or was not looked at.
    pub store_trouble: Option<String>,
    /// Whether sled was looked at.
    pub store_read: bool,
    /// How long until the buffer is full at the rate of the last segments.
    pub full_in: Option<Micros>,
    places: BTreeMap<Seq, (PathBuf, u64)>,
    store: Option<(Store, Scratch)>,
}

impl Survey {
    /// Looks through the buffer in `dir`. `live` says that an agent has it open. `None` when nothing was
    /// begun there.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn of(dir: &Path, settings: &Settings, live: bool) -> Result<Option<Self>, BufferError> {
        let scan = scan::scan(&dir.join("journal"))?;
        let mut trouble = None;
        let store = match (live, dir.join("store").is_dir()) {
            (false, true) => copied(dir, settings)
                .inspect_err(|error| trouble = Some(error.clone()))
                .ok(),
            _ => None,
        };
        let by_store = store
            .as_ref()
            .and_then(|(store, _)| mark_of(store, &mut trouble));
        let facts = |seq| store.as_ref()?.0.facts(seq);
        let Some(union) = Union::of(&scan, by_store.as_ref(), facts) else {
            return Ok(None);
        };
        let registers = || store.as_ref()?.0.state().ok();
        let knows_registers = union.state(&scan.state, registers).is_some();
        let mut survey = Self {
            peek: peek::of_scan(dir, &scan, &union.mark),
            oldest_unreceipted: union.mark.first_unreceipted().0,
            before: union.mark.first_unreceipted().1,
            offered: union.mark.offered,
            files: files(dir, &scan),
            lost_from: union.lost_from,
            knows_registers,
            store_trouble: trouble,
            store_read: store.is_some(),
            full_in: None,
            places: places(dir, &scan),
            store,
        };
        survey.full_in = survey.lasts(&scan, settings);
        survey.compare_store();
        Ok(Some(survey))
    }

    /// The segment at `seq`, from the journal; where that does not have it, from sled.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn segment(&self, seq: Seq) -> Result<Option<StoredSegment>, BufferError> {
        let journaled = match self.places.get(&seq) {
            Some((path, at)) => segment_at(path, *at).map_err(BufferError::io("read", path))?,
            None => None,
        };
        let stored = || self.store.as_ref()?.0.segment(seq).ok().flatten();
        Ok(journaled.or_else(stored))
    }

    /// Whether anything is damaged, though nothing may be lost.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.store_trouble.is_some() || self.files.iter().any(|file| file.damaged_bytes > 0)
    }

    fn lasts(&self, scan: &Scan, settings: &Settings) -> Option<Micros> {
        let most = settings
            .limit_bytes
            .saturating_sub(settings.reserve_bytes());
        scan.rate
            .lasts(most.saturating_sub(self.peek.bytes) / super::room::COPIES)
    }

    /// sled has every unreceipted segment that it says it has, as the journal has it.
    fn compare_store(&mut self) {
        let Some((store, _)) = &self.store else {
            return;
        };
        let mark = match store.mark() {
            Ok(Some(mark)) => mark,
            Ok(None) => {
                self.store_trouble = Some("it is empty".to_owned());
                return;
            }
            Err(error) => {
                self.store_trouble = Some(error.to_string());
                return;
            }
        };
        let ours = self.peek.head.next;
        for seq in (self.oldest_unreceipted.0..mark.head.next.0.min(ours.0)).map(Seq) {
            let stored = store.segment(seq);
            let fits = match (&stored, self.segment(seq)) {
                (Ok(Some(stored)), Ok(Some(known))) => *stored == known,
                _ => false,
            };
            if !fits {
                let what = stored
                    .err()
                    .map_or("it is another or missing".to_owned(), |error| {
                        error.to_string()
                    });
                self.store_trouble = Some(format!("segment {seq} in sled: {what}"));
                return;
            }
        }
    }
}

fn mark_of(store: &Store, trouble: &mut Option<String>) -> Option<Mark> {
    store
        .mark()
        .inspect_err(|error| *trouble = Some(error.to_string()))
        .ok()
        .flatten()
}

fn copied(dir: &Path, settings: &Settings) -> Result<(Store, Scratch), String> {
    let scratch = Scratch::new().map_err(|error| format!("not looked at: {error}"))?;
    copy(&dir.join("store"), scratch.path())
        .map_err(|error| format!("not looked at: it could not be copied: {error}"))?;
    let store = Store::open(scratch.path(), settings.cache_bytes);
    store
        .map(|store| (store, scratch))
        .map_err(|error| error.to_string())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn files(dir: &Path, scan: &Scan) -> Vec<JournalFile> {
    let last = scan.files.keys().next_back();
    scan.files
        .iter()
        .map(|(number, file)| {
            let unfinished = file.bytes - file.whole_bytes;
            let inside: u64 = file.damaged.iter().map(|(from, to)| to - from).sum();
            // Only the last file may end in something unfinished.
            let (damaged, unfinished) = match Some(number) == last {
                true => (inside, unfinished),
                false => (inside + unfinished, 0),
            };
            JournalFile {
                path: file_path(&dir.join("journal"), *number),
                bytes: file.bytes,
                damaged_bytes: damaged,
                unfinished_bytes: unfinished,
                segments: file.places.len(),
            }
        })
        .collect()
}

fn places(dir: &Path, scan: &Scan) -> BTreeMap<Seq, (PathBuf, u64)> {
    let mut places = BTreeMap::new();
    for (number, file) in &scan.files {
        let path = file_path(&dir.join("journal"), *number);
        for (seq, at) in &file.places {
            places.insert(*seq, (path.clone(), *at));
        }
    }
    places
}
