//! Evidence of one node's month at the defaults: a segment every minute, 20 workloads of 8 meters and the
//! host, all or two of them the customer's. How large the file is, and what exporting and checking it takes.
//!
//! `TALLYSTICK_BENCH_RUNS` (5) says how often it is checked.

use std::time::Instant;

use tallystick_common::ids::NodeId;
use tallystick_common::verify::evidence::verify;
use tallystick_tests::bench::{Table, is_quick, median, setting, whole};
use tallystick_tests::evidence::{Office, at};
use tallystick_tests::fixture::{Chain, Size};

/// Seconds between two seals, and intervals of a register in a segment.
fn cadence() -> (u64, usize) {
    if is_quick() { (3600, 4) } else { (60, 1) }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let headings = [
        "customer's workloads",
        "segments",
        "bytes",
        "export ms",
        "verify ms",
        "lines",
    ];
    let mut table = Table::new(&headings);
    let two = (1..=2).map(|number| format!("cgroup/customer-000{number}.slice"));
    for (name, workloads) in [
        ("20 of 20", vec!["cgroup/customer-*".to_owned()]),
        ("2 of 20", two.collect()),
    ] {
        let office = Office::open().await?;
        for workload in workloads {
            office
                .assign("acme", &workload, "2026-10-01T00:00:00Z")
                .await?;
        }
        let row = measured(&office, name).await?;
        let row: Vec<&str> = row.iter().map(String::as_str).collect();
        table.row(&row);
    }
    table.print("evidence of one node and month");
    Ok(())
}

async fn measured(office: &Office, name: &str) -> anyhow::Result<Vec<String>> {
    let (seal_seconds, steps) = cadence();
    let size = Size {
        workloads: 21,
        meters: 8,
        steps,
    };
    let mut chain = Chain::new(
        NodeId([4; 16]),
        at("2026-09-30T23:00:00Z"),
        seal_seconds,
        size,
    );
    let (node, key) = (chain.node, chain.key.public());
    office.enrol(node, key, "web-1").await?;
    let end = at("2026-11-01T01:00:00Z");
    let mut segments = 0;
    let sealed = std::iter::from_fn(|| {
        let more = chain.covered_through() < end;
        more.then(|| {
            segments += 1;
            chain.seal_next()
        })
    });
    office.admit(node, key, sealed).await?;
    let number = office.issue().await?;
    let began = Instant::now();
    let file = office.export(&number, false).await?;
    let exported = began.elapsed();
    let mut times = Vec::new();
    let mut lines = 0;
    for _ in 0..setting("TALLYSTICK_BENCH_RUNS", 5, 1) {
        let began = Instant::now();
        let report = verify(&file, &[], None)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        lines = report.lines.len();
    }
    Ok(vec![
        name.to_owned(),
        segments.to_string(),
        whole(file.len() as f64),
        whole(exported.as_secs_f64() * 1000.0),
        whole(median(times)),
        lines.to_string(),
    ])
}
