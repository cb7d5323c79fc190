//! The product's binaries as processes of this test: started, listened to, signalled, ended.
//!
//! Signals only processes that it started, by their own ids.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::http::Api;

/// How long a process may take to start or to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary `name` beside this test's own; where the folder `TALLYSTICK_BINARIES` has one, that.
///
/// # Panics
/// When it has not been built; the message has the command.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running test has an executable");
    let given = std::env::var_os("TALLYSTICK_BINARIES").map(PathBuf::from);
    let given = given.and_then(|folder| folder.canonicalize().ok());
    given
        .iter()
        .map(PathBuf::as_path)
        .chain(own.ancestors())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .expect("the binary is built: run `cargo build --workspace` first")
}

/// The Python that the tests' scripts run with.
///
/// # Panics
/// When it has not been made; the message has the command.
#[must_use]
pub fn python() -> PathBuf {
    let own = std::env::current_exe().expect("a running test has an executable");
    own.ancestors()
        .map(|folder| folder.join("python-venv/bin/python"))
        .find(|path| path.is_file())
        .expect("the scripts' Python is made: run `tests/python` first")
}

/// A child whose output is kept. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    logs: tempfile::TempDir,
}

impl Process {
    /// Starts `command`; its output goes to files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let logs = tempfile::tempdir()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(logs.path().join("out"))?)
            .stderr(File::create(logs.path().join("err"))?)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, logs })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.logs.path().join("out")).unwrap_or_default()
    }

    /// What it has said on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.logs.path().join("err")).unwrap_or_default()
    }

    /// Waits until `find` finds something in what it printed.
    ///
    /// # Errors
    /// When it ends before, or says nothing of the kind for a minute; with what it said instead.
    pub fn says<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.try_wait()?;
            if let Some(found) = find(&self.stdout()) {
                return Ok(found);
            }
            if let Some(status) = ended {
                bail!("it ended with {status}: {}{}", self.stdout(), self.stderr());
            }
            ensure!(
                Instant::now() < end,
                "it did not say what was waited for: {}{}",
                self.stdout(),
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `deadline`; with what it said.
    pub fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "it did not end within {deadline:?}: {}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends it `signal`.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a child has an id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// `kill -9`, and what it said before.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(mut self) -> anyhow::Result<String> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.stderr())
    }

    /// SIGTERM, and its end.
    ///
    /// # Errors
    /// When it cannot be signalled, or does not end.
    pub fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(PATIENCE)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end: what it printed.
///
/// # Errors
/// When it does not end well; with what it said.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {said}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A running `tallystick up`. Killed when dropped.
#[derive(Debug)]
pub struct Up {
    process: Process,
    /// The API, with the administrator's token.
    pub api: Api,
    /// One-time login link.
    pub console: String,
}

impl Up {
    /// Starts it on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn start(data: &Path) -> anyhow::Result<Self> {
        Self::start_as(&mut Command::new(binary("tallystick")), data)
    }

    /// As [`Up::start`], by a command to which only the arguments are added.
    ///
    /// # Errors
    /// When it ends before it is ready.
    pub fn start_as(command: &mut Command, data: &Path) -> anyhow::Result<Self> {
        command
            .args(["up", "--listen", "127.0.0.1:0", "--json", "--data"])
            .arg(data);
        let mut process = Process::spawn(command)?;
        let ready = process.says(|said| {
            said.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|event| event["event"] == "ready")
        })?;
        let text = |key: &str| {
            let value = ready[key].as_str();
            value
                .map(str::to_owned)
                .with_context(|| format!("{key} is missing in {ready}"))
        };
        Ok(Self {
            process,
            api: Api::new(text("api")?, text("token")?),
            console: text("console")?,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// `GET path` of the API.
    ///
    /// # Errors
    /// When it is not answered by 200 and JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.api.get(path)
    }

    /// Ctrl-C, and the exit code.
    ///
    /// # Errors
    /// When it cannot be signalled, or does not end.
    pub fn interrupt(mut self) -> anyhow::Result<Option<i32>> {
        self.process.signal(Signal::INT)?;
        Ok(self.process.wait(PATIENCE)?.code())
    }

    /// SIGTERM, and the exit code.
    ///
    /// # Errors
    /// When it cannot be signalled, or does not end.
    pub fn terminate(self) -> anyhow::Result<Option<i32>> {
        Ok(self.process.terminate()?.code())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(self) -> anyhow::Result<()> {
        self.process.kill().map(drop)
    }
}
