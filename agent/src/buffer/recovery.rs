//! Opening: what journal and sled hold together, and what has to be mended.
//!
//! Owns the decision which of the two is right. The journal is the authority; where it is damaged,
//! the longest chain that can be made of both is. A stream of which a sealed segment is in neither,
//! or whose open registers are lost, cannot go on: it ends, and a new one names it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::segment::StreamPosition;
use tokio::sync::watch;

use super::journal::{Durability, Journal, move_files};
use super::record::{Checkpoint, Life, Mark, Record, SealedRecord, StateTrack};
use super::scan::{self, Facts, Scan};
use super::store::{Store, StoreError};
use super::{Buffer, BufferError, Head, ReceiptMark, Settings, StoredSegment};
use crate::durable;

/// How many stores that were set aside are kept to look at.
const STORES_KEPT: usize = 2;

/// What an opened buffer starts from.
#[derive(Debug)]
pub struct Recovered {
    /// The stream.
    pub stream: StreamId,
    /// What its first segment names as predecessor.
    pub predecessor: Option<StreamPosition>,
    /// Where it stands.
    pub head: Head,
    /// The open registers after the last seal; `None` in a stream that has none yet.
    pub state: Option<Vec<u8>>,
    /// The last receipt.
    pub last_receipt: Option<ReceiptMark>,
    /// What was found out of order, in the order in which it was mended.
    pub reports: Vec<Report>,
}

/// Something that was found out of order on opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The last record was not finished when the agent or the machine went down.
    TornTail {
        /// Bytes cut off.
        bytes: u64,
    },
    /// Parts of the journal are no records.
    JournalDamaged {
        /// Where the damaged files are kept.
        kept_in: PathBuf,
    },
    /// The journal was written anew.
    JournalRebuilt {
        /// Segments in it.
        segments: u64,
    },
    /// sled could not be used; it was set aside and filled from the journal.
    StoreSetAside {
        /// What was wrong.
        why: String,
        /// Where it is kept.
        kept_in: PathBuf,
    },
    /// sled cannot be used, nor made anew: the journal works alone.
    StoreUnusable {
        /// What is wrong.
        why: String,
    },
    /// Something sealed is lost, or the open registers are: a new stream was begun.
    StreamEnded {
        /// The old stream.
        stream: StreamId,
        /// The first segment that is lost; the next one to seal when only the registers are.
        lost_from: Seq,
        /// Where what is left of it is kept.
        kept_in: PathBuf,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { bytes } => {
                write!(
                    f,
                    "the last journal record was not finished; cut off {bytes} bytes"
                )
            }
            Self::JournalDamaged { kept_in } => {
                write!(
                    f,
                    "parts of the journal were damaged; the files are kept in {}",
                    kept_in.display()
                )
            }
            Self::JournalRebuilt { segments } => {
                write!(f, "the journal was written anew with {segments} segments")
            }
            Self::StoreSetAside { why, kept_in } => write!(
                f,
                "the store was set aside in {} and filled from the journal: {why}",
                kept_in.display()
            ),
            Self::StoreUnusable { why } => write!(f, "the journal works without the store: {why}"),
            Self::StreamEnded {
                stream,
                lost_from,
                kept_in,
            } => write!(
                f,
                "stream {stream} could not go on (lost from segment {lost_from}); what is left is kept in {}, a new stream began",
                kept_in.display()
            ),
        }
    }
}

/// What a buffer that no agent has open says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// The stream.
    pub stream: StreamId,
    /// Where it stands.
    pub head: Head,
    /// The last receipt.
    pub last_receipt: Option<ReceiptMark>,
    /// Sealed segments without a receipt.
    pub unreceipted: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The open registers after the last seal.
    pub state: Option<Vec<u8>>,
}

/// Reads the journal in `dir` and changes nothing. `None` when nothing was begun there.
///
/// # Errors
/// When the files cannot be read.
pub fn peek(dir: &Path) -> Result<Option<Peek>, BufferError> {
    let scan = scan::scan(&dir.join("journal"))?;
    let Some(mark) = scan.mark else {
        return Ok(None);
    };
    let (first, _) = mark.first_unreceipted();
    Ok(Some(Peek {
        stream: mark.life.stream,
        head: mark.head,
        unreceipted: mark.head.next.0.saturating_sub(first.0),
        bytes: durable::bytes_below(&dir.join("journal"))
            + durable::bytes_below(&dir.join("store")),
        state: scan.state.at(mark.head.next).map(<[u8]>::to_vec),
        last_receipt: mark.receipt,
    }))
}

