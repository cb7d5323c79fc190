//! Counts what came in: the ledger says what is new, the registers take it, the disk holds both, and only then
//! everybody is answered.
//!
//! Whatever waits is committed together: one sync of the log, one of the journal. The order is log, then
//! registers: what the registers do not have after a crash is forgotten in the log when it is opened, so the
//! sender's repetition counts.

use std::path::Path;

use tallystick_common::time::Timestamp;

use super::ledger::{Entry, Known, Ledger, Limits, Undo};
use super::log::{self, Log};
use super::{Answer, Content, Count, Event, IntakeError, Request};
use crate::accrue::{Accrual, ReportError, Reported};
use crate::config::IntakeSettings;
use crate::station::Station;

/// The ledger at work.
#[derive(Debug)]
pub struct Desk {
    ledger: Ledger,
    log: Log,
}

/// What a request adds, staged in the ledger and not on the disk yet.
#[derive(Debug, Default)]
struct Staged {
    entries: Vec<Entry>,
    undo: Vec<Undo>,
    new: usize,
    known: usize,
    unclear: Vec<(usize, String)>,
}

impl Desk {
    /// Opens the ledger in `dir`. `counted` is the last batch that the registers hold; none when the
    /// registers were lost, or never were.
    ///
    /// # Errors
    /// When its file cannot be read or written.
    pub fn open(
        dir: &Path,
        settings: &IntakeSettings,
        counted: Option<u64>,
        now: Timestamp,
    ) -> Result<Self, IntakeError> {
        let limits = Limits {
            events: settings.events,
            series: settings.series,
        };
        let (log, ledger) = Log::open(dir, counted, limits, now)?;
        Ok(Self { ledger, log })
    }

