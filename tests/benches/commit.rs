//! Admission to durable commit, on SQLite and on PostgreSQL: real segments, every check, fsync, rollups caught up.
//!
//! Sessions without a network verify and hand over; the totals read back are compared with what was
//! sealed after each run. Beside it, in the same run, the ceiling: the same compressed bytes put durably
//! into a bare table by large transactions, nothing checked. And what people use otherwise: an events table in the
//! same PostgreSQL with a unique idempotency key, filled in batches with `ON CONFLICT DO NOTHING`.
//!
//! Case (a): catch-up of long backlogs, segments of 20 workloads x 10 meters x 5 steps, 100 nodes. Case (b):
//! steady state, one interval per register and segment, 1,000 nodes of 20 x 8, up to 4 segments of a node
//! under way. An argument (`-- "(b)"`, `-- SQLite`) picks cases.
//!
//! `TALLYSTICK_BENCH_RUNS` (3) and `TALLYSTICK_BENCH_SEGMENTS` (per node; 100 and 30) make it longer or shorter.
//! On PostgreSQL the CPU time is this process's, the server's not in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tallystick_common::ids::StoreEpoch;
use tallystick_reconciler::store::{Location, Store};
use tallystick_tests::bench::fleet::Fleet;
use tallystick_tests::bench::intake::{self, Run};
use tallystick_tests::bench::{
    self, Table, bare, durable, events, is_quick, median, percentile_ms, rate, setting, whole,
};
use tallystick_tests::fixture::Size;
use tallystick_tests::world::now;

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    nodes: usize,
    segments: usize,
    /// Segments of one node that wait for their verdict at a time.
    window: usize,
    size: Size,
}

fn cases() -> [Case; 2] {
    let few = |nodes, quick| if is_quick() { quick } else { nodes };
    let segments = |whole, quick| setting("TALLYSTICK_BENCH_SEGMENTS", whole, quick);
    [
        Case {
            name: "(a) catch-up",
            nodes: few(100, 4),
            segments: segments(100, 6),
            window: 256,
            size: Size {
                workloads: 20,
                meters: 10,
                steps: 5,
            },
        },
        Case {
            name: "(b) steady state",
            nodes: few(1000, 20),
            segments: segments(30, 3),
            window: 4,
            size: Size {
                workloads: 20,
                meters: 8,
                steps: 1,
            },
        },
    ]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut table = Table::new(&[
        "case (median of runs)",
        "intervals",
        "rolled up/s",
        "durable/s",
        "verdict p50 ms",
        "p99 ms",
        "CPU s/M",
        "bytes/interval",
        "bare table/s",
        "ratio",
        "x events table",
    ]);
    // As with criterion, an argument picks the cases whose name holds it.
    let named = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let events = if is_quick() { 10_000 } else { 1_000_000 };
    let events = rate(events, events::insert(events).await?);
    for (case, engine) in cases()
        .into_iter()
        .flat_map(|case| ENGINES.map(|engine| (case, engine)))
    {
        let name = case.named(engine);
        if named.as_ref().is_some_and(|named| !name.contains(named)) {
            continue;
        }
        let fleet = Arc::new(Fleet::seal(case.nodes, case.segments, case.size));
        let (mut runs, mut ceilings, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..setting("TALLYSTICK_BENCH_RUNS", 3, 1) {
            let folder = bench::folder();
            let run = intake::run(engine.store(folder.path()).await?, &fleet, case.window).await?;
            if let Engine::Sqlite = engine {
                let rows = bare::stored(folder.path()).await?;
                bytes = rows.iter().map(|(_, _, bytes)| bytes.len()).sum();
                let times = bare::insert(folder.path(), &rows, bare::GROUP).await?;
                ceilings.push(rate(fleet.intervals(), times.iter().sum()));
            }
            say(&fleet, &run);
            runs.push(run);
        }
        add(
            &mut table,
            &name,
            &fleet,
            &mut runs,
            (ceilings, events),
            bytes,
        );
    }
    table.print("admission -> durable commit -> rollups, intervals");
    println!(
        "  ratio: bare table / rolled up; verdict: from handing over to knowing it is on disk; \
         events table: {} a second",
        whole(events)
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Engine {
    Sqlite,
    Postgres,
}

const ENGINES: [Engine; 2] = [Engine::Sqlite, Engine::Postgres];

impl Engine {
    /// A new store.
    async fn store(self, folder: &Path) -> anyhow::Result<Store> {
        let Self::Postgres = self else {
            return Ok(intake::sqlite(folder).await?);
        };
        let (url, _) = durable::database("bench").await?;
        let location = Location::parse(&url, folder)?;
        let epoch = StoreEpoch([7; 16]);
        Ok(Store::open_or_create(&location, epoch, now()).await?)
    }
}

impl Case {
    fn named(&self, engine: Engine) -> String {
        let Size {
            workloads,
            meters,
            steps,
        } = self.size;
        let engine = match engine {
            Engine::Sqlite => "SQLite",
            Engine::Postgres => "PostgreSQL",
        };
        let (case, nodes) = (self.name, self.nodes);
        format!("{case}, {engine}, {nodes} nodes, {workloads} x {meters} x {steps}")
    }
}

fn say(fleet: &Fleet, run: &Run) {
    println!(
        "{} intervals: {} rolled up/s, {} durable/s",
        fleet.intervals(),
        whole(rate(fleet.intervals(), run.rolled)),
        whole(rate(fleet.intervals(), run.durable)),
    );
}

fn add(
    table: &mut Table,
    name: &str,
    fleet: &Fleet,
    runs: &mut [Run],
    (ceilings, events): (Vec<f64>, f64),
    bytes: usize,
) {
    let intervals = fleet.intervals();
    let of = |time: fn(&Run) -> Duration| {
        median(runs.iter().map(|run| rate(intervals, time(run))).collect())
    };
    let (rolled, durable) = (of(|run| run.rolled), of(|run| run.durable));
    let cpu = median(
        runs.iter()
            .map(|run| run.cpu.as_secs_f64() * 1e6 / intervals as f64)
            .collect(),
    );
    let mut waits: Vec<Duration> = runs
        .iter_mut()
        .flat_map(|run| std::mem::take(&mut run.waits))
        .collect();
    let has_ceiling = !ceilings.is_empty();
    let ceiling = if has_ceiling { median(ceilings) } else { 0.0 };
    let or_dash = |text: String| if has_ceiling { text } else { "-".to_owned() };
    table.row(&[
        name,
        &whole(intervals as f64),
        &whole(rolled),
        &whole(durable),
        &format!("{:.1}", percentile_ms(&mut waits, 50)),
        &format!("{:.1}", percentile_ms(&mut waits, 99)),
        &format!("{cpu:.2}"),
        &or_dash(format!("{:.2}", bytes as f64 / intervals as f64)),
        &or_dash(whole(ceiling)),
        &or_dash(format!("{:.1}", ceiling / rolled)),
        &format!("{:.1}", rolled / events),
    ]);
}
