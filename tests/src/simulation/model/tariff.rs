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
    fn is_for(&self, workload: &str) -> bool {
        self.workload == workload || (self.workload == ALL && workload.starts_with("cgroup/"))
    }

    /// Whether two rules would give one thing to two accounts at one instant.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        self.account != other.account
            && self.quarter == other.quarter
            && (self.is_for(other.workload) || other.is_for(self.workload))
    }
}

impl Ledger {
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

    /// Cents for the CPU time of an account between two instants: 36.00 an hour, that is a millionth of a
    /// cent for a microsecond, rounded once, half a cent up.
    #[must_use]
    pub fn bill(&self, account: &str, from: u64, to: u64) -> u128 {
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
        (micros + 500_000) / 1_000_000
    }
}
