//! Applications report their own usage: real processes, real clients, the bill.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::{Value, json};
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::poll;
use tallystick_tests::process::{Process, binary, output, python};
use tallystick_tests::sides::Sides;

const PATIENCE: Duration = Duration::from_secs(60);
const PLAN: &str = r#"
name = "app"
title = "Application"
currency = "EUR"

[[prices]]
id = "requests"
title = "Requests"
meter = "app.count"
app_meter = "requests"
per = "thousand"
model = "per_unit"
price = "1.50"

[[prices]]
id = "exports"
title = "Exports"
meter = "app.count"
app_meter = "exports"
per = "one"
model = "per_unit"
price = "0.20"
"#;

/// Both sides, with this in the agent's configuration and the agent at work.
fn sides(configuration: &str) -> Sides {
    let mut sides = Sides::prepare(&["tallystick-*"]).unwrap();
    sides.configure(configuration).unwrap();
    start(&mut sides);
    sides
}

fn start(sides: &mut Sides) {
    sides.start_agent(None).unwrap();
    wait_for_intake(sides);
}

fn wait_for_intake(sides: &Sides) {
    poll::until(PATIENCE, "the agent's socket", || {
        std::os::unix::net::UnixStream::connect(sides.intake()).ok()
    });
}

/// Everybody who runs this test may report for everybody.
fn trusting() -> String {
    let uid = rustix::process::geteuid().as_raw();
    format!("[intake]\nreport_for_others = [{uid}]\n")
}

/// What the reconciler has of a workload's meter.
fn counted(sides: &Sides, workload: &str, meter: &str) -> u128 {
    let rows = sides.api().unwrap().all("/v1/usage").unwrap();
    let own = rows
        .iter()
        .filter(|row| row["workload"] == workload && row["meter"] == meter);
    own.map(|row| row["quantity"].as_str().unwrap().parse::<u128>().unwrap())
        .sum()
}

fn wait_for(sides: &Sides, workload: &str, meter: &str, expected: u128) {
    poll::until(PATIENCE, &format!("{expected} of {workload}"), || {
        (counted(sides, workload, meter) == expected).then_some(())
    });
}

fn stop(sides: &mut Sides) {
    let agent = sides.agent.take().unwrap();
    assert!(agent.terminate().unwrap().success());
}

