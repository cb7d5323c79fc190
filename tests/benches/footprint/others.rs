//! Others who watch a host: node exporter and collectd, as Debian packages them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tallystick_tests::http::Api;
use tallystick_tests::poll;

use super::used::{Subject, own_group};

const COLLECTD: &str = "/usr/sbin/collectd";
const EXPORTER: &str = "/usr/bin/prometheus-node-exporter";
const PATIENCE: Duration = Duration::from_secs(20);

/// Those that are installed; of the others is said how to get them.
pub(crate) fn start(folder: &Path, period_s: u64) -> anyhow::Result<Vec<Subject>> {
    let mut started = Vec::new();
    if is_installed(EXPORTER, "prometheus-node-exporter") {
        started.extend(exporter(period_s)?);
    }
    if is_installed(COLLECTD, "collectd-core") {
        started.extend(collectd(folder, period_s)?);
    }
    Ok(started)
}

fn is_installed(program: &str, package: &str) -> bool {
    let is = Path::new(program).exists();
    if !is {
        println!(
            "SKIPPED: no {program} to compare with: apt-get install --no-install-recommends {package}"
        );
    }
    is
}

/// With the collectors that it has by default.
fn exporter(period_s: u64) -> anyhow::Result<Option<Subject>> {
    let Some(own) = own_group("exporter") else {
        return Ok(None);
    };
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new(EXPORTER);
    command.arg(format!("--web.listen-address={free}"));
    let mut subject = Subject::start("node-exporter", own, &command)?;
    subject.scraper = Some(Scraper::start(format!("http://{free}"), period_s)?);
    Ok(Some(subject))
}

/// Asks an exporter for its metrics once a period, from a thread of this process.
pub(crate) struct Scraper {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
    answers: Arc<AtomicU64>,
}

impl Scraper {
    fn start(base: String, period_s: u64) -> anyhow::Result<Self> {
        let api = Api::new(base, String::new());
        let answered = move || api.ask("GET", "/metrics", None).is_ok_and(has_metrics);
        poll::until(PATIENCE, "metrics of the exporter", || {
            answered().then_some(())
        });
        let (stop, stopped) = mpsc::channel();
        let answers = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&answers);
        let period = Duration::from_secs(period_s);
        let thread = std::thread::Builder::new().spawn(move || {
            while stopped.recv_timeout(period) == Err(mpsc::RecvTimeoutError::Timeout) {
                count.fetch_add(u64::from(answered()), Ordering::Relaxed);
            }
        })?;
        Ok(Self {
            stop,
            thread,
            answers,
        })
    }
}

fn has_metrics(answer: tallystick_tests::http::Answer) -> bool {
    answer.status == 200 && answer.body.contains("node_cpu_seconds_total")
}

/// Ends the scraping, and says how often an exporter was asked.
pub(crate) fn stop_scraping(subjects: &mut [Subject]) {
    for subject in subjects {
        if let Some(scraper) = subject.scraper.take() {
            let _ = scraper.stop.send(());
            let _ = scraper.thread.join();
            let answers = scraper.answers.load(Ordering::Relaxed);
            println!("{} answered {answers} scrapes", subject.name);
        }
    }
}

/// What the agent meters, and no more.
const PLUGINS: [&str; 7] = [
    "cgroups",
    "cpu",
    "memory",
    "disk",
    "df",
    "interface",
    "uptime",
];

fn collectd(folder: &Path, period_s: u64) -> anyhow::Result<Option<Subject>> {
    let Some(own) = own_group("collectd") else {
        return Ok(None);
    };
    let base = folder.join("collectd");
    fs::create_dir(&base)?;
    let mut config = format!(
        "Hostname \"measured\"\nFQDNLookup false\nBaseDir {base:?}\nPIDFile {:?}\nInterval {period_s}\n",
        base.join("pid")
    );
    for plugin in PLUGINS.iter().chain(&["csv"]) {
        config += &format!("LoadPlugin {plugin}\n");
    }
    let csv = base.join("csv");
    config += &format!("<Plugin csv>\n  DataDir {csv:?}\n</Plugin>\n");
    let path = base.join("collectd.conf");
    fs::write(&path, config)?;
    let mut command = Command::new(COLLECTD);
    command.arg("-f").arg("-C").arg(&path);
    let subject = Subject::start("collectd", own, &command)?;
    poll::until(
        PATIENCE + Duration::from_secs(period_s),
        "what collectd writes",
        || csv.exists().then_some(()),
    );
    Ok(Some(subject))
}
