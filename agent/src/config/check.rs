//! Values that cannot be run with, each with its remedy.

use std::fmt;

use super::selection::glob;
use super::{Config, Selection};

/// Seconds in a quarter-hour: samples and seals must fall on its ends.
const QUARTER_HOUR: u64 = 900;
const MAX_SAMPLE: u64 = 300;
const MIN_BUFFER_BYTES: u64 = 16 << 20;
/// Limits of the sealed form.
const MAX_LABEL_BYTES: usize = 256;
const MAX_LABELS: usize = 64;

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as written in the file.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.what, self.remedy)
    }
}

pub(super) fn problem(key: &str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem {
        key: key.to_owned(),
        what: what.into(),
        remedy: remedy.into(),
    }
}

pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = periods(config);
    let selections = [
        ("cgroups", &config.cgroups),
        ("container_labels", &config.container_labels),
        ("interfaces", &config.interfaces),
        ("disks", &config.disks),
        ("filesystems", &config.filesystems),
    ];
    for (table, selection) in selections {
        problems.extend(bad_globs(table, selection));
    }
    problems.extend(nested(&config.cgroups));
    problems.extend(limits(config));
    problems.extend(labels(config));
    problems.extend(super::intake::check(config));
    problems.extend(places(config));
    problems
}

fn periods(config: &Config) -> Vec<Problem> {
    let sample = config.sample_seconds;
    if !good_samples().any(|good| good == sample) {
        return vec![problem(
            "sample_seconds",
            format!("{sample} does not divide a quarter-hour, or is not in 1..={MAX_SAMPLE}"),
            format!("use one of {}", list(good_samples())),
        )];
    }
    if good_seals(sample).any(|good| good == config.seal_seconds) {
        return Vec::new();
    }
    vec![problem(
        "seal_seconds",
        format!(
            "{} is not a multiple of sample_seconds ({sample}) that divides a quarter-hour",
            config.seal_seconds
        ),
        format!("use one of {}", list(good_seals(sample))),
    )]
}

fn good_samples() -> impl Iterator<Item = u64> {
    (1..=MAX_SAMPLE).filter(|seconds| QUARTER_HOUR.is_multiple_of(*seconds))
}

fn good_seals(sample: u64) -> impl Iterator<Item = u64> {
    (1..=QUARTER_HOUR).filter(move |seconds| {
        QUARTER_HOUR.is_multiple_of(*seconds) && seconds.is_multiple_of(sample)
    })
}

fn list(values: impl Iterator<Item = u64>) -> String {
    values
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

fn bad_globs(table: &str, selection: &Selection) -> Vec<Problem> {
    let include = selection.include.iter().map(|text| ("include", text));
    let exclude = selection.exclude.iter().map(|text| ("exclude", text));
    include
        .chain(exclude)
        .filter_map(|(key, text)| {
            let error = glob(text).err()?;
            Some(problem(
                &format!("{table}.{key}"),
                error.to_string(),
                "correct or remove it",
            ))
        })
        .collect()
}

/// Globs that certainly select cgroups inside one another (I4). What only the real cgroups can show
/// is settled at every sample: there the outer one is metered.
fn nested(selection: &Selection) -> Vec<Problem> {
    let mut problems = Vec::new();
    for inner in &selection.include {
        if inner == "**" || inner.ends_with("/**") {
            problems.push(problem(
                "cgroups.include",
                format!("{inner:?} selects cgroups together with those inside them"),
                "name the level to meter, for example \"*\" or \"system.slice/*\"",
            ));
            continue;
        }
        let outer = selection
            .include
            .iter()
            .find(|outer| contains(outer, inner, &selection.exclude));
        if let Some(outer) = outer {
            problems.push(problem(
                "cgroups.include",
                format!("{inner:?} lies inside what {outer:?} selects and would be metered twice"),
                format!(
                    "remove one of them, or add the outer cgroup of {inner:?} to cgroups.exclude"
                ),
            ));
        }
    }
    problems
}

/// Whether `outer` certainly selects a cgroup around everything that `inner` selects.
fn contains(outer: &str, inner: &str, exclude: &[String]) -> bool {
    let (outer, inner): (Vec<&str>, Vec<&str>) =
        (outer.split('/').collect(), inner.split('/').collect());
    if outer.len() >= inner.len() || [&outer[..], &inner[..]].concat().contains(&"**") {
        return false;
    }
    let around = &inner[..outer.len()];
    let covered = outer
        .iter()
        .zip(around)
        .all(|(outer, inner)| *outer == "*" || outer == inner);
    covered && !may_be_excluded(&around.join("/"), exclude)
}

fn may_be_excluded(around: &str, exclude: &[String]) -> bool {
    let literal = !around.contains(['*', '?', '[', '{', '\\']);
    if !literal {
        return !exclude.is_empty();
    }
    exclude
        .iter()
        .filter_map(|text| glob(text).ok())
        .any(|glob| glob.compile_matcher().is_match(around))
}

fn limits(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.buffer.limit_bytes < MIN_BUFFER_BYTES {
        problems.push(problem(
            "buffer.limit_bytes",
            format!("{} is too little to work with", config.buffer.limit_bytes),
            format!("give at least {MIN_BUFFER_BYTES}"),
        ));
    }
    if !(100..=1_000_000).contains(&config.registers.limit) {
        problems.push(problem(
            "registers.limit",
            format!("{} is not in 100..=1000000", config.registers.limit),
            "a metered cgroup needs up to eight registers; the default is 10000",
        ));
    }
    if !config.data.is_absolute() {
        problems.push(problem(
            "data",
            format!("{} is not an absolute path", config.data.display()),
            "write it from the root, so that it does not depend on where the agent is started",
        ));
    }
    problems
}

/// Addresses to talk to, and to listen on.
fn places(config: &Config) -> Vec<Problem> {
    let mut problems: Vec<Problem> = config
        .addresses
        .iter()
        .filter(|address| !is_host_port(address))
        .map(|address| {
            problem(
                "addresses",
                format!("{address:?} is not host:port"),
                "write it like \"tally.example.net:8621\"",
            )
        })
        .collect();
    if let Some(address) = config.metrics.filter(|address| !address.ip().is_loopback()) {
        problems.push(problem(
            "metrics",
            format!("{address} can be reached from elsewhere, and answers whoever asks"),
            "use a loopback address such as \"127.0.0.1:8622\", with a proxy before it for others",
        ));
    }
    problems
}

fn is_host_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && !host.contains(|c: char| c == ':' || c.is_whitespace());
    (bracketed || plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn labels(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.labels.len() > MAX_LABELS {
        problems.push(problem(
            "labels",
            "too many",
            format!("keep at most {MAX_LABELS}"),
        ));
    }
    for (key, value) in &config.labels {
        let long = key.len().max(value.len()) > MAX_LABEL_BYTES;
        if key.is_empty() || long || key.chars().chain(value.chars()).any(char::is_control) {
            problems.push(problem(
                &format!("labels.{key}"),
                "empty key, control characters, or more than 256 bytes",
                "shorten or correct it",
            ));
        }
    }
    problems
}
