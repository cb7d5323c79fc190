//! Both sides as separate processes on loopback: `tallystick-reconciler serve`, `tallystick-agent run`.
//!
//! Owns their data folders and addresses, so that either can be killed and started again as it was.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tallystick_agent::buffer::{Peek, peek};
use tallystick_agent::status::Status;

use crate::http::Api;
use crate::process::{Process, binary, output};

/// Names the failpoint at which a process ends itself.
pub const FAILPOINT: &str = "TALLYSTICK_FAILPOINT";

/// What everything costs where a test does not care: one unit of money for an hour of CPU.
const PLAN: &str = r#"
name = "plain"
title = "Plain"
currency = "EUR"

[[prices]]
id = "cpu"
title = "CPU time"
meter = "cpu.time"
per = "cpu-hour"
model = "per_unit"
price = "3.60"
scope = "workload"
"#;

/// Data folders, addresses, and what runs of them.
#[derive(Debug)]
pub struct Sides {
    folder: tempfile::TempDir,
    listen: Option<(SocketAddr, SocketAddr)>,
    api_token: String,
    /// The reconciler, when it runs.
    pub reconciler: Option<Process>,
    /// The agent, when it runs.
    pub agent: Option<Process>,
}

impl Sides {
    /// A reconciler that serves, and an enrolled agent that does not run yet. It samples and seals every
    /// second and meters, besides the host, the control groups of these names only.
    ///
    /// # Errors
    /// When one of the commands fails.
    pub fn prepare(cgroups: &[&str]) -> anyhow::Result<Self> {
        Self::prepare_with(cgroups, "")
    }

    /// As [`Sides::prepare`], with a `reconciler.toml` of this text.
    ///
    /// # Errors
    /// As [`Sides::prepare`].
    pub fn prepare_with(cgroups: &[&str], reconciler: &str) -> anyhow::Result<Self> {
        let mut sides = Self {
            folder: tempfile::tempdir()?,
            listen: None,
            api_token: String::new(),
            reconciler: None,
            agent: None,
        };
        sides.configure_reconciler(reconciler)?;
        let made: Value = serde_json::from_str(&sides.reconcile(&["--json", "init"])?)?;
        let token = made["api_token"].as_str().context("init gives a token")?;
        token.clone_into(&mut sides.api_token);
        sides.start_reconciler(None)?;
        let mut config = String::from("sample_seconds = 1\nseal_seconds = 1\n");
        config += &format!("data = {:?}\n", sides.agent_data());
        config += &format!("[cgroups]\ninclude = {cgroups:?}\n");
        config += "[interfaces]\ninclude = [\"lo\"]\nexclude = []\n";
        config += "[filesystems]\ninclude = [\"root\"]\n";
        std::fs::write(sides.folder.path().join("agent.toml"), config)?;
        let token = sides.join_token()?;
        output(
            sides
                .agent_command()
                .args(["enroll", &token, "--name", "metered"]),
        )?;
        Ok(sides)
    }

    /// The agent's socket for applications.
    #[must_use]
    pub fn intake(&self) -> PathBuf {
        self.agent_data().join("intake.sock")
    }

    /// `tallystick-agent report` with these arguments, not started yet.
    #[must_use]
    pub fn report(&self, arguments: &[&str]) -> Command {
        let mut command = self.agent_command();
        command.arg("report").args(arguments);
        command
    }

    /// An account that pays by the plain plan for all control groups and the rest of every host, from the
    /// first of the month before `month` (`2026-11`) on; gives the month before.
    ///
    /// # Errors
    /// When one of the requests fails.
    pub fn subscribe(&self, account: &str, month: &str) -> anyhow::Result<String> {
        let before = month_before(month).with_context(|| format!("{month} is a month"))?;
        let from = format!("{before}-01T00:00:00Z");
        let api = self.api()?;
        let new = json!({ "id": account, "name": account, "currency": "EUR" });
        api.post("/v1/accounts", &new)?;
        api.post("/v1/plans", &json!({ "toml": PLAN }))?;
        let plan = json!({ "account": account, "plan": "plain", "from": from });
        api.post("/v1/subscriptions", &plan)?;
        for workload in ["cgroup/*", "host/other"] {
            let rule =
                json!({ "account": account, "node": "*", "workload": workload, "from": from });
            api.post("/v1/assignments", &rule)?;
        }
        Ok(before)
    }

