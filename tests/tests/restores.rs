//! A store that is destroyed and comes back from a backup: agents send again what they keep, nothing counts twice,
//! and what the life before did after the backup is neither repeated nor undone (I1, I2, I3, I10).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tallystick_agent::buffer::{Buffer, Handle, Settings};
use tallystick_agent::ship::ShipEvent;
use tallystick_agent::status::Status;
use tallystick_common::ids::StreamId;
use tallystick_common::time::{Micros, QUARTER_HOUR_US};
use tallystick_reconciler::backup::{self, Exclusions, restore::Order};
use tallystick_reconciler::config::Config;
use tallystick_tests::poll;
use tallystick_tests::process::{Process, output};
use tallystick_tests::sides::Sides;
use tallystick_tests::world::{Reconciler, an_hour_ago, now, stored, until};

const PATIENCE: Duration = Duration::from_secs(60);

type Totals = BTreeMap<(String, String), u128>;

/// What the agent's registers stand at: its only stream began with all of them.
fn odometers(status: &Status) -> Totals {
    let mut totals = Totals::new();
    for register in &status.registers {
        let key = (
            register.workload.to_string(),
            register.meter.name().to_owned(),
        );
        if key.1 != "memory.peak" {
            let reading: u128 = register.reading.parse().unwrap();
            *totals.entry(key).or_default() += reading;
        }
    }
    totals
}

fn billed(api: &tallystick_tests::http::Api) -> Totals {
    let mut totals = Totals::new();
    for row in api.all("/v1/usage?from=2020-01-01T00:00:00Z").unwrap() {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let key = (text("workload"), text("meter"));
        if key.1 != "memory.peak" {
            let quantity: u128 = text("quantity").parse().unwrap();
            *totals.entry(key).or_default() += quantity;
        }
    }
    totals
}

/// Waits until so many more segments are receipted.
fn receipts(sides: &Sides, more: u64) {
    let through = || Some(sides.status().ok()?.receipted_through?.0);
    let before = through().unwrap_or(0);
    poll::until(PATIENCE, "receipts", || {
        through().filter(|seq| *seq >= before + more).map(drop)
    });
}

/// Another host that enrols, not started.
fn other(sides: &Sides, name: &str) -> impl Fn() -> Command + use<> {
    let (config, data) = (
        sides.agent_config(),
        sides.agent_data().with_file_name(name),
    );
    let program = sides.agent_command().get_program().to_owned();
    move || {
        let mut command = Command::new(&program);
        command.env_remove("RUST_LOG");
        command
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(&data);
        command
    }
}

