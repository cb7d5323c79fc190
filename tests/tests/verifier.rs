//! `tallystick-verify` as a customer uses it: a file, a key, an exit code.

use std::path::Path;
use std::process::{Command, Output};

use tallystick_common::ids::{Hash, NodeId, Seq, StoreEpoch};
use tallystick_common::keys::{SecretKey, Signed};
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::SealedSegment;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::Message;
use tallystick_tests::fixture::{Chain, Size};
use tallystick_tests::process::binary;

const SIZE: Size = Size {
    workloads: 3,
    meters: 4,
    steps: 2,
};

fn receipt_key() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

fn receipt(chain: &Chain, seq: u64, hash: Hash) -> Vec<u8> {
    let receipt = Receipt {
        node: chain.node,
        stream: chain.stream,
        seq: Seq(seq),
        hash,
        epoch: StoreEpoch([1; 16]),
        at: Timestamp::EPOCH,
        since: Seq::FIRST,
        quarantined: vec![],
    };
    Message::Receipt(Signed::new(&receipt, &receipt_key())).to_frame()
}

fn chain() -> (Chain, Vec<SealedSegment>) {
    let from = Timestamp::from_seconds(1_795_348_800).unwrap();
    let mut chain = Chain::new(NodeId([3; 16]), from, 60, SIZE);
    let segments = (0..5).map(|_| chain.seal_next()).collect();
    (chain, segments)
}

fn frames<'a>(segments: impl IntoIterator<Item = &'a SealedSegment>) -> Vec<u8> {
    segments
        .into_iter()
        .flat_map(|sealed| Message::Segment(sealed.bytes().to_vec()).to_frame())
        .collect()
}

fn verify(folder: &Path, bytes: &[u8], chain: &Chain) -> (Output, serde_json::Value) {
    let file = folder.join("stream");
    std::fs::write(&file, bytes).unwrap();
    let output = Command::new(binary("tallystick-verify"))
        .arg("stream")
        .arg(&file)
        .args([
            "--node",
            &chain.node.to_string(),
            "--trust",
            &chain.key.public().to_string(),
        ])
        .args([
            "--receipt-key",
            &receipt_key().public().to_string(),
            "--json",
        ])
        .output()
        .unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null);
    (output, answer)
}

#[test]
fn a_sound_stream_stands_and_its_registers_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, segments) = chain();
    let mut bytes = frames(&segments);
    bytes.extend(receipt(&chain, 3, segments[3].hash()));
    let (output, answer) = verify(folder.path(), &bytes, &chain);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = &answer["report"];
    assert_eq!(report["segments"], 5);
    assert_eq!(report["receipted"], 3);
    assert_eq!(report["head"], segments[4].hash().to_string());
    let closing: Vec<String> = report["registers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["closing"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<String> = chain.readings().iter().map(u128::to_string).collect();
    assert_eq!(closing, expected);
}

#[test]
fn the_first_difference_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, segments) = chain();
    let whole = frames(&segments);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let missing = frames(segments.iter().take(2).chain(segments.iter().skip(3)));
    let swapped = frames([&segments[0], &segments[2], &segments[1]]);
    let mut foreign = whole.clone();
    foreign.extend(receipt(&chain, 4, Hash([0; 32])));
    for (name, bytes, said) in [
        ("flipped bit", &flipped[..], "after segment Seq(1)"),
        ("missing", &missing, "segment 3 does not follow"),
        ("swapped", &swapped, "segment 2 does not follow"),
        ("cut off", &whole[..whole.len() - 1], "inside a frame"),
        ("foreign receipt", &foreign, "receipt for segment 4"),
        ("empty", &[], "no segment"),
    ] {
        let (output, answer) = verify(folder.path(), bytes, &chain);
        assert_eq!(output.status.code(), Some(1), "{name}: {output:?}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(
            error.contains(said) || name == "flipped bit",
            "{name}: {error}"
        );
    }
}

#[test]
fn a_call_that_cannot_be_used_is_told_apart_from_a_difference() {
    let output = Command::new(binary("tallystick-verify"))
        .args([
            "stream",
            "/nonexistent",
            "--node",
            &NodeId([1; 16]).to_string(),
            "--trust",
            &"00".repeat(32),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent"));
}
