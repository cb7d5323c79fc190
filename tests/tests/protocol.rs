//! `common/PROTOCOL.md` suffices for a second implementation: one in Python, written from it
//! (`tests/protocol`), reads and makes the golden bytes, talks to a real reconciler, and reads what a
//! real agent sealed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tallystick_agent::identity::Identity;
use tallystick_common::ids::Seq;
use tallystick_common::time::Timestamp;
use tallystick_reconciler::store::{Store, streams};
use tallystick_tests::poll;
use tallystick_tests::process::{output, python};
use tallystick_tests::sides::Sides;

const PATIENCE: Duration = Duration::from_secs(60);
/// Enough for registers to go on from segment to segment many times.
const SEGMENTS: u64 = 6;

fn tests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script of the second implementation: what it printed.
fn second(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(python());
    command
        .arg("-B")
        .arg(tests().join("protocol").join(script))
        .args(arguments);
    output(&mut command).unwrap()
}

fn texts(row: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| row[key].to_string()).collect()
}

/// What is said of each workload and meter.
fn by_register_kind(rows: &[Value]) -> BTreeMap<Vec<String>, Vec<String>> {
    let figures = ["quantity", "measured", "interpolated", "unmeasured"];
    rows.iter()
        .map(|row| (texts(row, &["workload", "meter"]), texts(row, &figures)))
        .collect()
}

/// The API's usage of `node` is, span by span, what the second implementation says of its segments.
fn assert_same_usage(sides: &Sides, said: &Value) {
    let api = sides.api().unwrap();
    let node = said["node"].as_str().unwrap();
    let instant = |value: &Value| Timestamp::from_micros(value.as_u64().unwrap()).unwrap();
    for span in said["usage"].as_array().unwrap() {
        let (from, to) = (instant(&span["from"]), instant(&span["to"]));
        let path = format!("/v1/usage?node={node}&from={from}&to={to}");
        let rows = api.all(&path).unwrap();
        let expected = by_register_kind(span["rows"].as_array().unwrap());
        assert!(!expected.is_empty(), "{span}");
        assert_eq!(by_register_kind(&rows), expected, "from {from} to {to}");
    }
}

#[test]
fn a_second_implementation_reads_and_makes_every_golden_file() {
    let folder = tests().join("golden");
    let files = fs::read_dir(&folder).unwrap();
    let golden = |name: &Path| name.extension().is_some_and(|end| end == "hex");
    let count = files
        .filter(|file| golden(&file.as_ref().unwrap().path()))
        .count();
    let said = second("golden.py", &[folder.to_str().unwrap()]);
    assert_eq!(said.trim(), format!("{count} golden files"));
}

#[test]
fn a_second_implementation_enrols_ships_and_is_counted_as_it_sealed() {
    let sides = Sides::prepare(&[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token = sides.join_token().unwrap();
    let arguments = [token.as_str(), "second", folder.path().to_str().unwrap()];
    let said: Value = serde_json::from_str(&second("peer.py", &arguments)).unwrap();
    assert_same_usage(&sides, &said);

    let api = sides.api().unwrap();
    let refused = api.all("/v1/refusals").unwrap();
    let told = said["refused"].as_array().unwrap();
    let reasons = |rows: &[Value]| -> Vec<_> {
        let row = |row: &Value| texts(row, &["reason", "seq"]);
        rows.iter().map(row).collect()
    };
    assert_eq!(reasons(&refused), reasons(told), "as told, so shown");
    assert_eq!(told[0]["what"], "a flipped bit");
    assert!(refused.iter().all(|row| row["node"] == said["node"]));
    assert_eq!(
        api.all("/v1/nodes/second/segments").unwrap().len(),
        5,
        "each once, though some came twice"
    );
    assert!(api.all("/v1/nodes/second/quarantine").unwrap().is_empty());
}

/// Puts what the store has of the one stream, and what its node's key is known by, into `folder`.
async fn export(sides: &Sides, folder: &Path) {
    let identity = Identity::load(&sides.agent_data()).unwrap().unwrap();
    fs::write(folder.join("ca.der"), identity.enrolment.ca).unwrap();
    let record = identity.enrolment.signed_record.to_bytes();
    fs::write(folder.join("record"), record).unwrap();
    let path = sides.reconciler_data().join(Store::FILE_NAME);
    let store = Store::open(&path).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let found = streams::all(&mut tx).await.unwrap();
    let [stream] = found.as_slice() else {
        panic!("one stream: {found:?}")
    };
    let segments = streams::segments_from(&mut tx, stream.row, Seq::FIRST, u32::MAX);
    for segment in segments.await.unwrap() {
        assert!(segment.counted, "segment {} is not counted", segment.seq);
        let name = format!("{}.segment", segment.seq);
        fs::write(folder.join(name), segment.bytes).unwrap();
    }
    drop(tx);
    store.close().await;
}

#[tokio::test]
async fn a_second_implementation_reads_what_an_agent_sealed_as_it_is_counted() {
    let mut sides = Sides::prepare(&["*"]).unwrap();
    sides.start_agent(None).unwrap();
    poll::until(PATIENCE, "some receipts", || {
        let receipt = sides.journal().ok()?.last_receipt?;
        (receipt.through >= Seq(SEGMENTS)).then_some(())
    });
    let agent = sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
    let folder = tempfile::tempdir().unwrap();
    export(&sides, folder.path()).await;

    let said = second("replay.py", &[folder.path().to_str().unwrap()]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert!(said["segments"].as_u64().unwrap() > SEGMENTS, "{said}");
    assert_same_usage(&sides, &said);
}
