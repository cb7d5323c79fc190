//! What an agent says of itself, to people and machines.
//!
//! Owns `status.json` in the data folder, which the running agent replaces at every seal and when the
//! connection changes ([`Board`]), and the same report made from the buffer of an agent that does not run.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallystick_common::codec;
use tallystick_common::ids::{NodeId, Seq, StreamId, WorkloadName};
use tallystick_common::keys::PublicKey;
use tallystick_common::meter::Meter;
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

use crate::accrue::{Accrual, Checkpoint, RegisterView};
use crate::buffer::{self, BufferError, ReceiptMark, Survey};
use crate::config::Config;
use crate::durable;
use crate::identity::{Identity, IdentityError};
use crate::inspect::FullIn;
use crate::lock::DataLock;
use crate::run::End;
use crate::station::Coverage;

mod board;

pub use board::Board;

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing was ever metered here.
    #[error("this host is not enrolled ({0} has no identity): run `tallystick-agent enroll TOKEN`")]
    NotEnrolled(PathBuf),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The buffer.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

/// One register, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterStatus {
    /// Whose.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Where it stands, in the meter's base unit; a decimal text, for it may exceed 64 bits.
    pub reading: String,
    /// Up to when.
    pub through: Timestamp,
}

/// The connection to the reconciler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkStatus {
    /// None was tried yet, or no agent runs.
    None,
    /// It stands.
    Connected {
        /// With which address.
        address: String,
        /// Whether by TCP, as QUIC does not get through.
        #[serde(default)]
        tcp: bool,
    },
    /// Another attempt follows.
    Waiting {
        /// Why the last one failed.
        why: String,
        /// Whether somebody has to act before one can succeed.
        needs_action: bool,
    },
    /// The stream could not go on; a new one follows.
    StreamOver {
        /// Why.
        why: String,
    },
}

/// How the last reload went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// When.
    pub at: Timestamp,
    /// Why the configuration before stayed in force, if it did.
    pub refused: Option<String>,
}

/// Everything `status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether an agent runs on this data folder.
    pub running: bool,
    /// The node.
    pub node: NodeId,
    /// The key that signs its segments; `tallystick-verify --trust` takes it.
    pub signing_key: PublicKey,
    /// Its name at enrolment.
    pub name: String,
    /// When this was true.
    pub at: Option<Timestamp>,
    /// The stream.
    pub stream: Option<StreamId>,
    /// The number of the next segment.
    pub next_seq: Seq,
    /// Up to when sealed segments account for time.
    pub covered_through: Option<Timestamp>,
    /// The last segment with a receipt.
    pub receipted_through: Option<Seq>,
    /// When that receipt was given, by the reconciler's clock.
    pub receipted_at: Option<Timestamp>,
    /// Sealed segments without a receipt.
    pub unreceipted: u64,
    /// Bytes of the buffer on disk.
    pub buffer_bytes: u64,
    /// Whether sled is out of order and the journal works alone.
    pub journal_alone: bool,
    /// Whether the disk was full and sealing goes on into what was set aside for that.
    #[serde(default)]
    pub in_reserve: bool,
    /// How long until the buffer is full at the rate of the last segments, without a receipt and
    /// before anything is thinned; `None` while no rate is known.
    #[serde(default)]
    pub buffer_full_in_seconds: Option<u64>,
    /// Sealed time by quality, since the agent was started.
    #[serde(default)]
    pub coverage: Coverage,
    /// The node's end, if it is retired.
    #[serde(default)]
    pub end: Option<End>,
    /// The connection.
    pub link: LinkStatus,
    /// The version of the central settings last told; 0 when there never were any.
    #[serde(default)]
    pub central_version: u64,
    /// Why they are not in force, if they are not.
    #[serde(default)]
    pub central_problem: Option<String>,
    /// How the last reload went, if there was one.
    #[serde(default)]
    pub reload: Option<ReloadStatus>,
    /// What is wrong at the moment, for people.
    pub troubles: Vec<String>,
    /// What was found and mended when the agent started.
    pub mended: Vec<String>,
    /// The registers.
    pub registers: Vec<RegisterStatus>,
}

impl Status {
    /// The status of the agent whose data folder is `data`, running or not.
    ///
    /// # Errors
    /// [`StatusError::NotEnrolled`] when it never was one.
    pub fn of(data: &Path, config: &Config) -> Result<Self, StatusError> {
        let identity =
            Identity::load(data)?.ok_or_else(|| StatusError::NotEnrolled(data.to_owned()))?;
        let running = DataLock::is_held(data);
        let published = fs::read(file(data))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        match published {
            Some(status) if running => Ok(Self { running, ..status }),
            _ => Self::of_buffer(data, config, &identity, running),
        }
    }

