//! The starter catalog of a single host: account, plan, subscription, assignments.

use tallystick_common::ids::NodeId;
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};
use tallystick_reconciler::catalog::assignment::NewAssignment;
use tallystick_reconciler::catalog::change::{
    NewAccount, apply_plan, assign, create_account, subscribe,
};
use tallystick_reconciler::store::{self, Store};

/// The account that this host is billed to.
pub(crate) const ACCOUNT: &str = "this-host";
/// Who made the changes, in the audit log.
pub(crate) const ACTOR: &str = "cli:tallystick-up";

const PLAN: &str = include_str!("starter-plan.toml");
const PLAN_NAME: &str = "starter";

/// Whose usage is whose. `host` itself is the control reading and never billed; interfaces and file
/// systems are shown but not assigned, for the starter plan has no price for them.
const WORKLOADS: [&str; 2] = ["cgroup/*", "host/other"];

/// Makes what is missing; what is there stays as it is.
pub(crate) async fn prepare(store: &Store, node: NodeId, now: Timestamp) -> anyhow::Result<()> {
    let from = now.floor_to(QUARTER_HOUR_US);
    let account = NewAccount {
        id: ACCOUNT,
        name: "This host",
        currency: "EUR",
        time_zone: "UTC",
        anchor_day: 1,
    };
    let account = create_account(store, &account, ACTOR, now).await?;
    let mut tx = store.read().await?;
    let subscribed = !store::catalog::subscriptions(&mut tx, Some(&account.id))
        .await?
        .is_empty();
    let rules = store::catalog::assignments(&mut tx).await?;
    let assigned = rules
        .iter()
        .any(|rule| rule.account == account.id && rule.node.as_str() == node.to_string());
    drop(tx);
    if !subscribed {
        apply_plan(store, "starter-plan.toml", PLAN, ACTOR, now).await?;
        subscribe(store, ACCOUNT, PLAN_NAME, from, ACTOR, now).await?;
    }
    if !assigned {
        for workload in WORKLOADS {
            let rule = NewAssignment::new(account.id.clone(), &node.to_string(), workload, from)?;
            assign(store, &rule, ACTOR, now).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_plan_has_no_problem() {
        let plan =
            tallystick_reconciler::catalog::change::check_plan("starter-plan.toml", PLAN).unwrap();
        assert_eq!(plan.name, PLAN_NAME);
    }
}
