//! `host/other`: what the host used beyond its metered workloads.
//!
//! Per meter and step: host − Σ workloads. Sources are not read at one instant, so a step can come
//! out negative; the deficit is carried and taken from later steps. Within one boot the sum therefore
//! never exceeds host − workloads. (Flooring each step by itself would bill every positive error and
//! forget every negative one.) While a workload's counter cannot be read, the host's usage waits as
//! well: part of it will turn out to be the workload's.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use tallystick_common::meter::Meter;
use tallystick_common::reading::Cause;

use super::register::{Register, Worth};

/// What workloads and host used in one step.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    host: BTreeMap<Meter, Worth>,
    workloads: BTreeMap<Meter, u128>,
    held: BTreeSet<Meter>,
}

/// What was not yet settled between host and workloads, by meter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Others {
    pub(super) balances: BTreeMap<Meter, Balance>,
}

/// At most one of both is large for long: each step settles them against one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Balance {
    /// Used by workloads, not yet seen at the host.
    owed: u128,
    /// Used by the host, not yet divided.
    credit: u128,
}

impl Inflow {
    /// Notes what a step was worth to the register.
    pub(super) fn add(&mut self, register: &Register, worth: Worth) {
        let meter = register.meter;
        let cgroup = register.workload.as_str().starts_with("cgroup/");
        if !meter.is_additive() {
            return;
        }
        match worth {
            worth if register.workload.is_host() => drop(self.host.insert(meter, worth)),
            Worth::Counted(more) if cgroup => {
                let sum = self.workloads.entry(meter).or_default();
                *sum = sum.saturating_add(more);
            }
            Worth::Held(_) if cgroup => drop(self.held.insert(meter)),
            _ => {}
        }
    }
}

impl Others {
    /// Nothing is carried over a boot or into another stream.
    pub(super) fn clear(&mut self) {
        self.balances.clear();
    }

    /// What the step is worth to `host/other`; `None` when no host register was read in it.
    pub(super) fn share(&mut self, meter: Meter, inflow: &Inflow) -> Option<Worth> {
        let balance = self.balances.entry(meter).or_default();
        let used = inflow.workloads.get(&meter).copied().unwrap_or(0);
        balance.owed = balance.owed.saturating_add(used);
        Some(match *inflow.host.get(&meter)? {
            Worth::Counted(more) => {
                balance.credit = balance.credit.saturating_add(more);
                if inflow.held.contains(&meter) {
                    Worth::Held(Cause::SourceUnreadable)
                } else {
                    Worth::Counted(balance.settle())
                }
            }
            unread => unread,
        })
    }
}

impl Balance {
    fn settle(&mut self) -> u128 {
        let both = self.owed.min(self.credit);
        self.owed -= both;
        self.credit -= both;
        std::mem::take(&mut self.credit)
    }
}
