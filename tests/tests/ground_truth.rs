//! The whole way with real parts: `tallystick up`, the kernel's own counter, the bill.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tallystick_tests::poll;
use tallystick_tests::process::{Up, binary};

/// A control group of this test's own; removed when dropped.
struct Cgroup {
    path: PathBuf,
    name: String,
}

impl Cgroup {
    /// `None`, said aloud, where this user may not make one.
    fn make(tag: &str) -> Option<Self> {
        let name = format!("tallystick-{tag}-{}", std::process::id());
        let path = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup"]
            .iter()
            .map(|root| PathBuf::from(root).join(&name))
            .find(|path| fs::create_dir(path).is_ok());
        if path.is_none() {
            eprintln!(
                "SKIPPED: no control group can be made here; run as root with a writable hierarchy"
            );
        }
        path.map(|path| Self { path, name })
    }

    /// The kernel's figure in microseconds.
    fn cpu_time(&self) -> u128 {
        if let Ok(text) = fs::read_to_string(self.path.join("cpuacct.usage")) {
            return text.trim().parse::<u128>().unwrap() / 1000;
        }
        let text = fs::read_to_string(self.path.join("cpu.stat")).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .unwrap();
        line.trim().parse().unwrap()
    }

    /// Burns CPU in it for a moment, to its end.
    fn burn(&self) {
        let procs = self.path.join("cgroup.procs");
        let script = format!(
            "echo $$ > {} && i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done",
            procs.display()
        );
        assert!(
            Command::new("sh")
                .args(["-c", &script])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

fn line<'a>(overview: &'a Value, workload: &str, meter: &str) -> Option<&'a Value> {
    overview["usage"]
        .as_array()?
        .iter()
        .find(|usage| usage["workload"] == workload && usage["meter"] == meter)
}

fn quantity(up: &Up, workload: &str, meter: &str) -> u128 {
    let overview = up.get("/v1/overview").unwrap();
    line(&overview, workload, meter)
        .and_then(|usage| usage["quantity"].as_str()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn the_bill_is_the_kernels_counter_to_the_microsecond_and_the_price_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(&folder.path().join("data")).unwrap();
    let Some(cgroup) = Cgroup::make("truth") else {
        return;
    };
    cgroup.burn();
    let workload = format!("cgroup/{}", cgroup.name);
    let kernel = cgroup.cpu_time();
    assert!(kernel > 0);
    poll::until(
        Duration::from_secs(30),
        "the kernel's figure on the bill",
        || (quantity(&up, &workload, "cpu.time") == kernel).then_some(()),
    );
    let draft = up.get("/v1/accounts/this-host/draft").unwrap();
    let text = draft.to_string();
    assert!(
        text.contains(&format!("\"{kernel}\"")),
        "{kernel} is not in {text}"
    );
    // 3.60 a CPU-hour is a thousand-millionth a microsecond: the unrounded amount is the quantity.
    let overview = up.get("/v1/overview").unwrap();
    let lines = overview["accounts"][0]["lines"].as_array().unwrap();
    let billed = lines
        .iter()
        .find(|line| line["workload"] == workload && line["unit"] == "cpu-hour")
        .unwrap();
    let exact = format!(
        "{}.{:06}",
        kernel / 1_000_000_000,
        kernel % 1_000_000_000 / 1000
    );
    assert_eq!(billed["unrounded"], exact);
    assert_eq!(up.terminate().unwrap(), Some(0));
}

#[test]
fn a_second_up_goes_on_with_the_same_bill_also_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::start(&data).unwrap();
    let before = poll::until(Duration::from_secs(30), "usage of the host", || {
        Some(quantity(&up, "host", "cpu.time")).filter(|used| *used > 0)
    });
    let (token, nodes) = (up.token.clone(), up.get("/v1/nodes").unwrap());
    up.kill().unwrap();
    let up = Up::start(&data).unwrap();
    assert_eq!(up.token, token, "the administrator's token stays");
    let after = poll::until(Duration::from_secs(30), "more usage", || {
        Some(quantity(&up, "host", "cpu.time")).filter(|used| *used > before)
    });
    assert!(after > before);
    let ids = |nodes: &Value| nodes.to_string().matches("\"state\":\"active\"").count();
    assert_eq!(
        ids(&up.get("/v1/nodes").unwrap()),
        ids(&nodes),
        "it is the same node"
    );
    assert_eq!(up.terminate().unwrap(), Some(0));
}

#[test]
fn what_is_wrong_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let up = |data: &str, listen: &str| {
        Command::new(binary("tallystick"))
            .args(["up", "--data", data, "--listen", listen])
            .output()
            .unwrap()
    };
    let data = folder.path().join("data");
    let output = up(data.to_str().unwrap(), &address);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(&address) && said.contains("--listen"),
        "{said}"
    );
    let output = up("/proc/nowhere", "127.0.0.1:0");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("/proc/nowhere") && said.contains("--data"),
        "{said}"
    );
}
