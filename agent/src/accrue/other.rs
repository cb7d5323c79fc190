//! `host/other`: what the host used beyond its metered workloads.
//!
//! Per meter and step: host − Σ workloads. Sources are not read at one instant, so a step can come
//! out negative; the deficit is carried and taken from later steps. Within one boot the sum therefore
//! never exceeds host − workloads. (Flooring each step by itself would bill every positive error and
//! forget every negative one.) What is outstanding at the end of a draft stands in it as labels of
//! `host/other`, so that whoever holds the segments can check, per meter and since boot:
//! host + excess = workloads + `host/other` + undivided. While a workload's counter cannot be read, the host's usage waits as
//! well: part of it will turn out to be the workload's.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::reading::Cause;

use super::register::{INTEGRAL_UNIT, Register, Worth};

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
    /// Used by workloads, not yet seen at the host: `excess`.
    pub(super) owed: u128,
    /// Used by the host, not yet divided, because a workload could not be read: `undivided`.
    pub(super) credit: u128,
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

    /// What is outstanding in the intervals of a draft, in whole units of each meter, when `registers` are
    /// what is left after it; nothing where that is zero, as it mostly is.
    pub(super) fn labels<'r>(
        &self,
        registers: impl Iterator<Item = &'r Register>,
    ) -> Vec<(String, String)> {
        let mut outstanding: BTreeMap<Meter, i128> = BTreeMap::new();
        for (meter, balance) in &self.balances {
            let net = signed(balance.owed) - signed(balance.credit);
            outstanding.insert(*meter, net);
        }
        // What still waits for its interval is in the balance, but in no interval yet.
        for register in registers {
            if let Some(net) = outstanding.get_mut(&register.meter) {
                let waits = signed(register.pending);
                match register.workload.as_str() {
                    WorkloadName::HOST => *net += waits,
                    WorkloadName::HOST_OTHER => *net -= waits,
                    name if name.starts_with("cgroup/") => *net -= waits,
                    _ => {}
                }
            }
        }
        outstanding
            .into_iter()
            .filter_map(|(meter, net)| label(meter, net))
            .collect()
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

fn signed(amount: u128) -> i128 {
    i128::try_from(amount).unwrap_or(i128::MAX)
}

fn label(meter: Meter, net: i128) -> Option<(String, String)> {
    let unit = match meter.kind() {
        Kind::Integral => INTEGRAL_UNIT,
        _ => 1,
    };
    let amount = net.unsigned_abs() / unit;
    let what = if net > 0 { "excess" } else { "undivided" };
    (amount > 0).then(|| (format!("{what}.{meter}"), amount.to_string()))
}

impl Balance {
    fn settle(&mut self) -> u128 {
        let both = self.owed.min(self.credit);
        self.owed -= both;
        self.credit -= both;
        std::mem::take(&mut self.credit)
    }
}
