//! What applications may report, and which targets are asked for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallystick_common::application::AppMeter;
use tallystick_common::meter::Meter;

use super::check::{Problem, problem};
use super::selection::glob;
use super::{Config, Selection};

/// Name of the socket in its folder.
const SOCKET: &str = "intake.sock";
/// Where the socket of an agent that runs as a service is.
const SERVICE_SOCKET: &str = "/run/tallystick/intake.sock";

/// The local intake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeSettings {
    /// Whether anything may be reported.
    pub enabled: bool,
    /// The Unix socket. Without it: `intake.sock` in the service manager's runtime folder, else in the data folder.
    pub socket: Option<PathBuf>,
    /// Access mode of the socket.
    pub mode: u32,
    /// Group of the socket, by number; the agent's own without it.
    pub group: Option<u32>,
    /// Users, by number, whose processes may report for other workloads than their own.
    pub report_for_others: Vec<u32>,
    /// Which application meters are taken.
    pub meters: Selection,
    /// Most events that are remembered in order not to count them again.
    pub events: usize,
    /// Most series whose counts are followed.
    pub series: usize,
}

/// In which unit an application counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppUnit {
    /// Whatever it is.
    #[default]
    Count,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

impl AppUnit {
    /// The meter that counts in this unit.
    #[must_use]
    pub fn meter(self) -> Meter {
        match self {
            Self::Count => Meter::APP_COUNT,
            Self::Bytes => Meter::APP_BYTES,
            Self::Seconds => Meter::APP_SECONDS,
        }
    }
}

/// One target that is asked for its counters, in Prometheus' text format or OpenMetrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrape {
    /// `http://127.0.0.1:9100/metrics`, or `unix:/path/of.sock:/metrics`.
    pub url: String,
    /// Time between two readings.
    #[serde(default = "minute")]
    pub interval_seconds: u64,
    /// The workload whose usage it is.
    pub workload: String,
    /// What is read.
    pub meters: Vec<ScrapeMeter>,
}

/// One counter of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrapeMeter {
    /// Its name there, as on the line.
    pub metric: String,
    /// Only lines with these labels; the others are not counted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its name here.
    pub meter: AppMeter,
    /// In which unit it counts.
    #[serde(default)]
    pub unit: AppUnit,
}

fn minute() -> u64 {
    60
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            socket: None,
            mode: 0o660,
            group: None,
            report_for_others: Vec::new(),
            meters: Selection::new(&["*"], &[]),
            events: 100_000,
            series: 10_000,
        }
    }
}

impl IntakeSettings {
    /// Where an agent that keeps its data in `data` listens. `runtime` is the folder that a service manager made
    /// for it.
    #[must_use]
    pub fn listen_on(&self, data: &Path, runtime: Option<&Path>) -> PathBuf {
        match &self.socket {
            Some(socket) => socket.clone(),
            None => runtime.unwrap_or(data).join(SOCKET),
        }
    }

    /// Where to look for the socket of such an agent, in order.
    #[must_use]
    pub fn look_at(&self, data: &Path) -> Vec<PathBuf> {
        match &self.socket {
            Some(socket) => vec![socket.clone()],
            None => vec![data.join(SOCKET), PathBuf::from(SERVICE_SOCKET)],
        }
    }
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// On a loopback address: `host:port`, and the path there.
    Loopback(std::net::SocketAddr, String),
    /// On a Unix socket.
    Unix(PathBuf, String),
}

impl Scrape {
    /// Where it is.
    ///
    /// # Errors
    /// Why the address cannot be asked.
    pub fn target(&self) -> Result<Target, &'static str> {
        if let Some(rest) = self.url.strip_prefix("unix:") {
            let (socket, path) = rest.split_once(':').unwrap_or((rest, "/metrics"));
            return if socket.starts_with('/') && path.starts_with('/') {
                Ok(Target::Unix(socket.into(), path.to_owned()))
            } else {
                Err("a Unix target is written unix:/path/of.sock:/metrics")
            };
        }
        let rest = self
            .url
            .strip_prefix("http://")
            .ok_or("it begins with neither http:// nor unix:")?;
        let (place, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/metrics"),
        };
        let place = place.replace("localhost:", "127.0.0.1:");
        let place: std::net::SocketAddr = place
            .parse()
            .map_err(|_| "the host is not an address with a port, as 127.0.0.1:9100")?;
        if place.ip().is_loopback() {
            Ok(Target::Loopback(place, path.to_owned()))
        } else {
            Err("only targets on this host's loopback are asked")
        }
    }
}

pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = intake(&config.intake);
    if !config.intake.enabled && !config.scrape.is_empty() {
        problems.push(problem(
            "scrape",
            "targets are asked by the intake, which is off",
            "set intake.enabled = true, or remove them",
        ));
    }
    for (index, scrape) in config.scrape.iter().enumerate() {
        problems.extend(check_scrape(&format!("scrape[{index}]"), scrape));
    }
    problems
}

fn intake(settings: &IntakeSettings) -> Vec<Problem> {
    let mut problems = Vec::new();
    if settings
        .socket
        .as_ref()
        .is_some_and(|path| !path.is_absolute())
    {
        problems.push(problem(
            "intake.socket",
            "it is not an absolute path",
            "write it from the root",
        ));
    }
    if settings.mode > 0o777 {
        problems.push(problem(
            "intake.mode",
            format!("{} is not an access mode", settings.mode),
            "write it in octal, for example 0o660",
        ));
    }
    for (key, value) in [("events", settings.events), ("series", settings.series)] {
        if !(100..=10_000_000).contains(&value) {
            problems.push(problem(
                &format!("intake.{key}"),
                format!("{value} is not in 100..=10000000"),
                "each takes some 60 bytes of memory",
            ));
        }
    }
    let selection = &settings.meters;
    for text in selection.include.iter().chain(&selection.exclude) {
        if let Err(error) = glob(text) {
            problems.push(problem(
                "intake.meters",
                error.to_string(),
                "correct or remove it",
            ));
        }
    }
    problems
}

fn check_scrape(key: &str, scrape: &Scrape) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Err(why) = scrape.target() {
        problems.push(problem(
            &format!("{key}.url"),
            format!("{:?}: {why}", scrape.url),
            "correct it",
        ));
    }
    if !(1..=3_600).contains(&scrape.interval_seconds) {
        problems.push(problem(
            &format!("{key}.interval_seconds"),
            format!("{} is not in 1..=3600", scrape.interval_seconds),
            "use 60",
        ));
    }
    if scrape.meters.is_empty() {
        problems.push(problem(
            &format!("{key}.meters"),
            "nothing would be read",
            "name a metric and the meter it is counted in",
        ));
    }
    for meter in &scrape.meters {
        if let Err(error) = meter.meter.workload(&scrape.workload) {
            problems.push(problem(
                &format!("{key}.workload"),
                error.to_string(),
                "give another name",
            ));
        }
    }
    problems
}
