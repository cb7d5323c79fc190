//! A store with one node that used CPU time, for tests of drafts, invoices, API and console.

use tallystick_common::ids::{Hash, NodeId};
use tallystick_common::meter::Meter;
use tallystick_common::time::{HOUR_US, Timestamp};

use crate::catalog::assignment::NewAssignment;
use crate::catalog::change::{self, NewAccount};
use crate::store::Store;

/// The node.
pub(crate) const NODE: NodeId = NodeId([9; 16]);

/// An hour of CPU time costs 0.012.
pub(crate) const PLAN: &str = r#"
name = "starter"
title = "Starter"
currency = "EUR"
[[prices]]
id = "cpu"
title = "CPU time"
meter = "cpu.time"
per = "cpu-hour"
model = "per_unit"
price = "0.012"
"#;

/// An instant from text.
pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

/// The node `web-1`, enrolled long ago, with three workloads and one stream without segments.
pub(crate) async fn node(store: &Store, covered_through: Timestamp) {
    let mut tx = store.write().await.unwrap();
    sqlx::query(
        "INSERT INTO nodes (id, node, name, state, state_at, signing_key, tls_fingerprint, enrolled_at) \
         VALUES (1, $1, 'web-1', 'active', 0, $2, $2, 0)",
    )
    .bind(NODE.0.to_vec())
    .bind(vec![1_u8; 32])
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "INSERT INTO streams (id, node, stream, next_seq, head, covered_from, covered_through, state, rolled_seq, boot, opened_at) \
         VALUES (1, 1, $1, 5, $2, 0, $3, 'open', 5, $1, 0)",
    )
    .bind(vec![3_u8; 16])
    .bind(Hash([4; 32]).0.to_vec())
    .bind(covered_through.as_i64())
    .execute(&mut *tx)
    .await
    .unwrap();
    for (id, name) in [(1_i64, "host"), (2, "host/other"), (3, "cgroup/acme")] {
        sqlx::query("INSERT INTO workloads (id, node, name, first_seen_at) VALUES ($1, 1, $2, 0)")
            .bind(id)
            .bind(name)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

/// The node's time is accounted for until then.
pub(crate) async fn cover(store: &Store, through: Timestamp) {
    let mut tx = store.write().await.unwrap();
    sqlx::query("UPDATE streams SET covered_through = $1")
        .bind(through.as_i64())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// CPU time of a workload (2: `host/other`, 3: `cgroup/acme`) in the four quarters of an hour.
pub(crate) async fn cpu(store: &Store, workload: i64, hour: Timestamp, quarters: [i64; 4]) {
    const QUARTER: i64 = 900_000_000;
    let mut tx = store.write().await.unwrap();
    sqlx::query(
        "INSERT INTO rollups (hour, workload, meter, quantity0, quantity1, quantity2, quantity3, \
         max0, max1, max2, max3, measured0, measured1, measured2, measured3, \
         exact0, exact1, exact2, exact3, interpolated0, interpolated1, interpolated2, interpolated3, \
         unmeasured0, unmeasured1, unmeasured2, unmeasured3, last_at, last_reading) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, 0, 0, $8, $8, $8, $8, $8, $8, $8, $8, \
         0, 0, 0, 0, 0, 0, 0, 0, 0, $9)",
    )
    .bind(i64::try_from(hour.as_micros() / HOUR_US).unwrap())
    .bind(workload)
    .bind(i64::from(Meter::CPU_TIME.code()))
    .bind(quarters[0])
    .bind(quarters[1])
    .bind(quarters[2])
    .bind(quarters[3])
    .bind(QUARTER)
    .bind(vec![0_u8; 16])
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Account `acme` with the plan and `cgroup/*` from the beginning of `from` on.
pub(crate) async fn acme(store: &Store, from: Timestamp) {
    let new = NewAccount {
        id: "acme",
        name: "Acme Ltd",
        currency: "EUR",
        time_zone: "UTC",
        anchor_day: 1,
    };
    change::create_account(store, &new, "test", from)
        .await
        .unwrap();
    change::apply_plan(store, "test", PLAN, "test", from)
        .await
        .unwrap();
    change::subscribe(store, "acme", "starter", from, "test", from)
        .await
        .unwrap();
    assign(store, "acme", "cgroup/*", from).await.unwrap();
}

/// Assigns workloads of all nodes.
pub(crate) async fn assign(
    store: &Store,
    account: &str,
    workload: &str,
    from: Timestamp,
) -> Result<(), change::ChangeError> {
    let rule = NewAssignment::new(account.parse()?, "*", workload, from)?;
    change::assign(store, &rule, "test", from).await.map(drop)
}
