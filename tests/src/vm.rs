//! A virtual machine with a kernel and a disk of its own: control groups of version 2, and a plug to pull.
//!
//! Debian's cloud kernel under qemu, in software, so that it runs wherever the tests do. There is no
//! distribution in it: its root is an initramfs of busybox, the binaries under test and what they link to,
//! and it is up in some three seconds. Its disk is a file with ext4, mounted at `/data`; killing qemu loses
//! what the machine had not flushed, as a power cut does. `tests/vm/prepare` fetches the kernel,
//! `tests/vm/init` is the first process, the test's own `/job` the second.
//!
//! Its network is qemu's own, without a device on this host: `10.0.2.2` is this host's loopback.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use crate::poll;
use crate::process::{PATIENCE, Process, binary, output};

/// Where the machine reaches this host's loopback.
pub const HOST: &str = "10.0.2.2";

const PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "busybox", "mke2fs"];

/// Whether machines can be started here. If not, that is said.
#[must_use]
pub fn available() -> bool {
    let kernel = prepared("vmlinuz").exists();
    let found = kernel && PROGRAMS.iter().all(|name| program(name).is_ok());
    if !found {
        eprintln!(
            "SKIPPED: no virtual machine can be started; tests/run installs and prepares them"
        );
    }
    found
}

fn prepared(name: &str) -> PathBuf {
    let agent = binary("tallystick-agent");
    let target = agent.ancestors().nth(2).unwrap_or(&agent);
    target.join("vm").join(name)
}

/// Where a program of this host lies.
///
/// # Errors
/// When it is not installed.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = places.find(|place| place.is_file());
    found.with_context(|| format!("{name} is not installed"))
}

/// What a machine starts from: an initramfs in the making.
#[derive(Debug)]
pub struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    /// One that boots, and runs `job` with Debian's `/bin/sh`.
    ///
    /// # Errors
    /// When it cannot be put together.
    pub fn new(job: &str) -> anyhow::Result<Self> {
        let image = Self {
            folder: tempfile::tempdir()?,
        };
        for folder in ["bin", "data", "dev", "etc", "modules", "proc", "sys", "tmp"] {
            fs::create_dir(image.at(folder))?;
        }
        for module in fs::read_dir(prepared("modules"))? {
            let module = module?;
            fs::copy(module.path(), image.at("modules").join(module.file_name()))?;
        }
        let init = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/init");
        fs::copy(init, image.at("init"))?;
        fs::copy(program("busybox")?, image.at("bin/busybox"))?;
        image.program("/bin/sh", "bin/sh")?;
        image.file("job", job)?;
        Ok(image)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, at: &str, text: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.at(at), text)?)
    }

    /// A program of this host with the libraries that it links to, without what only debuggers read.
    ///
    /// # Errors
    /// When one of them cannot be copied.
    pub fn program(&self, from: impl AsRef<Path>, at: &str) -> anyhow::Result<()> {
        let from = from.as_ref();
        let listed = output(Command::new("ldd").arg(from))?;
        let libraries = listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for library in libraries {
            let to = self.at(&library[1..]);
            fs::create_dir_all(to.parent().context("a library lies in a folder")?)?;
            fs::copy(library, to)?;
        }
        let to = self.at(at);
        output(Command::new("strip").arg("-o").arg(&to).arg(from))?;
        Ok(fs::set_permissions(to, PermissionsExt::from_mode(0o755))?)
    }

    /// Packs it into a file in `folder`.
    ///
    /// # Errors
    /// When that fails.
    pub fn pack(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let packed = folder.join("initramfs");
        let script = "find . | busybox cpio -o -H newc > \"$0\"";
        output(
            Command::new("sh")
                .args(["-c", script])
                .arg(&packed)
                .current_dir(&self.folder),
        )?;
        Ok(packed)
    }
}

/// Makes the file of a disk with ext4, and in it a copy of the folder `content`.
///
/// # Errors
/// When that fails.
pub fn format(disk: &Path, megabytes: u32, content: Option<&Path>) -> anyhow::Result<()> {
    let mut command = Command::new(program("mke2fs")?);
    command.args(["-q", "-t", "ext4"]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    output(command.arg(disk).arg(format!("{megabytes}M"))).map(drop)
}

/// Copies the folder `from` of a disk that was taken down in good order, into the folder `to`.
///
/// # Errors
/// When that fails.
pub fn copy_out(disk: &Path, from: &str, to: &Path) -> anyhow::Result<()> {
    let order = format!("rdump {from} {}", to.display());
    output(
        Command::new(program("debugfs")?)
            .args(["-R", &order])
            .arg(disk),
    )
    .map(drop)
}

/// How a machine is started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// From [`Image::pack`].
    pub initramfs: &'a Path,
    /// From [`format`].
    pub disk: &'a Path,
    /// Its memory.
    pub megabytes: u32,
    /// `KEY=VALUE KEY=VALUE`, in the job's environment.
    pub parameters: &'a str,
}