    /// The batch that counts as being in the registers since it was opened.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.log.counted()
    }

    /// Another copy of the registers may have counted what series rose by: they count from where they are when they
    /// are seen next. When this returns, that is on the disk.
    ///
    /// # Errors
    /// When it is not.
    pub fn forget_series(&mut self, station: &Station, now: Timestamp) -> Result<(), IntakeError> {
        self.ledger.forget_series(now);
        self.log.renew(&self.ledger, station.accrual().batch())
    }

    /// As [`Self::forget_series`], of a desk in `dir` that is not open: events are forgotten, too.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn forget_all(dir: &Path) -> Result<(), IntakeError> {
        log::remove(dir)
    }

    /// Counts all of `requests` and answers them. `seed` is 32 random bytes, drawn for this call.
    pub fn commit(
        &mut self,
        station: &mut Station,
        requests: Vec<Request>,
        seed: [u8; 32],
        now: Timestamp,
    ) {
        self.ledger.expire(now);
        if let Err(error) = station.make_ready(seed) {
            return answer_all(requests, &Answer::Later(error.to_string()));
        }
        let mut accrual = station.accrual().clone();
        let (mut staged, mut waiting) = (Vec::new(), Vec::new());
        for request in requests {
            match self.stage(&request.content, &mut accrual, now) {
                Ok(part) => {
                    staged.push(part);
                    waiting.push(request.answer);
                }
                Err(answer) => drop(request.answer.send(answer)),
            }
        }
        let kept = self.keep(station, accrual, &mut staged, now);
        if kept.is_err() {
            let undo = staged
                .iter_mut()
                .rev()
                .flat_map(|part| part.undo.drain(..).rev());
            undo.for_each(|undo| self.ledger.undo(undo));
        }
        for (part, answer) in staged.into_iter().zip(waiting) {
            // Who does not wait any more sends it again, and is told that it is known.
            let _ = answer.send(match &kept {
                Ok(()) => Answer::Counted {
                    new: part.new,
                    known: part.known,
                    unclear: part.unclear,
                },
                Err(why) => Answer::Later(why.clone()),
            });
        }
    }

    /// Stages one request; what it staged is undone when it cannot be taken whole.
    fn stage(
        &mut self,
        content: &Content,
        accrual: &mut Accrual,
        now: Timestamp,
    ) -> Result<Staged, Answer> {
        let mut part = Staged::default();
        let staged = match content {
            Content::Events(events) => self.stage_events(events, &mut part, accrual, now),
            Content::Counts(counts) => self.stage_counts(counts, &mut part, accrual, now),
        };
        match staged {
            Ok(()) => Ok(part),
            Err(answer) => {
                let undo = part.undo.into_iter().rev();
                undo.for_each(|undo| self.ledger.undo(undo));
                Err(answer)
            }
        }
    }

    fn stage_events(
        &mut self,
        events: &[Event],
        part: &mut Staged,
        accrual: &mut Accrual,
        now: Timestamp,
    ) -> Result<(), Answer> {
        let mut usage = Reported::new();
        for (place, event) in events.iter().enumerate() {
            match self.ledger.known(&event.key, event.content) {
                Known::Different => return Err(Answer::Conflict(place)),
                Known::Same => part.known += 1,
                Known::New => {
                    let (entry, undo) = self.ledger.count_event(event.key, event.content, now);
                    part.note(entry, undo);
                    let sum = usage.entry(event.register.clone()).or_default();
                    *sum = sum.saturating_add(event.quantity);
                    part.new += 1;
                }
            }
        }
        let reported = accrual.report(&usage, now);
        reported.map_err(|why| Answer::Later(why.to_string()))
    }

    fn stage_counts(
        &mut self,
        counts: &[Count],
        part: &mut Staged,
        accrual: &mut Accrual,
        now: Timestamp,
    ) -> Result<(), Answer> {
        for (place, count) in counts.iter().enumerate() {
            let counted = self.ledger.count_series(count.key, &count.point, now);
            let (more, entry, undo) = match counted {
                Ok(Some(counted)) => counted,
                Ok(None) => {
                    let why = "as many series are followed as intake.series allows: use fewer attributes, or raise it";
                    part.unclear.push((place, why.to_owned()));
                    continue;
                }
                Err(unclear) => {
                    part.unclear.push((place, unclear.to_string()));
                    continue;
                }
            };
            let usage = Reported::from([(count.register.clone(), more)]);
            match accrual.report(&usage, now) {
                Ok(()) => {
                    part.note(entry, undo);
                    part.new += 1;
                }
                Err(why) => {
                    self.ledger.undo(undo);
                    if why == ReportError::NotYet {
                        return Err(Answer::Later(why.to_string()));
                    }
                    part.unclear.push((place, why.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Brings what is staged to the disk: all of it, or (with the reason) nothing.
    fn keep(
        &mut self,
        station: &mut Station,
        mut accrual: Accrual,
        staged: &mut [Staged],
        now: Timestamp,
    ) -> Result<(), String> {
        let entries = staged.iter_mut().flat_map(|part| part.entries.drain(..));
        let entries: Vec<Entry> = entries.collect();
        if entries.is_empty() {
            return Ok(());
        }
        let before = self.log.bytes();
        accrual.set_batch(self.log.next_batch());
        self.log
            .append(now, entries)
            .map_err(|error| error.to_string())?;
        tallystick_common::failpoint!("agent.intake.logged");
        if let Err(error) = station.take_reports(accrual) {
            if let Err(error) = self.log.take_back(before) {
                tracing::error!(%error, "what was not counted stays in the log");
            }
            return Err(error.to_string());
        }
        tallystick_common::failpoint!("agent.intake.counted");
        if let Err(error) = self.log.compact_if_due(&self.ledger) {
            tracing::warn!(%error, "the log of what was counted grows");
        }
        Ok(())
    }
}

impl Staged {
    fn note(&mut self, entry: Entry, undo: Undo) {
        self.entries.push(entry);
        self.undo.push(undo);
    }
}

fn answer_all(requests: Vec<Request>, answer: &Answer) {
    for request in requests {
        let _ = request.answer.send(answer.clone());
    }
}

#[cfg(test)]
mod tests;
