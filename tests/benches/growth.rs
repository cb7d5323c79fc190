//! Whether a store stays fast as it grows: admission to rollups caught up (case (a) of `commit`) on stores that
//! hold no, five million and fifty million rollup rows already, and how long each takes to open.
//!
//! The rows stand before the time of the run, for workloads with the numbers that the run's get.
//! `TALLYSTICK_BENCH_RUNS` (3), `TALLYSTICK_BENCH_SEGMENTS` (per node; 100). SQLite; fifty million rows take some ten
//! gigabytes beside this program.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tallystick_common::time::HOUR_US;
use tallystick_reconciler::store::{Location, Store};
use tallystick_tests::bench::fleet::{self, Fleet};
use tallystick_tests::bench::intake;
use tallystick_tests::bench::{self, Table, is_quick, median, rate, setting, whole};
use tallystick_tests::fixture::Size;

const NODES: usize = 100;
const SIZE: Size = Size {
    workloads: 20,
    meters: 10,
    steps: 5,
};
/// Rows of an hour: every workload of every node with every meter.
const EACH_HOUR: u64 = (NODES * SIZE.workloads * SIZE.meters) as u64;

const FILL: &str = "INSERT INTO rollups \
     WITH RECURSIVE w (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM w WHERE n < $2), \
                    m (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM m WHERE n < $3) \
     SELECT $1, w.n, m.n, 1000 + w.n, 2000 + m.n, 3000, 4000, 10, 20, 30, 40, \
            900000000, 900000000, 900000000, 900000000, 900000000, 900000000, 900000000, 900000000, \
            0, 0, 0, 0, 0, 0, 0, 0, $1 * 3600000000, randomblob(16) \
     FROM w CROSS JOIN m";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let segments = setting("TALLYSTICK_BENCH_SEGMENTS", 100, 4);
    let fleet = Arc::new(Fleet::seal(NODES, segments, SIZE));
    let mut table = Table::new(&[
        "rollup rows before",
        "opened in ms",
        "rolled up/s (median)",
        "of the empty one",
    ]);
    let mut empty = None;
    for rows in [0, 5_000_000, 50_000_000] {
        let rows: u64 = if is_quick() { rows / 1000 } else { rows };
        let (mut opened, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..setting("TALLYSTICK_BENCH_RUNS", 3, 1) {
            let folder = bench::folder();
            let (store, took) = grown(folder.path(), rows, segments).await?;
            opened.push(took.as_secs_f64() * 1e3);
            let run = intake::run(store, &fleet, 256).await?;
            let reached = rate(fleet.intervals(), run.rolled);
            println!("{rows} rows: {} rolled up/s", whole(reached));
            rates.push(reached);
        }
        let reached = median(rates);
        let share = reached / *empty.get_or_insert(reached);
        table.row(&[
            &whole(rows as f64),
            &format!("{:.0}", median(opened)),
            &whole(reached),
            &format!("{:.0} %", share * 100.0),
        ]);
    }
    table.print("case (a) on stores that have grown, SQLite, intervals");
    Ok(())
}

/// A store with so many rows, as it is opened again, and how long that took.
async fn grown(folder: &Path, rows: u64, segments: usize) -> anyhow::Result<(Store, Duration)> {
    intake::sqlite(folder).await?.close().await;
    let path = folder.join(Store::FILE_NAME);
    let mut connection = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await?;
    let last = i64::try_from(fleet::beginning(segments).as_micros() / HOUR_US)? - 1;
    let hours = i64::try_from(rows.div_ceil(EACH_HOUR))?;
    for hour in last - hours + 1..=last {
        sqlx::query(FILL)
            .bind(hour)
            .bind(i64::try_from(NODES * SIZE.workloads)?)
            .bind(i64::try_from(SIZE.meters)?)
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    let began = Instant::now();
    let store = Store::open(&Location::File(path)).await?;
    Ok((store, began.elapsed()))
}