fn lines(said: &str) -> Vec<Value> {
    let lines = said.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn client(script: &str) -> PathBuf {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    clients.join(script)
}

#[test]
fn what_is_reported_reaches_the_bill_by_its_name() {
    let mut sides = sides(&trusting());
    let api = sides.api().unwrap();
    let account = json!({ "id": "shop", "name": "Shop", "currency": "EUR" });
    api.post("/v1/accounts", &account).unwrap();
    api.post("/v1/plans", &json!({ "toml": PLAN })).unwrap();
    let from = "2026-01-01T00:00:00Z";
    let plan = json!({ "account": "shop", "plan": "app", "from": from });
    api.post("/v1/subscriptions", &plan).unwrap();
    let rule = json!({ "account": "shop", "node": "*", "workload": "app/shop/*", "from": from });
    api.post("/v1/assignments", &rule).unwrap();

    let report = |arguments: &[&str]| output(&mut sides.report(arguments)).unwrap();
    let shop = ["--workload", "shop"];
    let said = report(&[&["requests", "2345", "--id", "a"], &shop[..]].concat());
    assert_eq!(said, "counted\n");
    let said = report(&[&["requests", "2345", "--id", "a"], &shop[..]].concat());
    assert_eq!(said, "counted before\n");
    report(&[&["exports", "3"], &shop[..]].concat());
    report(&["requests", "7", "--workload", "another"]);

    wait_for(&sides, "app/shop/exports", "app.count", 3);
    wait_for(&sides, "app/shop/requests", "app.count", 2345);
    let draft = api.get("/v1/accounts/shop/draft").unwrap();
    let lines = draft["statement"]["lines"].as_array().unwrap();
    let line = |price: &str| lines.iter().find(|line| line["price"] == price).unwrap();
    let amount = Decimal::new(2345, 3) * Decimal::new(150, 2);
    let unrounded = amount.normalize().to_string();
    assert_eq!(line("requests")["unrounded"], unrounded, "{draft}");
    assert_eq!(line("exports")["unrounded"], "0.6", "{draft}");
    assert_eq!(lines.len(), 2, "each name is charged by its own price");
    stop(&mut sides);
}

#[test]
fn what_is_wrong_is_said_and_nothing_of_it_counted() {
    let mut sides = sides(&trusting());
    for (arguments, says) in [
        (["requests", "1.5"], "whole number"),
        (["requests", "many"], "not a number"),
        (["a/b", "1"], "not the name of an application meter"),
    ] {
        let arguments = [&arguments[..], &["--workload", "w"]].concat();
        let failed = sides.report(&arguments).output().unwrap();
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.contains(says), "{said}");
    }
    stop(&mut sides);
    let failed = sides.report(&["requests", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("no agent listens"), "{said}");
    assert!(
        !sides.intake().exists(),
        "the socket's file goes with the agent"
    );
}

#[test]
fn kills_between_answer_and_seal_lose_nothing_and_double_nothing() {
    let mut sides = sides(&trusting());
    let mut truth = 0;
    for round in 0..8u32 {
        let (id, value) = (format!("round {round}"), (1 + round * 1_000).to_string());
        let arguments = ["requests", &value, "--id", &id, "--workload", "w"];
        let failpoint = match round {
            2 | 5 => Some("agent.intake.logged"),
            3 | 6 => Some("agent.intake.counted"),
            _ => None,
        };
        if let Some(failpoint) = failpoint {
            sides.agent.take().unwrap().kill().unwrap();
            sides.start_agent(Some(failpoint)).unwrap();
            wait_for_intake(&sides);
            let unanswered = sides.report(&arguments).output().unwrap();
            assert!(!unanswered.status.success(), "{failpoint}");
            let mut agent = sides.agent.take().unwrap();
            agent.wait(PATIENCE).unwrap();
            assert!(agent.stderr().contains(failpoint), "{}", agent.stderr());
            start(&mut sides);
        }
        output(&mut sides.report(&arguments)).unwrap();
        truth += u128::from(1 + round * 1_000);
        // At once: no seal lies between, but by chance.
        sides.agent.take().unwrap().kill().unwrap();
        start(&mut sides);
        let again = output(&mut sides.report(&arguments)).unwrap();
        assert_eq!(again, "counted before\n", "{id}");
    }
    wait_for(&sides, "app/w/requests", "app.count", truth);
    stop(&mut sides);
    poll::until(PATIENCE, "all receipts", || {
        (sides.journal().ok()?.unreceipted == 0).then_some(())
    });
    assert_eq!(counted(&sides, "app/w/requests", "app.count"), truth);
    let quarantined = sides.api().unwrap().all("/v1/nodes/metered/quarantine");
    assert_eq!(quarantined.unwrap(), [] as [Value; 0]);
}

#[test]
fn a_workload_reports_for_itself_only() {
    let (Some(own), Some(other)) = (Cgroup::make("own"), Cgroup::make("other")) else {
        return;
    };
    let mut sides = sides("");
    let report = |workload: Option<&str>| {
        let mut command = own.command(&binary("tallystick-agent"));
        let data = sides.agent_data();
        command
            .arg("--data")
            .arg(data)
            .args(["report", "jobs", "1"]);
        command.args(workload.map(|workload| format!("--workload={workload}")));
        command.output().unwrap()
    };
    assert!(report(None).status.success());
    assert!(report(Some(own.name())).status.success());
    let part = format!("{}/tenant-7", own.name());
    assert!(report(Some(&part)).status.success());
    let refused = report(Some(other.name()));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("report_for_others"), "{said}");

    let workload = |name: &str| format!("app/{name}/jobs");
    wait_for(&sides, &workload(&part), "app.count", 1);
    wait_for(&sides, &workload(own.name()), "app.count", 2);
    assert_eq!(counted(&sides, &workload(other.name()), "app.count"), 0);
    stop(&mut sides);
}

