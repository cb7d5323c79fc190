//! Whose bills change when segments begin or cease to count.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tallystick_common::ids::WorkloadName;
use tallystick_common::period::{Calendar, Period, Zone};
use tallystick_common::segment::{Block, Header};
use tallystick_common::time::Timestamp;

use super::DecisionError;
use crate::catalog::assignment::NodeNames;
use crate::catalog::{Account, Assignments};
use crate::store::nodes::Node;
use crate::store::{self, Connection};

/// A period of an account that has usage in segments decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// The account.
    pub account: String,
    /// First instant of its period.
    pub period_from: Timestamp,
    /// First instant after it.
    pub period_to: Timestamp,
    /// The invoice that was issued for it: it stays as it is.
    pub invoice: Option<String>,
}

/// When each workload was measured by segments whose verdict changes.
#[derive(Debug, Default)]
pub(super) struct Usage(BTreeMap<WorkloadName, Vec<Period>>);

impl Usage {
    /// Takes in a segment. Those of a stream come in order.
    pub(super) fn add(&mut self, header: &Header, blocks: &[Block]) {
        let (from, to) = (header.from, header.covered_through);
        for block in blocks.iter().filter(|block| !block.workload.is_host()) {
            let spans = self.0.entry(block.workload.clone()).or_default();
            match spans.last_mut() {
                Some(last) if last.to == from => last.to = to,
                _ => spans.push(Period { from, to }),
            }
        }
    }

    /// The periods of accounts that it lies in.
    pub(super) async fn touched(
        &self,
        conn: &mut Connection,
        node: &Node,
    ) -> Result<Vec<Touched>, DecisionError> {
        let rules = store::catalog::assignments(conn).await?;
        let mut touched = Vec::new();
        for account in store::catalog::accounts(conn).await? {
            let calendar = Calendar::new(Zone::new(&account.time_zone)?, account.anchor_day)?;
            for (from, to) in self.periods(&rules, &account, node, &calendar)? {
                let period = Period { from, to };
                let id = account.id.as_str();
                let invoice = store::billing::invoice_for(conn, id, &period).await?;
                touched.push(Touched {
                    account: id.to_owned(),
                    period_from: from,
                    period_to: to,
                    invoice: invoice.map(|invoice| invoice.number),
                });
            }
        }
        Ok(touched)
    }

    fn periods(
        &self,
        rules: &Assignments,
        account: &Account,
        node: &Node,
        calendar: &Calendar,
    ) -> Result<BTreeSet<(Timestamp, Timestamp)>, DecisionError> {
        let names = NodeNames {
            id: node.id,
            name: node.name.clone(),
        };
        let mut periods = BTreeSet::new();
        for (workload, spans) in &self.0 {
            for span in spans {
                let mut cuts = rules.changes(span.from, span.to);
                cuts.extend([span.from, span.to]);
                let cuts: Vec<Timestamp> = cuts.into_iter().collect();
                for pair in cuts.windows(2) {
                    let owner = rules.owner(&names, workload.as_str(), pair[0]);
                    if owner.is_some_and(|rule| rule.account == account.id) {
                        add_periods(&mut periods, calendar, pair[0], pair[1])?;
                    }
                }
            }
        }
        Ok(periods)
    }
}

/// The periods that a span has time in.
fn add_periods(
    periods: &mut BTreeSet<(Timestamp, Timestamp)>,
    calendar: &Calendar,
    from: Timestamp,
    to: Timestamp,
) -> Result<(), DecisionError> {
    let mut at = from;
    while at < to {
        let period = calendar.containing(at)?.1;
        periods.insert((period.from, period.to));
        at = period.to;
    }
    Ok(())
}
