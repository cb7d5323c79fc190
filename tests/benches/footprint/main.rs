//! What the agent costs its host, beside what others cost the same host in the same minutes: the real
//! binary with a hundred control groups and a sample every ten seconds, shipping to a reconciler in this
//! process; `prometheus-node-exporter`, scraped as often; `collectd`, with the plugins that read the same
//! things, writing them down by `csv`.
//!
//! Memory, CPU time and bytes written come from the kernel, for all three alike: `/proc/PID/status`, the
//! control group each runs in, `/proc/PID/io`. Other baselines: the memory of a `sleep`; the CPU time of
//! reading the same files of the same groups once a sample, opened each time and kept open; the bytes of the sealed segments.
//!
//! Needs root (it makes control groups), the agent as it is packaged (`cargo build --profile agent -p
//! tallystick-agent`, and `TALLYSTICK_BINARIES=target/agent`), and, to be compared with,
//! `apt-get install --no-install-recommends prometheus-node-exporter collectd-core`.
//! `TALLYSTICK_BENCH_SECONDS` (600): how long is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tallystick_common::ids::Seq;
use tallystick_reconciler::store::{Store, streams};
use tallystick_tests::bench::{self, Table, is_quick, setting};
use tallystick_tests::process::{Process, binary, output};
use tallystick_tests::world::Reconciler;

mod groups;
mod others;
mod used;

use groups::{Groups, ReadCost};
use used::{Memory, Subject, Used};

const SAMPLE_S: u64 = 10;
const SEAL_S: u64 = 60;
const PATIENCE: Duration = Duration::from_secs(200);
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let (Some(groups), Some(own)) = (Groups::make(), used::own_group("agent")) else {
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
    let mut subjects = vec![Subject::start("tallystick-agent", own, &run)?];
    subjects.extend(others::start(folder.path(), sample_s())?);
    let store = reconciler.ready().services.store.clone();
    let seconds = setting("TALLYSTICK_BENCH_SECONDS", 600, 2) as u64;
    println!(
        "{} ({} bytes) measures {} groups for {seconds} s, a sample every {} s",
        agent.display(),
        fs::metadata(&agent)?.len(),
        groups::GROUPS,
        sample_s()
    );

    let first = arrival(&store, 0).await?;
    let before = used_by(&subjects)?;
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let last = arrival(&store, first.segments).await?;
    let (after, elapsed) = (used_by(&subjects)?, began.elapsed());
    let spent: Vec<Used> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.since(before))
        .collect();
    let memory = subjects.iter().map(|subject| Memory::of(subject.id()));
    let memory: Vec<Memory> = memory.collect::<anyhow::Result<_>>()?;
    // Long since itself by the time that it is looked at.
    let sleeping = Process::spawn(Command::new("sleep").arg("600"))?;
    let reading = groups.read_cost()?;
    let empty = Memory::of(sleeping.id())?;
    let sealed = Arrived {
        segments: last.segments - first.segments,
        intervals: last.intervals - first.intervals,
        bytes: last.bytes - first.bytes,
    };
    print_each(&subjects, &memory, &spent, elapsed);
    print_agent(&memory[0], &empty, &spent[0], &sealed, &reading, elapsed);
    others::stop_scraping(&mut subjects);
    Ok(())
}

fn used_by(subjects: &[Subject]) -> anyhow::Result<Vec<Used>> {
    subjects.iter().map(Subject::used).collect()
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}

/// All of them, and how many times as much as the agent the others take.
fn print_each(subjects: &[Subject], memory: &[Memory], spent: &[Used], elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let columns = [
        "",
        "VmRSS",
        "VmHWM",
        "CPU s",
        "of a core",
        "CPU, ratio",
        "write_bytes",
        "ratio",
    ];
    let mut table = Table::new(&columns);
    let ratio = |value: f64, own: f64| format!("{:.1}", value / own.max(1e-9));
    for ((subject, memory), used) in subjects.iter().zip(memory).zip(spent) {
        let cpu = used.cpu.as_secs_f64();
        table.row(&[
            subject.name,
            &mib(memory.now_kib),
            &mib(memory.most_kib),
            &format!("{cpu:.3}"),
            &format!("{:.4} %", cpu / seconds * 100.0),
            &ratio(cpu, spent[0].cpu.as_secs_f64()),
            &used.written.to_string(),
            &ratio(used.written as f64, spent[0].written as f64),
        ]);
    }
    table.print(&format!(
        "side by side: {} control groups, {seconds:.0} s, a sample or scrape every {} s",
        groups::GROUPS,
        sample_s()
    ));
}

/// The agent beside what its work costs at least.
fn print_agent(
    memory: &Memory,
    empty: &Memory,
    spent: &Used,
    sealed: &Arrived,
    reading: &ReadCost,
    elapsed: Duration,
) {
    let mut table = Table::new(&["tallystick-agent", "figure", "baseline", "ratio"]);
    for (name, figure, baseline) in [
        (
            "memory now (VmRSS), baseline `sleep`",
            memory.now_kib,
            empty.now_kib,
        ),
        (
            "memory at most (VmHWM), baseline `sleep`",
            memory.most_kib,
            empty.most_kib,
        ),
    ] {
        let ratio = format!("{:.1}", figure as f64 / baseline as f64);
        table.row(&[name, &mib(figure), &mib(baseline), &ratio]);
    }
    let share = spent.cpu.as_secs_f64() / elapsed.as_secs_f64();
    let percent = |share: f64| format!("{:.4} %", share * 100.0);
    for (name, reading) in [
        (
            "CPU time of a core, baseline opening and reading the same files",
            reading.opening,
        ),
        (
            "CPU time of a core, baseline reading them again, kept open",
            reading.kept_open,
        ),
    ] {
        let plain = reading.as_secs_f64() / sample_s() as f64;
        let ratio = format!("{:.1}", share / plain);
        table.row(&[name, &percent(share), &percent(plain), &ratio]);
    }
    let each = |bytes: u64| bytes as f64 / sealed.intervals.max(1) as f64;
    table.row(&[
        "bytes written to disk per interval, baseline its sealed bytes",
        &format!("{:.1}", each(spent.written)),
        &format!("{:.1}", each(sealed.bytes)),
        &format!("{:.1}", spent.written as f64 / sealed.bytes.max(1) as f64),
    ]);
    table.print(&format!(
        "footprint of the agent: {} intervals in {} segments sealed",
        sealed.intervals, sealed.segments
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
