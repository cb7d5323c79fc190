//! The manners of a service: what the service manager is told, reload, stop, figures, the live view.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tallystick_agent::status::Status;
use tallystick_common::ids::Seq;
use tallystick_tests::poll;
use tallystick_tests::process::{Process, output};
use tallystick_tests::sides::Sides;

const PATIENCE: Duration = Duration::from_secs(60);

/// A service manager's ear: the real socket, and all that was said to it.
struct Manager {
    _folder: tempfile::TempDir,
    path: PathBuf,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        Self {
            _folder: folder,
            path,
            socket,
            heard: Vec::new(),
        }
    }

    /// Takes what was said so far; lines in their order.
    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            self.heard.extend(said.lines().map(str::to_owned));
        }
    }

    /// Waits for a line that begins so, after the first `after` lines; where it stands.
    fn hears(&mut self, begin: &str, after: usize) -> usize {
        poll::until(PATIENCE, begin, || {
            self.listen();
            let mut later = self.heard.iter().enumerate().skip(after);
            later
                .find(|(_, line)| line.starts_with(begin))
                .map(|(at, _)| at)
        })
    }
}

fn start(sides: &Sides, manager: &Manager, watchdog: Option<Duration>) -> Process {
    let mut command = sides.agent_command();
    command.arg("run").env("NOTIFY_SOCKET", &manager.path);
    if let Some(limit) = watchdog {
        command.env("WATCHDOG_USEC", limit.as_micros().to_string());
    }
    Process::spawn(&mut command).unwrap()
}

fn append(path: &Path, text: &str) -> String {
    let before = std::fs::read_to_string(path).unwrap();
    // Before the tables: these are keys of the top level.
    std::fs::write(path, format!("{text}\n{before}")).unwrap();
    before
}

