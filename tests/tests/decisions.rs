//! A person decides about what a node sent, over the command line and the API, while a reconciler serves: quarantine,
//! forks, stolen keys. What counts afterwards is what was sealed, to the unit.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tallystick_agent::buffer::{Buffer, Handle, Settings};
use tallystick_agent::ship::ShipEvent;
use tallystick_common::ids::StreamId;
use tallystick_common::wire::{Message, RefusalReason};
use tallystick_tests::fixture::Chain;
use tallystick_tests::process::{binary, output};
use tallystick_tests::world::{Node, Reconciler, Shipper, an_hour_ago, refusal, stored, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A stream that is sealed into a buffer and shipped from there.
struct Stream {
    chain: Chain,
    buffer: Handle,
    shipper: Shipper,
    _folder: tempfile::TempDir,
}

impl Stream {
    fn begin(node: &Node, stream: StreamId) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (buffer, _) = Buffer::open(folder.path(), Settings::default(), stream).unwrap();
        let buffer = Handle::new(buffer);
        Self {
            chain: node.chain(stream, an_hour_ago()),
            shipper: node.ship(buffer.clone()),
            buffer,
            _folder: folder,
        }
    }

    fn seals(&mut self, segments: u64) {
        for _ in 0..segments {
            let sealed = self.chain.seal_next();
            self.buffer.lock().append(stored(&sealed), b"").unwrap();
        }
    }

    async fn is_receipted(&self) {
        let receipted = || (self.buffer.stats().unreceipted == 0).then_some(());
        until(PATIENCE, "receipts of all", receipted).await;
    }

    /// Waits until what it ships is to wait, with these words.
    async fn waits(&self, words: &str) {
        let is = |event: &ShipEvent| matches!(event, ShipEvent::Waiting { why, .. } if why.contains(words));
        until(PATIENCE, words, || self.shipper.saw(is)).await;
        assert!(self.buffer.stats().unreceipted > 0);
    }
}

/// The command line beside the server.
struct Person<'a>(&'a Reconciler);

impl Person<'_> {
    fn says(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(binary("tallystick-reconciler"));
        command
            .arg("--data")
            .arg(self.0.data())
            .arg("--json")
            .args(words);
        Ok(serde_json::from_str(&output(&mut command)?)?)
    }
}

type Totals = BTreeMap<(String, String), u128>;

fn sealed(chains: &[&Chain]) -> Totals {
    let mut totals = Totals::new();
    for chain in chains {
        for ((_, workload, meter), quantity) in chain.totals() {
            let key = (workload.to_string(), meter.name().to_owned());
            *totals.entry(key).or_default() += quantity;
        }
    }
    totals
}

fn billed(reconciler: &Reconciler) -> Totals {
    let rows = reconciler
        .api()
        .all("/v1/usage?from=2020-01-01T00:00:00Z")
        .unwrap();
    let mut totals = Totals::new();
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let quantity: u128 = text("quantity").parse().unwrap();
        *totals.entry((text("workload"), text("meter"))).or_default() += quantity;
    }
    totals
}

