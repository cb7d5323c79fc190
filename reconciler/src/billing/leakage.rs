//! The leakage account: received = billed + unbilled + quarantined + written off, per meter, over all nodes.
//!
//! *Received* is read from sealed segments: what registers rose by, at the bounds of each hour. *Counted* (billed
//! and unbilled) is what rollups hold of the same hour, the rows that invoices are written from; *billed* is
//! what the latest document of each issued period says: its invoice, or the last correction of it, which states the
//! whole period anew. *Written off* is what a person decided not to count: segments rejected, admitted branches of
//! forks that were not kept, and what was sealed with a revoked key; accepted later, it counts, once. So a row that
//! is wrong, missing or too much shows as a difference, which must be zero.
//! The account is kept hour by hour: an hour is tallied when it is over, again whenever a segment with time in it
//! was admitted or decided on since, and once a day in any case, so that a row changed afterwards is found.
//!
//! What registers of `host` count is a control reading and peaks have no sum: neither is in the account.
//! Other branches of forks and refusals were never received.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::{Kind, Meter, Unit};
use tallystick_common::statement::{Statement, WorkloadRef};
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

mod follow;
mod tally;

pub use follow::{Followed, decided, follow};
pub use tally::{report, tally};

/// What an hour, or all of them, came to of one meter, in its base unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// What sealed registers rose by.
    pub received: u128,
    /// What rollups hold, and segments beyond them.
    pub counted: u128,
    /// What registers rose by in quarantined segments.
    pub quarantined: u128,
    /// What a person decided not to count.
    pub written_off: u128,
}

impl Tally {
    /// Received without the others: zero, or something is wrong.
    #[must_use]
    pub fn difference(&self) -> i128 {
        let accounted = self.counted.saturating_add(self.quarantined);
        signed(self.received, accounted.saturating_add(self.written_off))
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.received, other.received),
            (&mut self.counted, other.counted),
            (&mut self.quarantined, other.quarantined),
            (&mut self.written_off, other.written_off),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// What issued documents hold of one meter, in its base unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charged {
    /// On lines.
    pub billed: u128,
    /// Named as not priced.
    pub unpriced: u128,
}

impl Charged {
    /// Takes in what another document holds.
    pub fn add(&mut self, other: Self) {
        self.billed = self.billed.saturating_add(other.billed);
        self.unpriced = self.unpriced.saturating_add(other.unpriced);
    }
}

/// Whether usage is in the account.
fn is_tallied(workload: &WorkloadName, meter: Meter) -> bool {
    !workload.is_host() && meter.kind() != Kind::Peak
}

/// `left − right`, as far as 128 bits with a sign go.
fn signed(left: u128, right: u128) -> i128 {
    let magnitude = i128::try_from(left.abs_diff(right)).unwrap_or(i128::MAX);
    if left < right { -magnitude } else { magnitude }
}

/// What a statement holds of each meter. Usage that several prices charge counts once.
#[must_use]
pub fn charged(statement: &Statement) -> BTreeMap<Meter, Charged> {
    let mut sums: BTreeMap<Meter, Charged> = BTreeMap::new();
    let mut seen: BTreeSet<(Meter, &WorkloadRef, Timestamp, Timestamp)> = BTreeSet::new();
    for line in &statement.lines {
        for detail in &line.details {
            let key = (line.meter, &detail.of, detail.window.from, detail.window.to);
            if is_tallied(&detail.of.workload, line.meter) && seen.insert(key) {
                sums.entry(line.meter).or_default().billed += detail.quantity;
            }
        }
    }
    for unpriced in &statement.unpriced {
        if is_tallied(&unpriced.detail.of.workload, unpriced.meter) {
            sums.entry(unpriced.meter).or_default().unpriced += unpriced.detail.quantity;
        }
    }
    sums
}

/// The leakage account as of an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Leakage {
    /// When it was computed.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Hours that were not tallied since segments with time in them came, and are not in these figures.
    pub hours_due: u64,
    /// By meter.
    pub meters: Vec<MeterLeakage>,
    /// Hours that do not add up, the first of them.
    pub differing: Vec<DifferingHour>,
}

/// What was received of one meter, and where it went; whole numbers of the base unit, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MeterLeakage {
    /// What is measured.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// Its base unit.
    #[schema(value_type = String)]
    pub unit: Unit,
    /// What sealed registers rose by.
    pub received: String,
    /// On lines of issued invoices, as corrected.
    pub billed: String,
    /// Counted and on no line: periods not issued yet, usage of nobody, what came after its period's invoice.
    /// Below zero when documents hold more than is counted, until they are corrected.
    pub unbilled: String,
    /// Of the unbilled: named on those documents as not priced.
    pub unpriced: String,
    /// Held until a person decides.
    pub quarantined: String,
    /// What a person decided not to count.
    pub written_off: String,
    /// Received without all of these: zero, or something is wrong.
    pub difference: String,
}

/// An hour in which a meter does not add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DifferingHour {
    /// When it begins.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// What is measured.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// Received without what is accounted for, in the base unit.
    pub difference: String,
}

impl MeterLeakage {
    fn new(meter: Meter, tally: &Tally, charged: Charged) -> Self {
        Self {
            meter,
            unit: meter.unit(),
            received: tally.received.to_string(),
            billed: charged.billed.to_string(),
            unbilled: signed(tally.counted, charged.billed).to_string(),
            unpriced: charged.unpriced.to_string(),
            quarantined: tally.quarantined.to_string(),
            written_off: tally.written_off.to_string(),
            difference: tally.difference().to_string(),
        }
    }
}

impl Leakage {
    /// Whether nothing differs.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.differing.is_empty() && self.meters.iter().all(|meter| meter.difference == "0")
    }
}

#[cfg(test)]
mod tests;
