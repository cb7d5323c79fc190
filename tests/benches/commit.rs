//! Admission to durable commit on SQLite: real segments, every check, fsync, rollups caught up.
//!
//! Sessions without a network verify and hand over; the totals read back are compared with what was
//! sealed after each run. Beside it, in the same run, the ceiling: the same compressed bytes put durably
//! into a bare table by large transactions, nothing checked.
//!
//! Case (a): catch-up of long backlogs, segments of 20 workloads x 10 meters x 5 steps, 100 nodes. Case (b):
//! steady state, one interval per register and segment, 1,000 nodes of 20 x 8, up to 4 segments of a node
//! under way. An argument (`-- "(b)"`) picks a case.
//!
//! `TALLYSTICK_BENCH_RUNS` (3) and `TALLYSTICK_BENCH_SEGMENTS` (per node; 100 and 30) make it longer or shorter.

use std::sync::Arc;
use std::time::Duration;

use tallystick_tests::bench::fleet::Fleet;
use tallystick_tests::bench::intake::{self, Run};
use tallystick_tests::bench::{
    self, Table, bare, is_quick, median, percentile_ms, rate, setting, whole,
};
use tallystick_tests::fixture::Size;

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
    ]);
    // As with criterion, an argument picks the cases whose name holds it.
    let named = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let wanted = |case: &Case| named.as_ref().is_none_or(|named| case.name.contains(named));
    for case in cases().into_iter().filter(wanted) {
        let fleet = Arc::new(Fleet::seal(case.nodes, case.segments, case.size));
        let (mut runs, mut ceilings, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..setting("TALLYSTICK_BENCH_RUNS", 3, 1) {
            let folder = bench::folder();
            let run = intake::run(folder.path(), &fleet, case.window).await?;
            let rows = bare::stored(folder.path()).await?;
            bytes = rows.iter().map(|(_, _, bytes)| bytes.len()).sum();
            let times = bare::insert(folder.path(), &rows, bare::GROUP).await?;
            ceilings.push(rate(fleet.intervals(), times.iter().sum()));
            say(&fleet, &run);
            runs.push(run);
        }
        let size = case.size;
        let name = format!(
            "{}, {} nodes, {} x {} x {}",
            case.name, case.nodes, size.workloads, size.meters, size.steps
        );
        add(&mut table, &name, &fleet, &mut runs, ceilings, bytes);
    }
    table.print("admission -> durable commit -> rollups, SQLite (WAL, FULL), intervals");
    println!(
        "  ratio: bare table / rolled up; verdict: from handing over to knowing it is on disk"
    );
    Ok(())
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
    ceilings: Vec<f64>,
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
    let ceiling = median(ceilings);
    table.row(&[
        name,
        &whole(intervals as f64),
        &whole(rolled),
        &whole(durable),
        &format!("{:.1}", percentile_ms(&mut waits, 50)),
        &format!("{:.1}", percentile_ms(&mut waits, 99)),
        &format!("{cpu:.2}"),
        &format!("{:.2}", bytes as f64 / intervals as f64),
        &whole(ceiling),
        &format!("{:.1}", ceiling / rolled),
    ]);
}
