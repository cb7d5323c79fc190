//! The reconciler is away for thirty days of simulated time; everything arrives, once.
//!
//! The agent's own parts throughout: accrual, sealing, journal and sled on a real disk, shipping over QUIC
//! to a real reconciler with its SQLite store. Only the samples are made up.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tallystick_agent::buffer::{Buffer, Handle, Settings};
use tallystick_agent::station::Station;
use tallystick_common::ids::{Seq, StreamId};
use tallystick_common::meter::Meter;
use tallystick_common::time::{Micros, QUARTER_HOUR_US};
use tallystick_reconciler::store::streams::StreamRow;
use tallystick_reconciler::store::{Connection, inspect, streams};
use tallystick_tests::month::{DAY_S, DAYS, Host, REGISTERS, SAMPLE_S, SEGMENTS, accrual, meter};
use tallystick_tests::world::{Node, Reconciler, now, until};

const PATIENCE: Duration = Duration::from_secs(280);

/// What the odometers of all registers stand at.
fn readings(station: &Station) -> BTreeMap<(String, String), String> {
    let registers = station.accrual().registers();
    registers
        .map(|register| {
            let key = (
                register.workload.to_string(),
                register.meter.name().to_owned(),
            );
            (key, register.reading.to_string())
        })
        .collect()
}

async fn mean_size(conn: &mut Connection, stream: StreamRow) -> usize {
    let segments = streams::segments_from(conn, stream, Seq::FIRST, 1000)
        .await
        .unwrap();
    segments
        .iter()
        .map(|segment| segment.bytes.len())
        .sum::<usize>()
        / segments.len()
}

fn station(node: &Node, buffer: &Handle) -> Station {
    let (id, key) = (node.id(), node.signing_key());
    Station::new(id, key, accrual(), buffer.clone(), None).unwrap()
}

/// Bytes of a folder's files.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The two halves of a buffer, for people.
fn halves(folder: &Path) -> String {
    let (journal, sled) = (folder.join("journal"), folder.join("store"));
    let (journal, sled) = (bytes_below(&journal), bytes_below(&sled));
    format!(
        "{} bytes of buffer ({journal} journal, {sled} sled)",
        journal + sled
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_days_without_a_reconciler_arrive_whole_and_once() {
    let mut reconciler = Reconciler::start().await.unwrap();
    let node = reconciler.node("far-away").await.unwrap();
    reconciler.go_away().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let stream = StreamId([0x30; 16]);
    let (buffer, _) = Buffer::open(folder.path(), Settings::default(), stream).unwrap();
    let buffer = Handle::new(buffer);
    let mut station = station(&node, &buffer);
    let away = Micros::from_seconds(DAYS * DAY_S);
    let begin = now().saturating_sub(away).floor_to(QUARTER_HOUR_US);
    let mut host = Host::new(begin);
    let (cpu_before, began) = (host.counter("host", Meter::CPU_TIME), Instant::now());
    tokio::task::block_in_place(|| meter(&mut station, &mut host, DAYS));
    let metered_in = began.elapsed();

    let stats = buffer.stats();
    assert_eq!(stats.unreceipted, SEGMENTS, "one segment a minute");
    assert_eq!(buffer.head().next, Seq(SEGMENTS));
    let expected = readings(&station);
    assert_eq!(expected.len(), REGISTERS);
    println!(
        "{SEGMENTS} segments of {REGISTERS} registers, sampled every {SAMPLE_S} s: {}, {} a segment; metered and sealed in {:.1} s",
        halves(folder.path()),
        stats.bytes / SEGMENTS,
        metered_in.as_secs_f64()
    );
    reconciler.come_back().await.unwrap();
    let began = Instant::now();
    let shipper = node.ship(buffer.clone());
    until(PATIENCE, "the last receipt", || {
        (buffer.stats().receipted_through == Some(Seq(SEGMENTS - 1))).then_some(())
    })
    .await;
    let caught_up_in = began.elapsed();
    shipper.stop().await.unwrap();
    let store = reconciler.ready().services.store.clone();
    let end = Instant::now() + PATIENCE;
    loop {
        let mut tx = store.read().await.unwrap();
        if inspect::rollup_lag(&mut tx).await.unwrap() == 0 {
            break;
        }
        assert!(Instant::now() < end, "the rollups did not follow");
        drop(tx);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "caught up in {:.1} s ({:.0} segments a second); rollups after {:.1} s; {} left",
        caught_up_in.as_secs_f64(),
        SEGMENTS as f64 / caught_up_in.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        halves(folder.path())
    );

    let mut tx = store.read().await.unwrap();
    let found = streams::all(&mut tx).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].next, found[0].head),
        (Seq(SEGMENTS), buffer.head().hash)
    );
    assert_eq!(
        inspect::admitted(&mut tx).await.unwrap(),
        SEGMENTS,
        "I1: every one, once"
    );
    let sealed = mean_size(&mut tx, found[0].row).await;
    println!("{sealed} bytes of sealed segment on the wire, on average of the first thousand");
    drop(tx);
    drop(store);
    let api = reconciler.api();
    assert_eq!(api.all("/v1/refusals").unwrap().len(), 0);
    assert_eq!(api.all("/v1/nodes/far-away/quarantine").unwrap().len(), 0);
    let to = begin.saturating_add(away);
    let usage = api.all(&format!("/v1/usage?from={begin}&to={to}")).unwrap();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    let billed: BTreeMap<_, _> = usage
        .iter()
        .map(|row| {
            (
                (text(row, "workload"), text(row, "meter")),
                text(row, "quantity"),
            )
        })
        .collect();
    assert_eq!(billed.len(), usage.len());
    assert_eq!(
        billed, expected,
        "I3: billed is what the odometers stand at"
    );
    let cpu = &billed[&("host".to_owned(), "cpu.time".to_owned())];
    let raw = host.counter("host", Meter::CPU_TIME) - cpu_before;
    assert_eq!(
        *cpu,
        raw.to_string(),
        "and what the host's counter went on by"
    );
    assert!(
        usage
            .iter()
            .all(|row| row["interpolated"] == 0 && row["unmeasured"] == 0)
    );
    reconciler.go_away().await.unwrap();
}
