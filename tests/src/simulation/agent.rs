//! An agent's half: the product's accrual and sealing, kept in memory or by its real station on disk.
//!
//! A crash leaves what is durable. In memory that is what the last seal left; on disk it is the data folder
//! as it was when the crash came.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tallystick_agent::accrue::{Accrual, Draft, Settings};
use tallystick_agent::buffer::{
    Buffer, Handle, Head, ReceiptMark, Settings as BufferSettings, StoredSegment,
};
use tallystick_agent::sample::{Identity, Moment, Raw, Sample, SourceReading, Walk};
use tallystick_agent::ship::session::Holdings;
use tallystick_agent::station::Station;
use tallystick_common::codec;
use tallystick_common::failpoint;
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId, WorkloadName};
use tallystick_common::keys::SecretKey;
use tallystick_common::meter::Meter;
use tallystick_common::seal;
use tallystick_common::segment::{Block, HeaderDraft, Previous, RunDraft, StreamPosition};
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::Position;

use super::machine::STEP;
use super::model::meter::{HOST, LEVEL, Readings};
use super::op::Fault;

/// Where the salts of seals come from; nothing here depends on them.
const SALT: [u8; 32] = [4; 32];

/// What an agent keeps in memory in place of a disk.
#[derive(Debug, Clone)]
struct Notes {
    stream: StreamId,
    predecessor: Option<StreamPosition>,
    segments: Vec<StoredSegment>,
    state: Option<Vec<u8>>,
    receipted: Option<Seq>,
}

impl Notes {
    fn beginning(stream: StreamId) -> Self {
        Self {
            stream,
            predecessor: None,
            segments: Vec::new(),
            state: None,
            receipted: None,
        }
    }

    fn position(&self) -> Option<StreamPosition> {
        let last = self.segments.last()?;
        Some(StreamPosition {
            stream: self.stream,
            seq: last.seq,
            hash: last.hash,
        })
    }
}

#[derive(Debug)]
enum Home {
    Memory {
        notes: Notes,
        accrual: Option<Box<Accrual>>,
    },
    Disk {
        folder: PathBuf,
        station: Option<Box<Station>>,
    },
}

/// What a data folder holds at an instant.
#[derive(Debug, Clone)]
pub struct Image(Kept);

#[derive(Debug, Clone)]
enum Kept {
    Memory(Notes),
    Disk(PathBuf),
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    node: NodeId,
    key: SecretKey,
    home: Home,
}

/// What a new agent keeps its folders by.
#[derive(Debug)]
pub struct Folders {
    root: PathBuf,
    next: u64,
}

impl Folders {
    /// Below a folder.
    #[must_use]
    pub fn below(root: PathBuf) -> Self {
        Self { root, next: 0 }
    }

    /// Away with all of them.
    pub fn remove(self) {
        let _ = std::fs::remove_dir_all(self.root);
    }

    /// One that is not there yet.
    pub fn fresh(&mut self) -> PathBuf {
        self.next += 1;
        self.root.join(self.next.to_string())
    }
}

impl Agent {
    /// One that has never run: `folder` is where it keeps things, if it does on disk.
    #[must_use]
    pub fn new(node: NodeId, key: SecretKey, folder: Option<PathBuf>, fresh: StreamId) -> Self {
        let home = match folder {
            None => Home::Memory {
                notes: Notes::beginning(fresh),
                accrual: None,
            },
            Some(folder) => Home::Disk {
                folder,
                station: None,
            },
        };
        Self { node, key, home }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match &self.home {
            Home::Memory { accrual, .. } => accrual.is_some(),
            Home::Disk { station, .. } => station.is_some(),
        }
    }