#[test]
fn the_cloudevents_sdk_delivers_in_every_mode() {
    let Some(cgroup) = Cgroup::make("events") else {
        return;
    };
    let mut sides = sides("");
    let mut command = cgroup.command(&python());
    command
        .arg("-B")
        .arg(client("events.py"))
        .arg(sides.intake());
    let answers = lines(&output(&mut command).unwrap());
    let told: Vec<_> = answers
        .iter()
        .map(|answer| answer["status"].as_u64())
        .collect();
    let expected = [202, 202, 200, 409, 202].map(Some);
    assert_eq!(told, expected, "{answers:?}");
    let batch = json!({ "counted": 10, "known": 0 });
    assert_eq!(answers[4]["body"], batch);
    let workload = format!("app/{}/orders", cgroup.name());
    wait_for(&sides, &workload, "app.count", 5 + 6 + 10);
    stop(&mut sides);
}

#[test]
fn the_opentelemetry_sdk_delivers() {
    let Some(cgroup) = Cgroup::make("otel") else {
        return;
    };
    let mut sides = sides("");
    let mut command = cgroup.command(&python());
    command.arg("-B").arg(client("otel.py")).arg(sides.intake());
    let exports = lines(&output(&mut command).unwrap());
    assert!(exports.len() >= 5, "{exports:?}");
    assert!(
        exports.iter().all(|export| export["success"] == true),
        "{exports:?}"
    );
    let workload = |name: &str| format!("app/{}/shop.{name}", cgroup.name());
    wait_for(&sides, &workload("orders"), "app.count", 15);
    wait_for(&sides, &workload("sent"), "app.bytes", 15_000);
    for refused in ["open", "length"] {
        assert_eq!(counted(&sides, &workload(refused), "app.count"), 0);
    }
    stop(&mut sides);
}

/// How often the exporter says that it was asked.
fn asked(address: std::net::SocketAddr) -> u128 {
    let page = ureq::get(format!("http://{address}/metrics")).call();
    let text = page.unwrap().body_mut().read_to_string().unwrap();
    let mut lines = text.lines();
    let line = r#"promhttp_metric_handler_requests_total{code="200"} "#;
    let value = lines.find_map(|text| text.strip_prefix(line)).unwrap();
    value.parse().unwrap()
}

#[test]
fn a_node_exporter_is_scraped() {
    let exporter = Path::new("/usr/bin/prometheus-node-exporter");
    assert!(
        exporter.exists(),
        "apt-get install prometheus-node-exporter"
    );
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut command = Command::new(exporter);
    command.arg(format!("--web.listen-address={address}"));
    let _exporter = Process::spawn(&mut command).unwrap();
    poll::until(PATIENCE, "the exporter", || {
        std::net::TcpStream::connect(address).ok()
    });
    let before = asked(address);
    let mut sides = sides(&format!(
        r#"
[[scrape]]
url = "http://{address}/metrics"
interval_seconds = 1
workload = "exporter"
meters = [
    {{ metric = "promhttp_metric_handler_requests_total", labels = {{ code = "200" }}, meter = "asked" }},
    {{ metric = "node_load1", meter = "load" }},
    {{ metric = "node_cpu_seconds_total", labels = {{ mode = "user", cpu = "0" }}, meter = "cpu", unit = "seconds" }},
]
"#
    ));
    // Asking is what is counted.
    poll::until(PATIENCE, "questions that were counted", || {
        (counted(&sides, "app/exporter/asked", "app.count") > 3).then_some(())
    });
    for says in ["node_load1 is a gauge", "not a whole number"] {
        poll::until(PATIENCE, says, || {
            let status = sides.status().ok()?;
            status.troubles.join("\n").contains(says).then_some(())
        });
    }
    stop(&mut sides);
    let most = asked(address) - before;
    let seen = counted(&sides, "app/exporter/asked", "app.count");
    assert!(
        seen < most,
        "{seen} counted of {most}, and the first sight owes nothing"
    );
}
