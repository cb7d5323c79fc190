//! `buffer show` and `buffer verify`: what is buffered, and whether it stands.
//!
//! Owns the judgement of a survey against the node's key, and how both are told to people and
//! machines. Changes nothing; works whether or not an agent runs on the buffer.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use tallystick_common::chain::StreamState;
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::keys::KeyRing;
use tallystick_common::seal::SealedSegment;
use tallystick_common::segment::Previous;
use tallystick_common::time::Timestamp;

use crate::buffer::{BufferError, Settings, StoredSegment, Survey};
use crate::durable;

/// One journal file, for people to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileShown {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Segments in it.
    pub segments: usize,
    /// Bytes of it that are no records.
    pub damaged_bytes: u64,
    /// Bytes of a last record that is not finished: being written now, or cut short by a crash.
    pub unfinished_bytes: u64,
}

/// What a buffer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Whether an agent has it open.
    pub live: bool,
    /// The stream.
    pub stream: StreamId,
    /// The number of the next segment.
    pub next_seq: Seq,
    /// The hash of the last one.
    pub head: Hash,
    /// Up to when sealed segments account for time.
    pub covered_through: Option<Timestamp>,
    /// The first segment without a receipt; the next one to seal when all have theirs.
    pub oldest_unreceipted: Seq,
    /// How many have none.
    pub unreceipted: u64,
    /// Up to which segment the reconciler may know the stream; only later ones can be thinned.
    pub offered_through: Option<Seq>,
    /// The last segment with a receipt.
    pub receipted_through: Option<Seq>,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes of sled.
    pub store_bytes: u64,
    /// Bytes set aside for a full disk.
    pub reserve_bytes: u64,
    /// Bytes of streams that ended, and of damaged files that were kept: not within the limit.
    pub set_aside_bytes: u64,
    /// `buffer.limit_bytes`.
    pub limit_bytes: u64,
    /// Until it is full at the rate of the last segments, without a receipt and before thinning.
    pub full_in_seconds: Option<u64>,
    /// The journal, file by file.
    pub files: Vec<FileShown>,
}

/// Whether what is buffered stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything does.
    Sound,
    /// Something is damaged; nothing is lost, and the next start of the agent mends it.
    Damaged,
    /// Something that was sealed is lost, or does not verify.
    Lost,
}

/// What verification came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// In a word.
    pub verdict: Verdict,
    /// Whether an agent has it open: then sled is not looked at.
    pub live: bool,
    /// The stream.
    pub stream: StreamId,
    /// Segments whose hash, signature, link, odometers and tiling were checked.
    pub segments: u64,
    /// Intervals in them.
    pub intervals: u64,
    /// Whether sled was compared with the journal.
    pub store_compared: bool,
    /// What is wrong, for people.
    pub problems: Vec<String>,
}

fn settings(limit_bytes: u64) -> Settings {
    Settings {
        limit_bytes,
        ..Settings::default()
    }
}

/// What the buffer in `dir` holds; `None` when nothing was begun there.
///
/// # Errors
/// When the journal cannot be read.
pub fn show(dir: &Path, limit_bytes: u64, live: bool) -> Result<Option<Shown>, BufferError> {
    // A look at the journal is enough: sled is not opened, not even a copy.
    let Some(survey) = Survey::of(dir, &settings(limit_bytes), true)? else {
        return Ok(None);
    };
    let bytes = |name: &str| durable::bytes_below(&dir.join(name));
    let peek = &survey.peek;
    let reserve = dir.join("reserve").metadata();
    Ok(Some(Shown {
        live,
        stream: peek.stream,
        next_seq: peek.head.next,
        head: peek.head.hash,
        covered_through: peek.head.last().map(|_| peek.head.covered_through),
        oldest_unreceipted: survey.oldest_unreceipted,
        unreceipted: peek.unreceipted,
        offered_through: survey.offered,
        receipted_through: peek.last_receipt.as_ref().map(|receipt| receipt.through),
        journal_bytes: bytes("journal"),
        store_bytes: bytes("store"),
        reserve_bytes: reserve.map_or(0, |facts| facts.len()),
        set_aside_bytes: bytes("ended") + bytes("quarantine"),
        limit_bytes,
        full_in_seconds: survey.full_in.map(|time| time.0 / 1_000_000),
        files: survey
            .files
            .iter()
            .map(|file| FileShown {
                name: file
                    .path
                    .file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
                bytes: file.bytes,
                segments: file.segments,
                damaged_bytes: file.damaged_bytes,
                unfinished_bytes: file.unfinished_bytes,
            })
            .collect(),
    }))
}

