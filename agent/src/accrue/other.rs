//! `host/other`: what the host used beyond its metered workloads.
//!
//! Per meter and step: host − Σ workloads. Sources are not read at one instant, so a step can come
//! out negative; the deficit is carried and taken from later steps. Over the life of the host's
//! register the sum therefore never exceeds host − workloads. (Flooring each step by itself would
//! bill every positive error and forget every negative one.) Steps in which the host could not be
//! read add to the deficit alone.

use std::collections::BTreeMap;

use tallystick_common::meter::Meter;

use super::register::{Register, Worth};

/// What workloads and host used in one step.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    host: BTreeMap<Meter, Worth>,
    workloads: BTreeMap<Meter, u128>,
}

/// Deficits by meter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Others {
    pub(super) deficits: BTreeMap<Meter, u128>,
}

impl Inflow {
    /// Notes what a step was worth to the register.
    pub(super) fn add(&mut self, register: &Register, worth: Worth) {
        if !register.meter.is_additive() {
            return;
        }
        if register.workload.is_host() {
            self.host.insert(register.meter, worth);
        } else if let Worth::Counted(more) = worth {
            let sum = self.workloads.entry(register.meter).or_default();
            *sum = sum.saturating_add(more);
        }
    }
}

impl Others {
    /// A host register opens: what was owed to the one before is closed with it.
    pub(super) fn begin(&mut self, meter: Meter) {
        self.deficits.remove(&meter);
    }

    pub(super) fn clear(&mut self) {
        self.deficits.clear();
    }

    /// What the step is worth to `host/other`; `None` when the host has no register yet.
    pub(super) fn share(&mut self, meter: Meter, inflow: &Inflow) -> Option<Worth> {
        let host = inflow.host.get(&meter)?;
        let deficit = self.deficits.entry(meter).or_default();
        let used = inflow.workloads.get(&meter).copied().unwrap_or(0);
        let taken = deficit.saturating_add(used);
        Some(match *host {
            Worth::Counted(host) => {
                *deficit = taken.saturating_sub(host);
                Worth::Counted(host.saturating_sub(taken))
            }
            unread => {
                *deficit = taken;
                unread
            }
        })
    }
}
