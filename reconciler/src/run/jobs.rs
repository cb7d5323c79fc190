//! What is done again and again, by one process for all that share the store: the leakage account goes on with
//! each hour's conservation,
//! overdue periods are closed if that is the policy, nodes that say nothing are noticed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tallystick_common::ids::NodeId;
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

use crate::billing::closing::{PeriodView, close_overdue};
use crate::billing::leakage::{Followed, follow};
use crate::clock;
use crate::config::Rules;
use crate::overview::conservation::{self, Balance};
use crate::overview::silence::Silence;
use crate::store::again::again;
use crate::store::owners::Replica;
use crate::store::{Store, StoreError, nodes, turns};

/// The pause between rounds.
const EVERY: Duration = Duration::from_secs(20);
/// How long the turn is held without being renewed.
const HELD: Micros = Micros(120 * SECOND_US);
/// How long one round works on the leakage account; the rest is for the next.
const WORKED: Duration = Duration::from_secs(10);
/// The turn's name.
const JOB: &str = "jobs";

/// The jobs of one process.
pub(super) struct Jobs {
    pub(super) store: Store,
    pub(super) replica: Replica,
    pub(super) rules: Arc<Rules>,
}

impl Jobs {
    /// Does them for ever.
    pub(super) async fn run(self) {
        let mut silent = None;
        loop {
            match again!(self.take_turn(clock::now())) {
                Ok(true) => self.round(&mut silent).await,
                Ok(false) => silent = None,
                Err(error) => tracing::error!(%error, "no turn could be taken; it is tried again"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn take_turn(&self, now: Timestamp) -> Result<bool, StoreError> {
        let until = now.saturating_add(HELD);
        let mut tx = self.store.write().await?;
        let taken = turns::take(&mut tx, JOB, self.replica, now, until).await?;
        tx.commit().await?;
        Ok(taken)
    }

    async fn round(&self, silent: &mut Option<BTreeSet<NodeId>>) {
        if let Err(error) = self.account().await {
            tracing::error!(%error, "the leakage account could not go on; it tries again");
        }
        match close_overdue(&self.store, &self.rules.closing, clock::now()).await {
            Ok(closed) => closed.iter().for_each(tell),
            Err(error) => {
                tracing::error!(%error, "overdue periods could not be closed; it tries again");
            }
        }
        if let Err(error) = self.listen(silent, clock::now()).await {
            tracing::error!(%error, "silent nodes could not be looked for; it is tried again");
        }
    }

    /// Tallies hours that are due, one after the other, for a while.
    async fn account(&self) -> Result<(), StoreError> {
        let begun = Instant::now();
        while begun.elapsed() < WORKED {
            match follow(&self.store, clock::now()).await? {
                Some(done) => {
                    complain(&done);
                    conserved(&conservation::keep(&self.store, done.hour).await?);
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Says once of each node that it is silent, and once that it is not any more.
    async fn listen(
        &self,
        silent: &mut Option<BTreeSet<NodeId>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.store.read().await?;
        let rule = Silence::read(&mut tx, self.rules.silent_after).await?;
        let nodes = nodes::all(&mut tx).await?;
        let before = silent.take().unwrap_or_default();
        let mut found = BTreeSet::new();
        for node in &nodes {
            let since = rule.since(node, now);
            match (since, before.contains(&node.id)) {
                (Some(since), false) => {
                    tracing::warn!(node.id = %node.id, node.name = node.name, %since, "a node is silent");
                }
                (None, true) => {
                    tracing::info!(node.id = %node.id, node.name = node.name, "a node is silent no more");
                }
                _ => {}
            }
            found.extend(since.map(|_| node.id));
        }
        *silent = Some(found);
        Ok(())
    }
}

fn tell(closed: &PeriodView) {
    tracing::warn!(
        account = %closed.account,
        period = %closed.period,
        outstanding = closed.waits_for().join(", "),
        "a period was closed with gaps, because its deadline has passed"
    );
}

fn conserved(broken: &[Balance]) {
    for balance in broken {
        tracing::error!(
            node.id = %balance.node,
            node.name = balance.node_name,
            hour = %balance.hour,
            meter = %balance.meter,
            difference = balance.difference,
            "a node's total is not what its workloads come to"
        );
    }
}

fn complain(done: &Followed) {
    for (meter, tally) in &done.differing {
        tracing::error!(
            hour = done.hour,
            %meter,
            received = %tally.received,
            counted = %tally.counted,
            quarantined = %tally.quarantined,
            difference = %tally.difference(),
            "the leakage account does not add up in an hour; `rollup check` tells where"
        );
    }
}