#[test]
fn an_agent_is_ready_when_it_meters_beats_reloads_what_is_sound_and_says_why_not() {
    let sides = Sides::prepare(&[]).unwrap();
    let mut manager = Manager::new();
    let agent = start(&sides, &manager, Some(Duration::from_secs(3)));
    let ready = manager.hears("READY=1", 0);
    manager.hears("WATCHDOG=1", ready);
    manager.hears("STATUS=covered", ready);

    let good = append(&sides.agent_config(), "no_such_key = 1");
    agent.signal(Signal::HUP).unwrap();
    let reloading = manager.hears("RELOADING=1", ready);
    assert!(
        manager.heard[reloading + 1].starts_with("MONOTONIC_USEC="),
        "{:?}",
        manager.heard
    );
    let again = manager.hears("READY=1", reloading);
    // With the folder named, `status` needs no configuration.
    let data = sides.agent_data();
    let told = ["status", "--json", "--data", data.to_str().unwrap()];
    let told = output(sides.agent_command().args(told)).unwrap();
    let status: Status = serde_json::from_str(&told).unwrap();
    let refused = status.reload.and_then(|reload| reload.refused).unwrap();
    assert!(refused.contains("no_such_key"), "{refused}");
    let checked = sides.agent_command().args(["config", "check"]).status();
    assert_eq!(
        checked.unwrap().code(),
        Some(4),
        "so the reload of the unit fails"
    );
    let selected = good.replace("include = [\"lo\"]", "include = []");
    assert_ne!(selected, good);
    std::fs::write(sides.agent_config(), selected).unwrap();
    agent.signal(Signal::HUP).unwrap();
    let reloading = manager.hears("RELOADING=1", again);
    manager.hears("READY=1", reloading);
    poll::until(PATIENCE, "the end of what is no longer selected", || {
        let status = sides.status().unwrap();
        let loopback = |name: &str| name == "interface/lo";
        let gone = !status
            .registers
            .iter()
            .any(|register| loopback(register.workload.as_str()));
        (gone && status.reload.unwrap().refused.is_none()).then_some(())
    });

    let begun = Instant::now();
    agent.signal(Signal::TERM).unwrap();
    manager.hears("STOPPING=1", reloading);
    let mut agent = agent;
    assert!(agent.wait(PATIENCE).unwrap().success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_stopped_meter_does_not_beat() {
    let sides = Sides::prepare(&[]).unwrap();
    let mut manager = Manager::new();
    let agent = start(&sides, &manager, Some(Duration::from_millis(900)));
    let ready = manager.hears("READY=1", 0);
    manager.hears("WATCHDOG=1", ready);
    agent.signal(Signal::STOP).unwrap();
    manager.listen();
    let heard = manager.heard.len();
    std::thread::sleep(Duration::from_millis(1_500));
    manager.listen();
    assert_eq!(&manager.heard[heard..], [""; 0], "nothing speaks for it");
    agent.signal(Signal::CONT).unwrap();
    manager.hears("WATCHDOG=1", heard);
}

#[test]
fn a_stop_without_a_reconciler_takes_no_five_seconds_and_loses_nothing() {
    let mut sides = Sides::prepare(&[]).unwrap();
    sides.start_agent(None).unwrap();
    poll::until(PATIENCE, "a receipt", || {
        sides.status().unwrap().receipted_through
    });
    // It does not answer, and does not say so either.
    let reconciler = sides.reconciler.take().unwrap();
    reconciler.signal(Signal::STOP).unwrap();
    let waiting = |sides: &Sides| sides.journal().unwrap().unreceipted;
    poll::until(PATIENCE, "an unreceipted segment", || {
        (waiting(&sides) > 0).then_some(())
    });
    let mut agent = sides.agent.take().unwrap();
    let begun = Instant::now();
    agent.signal(Signal::TERM).unwrap();
    assert!(agent.wait(PATIENCE).unwrap().success());
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
    assert!(waiting(&sides) > 0);
    reconciler.signal(Signal::CONT).unwrap();
}

#[test]
fn figures_and_the_live_view_show_a_running_agent() {
    let mut sides = Sides::prepare(&[]).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    append(&sides.agent_config(), &format!("metrics = \"{address}\""));
    sides.start_agent(None).unwrap();
    let text = poll::until(PATIENCE, "a scrape", || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let connected = text.contains("\ntallystick_agent_connected 1\n");
        let receipted = !text.contains("\ntallystick_agent_receipts_total 0\n");
        (connected && receipted).then_some(text)
    });
    for line in text.lines().filter(|line| !line.starts_with('#')).skip(6) {
        assert!(line.starts_with("tallystick_agent_"), "{line}");
    }
    let looks = ["top", "--interval", "1", "--count", "3"];
    let view = output(sides.agent_command().args(looks)).unwrap();
    assert_eq!(view.matches("agent      running").count(), 3, "{view}");
    assert!(!view.contains('\x1b'), "no escapes into a pipe");
    let rate = |line: &str| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok();
    let host = |line: &&str| line.starts_with("cpu.time") && line.contains(" host ");
    let rates: Vec<_> = view.lines().filter(host).map(rate).collect();
    assert_eq!(
        rates.first(),
        Some(&None),
        "no rate of a first look: {view}"
    );
    assert!(rates.iter().flatten().any(|rate| *rate > 0), "{view}");
    let status = sides.status().unwrap();
    assert!(status.coverage.exact_micros.0 > 0 && status.next_seq > Seq(0));
    let log = sides.agent.take().unwrap().kill().unwrap();
    assert!(
        log.lines()
            .filter(|line| line.contains("metering begins"))
            .all(|line| line.starts_with("ts=") && line.contains(" level=info target=")),
        "{log}"
    );
}

#[test]
fn a_reconciler_is_ready_when_it_answers_and_says_that_it_stops() {
    let sides = Sides::prepare(&[]).unwrap();
    drop(sides.reconcile(&["node", "list"]).unwrap());
    let mut manager = Manager::new();
    let folder = tempfile::tempdir().unwrap();
    let mut init = sides.reconciler_command();
    output(init.arg("init").arg("--data").arg(folder.path())).unwrap();
    let mut command = sides.reconciler_command();
    command
        .args([
            "serve",
            "--ingest",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(folder.path())
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "900000");
    let reconciler = Process::spawn(&mut command).unwrap();
    let ready = manager.hears("READY=1", 0);
    manager.hears("STATUS=agents at 127.0.0.1:", ready);
    let beat = manager.hears("WATCHDOG=1", ready);
    manager.hears("WATCHDOG=1", beat + 1);
    reconciler.signal(Signal::TERM).unwrap();
    manager.hears("STOPPING=1", ready);
}

/// The shipped units, with the binaries of this build: systemd's own judgement.
#[test]
fn the_units_are_sound() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for entry in std::fs::read_dir(units).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // Not installed here; `true` is.
        let text = text
            .replace("/usr/bin/tallystick-agent", "/bin/true")
            .replace("/usr/bin/tallystick-reconciler", "/bin/true");
        let copy = folder.path().join(path.file_name().unwrap());
        std::fs::write(&copy, text).unwrap();
        command.arg(copy);
    }
    match command.output() {
        Ok(said) => {
            let told = String::from_utf8_lossy(&said.stderr);
            let about = |line: &&str| line.contains("tallystick");
            assert!(
                said.status.success() && !told.lines().any(|line| about(&line)),
                "{told}"
            );
        }
        Err(error) => println!("skipped: systemd-analyze cannot be run: {error}"),
    }
}