/// Opens the buffer in `dir`; see [`Buffer::open`].
pub(super) fn open(
    dir: &Path,
    settings: Settings,
    fresh: StreamId,
) -> Result<(Buffer, Recovered), BufferError> {
    durable::create_private_dir(dir).map_err(BufferError::io("create", dir))?;
    let mut opening = Opening {
        dir,
        settings,
        reports: Vec::new(),
    };
    let scan = scan::scan(&dir.join("journal"))?;
    opening.put_away_ended(&scan)?;
    let store = opening.readable_store();
    let (journal, mark, mut state) = opening.journal(&scan, store.as_ref(), fresh)?;
    // sled is opened again below, to be filled: two at a time it does not allow.
    drop((scan, store));
    let store = opening.store(&journal, &mark, &state);
    state.forget_base();
    let recovered = Recovered {
        stream: mark.life.stream,
        predecessor: mark.life.predecessor,
        head: mark.head,
        state: state.at(mark.head.next).map(<[u8]>::to_vec),
        last_receipt: mark.receipt.clone(),
        reports: opening.reports,
    };
    let (heads, _) = watch::channel(mark.head);
    let dir = dir.to_owned();
    Ok((
        Buffer {
            dir,
            settings,
            mark,
            state,
            journal,
            store,
            heads,
        },
        recovered,
    ))
}

struct Opening<'a> {
    dir: &'a Path,
    settings: Settings,
    reports: Vec<Report>,
}

