//! `doctor` names what is at fault: each fault made for real, on loopback.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use tallystick_tests::relay;
use tallystick_tests::sides::Sides;

/// Exit code, the fault, and how it stands with each subject.
fn doctor(sides: &Sides) -> (i32, Value, Value) {
    let mut command = sides.agent_command();
    let said = command.args(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&said.stderr)));
    let code = said.status.code().unwrap();
    (code, report["fault"].clone(), report["findings"].clone())
}

fn state(findings: &Value, subject: &str) -> Option<String> {
    let mut findings = findings.as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["subject"] == subject)?;
    assert!(
        finding["state"] == "good" || finding["remedy"].is_string(),
        "{finding}"
    );
    Some(finding["state"].as_str().unwrap().to_owned())
}

/// Ships to these addresses instead.
fn send_to(sides: &Sides, addresses: &[&str]) {
    let text = fs::read_to_string(sides.agent_config()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.retain(|line| !line.starts_with("addresses"));
    let text = format!("addresses = {addresses:?}\n{}\n", lines.join("\n"));
    fs::write(sides.agent_config(), text).unwrap();
}

#[test]
fn each_fault_is_named_with_what_to_do() {
    let mut sides = Sides::prepare(&[]).unwrap();
    let (code, fault, findings) = doctor(&sides);
    assert_eq!((code, fault), (0, Value::Null), "{findings}");
    for subject in [
        "permission",
        "dns",
        "udp",
        "tcp",
        "tls",
        "standing",
        "clock",
    ] {
        assert_eq!(
            state(&findings, subject).as_deref(),
            Some("good"),
            "{findings}"
        );
    }
    let ingest = sides.ingest().unwrap();

    let only_tcp = relay::tcp(ingest).unwrap().to_string();
    send_to(&sides, &[&only_tcp]);
    let (code, _, findings) = doctor(&sides);
    assert_eq!(code, 0, "{findings}");
    assert_eq!(state(&findings, "udp").as_deref(), Some("warning"));
    assert_eq!(state(&findings, "tcp").as_deref(), Some("good"));

    send_to(&sides, &["no-such-host.invalid:8621"]);
    let (code, fault, findings) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (12, Some("dns")), "{findings}");

    // Somebody is there, and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    send_to(&sides, &[&address.to_string()]);
    let (code, fault, findings) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (13, Some("udp")), "{findings}");
    // One address that works is enough.
    send_to(&sides, &[&address.to_string(), &ingest.to_string()]);
    assert_eq!(doctor(&sides).0, 0);

    // Another installation at the address.
    let other = Sides::prepare(&[]).unwrap();
    send_to(&sides, &[&other.ingest().unwrap().to_string()]);
    let (code, fault, findings) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (15, Some("tls")), "{findings}");

    send_to(&sides, &[&ingest.to_string()]);
    sides
        .reconcile(&["node", "ban", "metered", "--reason", "unpaid"])
        .unwrap();
    let (code, fault, findings) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (16, Some("standing")), "{findings}");
    assert!(findings.to_string().contains("unpaid"));

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!(
        "metrics = \"0.0.0.0:{}\"\n",
        held.local_addr().unwrap().port()
    );
    let text = fs::read_to_string(sides.agent_config()).unwrap();
    fs::write(sides.agent_config(), line + &text).unwrap();
    let (code, fault, _) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (4, Some("configuration")));
    fs::write(sides.agent_config(), &text).unwrap();

    let selects_nothing = text.replace(
        "[cgroups]\ninclude = []",
        "[cgroups]\ninclude = [\"no-such-group\"]",
    );
    assert_ne!(selects_nothing, text);
    fs::write(sides.agent_config(), selects_nothing).unwrap();
    let (code, fault, findings) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (11, Some("cgroup")), "{findings}");
    fs::write(sides.agent_config(), &text).unwrap();

    if rustix::process::getuid().is_root() {
        println!("skipped: root may read every folder");
    } else {
        let forbidden = fs::Permissions::from_mode(0o000);
        fs::set_permissions(sides.agent_data().join("identity"), forbidden).unwrap();
        let (code, fault, _) = doctor(&sides);
        assert_eq!((code, fault.as_str()), (10, Some("permission")));
    }
    fs::remove_dir_all(sides.agent_data()).unwrap();
    let (code, fault, _) = doctor(&sides);
    assert_eq!((code, fault.as_str()), (3, Some("enrolment")));
    sides.reconciler.take();
}