/// Checks every segment without a receipt in `dir` against the node's key, and each against the one
/// before it. `None` when nothing was begun there.
///
/// # Errors
/// When the journal cannot be read.
pub fn verify(
    dir: &Path,
    limit_bytes: u64,
    ring: &KeyRing,
    live: bool,
) -> Result<Option<Verified>, BufferError> {
    let Some(survey) = Survey::of(dir, &settings(limit_bytes), live)? else {
        return Ok(None);
    };
    let mut checking = Checking::of(&survey, ring);
    checking.read(dir, live)?;
    Ok(Some(checking.verdict(&survey, live)))
}

struct Checking<'a> {
    survey: &'a Survey,
    ring: &'a KeyRing,
    state: StreamState,
    segments: u64,
    intervals: u64,
    lost: Vec<String>,
}

impl<'a> Checking<'a> {
    fn of(survey: &'a Survey, ring: &'a KeyRing) -> Self {
        let mut state = StreamState::new(survey.peek.stream);
        state.next = survey.oldest_unreceipted;
        state.head = (state.next != Seq::FIRST).then_some(survey.before);
        Self {
            survey,
            ring,
            state,
            segments: 0,
            intervals: 0,
            lost: Vec::new(),
        }
    }

    fn read(&mut self, dir: &Path, live: bool) -> Result<(), BufferError> {
        let (first, next) = (
            self.survey.oldest_unreceipted.0,
            self.survey.peek.head.next.0,
        );
        for seq in (first..next).map(Seq) {
            match self.survey.segment(seq) {
                Ok(Some(segment)) => self.check(segment),
                // A running agent removes what was receipted, and replaces what it thins, meanwhile.
                Ok(None) | Err(_) if live && went_meanwhile(dir, self.survey, seq)? => {
                    return Ok(());
                }
                Ok(None) => {
                    self.lost.push(format!("segment {seq} is lost"));
                    return Ok(());
                }
                Err(error) => {
                    self.lost.push(error.to_string());
                    return Ok(());
                }
            }
        }
        if next != Seq::FIRST.0 && self.state.head != Some(self.survey.peek.head.hash) {
            self.lost
                .push("the last segment is not the head of the stream".to_owned());
        }
        Ok(())
    }

    fn check(&mut self, segment: StoredSegment) {
        let (seq, hash) = (segment.seq, segment.hash);
        let sealed =
            SealedSegment::parse(segment.bytes).and_then(|sealed| sealed.verify(self.ring));
        let verified = match sealed {
            Ok(verified) => verified,
            Err(error) => return self.lost.push(format!("segment {seq}: {error}")),
        };
        let header = verified.header();
        let follows = match header.previous {
            Previous::Opens { .. } => self.state.head.is_none(),
            Previous::Follows(hash) => self.state.head == Some(hash),
        };
        let place = (header.stream, header.seq, verified.hash());
        if place != (self.survey.peek.stream, seq, hash) || !follows {
            self.lost.push(format!(
                "segment {seq} is not what stands in its place of the chain"
            ));
        }
        // Of the segments before the first one here only the hash is known.
        let began = seq == Seq::FIRST || self.segments > 0;
        if began && let Err(error) = self.state.check(&verified) {
            self.lost.push(format!("segment {seq}: {error}"));
        }
        self.state.advance(&verified);
        self.segments += 1;
        self.intervals += verified.interval_count() as u64;
    }