impl Opening<'_> {
    fn journal_dir(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// A crash may have come between the beginning of a stream and the moving of the old files.
    fn put_away_ended(&mut self, scan: &Scan) -> Result<(), BufferError> {
        let to = free_name(&self.dir.join("ended"), "stream");
        move_files(&self.journal_dir(), &scan.ended, &to)
    }

    /// sled, if there is one that can be opened. One that cannot is set aside.
    fn readable_store(&mut self) -> Option<(Store, Mark)> {
        let path = self.dir.join("store");
        if !path.exists() {
            return None;
        }
        let opened = Store::open(&path, self.settings.cache_bytes)
            .and_then(|store| Ok(store.mark()?.map(|mark| (store, mark))));
        match opened {
            Ok(found) => found,
            Err(error) => {
                self.set_aside(&error);
                None
            }
        }
    }

    fn set_aside(&mut self, error: &StoreError) {
        let kept_in = set_aside(self.dir);
        self.reports.push(Report::StoreSetAside {
            why: error.to_string(),
            kept_in,
        });
    }

    /// The journal to go on with, how far the stream is, and the open registers.
    fn journal(
        &mut self,
        scan: &Scan,
        store: Option<&(Store, Mark)>,
        fresh: StreamId,
    ) -> Result<(Journal, Mark, StateTrack), BufferError> {
        let by_store = store.map(|(_, mark)| mark);
        let Some(union) = Union::of(scan, by_store, |seq| store?.0.facts(seq)) else {
            return self.begin(
                scan,
                Life {
                    generation: 0,
                    stream: fresh,
                    predecessor: None,
                },
            );
        };
        let state = union.state(&scan.state, || store?.0.state().ok());
        let Some(state) = state.filter(|_| union.lost_from.is_none()) else {
            return self.end_stream(scan, &union, fresh);
        };
        if union.journal_is_whole && !scan.is_damaged() {
            if let Some((_, whole, bytes)) = scan.torn_tail() {
                self.reports.push(Report::TornTail {
                    bytes: bytes - whole,
                });
            }
            let journal = Journal::resume(&self.journal_dir(), scan)?;
            return Ok((journal, union.mark, state));
        }
        self.rewrite(scan, store.map(|(store, _)| store), union, &state)
    }

    fn begin(
        &mut self,
        scan: &Scan,
        life: Life,
    ) -> Result<(Journal, Mark, StateTrack), BufferError> {
        let mark = Mark::beginning(life);
        let checkpoint = Checkpoint {
            mark: mark.clone(),
            state: None,
        };
        let journal = Journal::begin(
            &self.journal_dir(),
            scan.last_file + 1,
            scan.next_record,
            checkpoint,
        )?;
        self.put_away_damaged(scan)?;
        Ok((journal, mark, StateTrack::default()))
    }

    /// Files without any checkpoint say nothing any more.
    fn put_away_damaged(&mut self, scan: &Scan) -> Result<(), BufferError> {
        let files: Vec<u64> = scan.files.keys().copied().collect();
        if files.is_empty() {
            return Ok(());
        }
        let kept_in = free_name(&self.dir.join("quarantine"), "journal");
        move_files(&self.journal_dir(), &files, &kept_in)?;
        self.reports.push(Report::JournalDamaged { kept_in });
        Ok(())
    }

    fn end_stream(
        &mut self,
        scan: &Scan,
        union: &Union,
        fresh: StreamId,
    ) -> Result<(Journal, Mark, StateTrack), BufferError> {
        let old = union.mark.life;
        let life = Life {
            generation: old.generation + 1,
            stream: fresh,
            predecessor: union.last_position().or(old.predecessor),
        };
        let mark = Mark::beginning(life);
        let checkpoint = Checkpoint {
            mark: mark.clone(),
            state: None,
        };
        let dir = self.journal_dir();
        let journal = Journal::begin(&dir, scan.last_file + 1, scan.next_record, checkpoint)?;
        let kept_in = free_name(&self.dir.join("ended"), &old.stream.to_string());
        let files: Vec<u64> = scan.files.keys().copied().collect();
        move_files(&dir, &files, &kept_in)?;
        let lost_from = union.lost_from.unwrap_or(union.mark.head.next);
        self.reports.push(Report::StreamEnded {
            stream: old.stream,
            lost_from,
            kept_in,
        });
        Ok((journal, mark, StateTrack::default()))
    }

    /// Writes a journal of what both hold together, then puts the old files away.
    fn rewrite(
        &mut self,
        scan: &Scan,
        store: Option<&Store>,
        union: Union,
        state: &StateTrack,
    ) -> Result<(Journal, Mark, StateTrack), BufferError> {
        let dir = self.journal_dir();
        let old = (!scan.files.is_empty())
            .then(|| Journal::resume(&dir, scan))
            .transpose()?;
        let full = state.full_at(union.mark.head.next);
        let mut mark = Mark {
            head: union.base,
            ..union.mark.clone()
        };
        let checkpoint = |mark: &Mark| Checkpoint {
            mark: mark.clone(),
            state: full.clone(),
        };
        let mut journal = Journal::begin(
            &dir,
            scan.last_file + 1,
            scan.next_record,
            checkpoint(&mark),
        )?;
        for facts in &union.chain {
            let segment = segment_of_either(old.as_ref(), store, facts)?;
            mark.head = facts.head_after();
            let record = Record::Sealed(SealedRecord {
                segment,
                state: None,
            });
            journal.append(&record, Durability::Later)?;
            if journal.wants_new_file(self.settings.rotate_bytes) {
                journal.sync()?;
                journal.rotate(checkpoint(&mark))?;
            }
        }
        journal.sync()?;
        self.put_away_damaged(scan)?;
        let segments = union.chain.len() as u64;
        self.reports.push(Report::JournalRebuilt { segments });
        let mut rebuilt = StateTrack::default();
        if let Some(full) = &full {
            rebuilt.note(full);
        }
        Ok((journal, union.mark, rebuilt))
    }

    /// sled in agreement with the journal; made anew when it is not.
    fn store(&mut self, journal: &Journal, mark: &Mark, state: &StateTrack) -> Option<Store> {
        let filled = match fill(self.dir, &self.settings, journal, mark) {
            Err(error) => {
                self.set_aside(&error);
                fill(self.dir, &self.settings, journal, mark)
            }
            filled => filled,
        };
        let full = state.full_at(mark.head.next);
        filled
            .and_then(|store| store.set_mark(mark, full.as_ref()).map(|()| store))
            .inspect_err(|error| {
                self.reports.push(Report::StoreUnusable {
                    why: error.to_string(),
                });
            })
            .ok()
    }
}

/// sled again in order after it was not; set aside and made anew if need be.
pub(super) fn attach(
    dir: &Path,
    settings: &Settings,
    journal: &Journal,
    mark: &Mark,
) -> Result<Store, StoreError> {
    fill(dir, settings, journal, mark).or_else(|error| {
        tracing::warn!(%error, kept_in = %set_aside(dir).display(), "the store was set aside");
        fill(dir, settings, journal, mark)
    })
}

/// Opens sled and adds what only the journal has.
fn fill(
    dir: &Path,
    settings: &Settings,
    journal: &Journal,
    mark: &Mark,
) -> Result<Store, StoreError> {
    let store = Store::open(&dir.join("store"), settings.cache_bytes)?;
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
            next.max(first)
        }
    };
    for seq in (from.0..mark.head.next.0).map(Seq) {
        if let Ok(Some(segment)) = journal.segment(seq) {
            let head = Facts::from(&segment).head_after();
            store.insert(
                &segment,
                &Mark {
                    head,
                    ..mark.clone()
                },
                None,
            )?;
        }
    }
    Ok(store)
}

