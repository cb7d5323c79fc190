//! What the agent costs its host: the real binary, fifty control groups, a sample every ten seconds, shipping
//! to a reconciler in this process.
//!
//! Memory, CPU time and bytes written come from the kernel: `/proc/PID/status`, the agent's own control
//! group, `/proc/PID/io`. Beside them, in the same run, baselines: the memory of a `sleep`; the CPU time of
//! opening and reading the same files of the same groups once a sample; the bytes of the sealed segments.
//!
//! Needs `cargo build --release -p tallystick-agent` first, and root (it makes control groups).
//! `TALLYSTICK_BENCH_SECONDS` (180): how long is measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};
use tallystick_common::ids::Seq;
use tallystick_reconciler::store::{Store, streams};
use tallystick_tests::bench::{self, Table, is_quick, setting};
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::process::{Process, binary, output};
use tallystick_tests::world::Reconciler;

const GROUPS: usize = 50;
const SAMPLE_S: u64 = 10;
const SEAL_S: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(200);
const PAUSE: Duration = Duration::from_millis(100);
/// The files that the agent reads of a control group, where there are such.
const FILES: [&str; 8] = [
    "cpuacct.usage",
    "cpu.stat",
    "memory.usage_in_bytes",
    "memory.current",
    "memory.stat",
    "blkio.throttle.io_service_bytes_recursive",
    "blkio.throttle.io_serviced_recursive",
    "io.stat",
];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let (Some(groups), Some(own)) = (Groups::make(), Cgroup::make("agent")) else {
        return Ok(());
    };
    let folder = bench::folder();
    let reconciler = Reconciler::start_in(&folder.path().join("reconciler")).await?;
    let config = configure(folder.path(), &groups.glob())?;
    let agent = binary("tallystick-agent");
    let token = reconciler.token().await?.to_string();
    let mut enrol = Command::new(&agent);
    enrol.arg("--config").arg(&config);
    enrol.args(["enroll", &token, "--name", "measured"]);
    let mut run = Command::new(&agent);
    run.arg("--config").arg(&config).arg("run");
    tokio::task::block_in_place(|| output(&mut enrol))?;
    let process = own.spawn(&run)?;
    let store = reconciler.ready().services.store.clone();
    let seconds = setting("TALLYSTICK_BENCH_SECONDS", 180, 2) as u64;
    println!(
        "{} measures {GROUPS} groups for {seconds} s, a sample every {} s",
        agent.display(),
        sample_s()
    );

    let first = arrival(&store, 0).await?;
    let before = Used::of(&process, &own)?;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let last = arrival(&store, first.segments).await?;
    let (after, elapsed) = (Used::of(&process, &own)?, began.elapsed());
    let status = memory(process.id())?;
    process.terminate()?;
    // Long since itself by the time that it is looked at.
    let sleeping = Process::spawn(Command::new("sleep").arg("600"))?;
    let reading = groups.read_cost()?;
    let empty = memory(sleeping.id())?;
    let used = Spent {
        cpu: after.cpu.saturating_sub(before.cpu),
        written: after.written - before.written,
        intervals: last.intervals - first.intervals,
        sealed: last.bytes - first.bytes,
        elapsed,
    };
    print(&status, &empty, &used, reading);
    Ok(())
}

/// What the agent used of the machine while it was watched.
struct Spent {
    cpu: Duration,
    written: u64,
    intervals: u64,
    sealed: u64,
    elapsed: Duration,
}

fn print(status: &Memory, empty: &Memory, spent: &Spent, reading: Duration) {
    let mut table = Table::new(&["tallystick-agent", "figure", "baseline", "ratio"]);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    for (name, figure, baseline) in [
        (
            "memory now (VmRSS), baseline `sleep`",
            status.now_kib,
            empty.now_kib,
        ),
        (
            "memory at most (VmHWM), baseline `sleep`",
            status.most_kib,
            empty.most_kib,
        ),
    ] {
        let ratio = format!("{:.1}", figure as f64 / baseline as f64);
        table.row(&[name, &mib(figure), &mib(baseline), &ratio]);
    }
    let seconds = spent.elapsed.as_secs_f64();
    let share = spent.cpu.as_secs_f64() / seconds;
    let plain = reading.as_secs_f64() / sample_s() as f64;
    let ratio = format!("{:.1}", share / plain);
    let hour = |share: f64| format!("{:.2} s", share * 3600.0);
    let percent = |share: f64| format!("{:.4} %", share * 100.0);
    let (name, again) = (
        "CPU time an hour, baseline opening and reading the same files",
        "the same as part of a core",
    );
    table.row(&[name, &hour(share), &hour(plain), &ratio]);
    table.row(&[again, &percent(share), &percent(plain), &ratio]);
    let each = |bytes: u64| bytes as f64 / spent.intervals.max(1) as f64;
    table.row(&[
        "bytes written to disk per interval, baseline its sealed bytes",
        &format!("{:.1}", each(spent.written)),
        &format!("{:.1}", each(spent.sealed)),
        &format!("{:.1}", spent.written as f64 / spent.sealed.max(1) as f64),
    ]);
    table.print(&format!(
        "footprint of the agent: {GROUPS} control groups, {} intervals sealed in {seconds:.0} s",
        spent.intervals
    ));
}