    fn verdict(self, survey: &Survey, live: bool) -> Verified {
        let mut problems = self.lost;
        if let Some(seq) = survey.lost_from {
            problems.push(format!(
                "what was sealed from segment {seq} on is neither in the journal nor in sled"
            ));
        }
        if !survey.knows_registers {
            problems.push("the open registers are lost: the stream cannot go on".to_owned());
        }
        let lost = !problems.is_empty();
        for file in survey.files.iter().filter(|file| file.damaged_bytes > 0) {
            problems.push(format!(
                "{} bytes of {} are no records",
                file.damaged_bytes,
                file.path.display()
            ));
        }
        problems.extend(
            survey
                .store_trouble
                .iter()
                .map(|trouble| format!("sled: {trouble}")),
        );
        Verified {
            verdict: match (lost, survey.is_damaged()) {
                (true, _) => Verdict::Lost,
                (false, true) => Verdict::Damaged,
                (false, false) => Verdict::Sound,
            },
            live,
            stream: survey.peek.stream,
            segments: self.segments,
            intervals: self.intervals,
            store_compared: survey.store_read,
            problems,
        }
    }
}

/// Whether `seq` was receipted, or the buffer rewritten, since `survey`.
fn went_meanwhile(dir: &Path, survey: &Survey, seq: Seq) -> Result<bool, BufferError> {
    let Some(now) = crate::buffer::peek(dir)? else {
        return Ok(false);
    };
    let receipted = now
        .last_receipt
        .is_some_and(|receipt| receipt.through >= seq);
    Ok(receipted || now.stream != survey.peek.stream || now.head.next < survey.peek.head.next)
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seq = |seq: Option<Seq>| seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
        let state = if self.live {
            "open in a running agent"
        } else {
            "no agent runs"
        };
        writeln!(f, "buffer        {state}")?;
        writeln!(f, "stream        {}", self.stream)?;
        writeln!(f, "next segment  {}", self.next_seq)?;
        if let Some(covered) = self.covered_through {
            writeln!(f, "covered       {covered}")?;
        }
        writeln!(
            f,
            "unreceipted   {}, from segment {}",
            self.unreceipted, self.oldest_unreceipted
        )?;
        writeln!(f, "offered       through {}", seq(self.offered_through))?;
        writeln!(f, "receipted     through {}", seq(self.receipted_through))?;
        writeln!(
            f,
            "bytes         {} journal, {} sled, {} reserve; limit {}",
            self.journal_bytes, self.store_bytes, self.reserve_bytes, self.limit_bytes
        )?;
        writeln!(f, "set aside     {} bytes", self.set_aside_bytes)?;
        writeln!(f, "full in       {}", FullIn(self.full_in_seconds))?;
        writeln!(
            f,
            "\n{:14}  {:>10}  {:>8}  {:>8}",
            "journal", "bytes", "segments", "damaged"
        )?;
        for file in &self.files {
            let FileShown {
                name,
                bytes,
                segments,
                damaged_bytes,
                ..
            } = file;
            writeln!(
                f,
                "{name:14}  {bytes:>10}  {segments:>8}  {damaged_bytes:>8}"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sled = if self.store_compared {
            "compared"
        } else {
            "not looked at"
        };
        writeln!(
            f,
            "{} segments with {} intervals of stream {} verified; sled {sled}",
            self.segments, self.intervals, self.stream
        )?;
        for problem in &self.problems {
            writeln!(f, "problem  {problem}")?;
        }
        f.write_str(match self.verdict {
            Verdict::Sound => "sound\n",
            Verdict::Damaged => "damaged, nothing is lost: the next start of the agent mends it\n",
            Verdict::Lost => {
                "lost: what is missing or does not verify cannot be brought back here\n"
            }
        })
    }
}

/// `41 days at the present rate`, for people.
#[derive(Debug, Clone, Copy)]
pub struct FullIn(pub Option<u64>);

impl fmt::Display for FullIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seconds) = self.0 else {
            return f.write_str("not known yet");
        };
        let hours = seconds / 3_600;
        match hours {
            0..48 => write!(f, "{hours} hours at the present rate"),
            _ if hours > 24 * 3_650 => f.write_str("more than ten years at the present rate"),
            _ => write!(f, "{} days at the present rate", hours / 24),
        }
    }
}

#[cfg(test)]
mod tests;