fn segment_of_either(
    journal: Option<&Journal>,
    store: Option<&Store>,
    facts: &Facts,
) -> Result<StoredSegment, BufferError> {
    let journaled = journal
        .map(|journal| journal.segment(facts.seq))
        .transpose()?
        .flatten();
    journaled
        .filter(|segment| segment.hash == facts.hash)
        .or_else(|| store?.segment(facts.seq).ok().flatten())
        .ok_or(BufferError::Gone(facts.seq))
}

/// Moves the store out of the way and says where to.
fn set_aside(dir: &Path) -> PathBuf {
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
fn free_name(parent: &Path, what: &str) -> PathBuf {
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

/// What journal and sled hold together of the stream in force.
struct Union {
    mark: Mark,
    /// The head before the first segment of the chain.
    base: Head,
    /// The segments without a receipt, each following the one before.
    chain: Vec<Facts>,
    /// The first segment that was sealed and is in neither.
    lost_from: Option<Seq>,
    /// Whether the journal alone has all of the chain and knows the head.
    journal_is_whole: bool,
    /// Whether the journal is of the stream in force at all.
    journal_in_force: bool,
}

impl Union {
    /// `None` when neither has anything to say.
    fn of(
        scan: &Scan,
        store: Option<&Mark>,
        store_facts: impl Fn(Seq) -> Option<Facts>,
    ) -> Option<Self> {
        let generation = [scan.mark.as_ref(), store]
            .into_iter()
            .flatten()
            .map(|mark| mark.life.generation)
            .max()?;
        let in_force = |mark: &&Mark| mark.life.generation == generation;
        let journal = scan.mark.as_ref().filter(in_force);
        let store = store.filter(in_force);
        let mark = merged(journal, store)?;
        let (first, before_first) = mark.first_unreceipted();
        let mut hash = before_first;
        let mut chain = Vec::new();
        let mut journal_is_whole = journal.is_some_and(|known| known.head == mark.head);
        for seq in (first.0..mark.head.next.0).map(Seq) {
            let follows = |facts: &Facts| facts.previous == hash;
            let journaled = journal
                .and_then(|_| scan.segments.get(&seq))
                .copied()
                .filter(follows);
            journal_is_whole &= journaled.is_some();
            let stored = || store.and_then(|_| store_facts(seq)).filter(follows);
            let Some(facts) = journaled.or_else(stored) else {
                break;
            };
            hash = facts.hash;
            chain.push(facts);
        }
        let reached = first.0 + chain.len() as u64;
        let lost_from = (reached < mark.head.next.0).then_some(Seq(reached));
        let base = match chain.is_empty() {
            true => mark.head,
            false => Head {
                next: first,
                hash: before_first,
                ..Head::BEGINNING
            },
        };
        let journal_in_force = journal.is_some();
        Some(Self {
            mark,
            base,
            chain,
            lost_from,
            journal_is_whole,
            journal_in_force,
        })
    }

    /// The open registers at the head, by whichever of the two has them.
    fn state(
        &self,
        journal: &StateTrack,
        store: impl FnOnce() -> Option<StateTrack>,
    ) -> Option<StateTrack> {
        let next = self.mark.head.next;
        let knows = |track: &StateTrack| next == Seq::FIRST || track.at(next).is_some();
        let journal = self.journal_in_force.then(|| journal.clone());
        journal.filter(knows).or_else(|| store().filter(knows))
    }

    /// The last segment that is known for certain: where a new stream says the old one ended.
    fn last_position(&self) -> Option<StreamPosition> {
        let stream = self.mark.life.stream;
        let position = |seq, hash: Hash| StreamPosition { stream, seq, hash };
        match (self.chain.last(), &self.mark.receipt) {
            (Some(last), _) => Some(position(last.seq, last.hash)),
            (None, Some(receipt)) => Some(position(receipt.through, receipt.hash)),
            (None, None) => None,
        }
    }
}

/// The furthest of two marks of one stream, on each of its ways.
fn merged(journal: Option<&Mark>, store: Option<&Mark>) -> Option<Mark> {
    let (Some(journal), Some(store)) = (journal, store) else {
        return journal.or(store).cloned();
    };
    let mut mark = journal.clone();
    if store.head.next > mark.head.next {
        mark.head = store.head;
    }
    if let Some(receipt) = &store.receipt {
        super::raise(&mut mark.receipt, receipt.clone(), |receipt| {
            receipt.through
        });
    }
    if let Some(offered) = store.offered {
        super::raise(&mut mark.offered, offered, |through| *through);
    }
    Some(mark)
}