    /// Read from the journal; changes nothing in it.
    fn of_buffer(
        data: &Path,
        config: &Config,
        identity: &Identity,
        running: bool,
    ) -> Result<Self, StatusError> {
        let mut status = Self::new(identity);
        status.running = running;
        status.end = End::load(data).unwrap_or_default();
        let settings = buffer::Settings {
            limit_bytes: config.buffer.limit_bytes,
            ..buffer::Settings::default()
        };
        // As of a live one: a look at the journal is enough.
        let Some(survey) = Survey::of(&data.join("buffer"), &settings, true)? else {
            return Ok(status);
        };
        status.buffer_full_in_seconds = survey.full_in.map(|time| time.0 / SECOND_US);
        let peek = survey.peek;
        status.stream = Some(peek.stream);
        status.next_seq = peek.head.next;
        status.covered_through = peek.head.last().map(|_| peek.head.covered_through);
        status.note_receipt(peek.last_receipt.as_ref(), identity);
        status.unreceipted = peek.unreceipted;
        status.buffer_bytes = peek.bytes;
        let accrual = peek
            .state
            .and_then(|state| codec::decode::<Checkpoint>(&state).ok())
            .and_then(|checkpoint| {
                Accrual::restore(
                    config.accrual(&identity.signing_key(), identity.enrolment.record.at),
                    checkpoint,
                )
                .ok()
            });
        if let Some(accrual) = accrual {
            status.registers = accrual.registers().map(RegisterStatus::from).collect();
        }
        Ok(status)
    }

    /// Of a node of which nothing else is known.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        Self {
            running: false,
            node: identity.node(),
            signing_key: identity.enrolment.record.signing_key,
            name: identity.enrolment.record.name.clone(),
            at: None,
            stream: None,
            next_seq: Seq::FIRST,
            covered_through: None,
            receipted_through: None,
            receipted_at: None,
            unreceipted: 0,
            buffer_bytes: 0,
            journal_alone: false,
            in_reserve: false,
            buffer_full_in_seconds: None,
            coverage: Coverage::default(),
            end: None,
            link: LinkStatus::None,
            central_version: 0,
            central_problem: None,
            reload: None,
            troubles: Vec::new(),
            mended: Vec::new(),
            registers: Vec::new(),
        }
    }

    /// Takes note of the last receipt.
    pub fn note_receipt(&mut self, receipt: Option<&ReceiptMark>, identity: &Identity) {
        let through = receipt.map(|receipt| receipt.through);
        if self.receipted_through == through && self.receipted_at.is_some() {
            // Said when it came in; reading it again costs more than a sample does.
            return;
        }
        self.receipted_through = through;
        self.receipted_at = receipt
            .and_then(|receipt| identity.read_receipt(&receipt.bytes))
            .map(|receipt| receipt.at);
    }

    /// Replaces the published status by a file. Not synced: it is of no use after a power cut. On a full disk it
    /// is written over the old one, in the room that has.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, data: &Path) -> io::Result<()> {
        let json = self.json();
        let path = file(data);
        match durable::replace_file_unsynced(&path, &json) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => overwrite(&path, json),
            replaced => replaced,
        }
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers can be written as JSON")
    }

    /// How far behind `now` the sealed segments are.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> Option<Micros> {
        self.covered_through.map(|covered| now.since(covered))
    }

    /// One line, for the service manager.
    #[must_use]
    pub fn line(&self) -> String {
        let covered = self
            .covered_through
            .map_or_else(|| "nothing sealed".to_owned(), |at| format!("covered {at}"));
        let troubles = match self.troubles.len() {
            0 => String::new(),
            many => format!(", {many} troubles: see `tallystick-agent status`"),
        };
        let (waiting, link) = (self.unreceipted, &self.link);
        format!("{covered}, {waiting} segments unreceipted, link {link}{troubles}")
    }

    /// That table without its registers.
    #[must_use]
    pub fn summary(&self, now: Timestamp) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.table(now).write_head(&mut text);
        text
    }

    /// The table that a person reads.
    #[must_use]
    pub fn table(&self, now: Timestamp) -> Table<'_> {
        Table { status: self, now }
    }
}

impl From<RegisterView> for RegisterStatus {
    fn from(view: RegisterView) -> Self {
        let RegisterView {
            workload,
            meter,
            reading,
            through,
            ..
        } = view;
        Self {
            workload,
            meter,
            reading: reading.to_string(),
            through,
        }
    }
}

/// Writes `json` over a file and fills up with blanks, so that it never has to grow for less.
fn overwrite(path: &Path, mut json: Vec<u8>) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    json.resize(json.len().max(length), b' ');
    file.write_all_at(&json, 0)
}

