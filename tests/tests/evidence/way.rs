//! The whole way with the built programs: enrolled by the agent's command, metered, shipped, invoiced,
//! exported, and checked by both verifiers.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tallystick_agent::identity::Identity;
use tallystick_common::ids::StreamId;
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::Message;
use tallystick_tests::evidence::PLAN;
use tallystick_tests::fixture::{Chain, Size};
use tallystick_tests::poll;
use tallystick_tests::process::binary;
use tallystick_tests::sides::Sides;
use tallystick_tests::world::{Node, now};

const PATIENCE: Duration = Duration::from_secs(60);
const SEGMENTS: u64 = 180;

/// A day of a month that has ended, on which a billing period may begin: its end, and the month before.
fn ended() -> (u64, Timestamp, String) {
    let yesterday = now()
        .saturating_sub(Micros::from_seconds(86_400))
        .to_string();
    let (year, month): (u32, u32) = (
        yesterday[..4].parse().unwrap(),
        yesterday[5..7].parse().unwrap(),
    );
    let day = yesterday[8..10].parse::<u64>().unwrap().min(28);
    let end = format!("{}-{day:02}T00:00:00Z", &yesterday[..7])
        .parse()
        .unwrap();
    let before = match month {
        1 => format!("{}-12", year - 1),
        _ => format!("{year}-{:02}", month - 1),
    };
    (day, end, before)
}

fn agreed(sides: &Sides, day: u64, month: &str) {
    let api = sides.api().unwrap();
    let from = format!("{month}-{day:02}T00:00:00Z");
    for (id, workload) in [
        ("acme", "cgroup/customer-0001*"),
        ("rival", "cgroup/customer-0002*"),
    ] {
        let account = json!({ "id": id, "name": id, "currency": "EUR", "anchor_day": day });
        api.post("/v1/accounts", &account).unwrap();
        let rule = json!({ "account": id, "node": "*", "workload": workload, "from": from });
        api.post("/v1/assignments", &rule).unwrap();
    }
    api.post("/v1/plans", &json!({ "toml": PLAN })).unwrap();
    let held = json!({ "account": "acme", "plan": "starter", "from": from });
    api.post("/v1/subscriptions", &held).unwrap();
}

/// Ships three hours around an instant, as the enrolled node.
async fn ship(node: &Node, around: Timestamp) {
    let size = Size {
        workloads: 3,
        meters: 3,
        steps: 1,
    };
    let begin = around.saturating_sub(Micros::from_seconds(60 * SEGMENTS / 2));
    let mut chain = Chain::new(node.id(), begin, 60, size);
    chain.key = node.signing_key();
    chain.stream = StreamId([0x5c; 16]);
    let (mut link, welcome) = node.welcomed(chain.stream).await.unwrap();
    let mut sent = 0;
    while sent < SEGMENTS {
        let more = u64::from(welcome.window).min(SEGMENTS - sent);
        for _ in 0..more {
            let sealed = chain.seal_next().bytes().to_vec();
            link.send(&Message::Segment(sealed)).await.unwrap();
        }
        sent += more;
        loop {
            let Message::Receipt(receipt) = link.receive().await.unwrap() else {
                panic!("no receipt");
            };
            let receipt = node.read_receipt(&receipt.to_bytes()).unwrap();
            assert_eq!(receipt.quarantined, []);
            if receipt.seq.0 + 1 == sent {
                break;
            }
        }
    }
}

fn verifier(file: &Path, more: &[&str]) -> (Output, Value) {
    let mut command = Command::new(binary("tallystick-verify"));
    command.arg("evidence").arg(file).args(more).arg("--json");
    answered(&mut command)
}

fn answered(command: &mut Command) -> (Output, Value) {
    let output = command.output().unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, answer)
}

fn by_agent(sides: &Sides, file: &Path, more: &[&str]) -> (Output, Value) {
    let mut command = sides.agent_command();
    command.arg("verify").arg(file).args(more).arg("--json");
    answered(&mut command)
}

#[test]
fn a_customer_checks_an_invoice_with_the_built_programs() {
    let mut sides = Sides::prepare(&[]).unwrap();
    let (day, end, month) = ended();
    agreed(&sides, day, &month);
    let enrolment = Identity::load(&sides.agent_data())
        .unwrap()
        .unwrap()
        .enrolment;
    let node = Node { enrolment };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(ship(&node, end));
    // A stream of the real agent beside it, after the period.
    sides.start_agent(None).unwrap();
    poll::until(PATIENCE, "the agent's first receipts", || {
        sides.status().ok()?.receipted_through
    });
    sides.agent.take().unwrap().terminate().unwrap();

    let issued = sides
        .reconcile(&["--json", "invoice", "issue", "acme", "--period", &month])
        .unwrap();
    let issued: Value = serde_json::from_str(&issued).unwrap();
    let number = issued["invoice"]["number"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evidence");
    let out = file.to_str().unwrap();
    sides
        .reconcile(&["evidence", "export", "--invoice", number, "--out", out])
        .unwrap();
    assert!(
        sides
            .reconcile(&["evidence", "export", "--invoice", number, "--out", out])
            .is_err()
    );

    let (output, answer) = verifier(&file, &[]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert_eq!(answer["report"]["total"], issued["invoice"]["total"]);
    let (output, _) = by_agent(&sides, &file, &["--tally"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let key = node.signing_key().public().to_string();
    assert_eq!(verifier(&file, &["--trust", &key]).0.status.code(), Some(0));

    let kept = folder.path().join("checkpoint");
    let kept = kept.to_str().unwrap();
    sides
        .reconcile(&["audit", "checkpoint", "--out", kept])
        .unwrap();
    sides
        .reconcile(&["audit", "verify", "--since", kept])
        .unwrap();
    let told = sides.reconcile(&[
        "evidence",
        "export",
        "--invoice",
        number,
        "--out",
        &format!("{out}-2"),
    ]);
    told.unwrap();
    let later = folder.path().join("evidence-2");
    assert_eq!(
        verifier(&later, &["--trust", kept]).0.status.code(),
        Some(0)
    );

    let path = format!("/v1/invoices/{number}/evidence");
    let served = sides.api().unwrap().bytes(&path).unwrap();
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(served.len(), whole.len());
    std::fs::write(&file, &served).unwrap();
    assert_eq!(verifier(&file, &["--trust", &key]).0.status.code(), Some(0));

    let mut tampered = whole.clone();
    tampered[whole.len() / 2] ^= 4;
    std::fs::write(&file, &tampered).unwrap();
    for (output, answer) in [
        verifier(&file, &["--trust", &key]),
        by_agent(&sides, &file, &[]),
    ] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(answer["difference"]["step"].is_string(), "{answer}");
    }
    std::fs::write(&file, b"something else").unwrap();
    let (output, answer) = verifier(&file, &[]);
    assert_eq!(
        (output.status.code(), answer["difference"]["step"].as_str()),
        (Some(1), Some("file"))
    );
    assert_eq!(
        verifier(Path::new("/nonexistent"), &[]).0.status.code(),
        Some(2)
    );
}
