//! Usage as a table: a row per node and workload, a column per meter that anything measures.

use super::{COLUMNS, human};
use crate::overview::UsageToday;

/// The table.
pub(super) struct UsageTable {
    pub(super) headings: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
}

/// One workload.
pub(super) struct Row {
    pub(super) node_name: String,
    pub(super) workload: String,
    pub(super) is_host: bool,
    pub(super) account: Option<String>,
    pub(super) cells: Vec<Cell>,
}

/// One meter of a workload.
pub(super) struct Cell {
    pub(super) meter: &'static str,
    /// In words; none where the workload has no register of the meter.
    pub(super) text: Option<String>,
    /// Exact, in the base unit.
    pub(super) exact: String,
    /// Some of its time is not measured or known in sum only.
    pub(super) doubtful: bool,
}

impl UsageTable {
    pub(super) fn of(usage: &[UsageToday]) -> Self {
        let shown: Vec<_> = COLUMNS
            .iter()
            .filter(|(meter, _)| usage.iter().any(|usage| usage.meter == *meter))
            .collect();
        let mut workloads: Vec<(&str, &str)> = usage
            .iter()
            .map(|usage| (usage.node_name.as_str(), usage.workload.as_str()))
            .collect();
        workloads.sort_unstable();
        workloads.dedup();
        let rows = workloads
            .into_iter()
            .map(|(node, workload)| {
                let own: Vec<&UsageToday> = usage
                    .iter()
                    .filter(|usage| usage.node_name == node && usage.workload.as_str() == workload)
                    .collect();
                Row::of(&own, &shown)
            })
            .collect();
        Self {
            headings: shown.iter().map(|(_, heading)| *heading).collect(),
            rows,
        }
    }
}

impl Row {
    fn of(own: &[&UsageToday], shown: &[&(tallystick_common::meter::Meter, &'static str)]) -> Self {
        let cells = shown
            .iter()
            .map(|(meter, _)| {
                let usage = own.iter().find(|usage| usage.meter == *meter);
                let value = usage.and_then(|usage| usage.quantity.parse().ok());
                Cell {
                    meter: meter.name(),
                    text: value.map(|value| human::quantity(value, meter.unit())),
                    exact: usage.map_or_else(String::new, |usage| {
                        format!("{} {}", usage.quantity, usage.unit)
                    }),
                    doubtful: usage
                        .is_some_and(|usage| usage.unmeasured.0 > 0 || usage.interpolated.0 > 0),
                }
            })
            .collect();
        Self {
            node_name: own
                .first()
                .map_or_else(String::new, |usage| usage.node_name.clone()),
            workload: own
                .first()
                .map_or_else(String::new, |usage| usage.workload.to_string()),
            is_host: own.first().is_some_and(|usage| usage.workload.is_host()),
            account: own.first().and_then(|usage| usage.account.clone()),
            cells,
        }
    }
}