    /// Starts the reconciler, where it was before if it ran before, and waits until it serves. With a
    /// failpoint it does not wait: it may not live so long.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn start_reconciler(&mut self, failpoint: Option<&str>) -> anyhow::Result<()> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (ingest, http) = self.listen.unwrap_or((any, any));
        let mut command = self.reconciler_command();
        let listen =
            [("--ingest", ingest), ("--http", http)].map(|(key, at)| (key, at.to_string()));
        command.arg("serve");
        for (key, at) in &listen {
            command.args([*key, at.as_str()]);
        }
        set(&mut command, failpoint);
        let mut process = Process::spawn(&mut command)?;
        if failpoint.is_none() {
            let listen = process.says(listening)?;
            self.listen = Some(listen);
        }
        self.reconciler = Some(process);
        Ok(())
    }

    /// Starts the agent.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self, failpoint: Option<&str>) -> anyhow::Result<()> {
        let mut command = self.agent_command();
        command.arg("run");
        set(&mut command, failpoint);
        self.agent = Some(Process::spawn(&mut command)?);
        Ok(())
    }

    /// Adds to the agent's configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, toml: &str) -> anyhow::Result<()> {
        let path = self.folder.path().join("agent.toml");
        let before = std::fs::read_to_string(&path)?;
        Ok(std::fs::write(path, before + toml)?)
    }

    /// The API of the reconciler.
    ///
    /// # Errors
    /// When it never listened.
    pub fn api(&self) -> anyhow::Result<Api> {
        let (_, http) = self.listen.context("the reconciler listens")?;
        Ok(Api::new(format!("http://{http}"), self.api_token.clone()))
    }

    /// From here on the API is asked with this token.
    pub fn take_token(&mut self, token: &str) {
        token.clone_into(&mut self.api_token);
    }

    /// Writes `reconciler.toml`; it holds from the next start on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure_reconciler(&self, text: &str) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.reconciler_data())?;
        Ok(std::fs::write(
            self.reconciler_data().join("reconciler.toml"),
            text,
        )?)
    }

    /// Stops the reconciler and starts it where it was.
    ///
    /// # Errors
    /// When one of both fails.
    pub fn restart_reconciler(&mut self) -> anyhow::Result<()> {
        let reconciler = self.reconciler.take().context("the reconciler runs")?;
        reconciler.terminate()?;
        self.start_reconciler(None)
    }

    /// Where agents reach the reconciler.
    ///
    /// # Errors
    /// When it never listened.
    pub fn ingest(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listen.context("the reconciler listens")?.0)
    }

    /// A new join token.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn join_token(&self) -> anyhow::Result<String> {
        let (ingest, _) = self.listen.context("the reconciler listens")?;
        let address = ingest.to_string();
        let token = self.reconcile(&["token", "create", "--address", &address])?;
        Ok(token.trim().to_owned())
    }

    /// Runs a command of the reconciler to its end: what it printed.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn reconcile(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.reconciler_command().args(arguments))
    }

    /// What the agent's journal says at this moment, whether it runs or not.
    ///
    /// # Errors
    /// When it cannot be read, or nothing was sealed yet.
    pub fn journal(&self) -> anyhow::Result<Peek> {
        peek(&self.buffer())?.context("something was sealed")
    }

    /// `tallystick-agent status`.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn status(&self) -> anyhow::Result<Status> {
        // Exit code 6 says that no agent runs, which is none of a failure here.
        let output = self.agent_command().args(["status", "--json"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            matches!(output.status.code(), Some(0 | 6)),
            "status: {said}"
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The agent's buffer.
    #[must_use]
    pub fn buffer(&self) -> PathBuf {
        self.agent_data().join("buffer")
    }

    /// The agent's data folder.
    #[must_use]
    pub fn agent_data(&self) -> PathBuf {
        self.folder.path().join("agent")
    }

    /// The reconciler's data folder.
    #[must_use]
    pub fn reconciler_data(&self) -> PathBuf {
        self.folder.path().join("reconciler")
    }

    /// The agent's configuration file.
    #[must_use]
    pub fn agent_config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// The agent's command line, up to the command.
    #[must_use]
    pub fn agent_command(&self) -> Command {
        let mut command = Command::new(binary("tallystick-agent"));
        clean(&mut command);
        command
            .arg("--config")
            .arg(self.folder.path().join("agent.toml"));
        command
    }

    /// The reconciler's command line, up to the command.
    #[must_use]
    pub fn reconciler_command(&self) -> Command {
        let mut command = Command::new(binary("tallystick-reconciler"));
        clean(&mut command);
        command.env("TALLYSTICK_RECONCILER_DATA", self.reconciler_data());
        command
    }
}

fn clean(command: &mut Command) {
    command.env_remove(FAILPOINT).env_remove("RUST_LOG");
}

fn set(command: &mut Command, failpoint: Option<&str>) {
    if let Some(failpoint) = failpoint {
        command.env(FAILPOINT, failpoint);
    }
}

fn listening(said: &str) -> Option<(SocketAddr, SocketAddr)> {
    let after = |key: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    let console = after("console")?;
    let http = console.strip_prefix("http://")?.trim_end_matches('/');
    Some((after("ingest")?.parse().ok()?, http.parse().ok()?))
}

fn month_before(month: &str) -> Option<String> {
    let (year, month) = month.split_once('-')?;
    let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
    Some(match month {
        1 => format!("{}-12", year - 1),
        _ => format!("{year}-{:02}", month - 1),
    })
}

/// Every failpoint that the product's source names, from all its crates, in order.
///
/// # Errors
/// When the source cannot be read.
pub fn failpoints() -> anyhow::Result<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = ["agent/src", "common/src", "reconciler/src", "packaging"]
        .iter()
        .map(|folder| root.join(folder))
        .collect();
    let mut names = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(named(&std::fs::read_to_string(&path)?));
            }
        }
    }
    Ok(names.into_iter().collect())
}

/// The names in `failpoint!("...")` of one file, comments left out.
fn named(source: &str) -> Vec<String> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let uses = code.filter_map(|line| line.split_once("failpoint!(\"")?.1.split_once("\")"));
    uses.map(|(name, _)| name.to_owned()).collect()
}
