//! A control group of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;

/// Made for one test; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    name: String,
}

impl Cgroup {
    /// Makes one below the hierarchy's root. `None`, said aloud, where this user may not.
    #[must_use]
    pub fn make(tag: &str) -> Option<Self> {
        let name = Self::name_of(tag);
        let roots = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup"];
        let made = roots.iter().map(|root| PathBuf::from(root).join(&name));
        let path = made
            .into_iter()
            .find(|path| fs::create_dir(path).is_ok() && has_counter(path));
        if path.is_none() {
            eprintln!(
                "SKIPPED: no control group with a CPU counter can be made below {roots:?}; run as root where they are writable"
            );
        }
        path.map(|path| Self { path, name })
    }

    /// What one with this tag will be called, by this process.
    #[must_use]
    pub fn name_of(tag: &str) -> String {
        format!("tallystick-{tag}-{}", std::process::id())
    }

    /// What its workload is called.
    #[must_use]
    pub fn workload(&self) -> String {
        format!("cgroup/{}", self.name)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path below the hierarchy's root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel's figure in whole microseconds, cut.
    ///
    /// # Panics
    /// When the kernel does not give one.
    #[must_use]
    pub fn cpu_time(&self) -> u128 {
        if let Ok(text) = fs::read_to_string(self.path.join("cpuacct.usage")) {
            return text.trim().parse::<u128>().expect("nanoseconds") / 1000;
        }
        let text = fs::read_to_string(self.path.join("cpu.stat")).expect("a group has cpu.stat");
        let mut lines = text.lines();
        let usage = lines.find_map(|line| line.strip_prefix("usage_usec "));
        let usage = usage.expect("cpu.stat has usage_usec");
        usage.trim().parse().expect("microseconds")
    }

    /// Burns CPU in it for a moment, to the end of the process that did.
    ///
    /// # Panics
    /// When that cannot be started in it.
    pub fn burn(&self) {
        let script = format!("{}{BURN}", self.enter());
        let status = Command::new("sh").args(["-c", &script]).status();
        assert!(status.is_ok_and(|status| status.success()), "{script}");
    }

    /// Whether the last process has left it: from then on its counter stands still. A killed shell's
    /// own child may outlive the shell for a moment, and is counted to its end.
    ///
    /// # Panics
    /// When the group cannot be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let procs = fs::read_to_string(self.path.join("cgroup.procs"));
        procs.expect("a group has cgroup.procs").trim().is_empty()
    }

    /// Keeps using CPU in it, now more, now less, until dropped.
    ///
    /// # Errors
    /// When that cannot be started.
    pub fn keep_busy(&self) -> anyhow::Result<Process> {
        let script = format!(
            "{}while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.05; done",
            self.enter()
        );
        Process::spawn(Command::new("sh").args(["-c", &script]))
    }

    /// `program`, to be run in it; arguments may be added.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("sh");
        let script = format!("{}exec \"$0\" \"$@\"", self.enter());
        command.args(["-c", &script]).arg(program);
        command
    }

    /// Starts `command` in it.
    ///
    /// # Errors
    /// When that cannot be started.
    pub fn spawn(&self, command: &Command) -> anyhow::Result<Process> {
        let program = std::path::Path::new(command.get_program());
        Process::spawn(self.command(program).args(command.get_args()))
    }

    fn enter(&self) -> String {
        format!(
            "echo $$ > '{}/cgroup.procs' || exit 1; ",
            self.path.display()
        )
    }
}

const BURN: &str = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done";

fn has_counter(path: &Path) -> bool {
    let has = ["cpuacct.usage", "cpu.stat"]
        .iter()
        .any(|file| path.join(file).exists());
    if !has {
        let _ = fs::remove_dir(path);
    }
    has
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A child that was just killed may still be leaving.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", self.path.display());
    }
}