fn stream(number: u8) -> StreamId {
    StreamId([number; 16])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_fork_is_resolved_the_node_goes_on_and_every_quantity_counts_once() {
    let reconciler = Reconciler::start().await.unwrap();
    let node = reconciler.node("metered").await.unwrap();
    let mut kept = Stream::begin(&node, stream(1));
    let mut twin = node.chain(stream(1), kept.chain.covered_through());
    kept.seals(3);
    for _ in 0..3 {
        twin.seal_next();
    }
    twin.diverge();
    kept.seals(1);
    kept.is_receipted().await;

    let other = Message::Segment(twin.seal_next().bytes().to_vec());
    let (mut link, _) = node.welcomed(stream(1)).await.unwrap();
    link.send(&other).await.unwrap();
    assert_eq!(
        refusal(&mut link).await.unwrap().reason,
        RefusalReason::Fork
    );
    kept.seals(2);
    kept.waits("waits until a person decides").await;

    let api = reconciler.api();
    let streams = api.all("/v1/nodes/metered/streams").unwrap();
    assert_eq!(
        (&streams[0]["state"], &streams[0]["forked_at"]),
        (&json!("frozen"), &json!(3))
    );
    let person = Person(&reconciler);
    let id = stream(1).to_string();
    let words = [
        "node",
        "resolve",
        "metered",
        &id,
        "--keep",
        "admitted",
        "--reason",
        "the clone is gone",
    ];
    let decided = person.says(&words).unwrap();
    assert_eq!(decided["decision"]["kind"], "keep_admitted");
    assert_eq!(person.says(&words).unwrap()["already_decided"], true);
    kept.is_receipted().await;
    kept.seals(3);
    kept.is_receipted().await;
    assert_eq!(billed(&reconciler), sealed(&[&kept.chain]));

    // The other branch comes once more, and stops nobody.
    let (mut link, _) = node.welcomed(stream(1)).await.unwrap();
    link.send(&other).await.unwrap();
    assert_eq!(
        refusal(&mut link).await.unwrap().reason,
        RefusalReason::Fork
    );
    kept.seals(1);
    kept.is_receipted().await;
    assert_eq!(billed(&reconciler), sealed(&[&kept.chain]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_key_counts_no_longer_and_what_it_crowded_out_is_accepted() {
    let reconciler = Reconciler::start().await.unwrap();
    let node = reconciler.node("metered").await.unwrap();
    let mut thief = Stream::begin(&node, stream(1));
    thief.seals(4);
    thief.is_receipted().await;
    let mut own = Stream::begin(&node, stream(2));
    own.seals(4);
    own.is_receipted().await;
    let person = Person(&reconciler);
    let listed = person
        .says(&["quarantine", "list", "--node", "metered"])
        .unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 4);
    assert_eq!(
        (&listed[0]["doubt"], &listed[0]["seq"]),
        (&json!("overlap"), &json!(0))
    );

    let (first, second) = (stream(1).to_string(), stream(2).to_string());
    let accept = [
        "quarantine",
        "accept",
        "metered",
        &second,
        "0",
        "--through",
        "3",
        "--reason",
        "it was the node",
    ];
    let refused = person.says(&accept).unwrap_err().to_string();
    assert!(refused.contains("would count twice"), "{refused}");
    assert_eq!(billed(&reconciler), sealed(&[&thief.chain]));

    let revoke = [
        "node",
        "revoke",
        "metered",
        "--stream",
        &first,
        "--from-seq",
        "0",
        "--reason",
        "the disk was copied",
    ];
    let asked = person
        .says(&[&revoke[..], &["--dry-run"]].concat())
        .unwrap();
    assert_eq!(
        (&asked["segments_changed"], &asked["decision"]),
        (&json!(4), &Value::Null)
    );
    assert_eq!(billed(&reconciler), sealed(&[&thief.chain]));
    assert_eq!(person.says(&revoke).unwrap()["segments_changed"], 4);
    assert_eq!(person.says(&accept).unwrap()["segments_changed"], 4);
    assert_eq!(billed(&reconciler), sealed(&[&own.chain]));

    // Neither signs anything new; both are told why.
    let counted = sealed(&[&own.chain]);
    for held in [&mut thief, &mut own] {
        held.seals(1);
        held.waits("the disk was copied").await;
    }
    assert_eq!(billed(&reconciler), counted);

    // The host enrols again, as a new node.
    let node = reconciler.node("metered-again").await.unwrap();
    let mut anew = Stream::begin(&node, stream(3));
    anew.seals(2);
    anew.is_receipted().await;
    let all = billed(&reconciler);
    let new = sealed(&[&anew.chain]);
    assert!(
        all.iter()
            .all(|(key, quantity)| *quantity == counted[key] + new[key])
    );
    let kept = person.says(&["quarantine", "decisions"]).unwrap();
    let kinds: Vec<_> = kept
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["kind"].as_str())
        .collect();
    assert_eq!(kinds, [Some("revoke"), Some("accept")]);
    assert_eq!(person.says(&["audit", "verify"]).unwrap()["whole"], true);
    assert_eq!(person.says(&["rollup", "check"]).unwrap()["differing"], 0);
}