fn file(data: &Path) -> PathBuf {
    data.join("status.json")
}

/// A status laid out for a terminal.
#[derive(Debug)]
pub struct Table<'a> {
    status: &'a Status,
    now: Timestamp,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(f)?;
        write_registers(f, &self.status.registers)
    }
}

impl Table<'_> {
    fn write_head(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let status = self.status;
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
        writeln!(f, "node       {} ({})", status.node, status.name)?;
        writeln!(f, "key        {}", status.signing_key)?;
        writeln!(
            f,
            "agent      {}",
            if status.running {
                "running"
            } else {
                "not running"
            }
        )?;
        writeln!(
            f,
            "stream     {}",
            or_none(status.stream.map(|stream| stream.to_string()))
        )?;
        writeln!(f, "sealed     {} segments", status.next_seq)?;
        let covered = status
            .covered_through
            .map(|covered| match status.lag(self.now) {
                Some(lag) => format!("{covered} ({} s ago)", lag.0 / 1_000_000),
                None => covered.to_string(),
            });
        writeln!(f, "covered    {}", or_none(covered))?;
        if let Some(line) = coverage_line(&status.coverage) {
            writeln!(f, "coverage   {line}")?;
        }
        let receipt = status
            .receipted_through
            .map(|seq| match status.receipted_at {
                Some(at) => format!("segment {seq}, given {at}"),
                None => format!("segment {seq}"),
            });
        writeln!(f, "receipt    {}", or_none(receipt))?;
        writeln!(
            f,
            "buffer     {} unreceipted, {} bytes; full in {}",
            status.unreceipted,
            status.buffer_bytes,
            FullIn(status.buffer_full_in_seconds)
        )?;
        writeln!(f, "link       {}", status.link)?;
        if let Some(end) = &status.end {
            let (seq, through) = (end.seq, end.covered_through);
            writeln!(f, "retired    segment {seq} is the last, through {through}")?;
        }
        if let Some(ReloadStatus {
            at,
            refused: Some(why),
        }) = &status.reload
        {
            writeln!(f, "reload     refused at {at}: {why}")?;
        }
        if let Some(problem) = &status.central_problem {
            let version = status.central_version;
            writeln!(f, "settings   version {version} is not in force: {problem}")?;
        }
        for trouble in &status.troubles {
            writeln!(f, "trouble    {trouble}")?;
        }
        for mended in &status.mended {
            writeln!(f, "mended     {mended}")?;
        }
        Ok(())
    }
}

/// Parts of a thousand, rounded down, so that only all is shown as all.
fn coverage_line(coverage: &Coverage) -> Option<String> {
    let parts = [
        ("exact", coverage.exact_micros),
        ("interpolated", coverage.interpolated_micros),
        ("unmeasured", coverage.unmeasured_micros),
    ];
    let whole: u128 = parts.iter().map(|(_, part)| u128::from(part.0)).sum();
    let from = coverage.from.filter(|_| whole > 0)?;
    let told: Vec<String> = parts
        .iter()
        .filter(|(_, part)| part.0 > 0)
        .map(|(name, part)| {
            let mille = u128::from(part.0) * 1000 / whole;
            format!("{}.{} % {name}", mille / 10, mille % 10)
        })
        .collect();
    Some(format!("{} since {from}", told.join(", ")))
}

fn write_registers(f: &mut fmt::Formatter<'_>, registers: &[RegisterStatus]) -> fmt::Result {
    let width = registers
        .iter()
        .map(|register| register.workload.as_str().len())
        .max();
    let Some(width) = width.map(|width| width.max(8)) else {
        return Ok(());
    };
    writeln!(
        f,
        "\n{:width$}  {:15}  {:>24}",
        "workload", "meter", "reading"
    )?;
    for RegisterStatus {
        workload,
        meter,
        reading,
        ..
    } in registers
    {
        let (workload, unit) = (workload.as_str(), meter.unit());
        writeln!(
            f,
            "{workload:width$}  {:15}  {reading:>24} {unit}",
            meter.name()
        )?;
    }
    Ok(())
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Connected {
                address,
                tcp: false,
            } => write!(f, "connected to {address}"),
            Self::Connected { address, .. } => {
                write!(f, "connected to {address} by TCP, as UDP is blocked")
            }
            Self::Waiting {
                why,
                needs_action: true,
            } => {
                write!(f, "held, somebody has to act: {why}")
            }
            Self::Waiting { why, .. } => write!(f, "trying again: {why}"),
            Self::StreamOver { why } => write!(f, "a new stream begins: {why}"),
        }
    }
}
