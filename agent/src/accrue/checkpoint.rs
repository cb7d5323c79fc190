//! The registers of a stream as they stand, to be kept across restarts of the agent.
//!
//! Taken right after a draft it holds no intervals; taken at any other time it holds those not yet
//! sealed, and loses nothing either.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use tallystick_common::ids::{Hash, IdError, RegisterId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap, Interval, Quality, Reading};
use tallystick_common::segment::{Basis, CloseReason};
use tallystick_common::time::{Micros, Timestamp};

use super::application::Applications;
use super::births::Births;
use super::draft::Labels;
use super::other::{Balance, Others};
use super::register::Register;
use super::step::Clock;
use super::{Accrual, Resume, Settings};
use crate::sample::Identity;

/// Everything accrual must remember.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Checkpoint {
    config: Hash,
    clock: Option<Clock>,
    from: Option<Timestamp>,
    gaps: Vec<Gap>,
    births: Births,
    balances: Vec<(u16, Balance)>,
    next: RegisterId,
    registers: Vec<Saved>,
    new_stream: bool,
    applications: Applications,
}

/// A checkpoint that this version cannot go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A meter that this version does not have.
    #[error(
        "the checkpoint has a register of unknown meter {0}: it was written by a newer agent, run that one"
    )]
    Meter(u16),
    /// A workload name outside the grammar.
    #[error("the checkpoint names a workload: {0}")]
    Workload(#[from] IdError),
    /// A code for how a register opened or closed that this version does not have.
    #[error(
        "the checkpoint has an unknown code in the life of register {0}: it was written by a newer agent, run that one"
    )]
    Life(RegisterId),
}

impl Checkpoint {
    /// Where the last draft ended: the `from` of the next one.
    #[must_use]
    pub fn sealed_through(&self) -> Option<Timestamp> {
        self.from
    }

    /// Number of registers.
    #[must_use]
    pub fn register_count(&self) -> usize {
        self.registers.len()
    }
}

impl Accrual {
    /// The registers as they stand.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            config: self.settings.config,
            clock: self.clock.clone(),
            from: self.from,
            gaps: self.gaps.clone(),
            births: self.births.clone(),
            balances: self
                .others
                .balances
                .iter()
                .map(|(meter, balance)| (meter.code(), *balance))
                .collect(),
            next: self.next,
            registers: self.registers.values().map(Saved::of).collect(),
            new_stream: self.resume == Resume::NewStream,
            applications: self.applications.clone(),
        }
    }

    /// Goes on from a checkpoint: time since then is downtime, which the next sample accounts for.
    ///
    /// # Errors
    /// When the checkpoint was written by a newer version.
    pub fn restore(settings: Settings, checkpoint: Checkpoint) -> Result<Self, RestoreError> {
        let mut balances = BTreeMap::new();
        for (code, balance) in checkpoint.balances {
            balances.insert(meter(code)?, balance);
        }
        let registers = checkpoint
            .registers
            .into_iter()
            .map(|saved| saved.register().map(|register| (register.id, register)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let active = registers
            .values()
            .filter(|register| register.closing.is_none() && register.closed.is_none())
            .map(|register| ((register.workload.clone(), register.meter), register.id))
            .collect();
        let reconfigured = settings.config != checkpoint.config;
        Ok(Self {
            settings,
            registers,
            active,
            clock: checkpoint.clock,
            resume: if checkpoint.new_stream {
                Resume::NewStream
            } else {
                Resume::Restarted { reconfigured }
            },
            from: checkpoint.from,
            gaps: checkpoint.gaps,
            births: checkpoint.births,
            others: Others { balances },
            labels: Labels::default(),
            next: checkpoint.next,
            refused: 0,
            applications: checkpoint.applications,
            slips: 0,
            resets: 0,
        })
    }
}

/// A register in words that have an encoding.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Saved {
    id: RegisterId,
    workload: String,
    meter: u16,
    identity: Identity,
    mark: u128,
    level: Option<u128>,
    pending: u128,
    waiting: Micros,
    doubt: Option<Cause>,
    reading: Reading,
    end: Timestamp,
    closing: Option<u8>,
    closed: Option<u8>,
    /// `Some(None)`: born; `Some(Some(raw))`: first seen.
    opened: Option<Option<u128>>,
    start: Timestamp,
    opening: Reading,
    intervals: Vec<SavedInterval>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct SavedInterval {
    end: Timestamp,
    quantity: u128,
    quality: Quality,
    measured: Micros,
}

const REASONS: [CloseReason; 5] = [
    CloseReason::Vanished,
    CloseReason::Reset,
    CloseReason::Reboot,
    CloseReason::Deselected,
    CloseReason::StreamEnd,
];

impl Saved {
    fn of(register: &Register) -> Self {
        Self {
            id: register.id,
            workload: register.workload.as_str().to_owned(),
            meter: register.meter.code(),
            identity: register.identity.clone(),
            mark: register.mark,
            level: register.level,
            pending: register.pending,
            waiting: register.waiting,
            doubt: register.doubt,
            reading: register.reading,
            end: register.end,
            closing: register.closing.and_then(reason_code),
            closed: register.closed.and_then(reason_code),
            opened: register.opened.map(|basis| match basis {
                Basis::Birth => None,
                Basis::FirstSeen { raw } => Some(raw),
            }),
            start: register.start,
            opening: register.opening,
            intervals: register.intervals.iter().map(SavedInterval::of).collect(),
        }
    }

    fn register(self) -> Result<Register, RestoreError> {
        let reason = |code: Option<u8>| match code {
            None => Ok(None),
            Some(code) => REASONS
                .get(usize::from(code))
                .map(|reason| Some(*reason))
                .ok_or(RestoreError::Life(self.id)),
        };
        Ok(Register {
            id: self.id,
            meter: meter(self.meter)?,
            mark: self.mark,
            level: self.level,
            pending: self.pending,
            waiting: self.waiting,
            doubt: self.doubt,
            reading: self.reading,
            end: self.end,
            closing: reason(self.closing)?,
            closed: reason(self.closed)?,
            opened: self
                .opened
                .map(|raw| raw.map_or(Basis::Birth, |raw| Basis::FirstSeen { raw })),
            start: self.start,
            opening: self.opening,
            intervals: intervals(self.start, self.intervals),
            workload: WorkloadName::new(self.workload)?,
            identity: self.identity,
        })
    }
}

impl SavedInterval {
    fn of(interval: &Interval) -> Self {
        Self {
            end: interval.end,
            quantity: interval.quantity,
            quality: interval.quality,
            measured: interval.measured,
        }
    }
}

fn intervals(mut start: Timestamp, saved: Vec<SavedInterval>) -> Vec<Interval> {
    saved
        .into_iter()
        .map(
            |SavedInterval {
                 end,
                 quantity,
                 quality,
                 measured,
             }| {
                let start = std::mem::replace(&mut start, end);
                Interval {
                    start,
                    end,
                    quantity,
                    quality,
                    measured,
                }
            },
        )
        .collect()
}

fn reason_code(reason: CloseReason) -> Option<u8> {
    REASONS
        .iter()
        .position(|known| *known == reason)
        .and_then(|place| u8::try_from(place).ok())
}

fn meter(code: u16) -> Result<Meter, RestoreError> {
    Meter::from_code(code).ok_or(RestoreError::Meter(code))
}
