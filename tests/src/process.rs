//! The product's binaries as processes.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The binary `name` beside this test's own.
///
/// # Panics
/// When it has not been built; the message has the command.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running test has an executable");
    own.ancestors()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .expect("the binary is built: run `cargo build --workspace` first")
}

/// A running `tallystick up`. Ended by SIGKILL when dropped.
#[derive(Debug)]
pub struct Up {
    child: Child,
    /// Base of the API.
    pub api: String,
    /// API token.
    pub token: String,
    /// One-time login link.
    pub console: String,
}

impl Up {
    /// Starts it on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn start(data: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(binary("tallystick"))
            .args(["up", "--listen", "127.0.0.1:0", "--json", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("its output is piped")?;
        for line in BufReader::new(out).lines() {
            let event: Value = serde_json::from_str(&line?)?;
            if event["event"] == "ready" {
                let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
                let (api, token, console) = (text("api"), text("token"), text("console"));
                return Ok(Self {
                    child,
                    api,
                    token,
                    console,
                });
            }
        }
        bail!(
            "tallystick up ended with {:?} before it was ready",
            child.wait()?
        )
    }

    /// `GET path` of the API.
    ///
    /// # Errors
    /// When it is not answered by 200 and JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let mut answer = ureq::get(format!("{}{path}", self.api))
            .header("Authorization", format!("Bearer {}", self.token))
            .call()
            .with_context(|| path.to_owned())?;
        Ok(answer.body_mut().read_json()?)
    }

    /// SIGTERM, and the exit code.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn terminate(mut self) -> anyhow::Result<Option<i32>> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).context("a child has a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        Ok(self.child.wait()?.code())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