    /// Runs from what is durable. `fresh` is a stream that nobody has used.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&mut self, fresh: StreamId) -> anyhow::Result<()> {
        match &mut self.home {
            Home::Memory { notes, accrual } => {
                let running = match &notes.state {
                    None => Accrual::new(settings()),
                    Some(state) => Accrual::restore(settings(), codec::decode(state)?)?,
                };
                *accrual = Some(Box::new(running));
            }
            Home::Disk { folder, station } => {
                let (buffer, recovered) = Buffer::open(folder, buffer_settings(), fresh)?;
                let (handle, key) = (
                    Handle::new(buffer),
                    SecretKey::from_seed(&self.key.to_seed()),
                );
                let state = recovered.state.as_deref();
                let running = Station::new(self.node, key, settings(), handle, state)?;
                *station = Some(Box::new(running));
            }
        }
        Ok(())
    }

    /// Is killed. On disk, what it leaves is its folder as it is now.
    ///
    /// # Errors
    /// When the folder cannot be copied.
    pub fn crash(&mut self, folders: &mut Folders) -> anyhow::Result<()> {
        let image = self.image(folders)?;
        self.restore(&image, folders)
    }

    /// A copy of what is durable.
    ///
    /// # Errors
    /// When the folder cannot be copied.
    pub fn image(&self, folders: &mut Folders) -> anyhow::Result<Image> {
        Ok(Image(match &self.home {
            Home::Memory { notes, .. } => Kept::Memory(notes.clone()),
            Home::Disk { folder, .. } => {
                let copy = folders.fresh();
                copy_folder(folder, &copy)?;
                Kept::Disk(copy)
            }
        }))
    }

    /// Is killed, and finds that copy in place of what it left.
    ///
    /// # Errors
    /// When the folder cannot be copied.
    pub fn restore(&mut self, image: &Image, folders: &mut Folders) -> anyhow::Result<()> {
        match (&mut self.home, &image.0) {
            (Home::Memory { notes, accrual }, Kept::Memory(kept)) => {
                *notes = kept.clone();
                *accrual = None;
            }
            (Home::Disk { folder, station }, Kept::Disk(kept)) => {
                *station = None;
                *folder = folders.fresh();
                copy_folder(kept, folder)?;
            }
            _ => anyhow::bail!("an image of another kind"),
        }
        Ok(())
    }

    /// Another agent that runs from that copy.
    ///
    /// # Errors
    /// When the folder cannot be copied.
    pub fn twin(&self, image: &Image, folders: &mut Folders) -> anyhow::Result<Self> {
        let key = SecretKey::from_seed(&self.key.to_seed());
        let folder = matches!(image.0, Kept::Disk(_)).then(|| folders.fresh());
        let mut twin = Self::new(self.node, key, folder, StreamId([0; 16]));
        twin.restore(image, folders)?;
        Ok(twin)
    }

    /// Samples its machine.
    pub fn observe(&mut self, readings: &Readings, highest: u64) {
        let sample = sample(readings, highest);
        match &mut self.home {
            Home::Memory {
                accrual: Some(accrual),
                ..
            } => accrual.observe(&sample),
            Home::Disk {
                station: Some(station),
                ..
            } => station.observe(&sample),
            _ => {}
        }
    }

    /// Seals what has accrued; `last` closes everything. What was sealed, if time has passed.
    ///
    /// # Errors
    /// When that does not work.
    pub fn seal(&mut self, last: bool) -> anyhow::Result<Option<StoredSegment>> {
        let Home::Disk {
            station: Some(station),
            ..
        } = &mut self.home
        else {
            return self.seal_as(last, None);
        };
        let sealed = if last {
            station.seal_last(SALT)?
        } else {
            station.seal(SALT)?
        };
        let Some(seq) = sealed.and_then(|head| head.last()) else {
            return Ok(None);
        };
        Ok(station
            .buffer()
            .lock()
            .segments_from(seq, 1, usize::MAX)?
            .pop())
    }

    /// As [`Self::seal`] in memory, with something wrong in it, if there is anything to be wrong.
    /// Whether it is.
    ///
    /// # Errors
    /// When it cannot be sealed.
    pub fn seal_wrong(&mut self, fault: Fault) -> anyhow::Result<Option<(StoredSegment, bool)>> {
        let mut wrong = false;
        let spoil = |draft: &mut Draft, previous: &mut Previous| {
            wrong = super::spoil::spoil(fault, draft, previous);
        };
        let spoil: Spoil<'_> = Box::new(spoil);
        let sealed = self.seal_as(false, Some(spoil))?;
        Ok(sealed.map(|sealed| (sealed, wrong)))
    }

    fn seal_as(
        &mut self,
        last: bool,
        spoil: Option<Spoil<'_>>,
    ) -> anyhow::Result<Option<StoredSegment>> {
        let Home::Memory {
            notes,
            accrual: Some(accrual),
        } = &mut self.home
        else {
            return Ok(None);
        };
        let draft = if last {
            accrual.seal_last()?
        } else {
            accrual.seal()?
        };
        let Some(mut draft) = draft else {
            return Ok(None);
        };
        let seq = Seq(notes.segments.len() as u64);
        let before = notes.segments.last().map(|last| last.hash);
        let opens = Previous::Opens {
            after: notes.predecessor,
        };
        let mut previous = before.map_or(opens, Previous::Follows);
        if let Some(spoil) = spoil {
            spoil(&mut draft, &mut previous);
        }
        let header = HeaderDraft {
            node: self.node,
            stream: notes.stream,
            seq,
            previous,
            from: draft.from,
            covered_through: draft.covered_through,
            boot: draft.boot,
            config: draft.config,
            purpose: draft.purpose,
            gaps: draft.gaps,
        };
        let covered_through = header.covered_through;
        let sealed = seal::seal(header, draft.blocks, SALT, &self.key)?;
        let stored = StoredSegment {
            seq,
            previous: before.unwrap_or(Hash::ZERO),
            hash: sealed.hash(),
            covered_through,
            bytes: sealed.bytes().to_vec(),
        };
        notes.segments.push(stored.clone());
        notes.state = Some(codec::encode(&accrual.checkpoint()));
        Ok(Some(stored))
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        match &self.home {
            Home::Memory { notes, .. } => notes.stream,
            Home::Disk { station, .. } => station
                .as_ref()
                .map_or(StreamId([0; 16]), |station| station.buffer().stream()),
        }
    }

    /// What it says it has.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        match &self.home {
            Home::Memory { notes, .. } => Holdings {
                oldest: Seq::FIRST,
                position: Position {
                    next: Seq(notes.segments.len() as u64),
                    head: notes.segments.last().map(|last| last.hash),
                },
                receipted: notes.receipted,
            },
            Home::Disk { station, .. } => station.as_ref().map_or(EMPTY, |station| {
                let mut buffer = station.buffer().lock();
                let head: Head = buffer.head();
                Holdings {
                    oldest: buffer.oldest_held(),
                    position: Position {
                        next: head.next,
                        head: head.last().map(|_| head.hash),
                    },
                    receipted: buffer.last_receipt().map(|receipt| receipt.through),
                }
            }),
        }
    }

    /// The hash of what it sealed there.
    #[must_use]
    pub fn hash_at(&self, seq: Seq) -> Option<Hash> {
        match &self.home {
            Home::Memory { notes, .. } => notes
                .segments
                .get(usize::try_from(seq.0).ok()?)
                .map(|segment| segment.hash),
            Home::Disk { station, .. } => station.as_ref()?.buffer().lock().hash_at(seq),
        }
    }

    /// The segment there, as it is about to be sent.
    ///
    /// # Errors
    /// When it is not held.
    pub fn offer(&mut self, seq: Seq) -> anyhow::Result<Option<StoredSegment>> {
        match &self.home {
            Home::Memory { notes, .. } => Ok(notes.segments.get(usize::try_from(seq.0)?).cloned()),
            Home::Disk { station, .. } => {
                let Some(station) = station else {
                    return Ok(None);
                };
                let mut buffer = station.buffer().lock();
                buffer.offered(seq)?;
                Ok(buffer.segments_from(seq, 1, usize::MAX)?.pop())
            }
        }
    }

    /// Takes a receipt that is believed.
    ///
    /// # Errors
    /// When the buffer refuses it.
    pub fn receipt(&mut self, through: Seq, hash: Hash) -> anyhow::Result<()> {
        match &mut self.home {
            Home::Memory { notes, .. } => notes.receipted = notes.receipted.max(Some(through)),
            Home::Disk {
                station: Some(station),
                ..
            } => {
                let mark = ReceiptMark {
                    through,
                    hash,
                    bytes: Vec::new(),
                };
                station.buffer().lock().receipt(mark)?;
            }
            Home::Disk { .. } => {}
        }
        Ok(())
    }

    /// The stream is over: another one begins.
    ///
    /// # Errors
    /// When it cannot.
    pub fn begin_stream(&mut self, stream: StreamId, lives_on: bool) -> anyhow::Result<()> {
        match &mut self.home {
            Home::Memory {
                notes,
                accrual: Some(accrual),
            } => {
                accrual.begin_stream();
                *notes = Notes {
                    predecessor: notes.position().or(notes.predecessor),
                    state: Some(codec::encode(&accrual.checkpoint())),
                    ..Notes::beginning(stream)
                };
            }
            Home::Disk {
                station: Some(station),
                ..
            } => station.begin_stream(stream, lives_on)?,
            _ => {}
        }
        Ok(())
    }

    /// Its folder, if it has one: what a crash copies.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match &self.home {
            Home::Memory { .. } => None,
            Home::Disk { folder, .. } => Some(folder),
        }
    }

    /// Does something, and dies where `name` is passed in it, leaving the folder as it was there.
    /// Whether it was passed; in memory it never is.
    ///
    /// # Errors
    /// What `act` returns, or that the folder cannot be copied.
    pub fn die_at<T>(
        &mut self,
        name: &'static str,
        folders: &mut Folders,
        act: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, bool)> {
        let Some(folder) = self.folder().map(Path::to_owned) else {
            return Ok((act(self)?, false));
        };
        let left = folders.fresh();
        let to = left.clone();
        failpoint::listen(Some(Box::new(move |passed: &str| {
            if passed == name && !to.exists() {
                copy_folder(&folder, &to).expect("a folder can be copied");
            }
        })));
        let done = act(self);
        failpoint::listen(None);
        let done = done?;
        let passed = left.exists();
        if passed {
            self.restore(&Image(Kept::Disk(left)), folders)?;
        }
        Ok((done, passed))
    }
}

