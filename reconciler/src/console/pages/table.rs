//! Usage as a table: a row per node, workload and account, a column per meter that anything measures.

use std::collections::BTreeMap;

use tallystick_common::meter::{Meter, Unit};

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
    /// None where the workload has no register of the meter.
    pub(super) figure: Option<Figure>,
}

/// What was used.
pub(super) struct Figure {
    /// In words.
    pub(super) text: String,
    /// Exact, in the base unit.
    pub(super) quantity: String,
    /// The base unit.
    pub(super) unit: Unit,
    /// Some of its time is not measured or known in sum only.
    pub(super) doubtful: bool,
}

impl UsageTable {
    pub(super) fn of(usage: &[UsageToday]) -> Self {
        let shown: Vec<_> = COLUMNS
            .iter()
            .filter(|(meter, _)| usage.iter().any(|usage| usage.meter == *meter))
            .collect();
        // Names of nodes may be alike, and a workload may have changed hands today.
        let mut rows: BTreeMap<_, Vec<&UsageToday>> = BTreeMap::new();
        for usage in usage {
            let key = (
                &usage.node_name,
                usage.node,
                &usage.workload,
                &usage.account,
            );
            rows.entry(key).or_default().push(usage);
        }
        Self {
            headings: shown.iter().map(|(_, heading)| *heading).collect(),
            rows: rows
                .into_values()
                .filter_map(|own| Row::of(&own, &shown))
                .collect(),
        }
    }
}

impl Row {
    fn of(own: &[&UsageToday], shown: &[&(Meter, &'static str)]) -> Option<Self> {
        let first = own.first()?;
        let cell = |(meter, _): &&(Meter, &'static str)| Cell {
            meter: meter.name(),
            figure: own
                .iter()
                .find(|usage| usage.meter == *meter)
                .map(|usage| Figure::of(usage)),
        };
        Some(Self {
            node_name: first.node_name.clone(),
            workload: first.workload.to_string(),
            is_host: first.workload.is_host(),
            account: first.account.clone(),
            cells: shown.iter().map(cell).collect(),
        })
    }
}

impl Figure {
    fn of(usage: &UsageToday) -> Self {
        let quantity = usage.quantity.parse();
        Self {
            text: quantity.map_or_else(
                |_| usage.quantity.clone(),
                |quantity| human::quantity(quantity, usage.unit),
            ),
            quantity: usage.quantity.clone(),
            unit: usage.unit,
            doubtful: usage.unmeasured.0 > 0 || usage.interpolated.0 > 0,
        }
    }
}