/// A running one. Killed when dropped.
#[derive(Debug)]
pub struct Vm {
    process: Process,
    monitor: Monitor,
    _folder: tempfile::TempDir,
}

/// What qemu has done for the machine's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskWork {
    /// Writes completed.
    pub writes: u64,
    /// Flushes completed.
    pub flushes: u64,
}

impl Vm {
    /// Starts one; what it writes on its serial line is [`Vm::said`].
    ///
    /// # Errors
    /// When qemu does not run.
    pub fn start(machine: &Machine<'_>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("monitor");
        let (disk, socket_at) = (machine.disk.display(), socket.display());
        let append = format!("console=ttyS0 quiet panic=-1 {}", machine.parameters);
        let mut command = Command::new(program("qemu-system-x86_64")?);
        command
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
            ])
            .args(["-smp", "2", "-m", &machine.megabytes.to_string()])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-kernel")
            .arg(prepared("vmlinuz"))
            .arg("-initrd")
            .arg(machine.initramfs)
            .args(["-append", &append])
            .arg("-drive")
            .arg(format!("id=disk,file={disk},format=raw,if=none"))
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .args(["-netdev", "user,id=net"])
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-serial", "stdio", "-qmp"])
            .arg(format!("unix:{socket_at},server=on,wait=off"));
        let process = Process::spawn(&mut command)?;
        let monitor = Monitor::connect(&socket).with_context(|| process.stderr())?;
        Ok(Self {
            process,
            monitor,
            _folder: folder,
        })
    }

    /// What it has written on its serial line so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.process.stdout().replace('\r', "")
    }

    /// Waits until `find` finds something in what it said.
    ///
    /// # Errors
    /// When it ends before, or `deadline` passes; with what it said instead.
    pub fn says<T>(
        &mut self,
        deadline: Duration,
        find: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let end = std::time::Instant::now() + deadline;
        loop {
            let ended = self.process.ended()?;
            let said = self.said();
            if let Some(found) = find(&said) {
                return Ok(found);
            }
            let late = std::time::Instant::now() > end;
            if late || ended.is_some() {
                bail!(
                    "the machine did not say what was waited for: {said}{}",
                    self.process.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its disk has done so far.
    ///
    /// # Errors
    /// When qemu does not say.
    pub fn disk_work(&mut self) -> anyhow::Result<DiskWork> {
        let answer = self
            .monitor
            .ask(&json!({ "execute": "query-blockstats" }))?;
        let stats = &answer[0]["stats"];
        let count = |key: &str| {
            stats[key]
                .as_u64()
                .with_context(|| format!("{key} in {answer}"))
        };
        Ok(DiskWork {
            writes: count("wr_operations")?,
            flushes: count("flush_operations")?,
        })
    }

    /// From now on its disk takes so many writes a second.
    ///
    /// # Errors
    /// When qemu does not do it.
    pub fn slow_disk(&mut self, writes: u32) -> anyhow::Result<()> {
        let limits = json!({
            "device": "disk", "bps": 0, "bps_rd": 0, "bps_wr": 0,
            "iops": 0, "iops_rd": 0, "iops_wr": writes,
        });
        let order = json!({ "execute": "block_set_io_throttle", "arguments": limits });
        self.monitor.ask(&order).map(drop)
    }

    /// Pulls the plug: SIGKILL to qemu. What it had said.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn cut(mut self) -> anyhow::Result<String> {
        ensure!(
            self.process.ended()?.is_none(),
            "it ended by itself: {}",
            self.said()
        );
        let signal = rustix::process::Signal::KILL;
        self.process.signal(signal)?;
        self.process.wait(PATIENCE)?;
        Ok(self.said())
    }

    /// Waits until it has powered itself off. What it had said.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(mut self, deadline: Duration) -> anyhow::Result<String> {
        let status = self.process.wait(deadline).with_context(|| self.said())?;
        ensure!(status.success(), "{status}: {}", self.process.stderr());
        Ok(self.said())
    }
}

/// qemu's QMP.
#[derive(Debug)]
struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = poll::until(PATIENCE, "qemu's monitor", || {
            UnixStream::connect(socket).ok()
        });
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            lines: BufReader::new(stream),
        };
        monitor.ask(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(monitor)
    }

    /// Events and the greeting are passed over.
    fn ask(&mut self, command: &Value) -> anyhow::Result<Value> {
        writeln!(self.lines.get_mut(), "{command}")?;
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "qemu has gone");
            let mut answer: Value = serde_json::from_str(&line)?;
            ensure!(answer["error"].is_null(), "{command}: {answer}");
            if !answer["return"].is_null() {
                return Ok(answer["return"].take());
            }
        }
    }
}
