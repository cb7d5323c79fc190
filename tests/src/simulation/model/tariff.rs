//! Whose usage it is, and what it costs: by plain arithmetic.

use super::ledger::Ledger;
use super::{Item, QUARTER};

/// A workload belongs to an account from a quarter-hour on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Whose it is.
    pub account: &'static str,
    /// Which: a name, or `cgroup/*` for all.
    pub workload: &'static str,
    /// From which quarter-hour on.
    pub quarter: u64,
}

/// The selector of every group.
pub const ALL: &str = "cgroup/*";

impl Rule {
    /// Whether some workload could be another's and this one's.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.is_for(other.workload) || other.is_for(self.workload)
    }

    fn is_for(&self, workload: &str) -> bool {
        self.workload == workload || (self.workload == ALL && workload.starts_with("cgroup/"))
    }

    /// Whether two rules would give one thing to two accounts at one instant.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        self.account != other.account && self.quarter == other.quarter && self.meets(other)
    }
}

impl Ledger {
    /// Whether a rule that is not made to correct anything would say of a time what was said otherwise: it gives to
    /// a second account at one instant, or speaks of a month, up to `end`, that was invoiced to one that it concerns.
    #[must_use]
    pub fn refuses(&self, rule: &Rule, end: u64) -> bool {
        let meets = |other: &&Rule| other.meets(rule);
        let beside: Vec<&Rule> = self.rules.iter().filter(meets).collect();
        if let Some(place) = beside.iter().rposition(|other| *other == rule)
            && !beside[place..].iter().any(|other| other.contradicts(rule))
        {
            return false;
        }
        let others = beside.iter().map(|other| other.account);
        let mut concerned = others.chain([rule.account]);
        let invoiced = concerned.any(|account| self.said.contains_key(account));
        let contradicted = beside.iter().any(|other| other.contradicts(rule));
        contradicted || (invoiced && rule.quarter * QUARTER < end)
    }

    /// Whose a workload is in a quarter-hour: the latest rule says it, of equals the one made last.
    #[must_use]
    pub fn owner(&self, workload: &str, quarter: u64) -> Option<&'static str> {
        let mut latest: Option<&Rule> = None;
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.is_for(workload) && rule.quarter <= quarter)
        {
            if latest.is_none_or(|latest| latest.quarter <= rule.quarter) {
                latest = Some(rule);
            }
        }
        latest.map(|rule| rule.account)
    }

    /// Cents for the CPU time of an account between two instants.
    #[must_use]
    pub fn bill(&self, account: &str, from: u64, to: u64) -> u128 {
        cents(self.micros(account, from, to))
    }

    /// The CPU time of an account between two instants.
    #[must_use]
    pub fn micros(&self, account: &str, from: u64, to: u64) -> u128 {
        let mut micros = 0;
        for node in self.nodes.keys() {
            for ((item, quarter), quantity) in self.counted(*node) {
                let item: Item = item;
                let within = quarter >= from / QUARTER && quarter < to / QUARTER;
                if within && item.1 == "cpu.time" && self.owner(item.0, quarter) == Some(account) {
                    micros += quantity;
                }
            }
        }
        micros
    }
}

/// 36.00 an hour, that is a millionth of a cent for a microsecond, rounded once, half a cent up.
#[must_use]
pub fn cents(micros: u128) -> u128 {
    (micros + 500_000) / 1_000_000
}