#[test]
fn a_destroyed_store_comes_back_and_every_quantity_counts_once() {
    let mut sides = Sides::prepare(&["nothing-of-that-name"]).unwrap();
    let month = now().floor_to(QUARTER_HOUR_US).to_string()[..7].to_owned();
    let month = sides.subscribe("acme", &month).unwrap();
    let thief = other(&sides, "thief");
    let join = sides.join_token().unwrap();
    output(thief().args(["enroll", &join, "--name", "thief"])).unwrap();
    let unused = sides.join_token().unwrap();
    sides.start_agent(None).unwrap();
    receipts(&sides, 3);

    // Segments arrive meanwhile.
    let backup = sides.reconciler_data().with_file_name("backup");
    let to = backup.to_str().unwrap();
    sides.reconcile(&["backup", "--to", to]).unwrap();
    let held = sides
        .reconcile(&["--json", "backup", "verify", to])
        .unwrap();
    let held: Value = serde_json::from_str(&held).unwrap();

    receipts(&sides, 4);
    let order = json!({ "account": "acme", "period": month, "accept_gaps": "a test" });
    let before = sides.api().unwrap();
    let first = before.post("/v1/invoices", &order).unwrap();
    sides
        .reconcile(&["node", "ban", "thief", "--reason", "stolen"])
        .unwrap();
    sides.reconciler.take().unwrap().kill().unwrap();
    let gone = sides.reconciler_data().with_file_name("gone");
    fs::rename(sides.reconciler_data(), &gone).unwrap();
    fs::remove_file(gone.join("reconciler.sqlite")).unwrap();

    let refused = sides.reconcile(&["restore", to]).unwrap_err().to_string();
    assert!(refused.contains("--accept-unknown-bans"), "{refused}");
    let bans = gone.join("bans.log");
    let words = ["--json", "restore", to, "--check-rollups", "--bans"];
    let words = [&words[..], &[bans.to_str().unwrap()]].concat();
    let made: Value = serde_json::from_str(&sides.reconcile(&words).unwrap()).unwrap();
    assert_eq!(made["restored"]["epoch_before"], held["manifest"]["epoch"]);
    sides.start_reconciler(None).unwrap();
    assert_eq!(before.ask("GET", "/v1/nodes", None).unwrap().status, 401);
    sides.take_token(made["api_token"].as_str().unwrap());
    let api = sides.api().unwrap();

    receipts(&sides, 3);
    let agent = sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
    let status = sides.status().unwrap();
    assert_eq!(status.unreceipted, 0, "{status:?}");
    let expected = odometers(&status);
    assert!(expected.len() > 5, "{expected:?}");
    poll::until(PATIENCE, "what the registers stand at, once", || {
        (billed(&api) == expected).then_some(())
    });
    let second = api.post("/v1/invoices", &order).unwrap();
    let number = |issued: &Value| issued["invoice"]["number"].as_str().unwrap().to_owned();
    assert_ne!(number(&first), number(&second));
    let number = number(&second);
    assert!(
        number.contains("-R") && number.ends_with("-000001"),
        "{number}"
    );

    let nodes = api.all("/v1/nodes").unwrap();
    let held = nodes.iter().find(|node| node["name"] == "thief").unwrap();
    assert_eq!(held["state"], "banned", "{held}");
    let mut thief = Process::spawn(thief().arg("run")).unwrap();
    poll::until(PATIENCE, "the ban told to the thief", || {
        assert!(thief.ended().unwrap().is_none(), "{}", thief.stderr());
        thief.stderr().contains("banned since").then_some(())
    });
    thief.terminate().unwrap();
    let late = other(&sides, "late");
    let refused = output(late().args(["enroll", &unused, "--name", "late"]));
    assert!(refused.is_err(), "its token is void");
    for words in [["audit", "verify"], ["rollup", "check"]] {
        sides.reconcile(&words).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_keeps_no_longer_is_named_and_nothing_is_guessed() {
    let mut reconciler = Reconciler::start().await.unwrap();
    let node = reconciler.node("metered").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        keep_receipted: Micros::from_seconds(1),
        ..Settings::default()
    };
    let stream = StreamId([1; 16]);
    let (buffer, _) = Buffer::open(folder.path(), settings, stream).unwrap();
    let buffer = Handle::new(buffer);
    let mut chain = node.chain(stream, an_hour_ago());
    let mut seals = |segments: u64| {
        for _ in 0..segments {
            let sealed = chain.seal_next();
            buffer.lock().append(stored(&sealed), b"").unwrap();
        }
    };
    let receipted = || (buffer.stats().unreceipted == 0).then_some(());
    let shipper = node.ship(buffer.clone());
    seals(3);
    until(PATIENCE, "receipts of all", receipted).await;

    let data = reconciler.data();
    let config = Config::of(&data);
    let to = data.with_file_name("backup");
    let store = reconciler.ready().services.store.clone();
    let made = backup::make(&config, &data.join("none"), &store, &to, now()).await;
    drop(store);
    made.unwrap();
    // Until those that came right after the backup are no longer kept.
    while buffer.lock().oldest_held().0 < 5 {
        seals(50);
        until(PATIENCE, "receipts of all", receipted).await;
    }
    let kept_from = buffer.lock().oldest_held();
    reconciler.go_away().await.unwrap();
    fs::rename(&data, data.with_file_name("gone")).unwrap();
    let exclusions = Exclusions {
        files: vec![data.with_file_name("gone").join("bans.log")],
        ..Exclusions::default()
    };
    let order = Order {
        backup: &to,
        config: &config,
        exclusions: &exclusions,
        check_rollups: true,
        actor: "test",
    };
    let restored = backup::restore(order, now()).await.unwrap();
    reconciler.take_token(restored.api_token.reveal());
    reconciler.come_back().await.unwrap();
    seals(1);
    let told = |event: &ShipEvent| {
        matches!(event, ShipEvent::Waiting { why, .. }
            if why.contains("wants segment 3") && why.contains(&format!("kept is {kept_from}")))
    };
    until(PATIENCE, "why it waits", || shipper.saw(told)).await;
    assert_eq!(buffer.stats().unreceipted, 1, "it is kept");

    // What the backup had, no more.
    let mut before = node.chain(stream, chain.covered_through());
    for _ in 0..3 {
        before.seal_next();
    }
    let mut expected = Totals::new();
    for ((_, workload, meter), quantity) in before.totals() {
        if meter.name() != "memory.peak" {
            let key = (workload.to_string(), meter.name().to_owned());
            *expected.entry(key).or_default() += quantity;
        }
    }
    assert_eq!(billed(&reconciler.api()), expected);
}
