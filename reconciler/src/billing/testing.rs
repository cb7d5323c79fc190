//! A store with one node that used CPU time, for tests of drafts, invoices, API and console.

pub(crate) mod world;

use tallystick_common::ids::{BootId, Hash, NodeId, RegisterId, Seq, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Interval, Quality, Reading};
use tallystick_common::seal::{self, SealedSegment};
use tallystick_common::segment::{Basis, Block, HeaderDraft, Previous, Purpose, RunDraft};
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};

use crate::catalog::assignment::NewAssignment;
use crate::catalog::change::{self, NewAccount};
use crate::ingest::admit::StreamState;
use crate::rollup;
use crate::store::Store;
use crate::store::compressed;
use crate::store::nodes::NodeRow;
use crate::store::sql;
use crate::store::streams::{self, Move, NewSegment};

/// The node.
pub(crate) const NODE: NodeId = NodeId([9; 16]);

/// Its workloads, numbered from 1.
const WORKLOADS: [&str; 3] = ["host", "host/other", "cgroup/acme"];

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
    sql::query(
        "INSERT INTO nodes (id, node, name, state, state_at, signing_key, tls_fingerprint, enrolled_at) \
         VALUES (1, $1, 'web-1', 'active', 0, $2, $2, 0)",
    )
    .bind(NODE.0.to_vec())
    .bind(vec![1_u8; 32])
    .execute(&mut tx)
    .await
    .unwrap();
    sql::query(
        "INSERT INTO streams (id, node, stream, next_seq, head, covered_from, covered_through, proved_through, state, rolled_seq, boot, opened_at) \
         VALUES (1, 1, $1, 5, $2, 0, $3, $3, 'open', 5, $1, 0)",
    )
    .bind(vec![3_u8; 16])
    .bind(Hash([4; 32]).0.to_vec())
    .bind(covered_through.as_i64())
    .execute(&mut tx)
    .await
    .unwrap();
    for (id, name) in (1_i64..).zip(WORKLOADS) {
        sql::query("INSERT INTO workloads (id, node, name, first_seen_at) VALUES ($1, 1, $2, 0)")
            .bind(id)
            .bind(name)
            .execute(&mut tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

/// The node's time is accounted for until then.
pub(crate) async fn cover(store: &Store, through: Timestamp) {
    let mut tx = store.write().await.unwrap();
    sql::query("UPDATE streams SET covered_through = $1, proved_through = $1")
        .bind(through.as_i64())
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// CPU time of a workload (1: `host`, 2: `host/other`, 3: `cgroup/acme`) in the four quarters of an
/// hour: a stream of its own with one counted segment, and the rollups that follow from it.
pub(crate) async fn cpu(store: &Store, workload: usize, hour: Timestamp, quarters: [i64; 4]) {
    let mut tx = store.write().await.unwrap();
    let streams: i64 = sql::query_scalar("SELECT COUNT(*) FROM streams")
        .fetch_one(&mut tx)
        .await
        .unwrap();
    let stream = StreamId([u8::try_from(streams).unwrap() + 100; 16]);
    let segment = hour_of_cpu(stream, WORKLOADS[workload - 1], hour, quarters);
    let row = streams::begin(&mut tx, NodeRow(1), segment.header(), hour)
        .await
        .unwrap();
    let header = segment.header();
    let new = NewSegment {
        stream: row,
        seq: header.seq,
        hash: segment.hash(),
        covered_from: header.from,
        covered_through: header.covered_through,
        received_at: hour,
        doubt: None,
        intervals: 4,
        packed: compressed::compress(segment.bytes()).unwrap().into(),
    };
    streams::insert_segments(&mut tx, &[new]).await.unwrap();
    let mut state = StreamState::new(NODE, stream);
    let blocks = segment.kept_blocks().unwrap();
    state.advance(segment.header(), &blocks, segment.hash());
    state.prove(segment.header().covered_through);
    let step = Move {
        stream: row,
        from: Seq::FIRST,
        to: &state,
        boot: None,
    };
    assert!(streams::advance(&mut tx, &[step]).await.unwrap());
    tx.commit().await.unwrap();
    rollup::catch_up(store).await.unwrap();
}

fn hour_of_cpu(
    stream: StreamId,
    workload: &str,
    hour: Timestamp,
    quarters: [i64; 4],
) -> SealedSegment {
    let mut start = hour;
    let intervals = quarters.map(|quantity| {
        let end = start.next_multiple(QUARTER_HOUR_US);
        let interval = Interval {
            start,
            end,
            quantity: u128::try_from(quantity).unwrap(),
            quality: Quality::Exact,
            measured: end.since(start),
        };
        start = end;
        interval
    });
    let mut block = Block::new(workload.parse().unwrap(), Vec::new());
    let run = RunDraft {
        register: RegisterId(0),
        meter: Meter::CPU_TIME,
        opened: Some(Basis::Birth),
        closed: None,
        opening: Reading(0),
        start: hour,
        intervals: &intervals,
    };
    block.push(&run).unwrap();
    let header = HeaderDraft {
        node: NODE,
        stream,
        seq: Seq::FIRST,
        previous: Previous::Opens { after: None },
        from: hour,
        covered_through: start,
        boot: BootId([1; 16]),
        config: Hash::ZERO,
        purpose: Purpose::Readings,
        gaps: Vec::new(),
    };
    seal::seal(
        header,
        vec![block],
        [9; 32],
        &SecretKey::from_seed(&[9; 32]),
    )
    .unwrap()
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

/// The same for a time that was invoiced.
pub(crate) async fn correct(
    store: &Store,
    account: &str,
    workload: &str,
    from: Timestamp,
) -> Result<(), change::ChangeError> {
    let rule = NewAssignment::new(account.parse()?, "*", workload, from)?.correcting(true);
    change::assign(store, &rule, "test", from).await.map(drop)
}
