//! Usage that applications report: added to a register when it comes in, made an interval by the next sample.
//!
//! Such a register has no source that could be read again. It opens at zero with its first report, lives on
//! over restarts and reboots, and closes when nothing was reported for a day. Time in which the agent did
//! not run is `unmeasured`: nothing could be reported then. What was reported before that, after the last
//! sample, gets an interval of its own up to its report.
//!
//! A stream that ends takes its registers with it. What was reported and not sealed goes into the next one, unless
//! another copy of the stream may have sealed it already.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use tallystick_common::ids::{BootId, RegisterId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::reading::Cause;
use tallystick_common::segment::{Basis, CloseReason};
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

use super::register::{Register, Worth};
use super::step::{Levels, Step};
use super::{Accrual, Draft, Resume};
use crate::sample::Identity;

/// Most that may be reported to one register between two samples: far below what an interval may hold, so
/// that no report makes a segment doubtful.
pub const REPORT_MAX: u128 = 10_000_000_000_000;

/// A register to which nothing was reported for so long closes.
const IDLE: Micros = Micros(24 * 3600 * SECOND_US);

/// Usage by workload and meter, as reported together: all of it counts, or nothing.
pub type Reported = BTreeMap<(WorkloadName, Meter), u128>;

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Nothing was sampled in this stream yet.
    #[error("metering has not begun yet")]
    NotYet,
    /// Every register that applications may have is in use.
    #[error(
        "applications have {0} registers, half of registers.limit or all that were left: raise it, or report under fewer names"
    )]
    Full(usize),
    /// More than an interval may hold.
    #[error(
        "{workload} would have more than {REPORT_MAX} of {meter} between two samples: report it in parts"
    )]
    TooMuch {
        /// Whose.
        workload: WorkloadName,
        /// Of what.
        meter: Meter,
    },
}

/// What must be remembered of reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Applications {
    /// When something was last reported, by register.
    pub(super) reported: BTreeMap<RegisterId, Timestamp>,
    carried: Vec<Carried>,
    batch: u64,
}

/// Reported in a stream that ended, and never sealed there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Carried {
    workload: String,
    meter: u16,
    quantity: u128,
}

impl Accrual {
    /// Takes what was reported at `at`, all of it or nothing.
    ///
    /// # Errors
    /// Why nothing was taken.
    pub fn report(&mut self, usage: &Reported, at: Timestamp) -> Result<(), ReportError> {
        let running = matches!(self.resume, Resume::Running | Resume::Reconfigured);
        let Some(now) = self.accounted_through().filter(|_| running) else {
            return Err(ReportError::NotYet);
        };
        self.check_report(usage)?;
        for (key, quantity) in usage {
            self.add_reported(key, *quantity, now, at.max(now));
        }
        Ok(())
    }

    /// The last batch of reports that is in the registers.
    #[must_use]
    pub fn batch(&self) -> u64 {
        self.applications.batch
    }

    /// Notes that the registers hold this batch, and all before it.
    pub fn set_batch(&mut self, batch: u64) {
        self.applications.batch = batch;
    }

    fn check_report(&self, usage: &Reported) -> Result<(), ReportError> {
        let fresh = usage
            .keys()
            .filter(|key| !self.active.contains_key(*key))
            .count();
        // Half of them at most, so that no application takes the registers of the kernel's workloads.
        let (limit, own) = (
            self.settings.register_limit,
            self.applications.reported.len(),
        );
        let room = (limit / 2)
            .saturating_sub(own)
            .min(limit.saturating_sub(self.registers.len()));
        if fresh > room {
            return Err(ReportError::Full(own));
        }
        for (key, quantity) in usage {
            let waiting = self
                .active
                .get(key)
                .map_or(0, |id| self.registers[id].pending);
            if waiting.saturating_add(*quantity) > REPORT_MAX {
                let (workload, meter) = key.clone();
                return Err(ReportError::TooMuch { workload, meter });
            }
        }
        Ok(())
    }

    fn add_reported(
        &mut self,
        key: &(WorkloadName, Meter),
        quantity: u128,
        now: Timestamp,
        at: Timestamp,
    ) {
        let id = match self.active.get(key) {
            Some(id) => *id,
            None => self.insert(key.0.clone(), key.1, identity(), Basis::Birth, now),
        };
        if let Some(register) = self.registers.get_mut(&id) {
            register.pending = register.pending.saturating_add(quantity);
        }
        self.applications.reported.insert(id, at);
    }

