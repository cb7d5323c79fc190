//! The whole way with real parts: `tallystick up`, the kernel's own counter, the bill.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use serde_json::Value;
use tallystick_agent::buffer;
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::poll;
use tallystick_tests::process::{Process, Up, binary};

const PATIENCE: Duration = Duration::from_secs(30);
/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

/// An overview's quantity of a workload's meter.
fn quantity(up: &Up, workload: &str, meter: &str) -> u128 {
    let overview = up.get("/v1/overview").unwrap();
    let usage = overview["usage"].as_array().unwrap().iter();
    let mut rows = usage.filter(|usage| usage["workload"] == workload && usage["meter"] == meter);
    let text = rows.next().and_then(|usage| usage["quantity"].as_str());
    text.map_or(0, |text| text.parse().unwrap())
}

fn draft(up: &Up) -> Value {
    up.get("/v1/accounts/this-host/draft").unwrap()
}

/// The draft's line of a workload's CPU time.
fn cpu_line(draft: &Value, workload: &str) -> Option<Value> {
    let mut lines = draft["statement"]["lines"].as_array()?.iter();
    let of = |line: &&Value| line["workload"]["workload"] == workload && line["price"] == "cpu";
    lines.find(of).cloned()
}

fn billed(draft: &Value, workload: &str) -> u128 {
    let line = cpu_line(draft, workload);
    line.map_or(0, |line| {
        line["quantity"].as_str().unwrap().parse().unwrap()
    })
}

/// Every quantity is what its registers counted, by readings that did not come from rollups (I3).
fn borne_out(draft: &Value) {
    let statement = &draft["statement"];
    assert_eq!(statement["discrepancies"], Value::Array(Vec::new()));
    let number = |value: &Value| value.as_str().unwrap().parse::<u128>().unwrap();
    for line in statement["lines"].as_array().unwrap() {
        let details = line["details"].as_array().unwrap().iter();
        let registers = details.flat_map(|detail| detail["registers"].as_array().unwrap());
        let counted: u128 = registers
            .map(|span| number(&span["closing"]) - number(&span["opening"]))
            .sum();
        assert_eq!(counted, number(&line["quantity"]), "{line}");
    }
}

#[test]
fn the_bill_is_the_kernels_counter_to_the_microsecond_and_the_price_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data")).unwrap();
    let Some(cgroup) = Cgroup::make("truth") else {
        return;
    };
    cgroup.burn();
    let (workload, kernel) = (cgroup.workload(), cgroup.cpu_time());
    assert!(kernel > 0, "it burned something");
    let draft = poll::until(PATIENCE, "the kernel's figure on the draft invoice", || {
        Some(draft(&up)).filter(|draft| billed(draft, &workload) == kernel)
    });
    // 3.60 for an hour of 3,600,000,000 microseconds.
    let line = cpu_line(&draft, &workload).unwrap();
    let amount = Decimal::from(u64::try_from(kernel).unwrap()) * Decimal::from_str("3.60").unwrap()
        / Decimal::from(3_600_000_000_u64);
    assert_eq!(line["unrounded"], amount.normalize().to_string(), "{line}");
    assert!(!line["steps"].as_array().unwrap().is_empty(), "{line}");
    borne_out(&draft);
    assert_eq!(
        quantity(&up, &workload, "cpu.time"),
        kernel,
        "the first page says the same"
    );
    assert_eq!(up.terminate().unwrap(), Some(0));
}

#[test]
fn a_second_up_goes_on_with_the_same_registers_and_bill_also_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data).unwrap();
    let cgroup = Cgroup::make("again");
    let used = cgroup.as_ref().map(|cgroup| {
        cgroup.burn();
        (cgroup.workload(), cgroup.cpu_time())
    });
    let (workload, first) = used.unwrap_or(("host/other".to_owned(), 1));
    poll::until(PATIENCE, "the first usage on the bill", || {
        (billed(&draft(&up), &workload) >= first).then_some(())
    });
    let stream = |data: &std::path::Path| {
        let peek = buffer::peek(&data.join("agent").join("buffer")).unwrap();
        peek.unwrap().stream
    };
    let (token, began_as) = (up.api.token.clone(), stream(&data));
    up.kill().unwrap();

    // Burnt while nobody looked: the kernel's counter brings it back.
    if let Some(cgroup) = &cgroup {
        cgroup.burn();
    }
    let up = Up::start(&data).unwrap();
    assert_eq!(up.api.token, token, "the administrator's token stays");
    if let Some(cgroup) = &cgroup {
        let kernel = cgroup.cpu_time();
        poll::until(PATIENCE, "the usage of the absence on the bill", || {
            (billed(&draft(&up), &workload) == kernel).then_some(())
        });
    }
    assert_eq!(
        up.api.all("/v1/nodes").unwrap().len(),
        1,
        "it is the same node"
    );
    assert_eq!(
        stream(&data),
        began_as,
        "and the same stream: registers go on"
    );
    borne_out(&draft(&up));
    let before = billed(&draft(&up), &workload);
    assert_eq!(up.terminate().unwrap(), Some(0));
    let up = Up::start(&data).unwrap();
    assert!(
        billed(&draft(&up), &workload) >= before,
        "a good end loses nothing either"
    );
    assert_eq!(up.terminate().unwrap(), Some(0));
}

#[test]
fn ctrl_c_drains_what_was_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data).unwrap();
    assert_eq!(up.interrupt().unwrap(), Some(0));
    let peek = buffer::peek(&data.join("agent").join("buffer"))
        .unwrap()
        .unwrap();
    assert!(peek.head.next.0 > 0);
    assert_eq!(
        peek.unreceipted, 0,
        "everything sealed was shipped and receipted"
    );
}

#[test]
fn what_is_wrong_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let told = |data: &str, listen: &str| {
        let mut command = Command::new(binary("tallystick"));
        command.args(["up", "--data", data, "--listen", listen]);
        let mut process = Process::spawn(&mut command).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(1));
        process.stderr()
    };
    let data = folder.path().join("data");
    let said = told(data.to_str().unwrap(), &address);
    assert!(
        said.contains(&address) && said.contains("--listen"),
        "{said}"
    );
    let said = told("/proc/nowhere", "127.0.0.1:0");
    assert!(
        said.contains("/proc/nowhere") && said.contains("--data"),
        "{said}"
    );

    let up = Up::start(&data).unwrap();
    let said = told(data.to_str().unwrap(), "127.0.0.1:0");
    assert!(
        said.contains(data.to_str().unwrap()),
        "a folder in use is named: {said}"
    );
    assert_eq!(up.terminate().unwrap(), Some(0));
}

#[test]
fn an_ordinary_user_can_run_it() {
    if !rustix::process::geteuid().is_root() {
        // Every other test here has shown it then.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    // The checkout may be where only root can read.
    let program = folder.path().join("tallystick");
    std::fs::copy(binary("tallystick"), &program).unwrap();
    let mut command = Command::new(&program);
    command.uid(NOBODY).gid(NOBODY).current_dir(&data);
    let began = Instant::now();
    let up = Up::start_as(&mut command, &data).unwrap();
    poll::until(PATIENCE, "usage of the host", || {
        (quantity(&up, "host", "cpu.time") > 0).then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(data.join("agent").metadata().unwrap().uid(), NOBODY);
    assert_eq!(up.terminate().unwrap(), Some(0));
}
