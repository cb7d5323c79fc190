//! A data folder that comes back from a backup, and one that is copied to a second agent: the stream's
//! other half tells, and nothing is billed twice (I1, I6).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tallystick_agent::status::Status;
use tallystick_tests::poll;
use tallystick_tests::process::{Process, binary};
use tallystick_tests::sides::Sides;

const PATIENCE: Duration = Duration::from_secs(60);

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.is_ok_and(|status| status.success()));
}

/// Runs the agent until so many more segments are receipted, then stops it in good order.
fn run_for(sides: &mut Sides, segments: u64) -> Status {
    let before = sides
        .status()
        .unwrap()
        .receipted_through
        .map_or(0, |seq| seq.0);
    sides.start_agent(None).unwrap();
    poll::until(PATIENCE, "receipts", || {
        let through = sides.status().ok()?.receipted_through?.0;
        (through >= before + segments).then_some(())
    });
    let agent = sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
    let status = sides.status().unwrap();
    assert_eq!(status.unreceipted, 0, "{status:?}");
    status
}

fn host_cpu(status: &Status) -> u128 {
    let host = |register: &&tallystick_agent::status::RegisterStatus| {
        register.workload.is_host() && register.meter.name() == "cpu.time"
    };
    let register = status.registers.iter().find(host).unwrap();
    register.reading.parse().unwrap()
}

fn billed(sides: &Sides) -> u128 {
    let usage = sides
        .api()
        .unwrap()
        .all("/v1/usage?from=2020-01-01T00:00:00Z")
        .unwrap();
    usage
        .iter()
        .filter(|row| row["workload"] == "host" && row["meter"] == "cpu.time")
        .map(|row| row["quantity"].as_str().unwrap().parse::<u128>().unwrap())
        .sum()
}

/// Busy time of all CPUs since boot in microseconds, rounded up to what a tick may hide.
fn kernel_cpu() -> u128 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<u128> = text
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap())
        .collect();
    // user, nice, system, irq, softirq, steal
    [0, 1, 2, 5, 6, 7]
        .iter()
        .map(|place| fields[*place])
        .sum::<u128>()
        * 10_000
}

#[test]
fn a_restored_older_data_folder_ends_its_stream_and_bills_nothing_twice() {
    let mut sides = Sides::prepare(&["nothing-of-that-name"]).unwrap();
    run_for(&mut sides, 3);
    let older = tempfile::tempdir().unwrap();
    copy(&sides.agent_data(), &older.path().join("agent"));
    let first = run_for(&mut sides, 5);
    fs::remove_dir_all(sides.agent_data()).unwrap();
    copy(&older.path().join("agent"), &sides.agent_data());

    sides.start_agent(None).unwrap();
    let second = poll::until(PATIENCE, "a new stream with receipts", || {
        let status = sides.status().ok()?;
        let went_on = status.stream != first.stream && status.receipted_through.is_some();
        went_on.then_some(status)
    });
    assert_ne!(second.stream, first.stream);
    let agent = sides.agent.take().unwrap();
    assert!(
        agent.stderr().contains("the buffer only up to"),
        "it says why"
    );
    assert!(agent.terminate().unwrap().success());
    let second = sides.status().unwrap();
    let expected = host_cpu(&first) + host_cpu(&second);
    poll::until(PATIENCE, "usage of both streams, each once", || {
        (billed(&sides) == expected).then_some(())
    });
}

#[test]
fn a_cloned_data_folder_is_reported_and_nothing_is_billed_twice() {
    let before = kernel_cpu();
    let mut sides = Sides::prepare(&["nothing-of-that-name"]).unwrap();
    run_for(&mut sides, 3);
    let elsewhere = tempfile::tempdir().unwrap();
    let clone = elsewhere.path().join("clone");
    copy(&sides.agent_data(), &clone);
    sides.start_agent(None).unwrap();
    let config = sides.agent_data().with_file_name("agent.toml");
    let mut twin = Process::spawn(
        Command::new(binary("tallystick-agent"))
            .env_remove("RUST_LOG")
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(&clone)
            .arg("run"),
    )
    .unwrap();
    let api = sides.api().unwrap();
    let reported = || -> Option<Vec<Value>> {
        let mut kept = api.all("/v1/nodes/metered/refusals").ok()?;
        kept.extend(api.all("/v1/nodes/metered/quarantine").ok()?);
        (!kept.is_empty()).then_some(kept)
    };
    let kept = poll::until(PATIENCE, "a fork or an overlap that is reported", reported);
    println!("{}", kept[0]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(
        twin.ended().unwrap().is_none(),
        "the clone meters on, it is only not billed"
    );
    assert!(twin.terminate().unwrap().success());
    let agent = sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
    let used = kernel_cpu() - before;
    let billed = billed(&sides);
    assert!(
        billed > 0 && billed <= used,
        "{billed} billed of {used} used"
    );
    go_on_alone(&mut sides);
    let (used, billed) = (kernel_cpu() - before, self::billed(&sides));
    assert!(billed <= used, "{billed} billed of {used} used");
}

/// The clone is gone: a person says which branch is the node's, where the two raced, and the node goes on.
fn go_on_alone(sides: &mut Sides) {
    let api = sides.api().unwrap();
    let frozen = || -> Vec<String> {
        let streams = api.all("/v1/nodes/metered/streams").unwrap();
        let streams = streams.iter().filter(|held| held["state"] == "frozen");
        streams
            .map(|held| held["stream"].as_str().unwrap().to_owned())
            .collect()
    };
    for stream in frozen() {
        println!("resolves the fork of {stream}");
        let words = ["node", "resolve", "metered", &stream, "--keep", "admitted"];
        let words = [&words[..], &["--reason", "the clone is gone"]].concat();
        sides.reconcile(&words).unwrap();
    }
    assert_eq!(frozen(), Vec::<String>::new());
    run_for(sides, 2);
}
