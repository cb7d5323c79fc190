//! What usage is worth that is assigned to nobody: revenue that leaks.
//!
//! It is rated by the newest version of the plan that the installation names (`list_plan`), as if one account had
//! used it: all of it together, and each item by itself, which may come to less (allowances count
//! anew for each) or more (tiers). Usage that the plan has no price for has no value.

use tallystick_common::money::{Money, RoundingMode};
use tallystick_common::period::{Period, Zone};
use tallystick_common::price::Plan;
use tallystick_common::statement::{
    AccountRef, PlanWindow, Statement, StatementInput, UsageItem, draft,
};

use super::BillingError;
use super::usage::UsageRow;
use crate::catalog::CatalogError;
use crate::store::{self, Connection, StoreError};

/// The plan that usage of nobody is rated by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPrice {
    plan: Plan,
}

impl ListPrice {
    /// The newest version of a plan.
    ///
    /// # Errors
    /// When there is no such plan, or the database fails.
    pub async fn read(conn: &mut Connection, plan: &str) -> Result<Self, BillingError> {
        let row = store::catalog::plan_version(conn, plan, None).await?;
        let row = row.ok_or_else(|| CatalogError::Unknown {
            what: "plan",
            name: plan.to_owned(),
            hint: "apply it, or correct list_plan in reconciler.toml",
        })?;
        let plan = serde_json::from_str(&row.document)
            .map_err(|error| StoreError::damaged("plan_versions.document", error))?;
        Ok(Self { plan })
    }

    /// The value of usage rated together.
    ///
    /// # Errors
    /// When it cannot be rated.
    pub fn total(&self, rows: &[UsageRow], span: Period) -> Result<Money, BillingError> {
        Ok(self.statement(rows, span)?.total)
    }

    /// The value of one item rated by itself; none when the plan has no price for it.
    ///
    /// # Errors
    /// When it cannot be rated.
    pub fn value(&self, row: &UsageRow, span: Period) -> Result<Option<Money>, BillingError> {
        let statement = self.statement(std::slice::from_ref(row), span)?;
        Ok(statement.unpriced.is_empty().then_some(statement.total))
    }

    fn statement(&self, rows: &[UsageRow], span: Period) -> Result<Statement, BillingError> {
        let item = |row: &UsageRow| -> UsageItem { row.clone().into_item(span, Vec::new()) };
        let input = StatementInput {
            account: AccountRef {
                id: "unassigned".to_owned(),
                name: "unassigned".to_owned(),
                currency: self.plan.currency,
                zone: Zone::utc(),
            },
            seller: String::new(),
            buyer: String::new(),
            period: span,
            windows: vec![PlanWindow {
                plan: self.plan.clone(),
                from: span.from,
                to: span.to,
            }],
            usage: rows.iter().map(item).collect(),
            notes: Vec::new(),
            rounding: RoundingMode::default(),
        };
        draft(input).map_err(|source| BillingError::Statement {
            account: "nobody".to_owned(),
            source: Box::new(source),
        })
    }
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::{NodeId, WorkloadName};
    use tallystick_common::meter::Meter;

    use super::*;
    use crate::billing::testing::{PLAN, at};
    use crate::catalog::change;
    use crate::store::testing::{ENGINES, store};

    fn row(workload: &str, meter: Meter, quantity: u128) -> UsageRow {
        let workload = WorkloadName::new(workload).unwrap();
        UsageRow {
            quantity,
            ..UsageRow::none(NodeId([1; 16]), "n".to_owned(), workload, meter)
        }
    }

    #[tokio::test]
    async fn usage_of_nobody_has_its_value_at_list_price() {
        for engine in ENGINES {
            let (_home, store) = store(engine).await;
            let now = at("2026-11-01T00:00:00Z");
            let mut tx = store.read().await.unwrap();
            let error = ListPrice::read(&mut tx, "starter").await.unwrap_err();
            assert!(error.to_string().contains("list_plan"), "{error}");
            drop(tx);
            change::apply_plan(&store, "test", PLAN, "test", now)
                .await
                .unwrap();
            let mut tx = store.read().await.unwrap();
            let list = ListPrice::read(&mut tx, "starter").await.unwrap();
            let span = Period {
                from: now,
                to: at("2026-11-02T00:00:00Z"),
            };
            // 0.012 an hour: half a cent each is a cent and a fifth together.
            let half = row("cgroup/a", Meter::CPU_TIME, 1_800_000_000);
            let other = row("cgroup/b", Meter::CPU_TIME, 1_800_000_000);
            let value = |row: &UsageRow| {
                let value = list.value(row, span).unwrap();
                value.map(|value| value.to_string())
            };
            assert_eq!(value(&half).as_deref(), Some("0.01 EUR"));
            let total = list.total(&[half, other], span).unwrap();
            assert_eq!(total.to_string(), "0.01 EUR");
            assert_eq!(value(&row("cgroup/a", Meter::NETWORK_TX, 9)), None);
        }
    }
}