type Spoil<'a> = Box<dyn FnOnce(&mut Draft, &mut Previous) + 'a>;

const EMPTY: Holdings = Holdings {
    oldest: Seq::FIRST,
    position: Position {
        next: Seq::FIRST,
        head: None,
    },
    receipted: None,
};

fn settings() -> Settings {
    Settings {
        sample: Micros(STEP),
        register_limit: 100,
        config: Hash([1; 32]),
        labels: Vec::new(),
        begins: Timestamp::EPOCH,
    }
}

/// Small, so that files are followed by others in short lives.
fn buffer_settings() -> BufferSettings {
    BufferSettings {
        rotate_bytes: 8 << 10,
        limit_bytes: 16 << 20,
        ..BufferSettings::default()
    }
}

/// A copy of a folder as it is at this moment, even while it is written to.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    if !from.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &copy)?;
        } else {
            std::fs::copy(&path, &copy)?;
        }
    }
    Ok(())
}

/// What a sampler would say.
fn sample(readings: &Readings, highest: u64) -> Sample {
    let wall = Timestamp::from_micros(readings.at).expect("a year before 9999");
    let up = Micros(readings.at - readings.booted_at);
    let sources = readings.all.iter().map(|reading| {
        let (workload, meter) = reading.item;
        let domain = if reading.item == HOST {
            "host"
        } else {
            "cgroup2"
        };
        SourceReading {
            workload: WorkloadName::new(workload).expect("a workload"),
            meter: if meter == LEVEL {
                Meter::MEMORY_USAGE
            } else {
                Meter::CPU_TIME
            },
            identity: Identity {
                boot: readings.boot,
                domain: domain.to_owned(),
                incarnation: reading.incarnation,
            },
            raw: if meter == LEVEL {
                Raw::Level(reading.value)
            } else {
                Raw::Counter(reading.value)
            },
        }
    });
    Sample {
        boot: readings.boot,
        moment: Moment {
            wall,
            monotonic: up,
            boottime: up,
        },
        sources: sources.collect(),
        last: Vec::new(),
        walks: vec![Walk {
            domain: "cgroup2".to_owned(),
            highest,
            complete: true,
        }],
        labels: Arc::default(),
        notes: Vec::new(),
    }
}

/// The blocks of a draft with one run changed: for whoever spoils it.
///
/// # Errors
/// When the changed run cannot stand in a block.
pub fn rebuilt(
    blocks: &[Block],
    mut change: impl FnMut(&Block, &mut RunDraft<'_>, &mut Vec<tallystick_common::reading::Interval>),
) -> anyhow::Result<Vec<Block>> {
    let mut done = Vec::new();
    for block in blocks {
        let mut copy = Block::new(block.workload.clone(), block.labels.clone());
        for run in block.runs() {
            let mut intervals: Vec<_> = block.intervals(run).collect();
            let mut draft = RunDraft {
                register: run.register,
                meter: run.meter,
                opened: run.opened,
                closed: run.closed,
                opening: run.opening,
                start: block.shape(run).start,
                intervals: &[],
            };
            change(block, &mut draft, &mut intervals);
            copy.push(&RunDraft {
                intervals: &intervals,
                ..draft
            })?;
        }
        done.push(copy);
    }
    Ok(done)
}
