//! `tallystick up` where it is not at home: a relative folder, a folder in use, a full disk.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tallystick_tests::poll;
use tallystick_tests::process::{Process, Up, binary};

const PATIENCE: Duration = Duration::from_secs(60);

/// What `tallystick up ARGUMENTS` says on standard error before it ends with 1.
fn refused(arguments: &[&str]) -> String {
    let mut command = Command::new(binary("tallystick"));
    let mut process = Process::spawn(command.arg("up").args(arguments)).unwrap();
    assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(1));
    process.stderr()
}

#[test]
fn as_the_readme_says_it_keeps_everything_where_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("tallystick"));
    command
        .args(["up", "--json", "--listen", "127.0.0.1:0"])
        .current_dir(folder.path());
    let mut process = Process::spawn(&mut command).unwrap();
    process
        .says(|said| said.contains("\"event\":\"ready\"").then_some(()))
        .unwrap();
    assert!(folder.path().join("tallystick-data/token").is_file());
    assert_eq!(process.terminate().unwrap().code(), Some(0));
}

#[test]
fn what_is_wrong_is_said_once_and_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refused(&["--data", data, "--listen", &address]);
    assert_eq!(said.matches("os error 98").count(), 1, "{said}");
    assert!(!said.contains("reconciler.toml"), "it reads none: {said}");

    let up = Up::start(Path::new(data)).unwrap();
    let said = refused(&["--data", data, "--listen", "127.0.0.1:0"]);
    assert!(said.contains("another `tallystick up`"), "{said}");
    assert_eq!(up.terminate().unwrap(), Some(0));
}

#[test]
fn a_node_that_ships_nothing_any_more_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data).unwrap();
    let node = up.api.all("/v1/nodes").unwrap()[0]["id"].clone();
    let path = format!("/v1/nodes/{}/ban", node.as_str().unwrap());
    up.api.post(&path, &json!({ "reason": "sold" })).unwrap();
    assert_eq!(up.terminate().unwrap(), Some(0));
    let data = data.to_str().unwrap();
    let said = refused(&["--data", data, "--listen", "127.0.0.1:0"]);
    assert!(
        said.contains("banned (sold)") && said.contains("--data"),
        "{said}"
    );
}

/// How far behind its node is, in microseconds.
fn lag(up: &Up) -> Option<u64> {
    up.get("/v1/overview").ok()?["nodes"][0]["lag"].as_u64()
}

fn host_cpu(up: &Up) -> u128 {
    let overview: Value = up.get("/v1/overview").unwrap();
    let mut usage = overview["usage"].as_array().unwrap().iter();
    let host = usage.find(|row| row["workload"] == "host" && row["meter"] == "cpu.time");
    host.map_or(0, |row| row["quantity"].as_str().unwrap().parse().unwrap())
}

#[test]
fn a_full_disk_stops_nothing_for_good() {
    let folder = tempfile::tempdir().unwrap();
    // A file system of its own, which goes with the process.
    let alone = "mount -t tmpfs -o size=8m tmpfs \"$0\" && exec \"$@\"";
    let mount = folder.path().to_str().unwrap();
    let allowed = Command::new("unshare")
        .args(["-m", "sh", "-c", alone, mount, "true"])
        .output();
    if !allowed.is_ok_and(|allowed| allowed.status.success()) {
        eprintln!("SKIPPED: this user may not mount a file system in a namespace of its own");
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", alone, mount])
        .arg(binary("tallystick"));
    let up = Up::start_as(&mut command, &folder.path().join("data")).unwrap();
    let inside = format!("/proc/{}/root{mount}/filler", up.id());
    let full = fs::write(&inside, vec![0_u8; 16 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    poll::until(PATIENCE, "nothing arrives any more", || {
        (lag(&up)? > 3_000_000).then_some(())
    });
    let before = host_cpu(&up);
    fs::remove_file(&inside).unwrap();
    poll::until(PATIENCE, "everything flows again", || {
        let ready = up.api.ask("GET", "/readyz", None).unwrap();
        (ready.status == 200 && lag(&up)? < 3_000_000).then_some(())
    });
    assert!(host_cpu(&up) > before, "what was used meanwhile is there");
    assert_eq!(up.terminate().unwrap(), Some(0));
}