/// In the quick run as often as can be.
fn sample_s() -> u64 {
    if is_quick() { 1 } else { SAMPLE_S }
}

fn configure(folder: &Path, glob: &str) -> anyhow::Result<PathBuf> {
    let seal = if is_quick() { 1 } else { SEAL_S };
    let mut config = format!("sample_seconds = {}\nseal_seconds = {seal}\n", sample_s());
    config += &format!("data = {:?}\n", folder.join("agent"));
    config += &format!("[cgroups]\ninclude = [{glob:?}]\n");
    let path = folder.join("agent.toml");
    fs::write(&path, config)?;
    Ok(path)
}

/// What has arrived at the reconciler.
struct Arrived {
    segments: u64,
    intervals: u64,
    bytes: u64,
}

/// Waits for more than `segments` to arrive.
async fn arrival(store: &Store, segments: u64) -> anyhow::Result<Arrived> {
    let end = Instant::now() + PATIENCE;
    loop {
        let arrived = arrived(store).await?;
        if arrived.segments > segments {
            return Ok(arrived);
        }
        ensure!(Instant::now() < end, "no segment arrives");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn arrived(store: &Store) -> anyhow::Result<Arrived> {
    let mut all = Arrived {
        segments: 0,
        intervals: 0,
        bytes: 0,
    };
    let mut tx = store.read().await?;
    for stream in streams::all(&mut tx).await? {
        for segment in streams::segments_from(&mut tx, stream.row, Seq::FIRST, u32::MAX).await? {
            all.segments += 1;
            all.bytes += segment.bytes.len() as u64;
            let intervals = segment.read()?.1;
            all.intervals += intervals
                .iter()
                .map(|block| block.interval_count() as u64)
                .sum::<u64>();
        }
    }
    Ok(all)
}

/// What a process has used so far.
struct Used {
    cpu: Duration,
    written: u64,
}

impl Used {
    fn of(process: &Process, own: &Cgroup) -> anyhow::Result<Self> {
        Ok(Self {
            cpu: Duration::from_micros(u64::try_from(own.cpu_time())?),
            written: figure(process.id(), "io", "write_bytes:")?,
        })
    }
}

struct Memory {
    now_kib: u64,
    most_kib: u64,
}

fn memory(process: u32) -> anyhow::Result<Memory> {
    Ok(Memory {
        now_kib: figure(process, "status", "VmRSS:")?,
        most_kib: figure(process, "status", "VmHWM:")?,
    })
}

/// The number behind `key` in a file of a process.
fn figure(process: u32, file: &str, key: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/{file}"))?;
    let found = text.lines().find_map(|line| line.strip_prefix(key));
    let number = found.and_then(|rest| rest.split_ascii_whitespace().next());
    Ok(number
        .with_context(|| format!("{file} has {key}"))?
        .parse()?)
}

/// The control groups to be metered, a process in each: with the same name in every v1 hierarchy that
/// counts something, or once in the unified one.
struct Groups {
    groups: Vec<Cgroup>,
    elsewhere: Vec<PathBuf>,
    /// Ended before their groups are removed: fields are dropped in order, so they are taken in `drop`.
    busy: Vec<Process>,
}

impl Groups {
    fn make() -> Option<Self> {
        let mut made = Self {
            groups: Vec::new(),
            elsewhere: Vec::new(),
            busy: Vec::new(),
        };
        for place in 0..GROUPS {
            let group = Cgroup::make(&format!("bench-{place:02}"))?;
            let mut enter = String::new();
            for hierarchy in ["memory", "blkio"] {
                let path = Path::new("/sys/fs/cgroup")
                    .join(hierarchy)
                    .join(group.name());
                if fs::create_dir(&path).is_ok() {
                    enter += &format!("echo $$ > '{}/cgroup.procs'; ", path.display());
                    made.elsewhere.push(path);
                }
            }
            let wake = format!("{enter} while :; do sleep 5; done");
            let busy = group.spawn(Command::new("sh").args(["-c", &wake]));
            made.busy.push(busy.ok()?);
            made.groups.push(group);
        }
        Some(made)
    }

    fn glob(&self) -> String {
        let name = Cgroup::name_of("bench-*");
        assert!(self.groups.len() == GROUPS);
        name
    }

    /// CPU time of opening and reading, once, what the agent reads of them.
    fn read_cost(&self) -> anyhow::Result<Duration> {
        let cpu = self.groups.iter().map(Cgroup::path);
        let folders = cpu.chain(self.elsewhere.iter().map(PathBuf::as_path));
        let files: Vec<PathBuf> = folders
            .flat_map(|folder| FILES.map(|file| folder.join(file)))
            .filter(|path| path.exists())
            .collect();
        let mut kinds = BTreeMap::new();
        for file in &files {
            *kinds.entry(file.file_name()).or_insert(0) += 1;
        }
        println!("baseline reads {kinds:?}");
        let rounds = setting("TALLYSTICK_BENCH_ROUNDS", 200, 2);
        let began = thread_time();
        for _ in 0..rounds {
            for file in &files {
                std::hint::black_box(fs::read(file)?);
            }
        }
        Ok((thread_time() - began) / u32::try_from(rounds)?)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.busy.clear();
        for path in &self.elsewhere {
            // A child that was just killed may still be leaving.
            for _ in 0..100 {
                if fs::remove_dir(path).is_ok() || !path.exists() {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
