//! Turns samples into register readings, intervals and gaps.
//!
//! Pure: reads no clock, no file. Samples go in, drafts of segments come out, and [`Checkpoint`]
//! carries the registers across restarts of the agent.
//!
//! **Agent time** only rises: it is the sample's wall clock, or stands still while that is behind.
//! Every register is accounted for up to an instant of agent time (`end`), and each sample adds a
//! step to it:
//!
//! | what happened in the step | counters | levels (integral, peak) |
//! |---|---|---|
//! | nothing | difference, exact, cut at quarter-hours | the level read before it, held; exact |
//! | agent was down, same boot | whole difference in one piece, interpolated | unmeasured |
//! | suspended | before the suspension, interpolated; then unmeasured | the same |
//! | wall clock stepped | interpolated | level × monotonic time, interpolated |
//! | source unreadable | waits; the catch-up is interpolated, or unmeasured when sealed before | unmeasured |
//! | sampling starved for more than two periods | interpolated | lower of both levels; unmeasured beyond ten |
//! | reboot | register closes at its last reading | the same |
//!
//! What applications report has no source to be read again and rules of its own: see [`application`].
//!
//! Rounding: integrals add up byte-microseconds and carry what is below a byte-second to the next
//! interval, so a register is never more than one byte-second below the truth, and never above.

use std::collections::BTreeMap;

use tallystick_common::ids::{BootId, Hash, RegisterId, WorkloadName};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::reading::{Cause, Gap, Reading};
use tallystick_common::segment::{Basis, Block, CloseReason, Purpose, RunError};
use tallystick_common::time::{Micros, Timestamp};

use crate::sample::{Identity, LastReading, Raw, Sample, SourceReading};

pub mod application;
mod births;
mod checkpoint;
mod draft;
mod other;
mod register;
mod step;

use application::Applications;
pub use application::{ReportError, Reported};
use births::Births;
pub use checkpoint::{Checkpoint, RestoreError};
use other::Others;
use register::Register;
use step::{Clock, Step};

/// What accrual needs to know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Time between samples. Steps of more than two of them are not exact.
    pub sample: Micros,
    /// Most open registers; beyond that new sources are not metered by themselves (their usage
    /// stays in `host/other`).
    pub register_limit: usize,
    /// Digest of the configuration, which goes into each header.
    pub config: Hash,
    /// Labels of every block; what a workload calls itself does not replace them.
    pub labels: Vec<(String, String)>,
    /// Agent time begins no earlier: a clock that stands before the node's enrolment is wrong.
    pub begins: Timestamp,
}

/// What one segment is to say, without its place in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// First instant it accounts for: where the draft before ended.
    pub from: Timestamp,
    /// First instant it does not account for.
    pub covered_through: Timestamp,
    /// The boot of its last sample.
    pub boot: BootId,
    /// Digest of the configuration in force.
    pub config: Hash,
    /// Time in which no `host` register was open.
    pub gaps: Vec<Gap>,
    /// One per workload with a register, sorted by name.
    pub blocks: Vec<Block>,
    /// What it does besides.
    pub purpose: Purpose,
}

/// One register as it stands now, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterView {
    /// The register.
    pub register: RegisterId,
    /// Whose.
    pub workload: WorkloadName,
    /// What it measures.
    pub meter: Meter,
    /// Where it stands.
    pub reading: Reading,
    /// Up to when.
    pub through: Timestamp,
}

/// The registers of one stream.
#[derive(Debug, Clone)]
pub struct Accrual {
    settings: Settings,
    registers: BTreeMap<RegisterId, Register>,
    /// The register that takes the readings of a source now; closing ones are not in it.
    active: BTreeMap<(WorkloadName, Meter), RegisterId>,
    clock: Option<Clock>,
    resume: Resume,
    from: Option<Timestamp>,
    gaps: Vec<Gap>,
    births: Births,
    others: Others,
    applications: Applications,
    labels: draft::Labels,
    next: RegisterId,
    refused: u64,
    slips: u64,
    resets: u64,
}

/// How the next sample relates to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resume {
    /// The same process took it.
    Running,
    /// The agent was restarted in between.
    Restarted { reconfigured: bool },
    /// The same process took it, with another selection.
    Reconfigured,
    /// A new stream begins with it.
    NewStream,
}

