//! What an agent can know of its machine's counters.
//!
//! Knows which readings a process has seen and which of that is durable, nothing of registers.

use std::collections::BTreeMap;

use tallystick_common::ids::BootId;

use super::{Item, Usage, spread};

/// Name of what the host used beyond its workloads.
pub const OTHER: Item = ("host/other", "cpu.time");
/// Name of what the host used.
pub const HOST: Item = ("host", "cpu.time");
/// The meter that is a level held over time.
pub const LEVEL: &str = "memory.usage";

/// A machine's word about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Of what.
    pub item: Item,
    /// Which life of it.
    pub incarnation: u64,
    /// A counter's value since that life began, or a level.
    pub value: u128,
}

/// A machine's word about everything, at one instant.
#[derive(Debug, Clone)]
pub struct Readings {
    /// When.
    pub at: u64,
    /// The life of its kernel.
    pub boot: BootId,
    /// Since when.
    pub booted_at: u64,
    /// Everything.
    pub all: Vec<Reading>,
}

/// What was seen and not sealed.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    /// How much.
    pub used: Usage,
    /// When.
    pub measured: Vec<(Item, (u64, u64))>,
    /// Since when.
    pub from: u64,
    /// Up to when.
    pub through: u64,
}

/// What one agent has seen.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    at: Option<u64>,
    sealed: u64,
    boot: Option<BootId>,
    /// The next reading begins everything anew.
    anew: bool,
    /// The process is another one than the one before.
    restarted: bool,
    seen: BTreeMap<Item, Reading>,
    pending: Pending,
}

impl Meter {
    /// Takes readings in.
    pub fn see(&mut self, readings: &Readings) {
        let known = self.at.filter(|_| !self.anew);
        if let Some(at) = known {
            self.add(readings, at);
        }
        if self.at.is_none() {
            self.sealed = readings.at;
        }
        self.at = Some(readings.at);
        self.boot = Some(readings.boot);
        (self.anew, self.restarted) = (false, false);
        self.seen = readings
            .all
            .iter()
            .map(|reading| (reading.item, *reading))
            .collect();
    }

    fn add(&mut self, readings: &Readings, at: u64) {
        let same_boot = self.boot == Some(readings.boot);
        let from = if same_boot { at } else { readings.booted_at };
        let (mut host, mut others) = (0, 0);
        for reading in &readings.all {
            let before = self
                .seen
                .get(&reading.item)
                .filter(|before| same_boot && before.incarnation == reading.incarnation);
            let used = if reading.item.1 == LEVEL {
                let Some(held) = before.filter(|_| !self.restarted) else {
                    continue;
                };
                held.value * u128::from(readings.at - from) / 1_000_000
            } else {
                reading.value - before.map_or(0, |before| before.value)
            };
            self.note(reading.item, used, from, readings.at);
            match reading.item {
                HOST => host = used,
                (_, "cpu.time") => others += used,
                _ => {}
            }
        }
        self.note(OTHER, host - others, from, readings.at);
    }

    fn note(&mut self, item: Item, used: u128, from: u64, to: u64) {
        if to > from {
            spread(&mut self.pending.used, item, used, from, to);
            self.pending.measured.push((item, (from, to)));
        }
    }

    /// Seals what was seen; nothing when no time has passed.
    pub fn seal(&mut self) -> Option<Pending> {
        let at = self.at.filter(|at| *at > self.sealed)?;
        let mut sealed = std::mem::take(&mut self.pending);
        (sealed.from, sealed.through) = (self.sealed, at);
        self.sealed = at;
        Some(sealed)
    }

    /// The process is gone, with what was not sealed; `durable` is what it was when it last sealed.
    pub fn forget(&mut self, durable: &Self) {
        *self = durable.clone();
        self.restarted = true;
    }

    /// Another stream begins: what was not sealed is lost, everything is seen anew.
    pub fn begin_stream(&mut self) {
        self.pending = Pending::default();
        self.at = self.at.map(|_| self.sealed);
        self.anew = true;
    }
}