    /// Makes intervals of what was reported in the step.
    pub(super) fn observe_applications(&mut self, step: &Step) {
        for (id, reported) in &self.applications.reported {
            let Some(register) = self.registers.get_mut(id) else {
                continue;
            };
            match self.resume {
                Resume::Running | Resume::Reconfigured if !step.booted && step.gap.is_none() => {
                    register.take(Worth::Counted(0), step);
                }
                _ => wake(register, *reported, step),
            }
        }
        self.take_carried(step);
        self.close_idle(step);
    }

    fn take_carried(&mut self, step: &Step) {
        for carried in std::mem::take(&mut self.applications.carried) {
            let meter = Meter::from_code(carried.meter);
            let workload = WorkloadName::new(carried.workload);
            if let (Some(meter), Ok(workload)) = (meter, workload) {
                self.add_reported(&(workload, meter), carried.quantity, step.to, step.to);
            }
        }
    }

    fn close_idle(&mut self, step: &Step) {
        let idle: Vec<RegisterId> = self
            .applications
            .reported
            .iter()
            .filter(|(_, reported)| reported.saturating_add(IDLE) < step.to)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.applications.reported.remove(&id);
            let Some(register) = self.registers.get(&id) else {
                continue;
            };
            let key = (register.workload.clone(), register.meter);
            self.close(&key, CloseReason::Vanished, step);
        }
    }

    /// The stream is about to end: what was not sealed in it, in these drafts that never will be among it,
    /// waits for the next.
    pub fn carry_reported<'d>(&mut self, drafts: impl IntoIterator<Item = &'d Draft>) {
        for ((workload, meter), quantity) in self.unsealed_reports(drafts) {
            self.applications.carried.push(Carried {
                workload: workload.as_str().to_owned(),
                meter: meter.code(),
                quantity,
            });
        }
    }

    /// What applications reported that is in no sealed segment: it is in open registers, or in these drafts.
    pub fn unsealed_reports<'d>(&self, drafts: impl IntoIterator<Item = &'d Draft>) -> Reported {
        let mut unsealed = Reported::new();
        let mut add = |workload: &WorkloadName, meter, quantity: u128| {
            if quantity > 0 {
                let sum = unsealed.entry((workload.clone(), meter)).or_default();
                *sum = sum.saturating_add(quantity);
            }
        };
        for (register, quantity) in self.unsealed_registers() {
            add(&register.workload, register.meter, quantity);
        }
        for block in drafts.into_iter().flat_map(|draft| &draft.blocks) {
            for run in block.runs().iter().filter(|run| is_reported(run.meter)) {
                let quantity = block.intervals(run).map(|interval| interval.quantity);
                add(
                    &block.workload,
                    run.meter,
                    quantity.fold(0, u128::saturating_add),
                );
            }
        }
        unsealed
    }

    fn unsealed_registers(&self) -> impl Iterator<Item = (&Register, u128)> {
        let reported = self
            .registers
            .values()
            .filter(|register| is_reported(register.meter));
        reported.map(|register| {
            let intervals = register.intervals.iter().map(|interval| interval.quantity);
            (
                register,
                intervals.fold(register.pending, u128::saturating_add),
            )
        })
    }
}

fn is_reported(meter: Meter) -> bool {
    [Meter::APP_COUNT, Meter::APP_BYTES, Meter::APP_SECONDS].contains(&meter)
}

/// After an absence: what waits was reported before it, the rest of the time nothing could be.
fn wake(register: &mut Register, reported: Timestamp, step: &Step) {
    let end = register.end;
    if register.pending > 0 {
        // A whole second where there is one: as little as an interval needs to hold it.
        let until = reported
            .max(end.saturating_add(Micros(SECOND_US)))
            .min(step.to);
        register.waiting = until.since(end);
        register.doubt = Some(Cause::AgentDown);
        register.flush(until);
    }
    let cause = match step.levels {
        Levels::Unknown(cause) => cause,
        Levels::Held | Levels::Lower => Cause::AgentDown,
    };
    register.unmeasured(step.to, cause);
}

/// No kernel's source: the same over every boot.
fn identity() -> Identity {
    Identity {
        boot: BootId::ZERO,
        domain: "application".to_owned(),
        incarnation: 0,
    }
}

#[cfg(test)]
mod tests;