impl Accrual {
    /// No register yet, no time covered: the agent's first start.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            registers: BTreeMap::new(),
            active: BTreeMap::new(),
            clock: None,
            resume: Resume::Running,
            from: None,
            gaps: Vec::new(),
            births: Births::default(),
            others: Others::default(),
            applications: Applications::default(),
            labels: draft::Labels::default(),
            next: RegisterId(0),
            refused: 0,
            slips: 0,
            resets: 0,
        }
    }

    /// Forgets every register: the stream is over, and no reading is carried into the next one. The
    /// next sample opens all at the raw values present then, and time since the last is a gap. What
    /// applications reported goes on only where [`Self::carry_reported`] was asked to before.
    pub fn begin_stream(&mut self) {
        self.applications.reported.clear();
        self.registers.clear();
        self.active.clear();
        self.others.clear();
        // What is born by what this state knows may have been billed in the stream that ends: a node that
        // was rolled back knows less than it once did.
        self.births.forget();
        self.gaps.clear();
        self.next = RegisterId(0);
        self.resume = Resume::NewStream;
        // What was accrued beyond the last draft is part of the gap.
        if let (Some(clock), Some(from)) = (&mut self.clock, self.from) {
            clock.at = from;
        }
    }

    /// Other settings are in force from the next sample on: what they leave out is closed as
    /// deselected. What has accrued should be sealed before, for a header names one configuration.
    pub fn reconfigure(&mut self, settings: Settings) {
        self.settings = settings;
        if self.resume == Resume::Running {
            self.resume = Resume::Reconfigured;
        }
    }

    /// Folds one sample in.
    pub fn observe(&mut self, sample: &Sample) {
        self.labels.note(&sample.labels);
        let step = self.begin_step(sample);
        let mut inflow = other::Inflow::default();
        for last in &sample.last {
            self.observe_last(last, &step, &mut inflow);
        }
        self.close_absent(sample, &step);
        for source in host_first(&sample.sources) {
            self.observe_source(source, &step, &mut inflow);
        }
        self.observe_others(&inflow, &step);
        self.observe_applications(&step);
        self.finish_closing(&step);
        self.births.note(&sample.walks, sample.boot, step.to);
        self.clock = Some(Clock {
            boot: sample.boot,
            at: step.to,
            monotonic: sample.moment.monotonic,
            boottime: sample.moment.boottime,
        });
        self.resume = Resume::Running;
    }

    /// Everything accounted for since the last draft; `None` when no time has passed. What it takes
    /// is gone from here: whoever asks keeps the draft until it is durable.
    ///
    /// # Errors
    /// Never for registers kept by this module; the error says which rule of a block broke.
    pub fn seal(&mut self) -> Result<Option<Draft>, RunError> {
        let (Some(from), Some(clock)) = (self.from, self.clock.clone()) else {
            return Ok(None);
        };
        if clock.at <= from {
            return Ok(None);
        }
        for register in self
            .registers
            .values_mut()
            .filter(|register| register.closed.is_none())
        {
            register.settle(clock.at);
        }
        let outstanding = self.others.labels(self.registers.values());
        let blocks = draft::blocks(
            &self.registers,
            &self.settings.labels,
            &self.labels,
            &outstanding,
        )?;
        self.labels.forget_past();
        self.registers
            .retain(|_, register| register.closed.is_none());
        self.registers.values_mut().for_each(Register::begin_run);
        self.from = Some(clock.at);
        Ok(Some(Draft {
            from,
            covered_through: clock.at,
            boot: clock.boot,
            config: self.settings.config,
            gaps: std::mem::take(&mut self.gaps),
            blocks,
            purpose: Purpose::Readings,
        }))
    }

    /// As [`Self::seal`], and closes every register in it: nothing is to come after that draft.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_last(&mut self) -> Result<Option<Draft>, RunError> {
        let now = self.accounted_through();
        let Some(at) = now.filter(|at| self.from.is_some_and(|from| from < *at)) else {
            return Ok(None);
        };
        let open = |register: &&mut Register| register.closed.is_none();
        for register in self.registers.values_mut().filter(open) {
            register.settle(at);
            register.close(CloseReason::StreamEnd, at);
        }
        self.active.clear();
        let draft = self.seal()?;
        Ok(draft.map(|draft| Draft {
            purpose: Purpose::Final,
            ..draft
        }))
    }

    /// Up to when time is accounted for, sealed or not.
    #[must_use]
    pub fn accounted_through(&self) -> Option<Timestamp> {
        self.clock.as_ref().map(|clock| clock.at)
    }

    /// How many times a new source found the register limit reached.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many times a counter was below the highest value seen of it, and was billed nothing.
    #[must_use]
    pub fn slips(&self) -> u64 {
        self.slips
    }

    /// How many times a counter began anew without its source being another one.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Every register as it stands.
    pub fn registers(&self) -> impl Iterator<Item = RegisterView> + '_ {
        self.registers.iter().map(|(id, register)| RegisterView {
            register: *id,
            workload: register.workload.clone(),
            meter: register.meter,
            reading: register.reading,
            through: register.end,
        })
    }

    /// The step from the sample before to this one, with the gap it leaves, if any.
    fn begin_step(&mut self, sample: &Sample) -> Step {
        let Some(clock) = &self.clock else {
            let begin = sample.moment.wall.max(self.settings.begins);
            self.from = Some(begin);
            return Step::first(begin);
        };
        let step = match self.resume {
            Resume::NewStream => Step::gap(clock, sample, Cause::NewStream),
            Resume::Restarted { .. } if clock.boot == sample.boot => Step::restarted(clock, sample),
            _ if clock.boot != sample.boot => Step::rebooted(clock, sample),
            _ => Step::running(clock, sample, self.settings.sample),
        };
        if let Some(gap) = step.gap {
            self.gaps.push(gap);
        }
        if clock.boot != sample.boot {
            self.births.forget();
            self.others.clear();
        }
        step
    }

    /// Closes the registers whose source is gone, or lives on as another incarnation.
    fn close_absent(&mut self, sample: &Sample, step: &Step) {
        let present: BTreeMap<(&WorkloadName, Meter), &Identity> = sample
            .sources
            .iter()
            .map(|source| ((&source.workload, source.meter), &source.identity))
            .collect();
        let gone: Vec<((WorkloadName, Meter), CloseReason)> = self
            .active
            .iter()
            .filter(|((workload, _), _)| workload.as_str() != WorkloadName::HOST_OTHER)
            .filter(|(_, id)| !self.applications.reported.contains_key(*id))
            .filter_map(|(key, id)| {
                let register = &self.registers[id];
                let now = present.get(&(&key.0, key.1)).copied();
                Some((
                    key.clone(),
                    self.end_of_source(&register.identity, now, sample.boot)?,
                ))
            })
            .collect();
        for (key, reason) in gone {
            self.close(&key, reason, step);
        }
    }

    fn end_of_source(
        &self,
        was: &Identity,
        now: Option<&Identity>,
        boot: BootId,
    ) -> Option<CloseReason> {
        match now {
            Some(now) if now == was => None,
            _ if was.boot != boot => Some(CloseReason::Reboot),
            Some(_) => Some(CloseReason::Reset),
            None if matches!(
                self.resume,
                Resume::Restarted { reconfigured: true } | Resume::Reconfigured
            ) =>
            {
                Some(CloseReason::Deselected)
            }
            None => Some(CloseReason::Vanished),
        }
    }

    /// Closes a register, and with a host's the `host/other` that is computed from it.
    fn close(&mut self, key: &(WorkloadName, Meter), reason: CloseReason, step: &Step) {
        let Some(id) = self.active.remove(key) else {
            return;
        };
        if let Some(register) = self.registers.get_mut(&id) {
            register.close(reason, step.from);
        }
        if key.0.is_host() && key.1.is_additive() {
            self.close(&(WorkloadName::host_other(), key.1), reason, step);
        }
    }

    fn observe_source(&mut self, source: &SourceReading, step: &Step, inflow: &mut other::Inflow) {
        let key = (source.workload.clone(), source.meter);
        let id = match self.active.get(&key) {
            Some(id) if self.registers[id].has_reset(&source.raw) => {
                self.resets = self.resets.saturating_add(1);
                self.close(&key, CloseReason::Reset, step);
                self.open_seen(key, source, step);
                return;
            }
            Some(id) => *id,
            None if self.births.proves(&source.identity, step) && is_counter(source) => {
                let Some(id) = self.open_born(key, source, step) else {
                    return;
                };
                id
            }
            None => return self.open_seen(key, source, step),
        };
        if let Some(register) = self.registers.get_mut(&id) {
            if register.has_slipped(&source.raw) {
                self.slips = self.slips.saturating_add(1);
            }
            let worth = register.weigh(&source.raw, step);
            inflow.add(register, worth);
            register.take(worth, step);
        }
    }

    /// The last reading of a source that the sample does not have any more: it is taken, and ends the
    /// register. One that came and went within the step opens in it, if it counts.
    fn observe_last(&mut self, last: &LastReading, step: &Step, inflow: &mut other::Inflow) {
        let source = &last.source;
        let key = (source.workload.clone(), source.meter);
        let active = self.active.get(&key).copied();
        let known = active.filter(|id| self.registers[id].identity == source.identity);
        if known.is_some_and(|id| self.registers[&id].has_reset(&source.raw)) {
            return;
        }
        if known.is_none() {
            if !is_counter(source) || !self.births.proves(&source.identity, step) {
                return;
            }
            self.close(&key, CloseReason::Reset, step);
            if self.open_born(key.clone(), source, step).is_none() {
                return;
            }
        }
        // What is held is held up to that reading; what was counted was counted in the step.
        let until = match source.meter.kind() {
            Kind::Counter => step.clone(),
            _ => step.cut_after(last.since_sample),
        };
        let register = self
            .active
            .get(&key)
            .and_then(|id| self.registers.get_mut(id));
        if let Some(register) = register {
            let worth = register.weigh(&source.raw, &until);
            inflow.add(register, worth);
            register.take(worth, &until);
        }
        self.close(&key, CloseReason::Vanished, &until.ended());
    }

    /// At the raw value first seen. An unreadable source opens when it is first read.
    fn open_seen(&mut self, key: (WorkloadName, Meter), source: &SourceReading, step: &Step) {
        let (Raw::Counter(raw) | Raw::Level(raw)) = source.raw else {
            return;
        };
        if let Some(register) = self.open(key, source, Basis::FirstSeen { raw }, step.to) {
            register.baseline(&source.raw);
        }
    }

    /// At zero, where the step begins in which the source was born.
    fn open_born(
        &mut self,
        key: (WorkloadName, Meter),
        source: &SourceReading,
        step: &Step,
    ) -> Option<RegisterId> {
        let doubt = self.births.doubt(&source.identity, step);
        let register = self.open(key, source, Basis::Birth, step.from)?;
        register.doubt = doubt;
        Some(register.id)
    }

    /// A new register, with its `host/other` where it is an additive one of the host.
    fn open(
        &mut self,
        key: (WorkloadName, Meter),
        source: &SourceReading,
        basis: Basis,
        start: Timestamp,
    ) -> Option<&mut Register> {
        let (workload, meter) = key;
        let derived = workload.is_host() && meter.is_additive();
        if self.registers.len() >= self.settings.register_limit {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        let id = self.insert(workload, meter, source.identity.clone(), basis, start);
        if derived {
            let basis = match basis {
                Basis::Birth => Basis::Birth,
                Basis::FirstSeen { .. } => Basis::FirstSeen { raw: 0 },
            };
            self.insert(
                WorkloadName::host_other(),
                meter,
                source.identity.clone(),
                basis,
                start,
            );
        }
        self.registers.get_mut(&id)
    }

    fn insert(
        &mut self,
        workload: WorkloadName,
        meter: Meter,
        identity: Identity,
        basis: Basis,
        start: Timestamp,
    ) -> RegisterId {
        let id = self.next;
        self.next = RegisterId(id.0.saturating_add(1));
        self.active.insert((workload.clone(), meter), id);
        self.registers.insert(
            id,
            Register::open(id, workload, meter, identity, basis, start),
        );
        id
    }

    fn observe_others(&mut self, inflow: &other::Inflow, step: &Step) {
        for meter in Meter::ALL
            .iter()
            .copied()
            .filter(|meter| meter.is_additive())
        {
            let worth = self.others.share(meter, inflow);
            let key = (WorkloadName::host_other(), meter);
            let register = self
                .active
                .get(&key)
                .and_then(|id| self.registers.get_mut(id));
            if let (Some(worth), Some(register)) = (worth, register) {
                register.take(worth, step);
            }
        }
    }

    fn finish_closing(&mut self, step: &Step) {
        for register in self.registers.values_mut() {
            register.finish(step.to);
        }
    }
}

/// The host's sources before all others, so that the register limit never hits them.
fn host_first(sources: &[SourceReading]) -> impl Iterator<Item = &SourceReading> {
    let host = sources.iter().filter(|source| source.workload.is_host());
    host.chain(sources.iter().filter(|source| !source.workload.is_host()))
}

fn is_counter(source: &SourceReading) -> bool {
    source.meter.kind() == Kind::Counter && matches!(source.raw, Raw::Counter(_))
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
