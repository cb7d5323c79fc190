//! Opening: what journal and sled hold together, and what has to be mended.
//!
//! Owns the decision which of the two is right. The journal is the authority; where it is damaged,
//! the longest chain that can be made of both is. A stream of which a sealed segment is in neither,
//! or whose open registers are lost, cannot go on: it ends, and a new one names it.

use std::fs;
use std::path::{Path, PathBuf};

use tallystick_common::ids::StreamId;
use tallystick_common::segment::StreamPosition;
use tokio::sync::watch;

use super::fill::{self, fill, fill_open, free_name};
use super::journal::{Durability, Journal, move_files};
use super::record::{Checkpoint, Life, Mark, Record, SealedRecord, StateTrack};
use super::reserve::Reserve;
use super::room::Stored;
use super::scan::{self, Facts, Scan, file_path};
use super::store::{Store, StoreError};
use super::union::Union;
use super::{Buffer, BufferError, Head, ReceiptMark, Report, Settings, StoredSegment};
use crate::durable;

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
    opening.remove_superseded(&scan)?;
    fill::finish_compaction(dir);
    let rate = scan.rate.clone();
    let store = opening.readable_store();
    let (journal, mark, mut state) = opening.journal(&scan, store.as_ref(), fresh)?;
    drop(scan);
    let store = opening.store(store.map(|(store, _)| store), &journal, &mark, &state);
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
    let stored = Stored {
        next: mark.head.next,
        base: None,
    };
    let reserve = Reserve::open(dir, settings.reserve_bytes());
    let dir = dir.to_owned();
    Ok((
        Buffer {
            dir,
            settings,
            mark,
            state,
            journal,
            store,
            stored,
            kept: None,
            reserve,
            rate,
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

    /// Nor may a crash have come between thinning and the removal of what was thinned, or within it.
    fn remove_superseded(&self, scan: &Scan) -> Result<(), BufferError> {
        let dir = self.journal_dir();
        let unfinished = file_path(&dir, scan.last_file + 1).with_extension("log.tmp");
        if unfinished.exists() {
            fs::remove_file(&unfinished).map_err(BufferError::io("remove", &unfinished))?;
        }
        for number in &scan.superseded {
            let path = file_path(&dir, *number);
            fs::remove_file(&path).map_err(BufferError::io("remove", &path))?;
        }
        Ok(())
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
            Err(error) if error.is_full_disk() => None,
            Err(error) => {
                self.set_aside(&error);
                None
            }
        }
    }

    fn set_aside(&mut self, error: &StoreError) {
        let kept_in = fill::set_aside(self.dir);
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
    fn store(
        &mut self,
        opened: Option<Store>,
        journal: &Journal,
        mark: &Mark,
        state: &StateTrack,
    ) -> Option<Store> {
        let filled = match opened {
            Some(store) => fill_open(store, self.dir, &self.settings, journal, mark),
            None => fill(self.dir, &self.settings, journal, mark),
        };
        let filled = match filled {
            Err(error) if !error.is_full_disk() => {
                self.set_aside(&error);
                fill(self.dir, &self.settings, journal, mark)
            }
            filled => filled,
        };
        let full: Vec<_> = state.full_at(mark.head.next).into_iter().collect();
        filled
            .and_then(|store| store.set_mark(mark, &full).map(|()| store))
            .inspect_err(|error| {
                self.reports.push(Report::StoreUnusable {
                    why: error.to_string(),
                });
            })
            .ok()
    }
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
