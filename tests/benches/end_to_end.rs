//! From the agents' buffers to durable receipts over loopback QUIC, with the real parts of both sides.
//!
//! Nodes enrol, fill their journals and sled, and ship as the agent does (`agent/src/ship`) to a running
//! reconciler; everything is in this process, on the same cores. Totals are checked in the end. Beside it,
//! in the same run: the same segments handed to admission without network and buffers, and the bare table.
//! Then each node seals one segment at a time and waits for its receipt: the latency.
//!
//! `TALLYSTICK_BENCH_NODES` (16), `TALLYSTICK_BENCH_SEGMENTS` (per node, 400), `TALLYSTICK_BENCH_ROUNDS` (100).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tallystick_agent::buffer::{Buffer, Handle, Settings, StoredSegment};
use tallystick_agent::ship::{self, ShipEvent};
use tallystick_common::ids::{Seq, StreamId};
use tallystick_common::seal::SealedSegment;
use tallystick_reconciler::store::inspect;
use tallystick_tests::bench::fleet::{self, Fleet, Member, SEAL_S};
use tallystick_tests::bench::{self, Table, bare, intake, percentile_ms, rate, setting, whole};
use tallystick_tests::fixture::{Chain, Size};
use tallystick_tests::world::{Node, Reconciler};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

const BACKLOG: Size = Size {
    workloads: 20,
    meters: 10,
    steps: 5,
};
const STEADY: Size = Size {
    workloads: 20,
    meters: 8,
    steps: 1,
};
/// The protocol's window.
const WINDOW: usize = 256;
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let nodes = setting("TALLYSTICK_BENCH_NODES", 16, 2);
    backlog(nodes, setting("TALLYSTICK_BENCH_SEGMENTS", 400, 4)).await?;
    receipts(nodes, setting("TALLYSTICK_BENCH_ROUNDS", 100, 3)).await
}

/// Everything that the nodes held arrives.
async fn backlog(nodes: usize, segments: usize) -> anyhow::Result<()> {
    let folder = bench::folder();
    let mut reconciler = Reconciler::start_in(&folder.path().join("whole")).await?;
    let (mut members, mut stations) = (Vec::new(), Vec::new());
    let from = fleet::beginning(segments);
    for place in 0..nodes {
        let node = reconciler.node(&format!("node-{place:04}")).await?;
        let mut chain = Chain::new(node.id(), from, SEAL_S, BACKLOG);
        chain.key = node.signing_key();
        let member = Member::sealed(chain, segments);
        let station = Station::open(folder.path(), node, member.chain.stream)?;
        for bytes in &member.segments {
            station.seal(SealedSegment::parse(bytes.clone())?)?;
        }
        members.push(member);
        stations.push(station);
    }
    let fleet = Arc::new(Fleet::of(members, segments, BACKLOG, from));

    let (cpu, began) = (bench::cpu_time(), Instant::now());
    let shippers: Vec<Shipper> = stations.iter().map(Station::ship).collect();
    let last = Seq(segments as u64 - 1);
    for shipper in &shippers {
        shipper.receipted(last).await?;
    }
    let receipted = began.elapsed();
    let store = reconciler.ready().services.store.clone();
    loop {
        let mut tx = store.read().await?;
        if inspect::rollup_lag(&mut tx).await? == 0 {
            break;
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "the rollups did not follow");
        drop(tx);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (rolled, cpu) = (began.elapsed(), bench::cpu_time().saturating_sub(cpu));
    for shipper in shippers {
        shipper.stop().await?;
    }
    fleet.check(&store).await?;
    drop(store);
    reconciler.go_away().await?;

    let direct = folder.path().join("direct");
    std::fs::create_dir(&direct)?;
    let run = intake::run(intake::sqlite(&direct).await?, &fleet, WINDOW).await?;
    let rows = bare::stored(&direct).await?;
    let ceiling = bare::insert(&direct, &rows, bare::GROUP)
        .await?
        .iter()
        .sum();
    let mut table = Table::new(&["way of the same segments", "intervals/s", "bare table is"]);
    let bare_rate = rate(fleet.intervals(), ceiling);
    for (name, time) in [
        ("buffer -> QUIC -> receipt verified by the agent", receipted),
        (
            "the same, rollups caught up as well (they pause for 2 s)",
            rolled,
        ),
        ("admission -> commit, no network, no buffers", run.durable),
        ("bare table of SQLite, nothing checked", ceiling),
    ] {
        let rate = rate(fleet.intervals(), time);
        table.row(&[name, &whole(rate), &format!("{:.1} x", bare_rate / rate)]);
    }
    table.print(&format!(
        "end to end over loopback QUIC: {nodes} nodes, {segments} segments each of 20 x 10 x 5, {} intervals",
        whole(fleet.intervals() as f64)
    ));
    println!(
        "  CPU of both sides {:.2} s per million intervals",
        cpu.as_secs_f64() * 1e6 / fleet.intervals() as f64
    );
    Ok(())
}

/// Each node seals a segment, waits for its receipt, and seals the next.
async fn receipts(nodes: usize, rounds: usize) -> anyhow::Result<()> {
    let folder = bench::folder();
    let mut reconciler = Reconciler::start_in(&folder.path().join("whole")).await?;
    let from = fleet::beginning(rounds);
    let mut sealing = JoinSet::new();
    let began = Instant::now();
    for place in 0..nodes {
        let node = reconciler.node(&format!("node-{place:04}")).await?;
        let mut chain = Chain::new(node.id(), from, SEAL_S, STEADY);
        chain.key = node.signing_key();
        let station = Station::open(folder.path(), node, chain.stream)?;
        sealing.spawn(one_by_one(station, chain, rounds));
    }
    let mut times = Vec::new();
    while let Some(ended) = sealing.join_next().await {
        times.extend(ended??);
    }
    let elapsed = began.elapsed();
    let data = reconciler.data();
    reconciler.go_away().await?;
    let mut rows = bare::stored(&data).await?;
    rows.truncate(200);
    let mut ceiling = bare::insert(folder.path(), &rows, 1).await?;
    let mut table = Table::new(&["one segment at a time", "p50 ms", "p99 ms"]);
    for (name, times) in [
        (
            "sealed and on the agent's disk -> verified receipt",
            &mut times,
        ),
        ("bare table: one row, one transaction", &mut ceiling),
    ] {
        let (p50, p99) = (percentile_ms(times, 50), percentile_ms(times, 99));
        table.row(&[name, &format!("{p50:.2}"), &format!("{p99:.2}")]);
    }
    table.print(&format!(
        "receipt latency: {nodes} nodes, {} segments/s of 20 x 8 x 1",
        whole(rate(nodes * rounds, elapsed))
    ));
    Ok(())
}

async fn one_by_one(
    station: Station,
    mut chain: Chain,
    rounds: usize,
) -> anyhow::Result<Vec<Duration>> {
    let shipper = station.ship();
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let sealed = chain.seal_next();
        tokio::task::block_in_place(|| station.seal(sealed))?;
        let began = Instant::now();
        shipper.receipted(Seq(round as u64)).await?;
        // The first one includes connecting.
        if round > 0 {
            times.push(began.elapsed());
        }
    }
    shipper.stop().await?;
    Ok(times)
}

/// A node and its buffer.
struct Station {
    node: Node,
    buffer: Handle,
}

impl Station {
    fn open(folder: &Path, node: Node, stream: StreamId) -> anyhow::Result<Self> {
        let folder = folder.join(format!("buffer-{stream}"));
        std::fs::create_dir(&folder)?;
        let (buffer, _) = Buffer::open(&folder, Settings::default(), stream)?;
        let buffer = Handle::new(buffer);
        Ok(Self { node, buffer })
    }

    fn seal(&self, sealed: SealedSegment) -> anyhow::Result<()> {
        let mut buffer = self.buffer.lock();
        let previous = buffer.head().hash;
        let header = sealed.header();
        let segment = StoredSegment {
            seq: header.seq,
            previous,
            hash: sealed.hash(),
            covered_through: header.covered_through,
            bytes: sealed.bytes().to_vec(),
        };
        Ok(buffer.append(segment, &[])?)
    }

    fn ship(&self) -> Shipper {
        let (told, receipts) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let (shipping, buffer) = (self.node.shipping(), self.buffer.clone());
        let ran = tokio::spawn(async move {
            let tell = |event| {
                if let ShipEvent::Receipted(receipt) = event {
                    told.send_replace(Some(receipt.seq));
                }
            };
            Ok(ship::run(shipping, buffer, tell, stopped).await?)
        });
        Shipper {
            receipts,
            stop,
            ran,
        }
    }
}

/// A node's shipping at work.
struct Shipper {
    receipts: watch::Receiver<Option<Seq>>,
    stop: watch::Sender<bool>,
    ran: JoinHandle<anyhow::Result<()>>,
}

impl Shipper {
    async fn receipted(&self, seq: Seq) -> anyhow::Result<()> {
        let mut receipts = self.receipts.clone();
        let come = receipts.wait_for(|through| through.is_some_and(|through| through >= seq));
        tokio::time::timeout(PATIENCE, come)
            .await
            .with_context(|| format!("no receipt for segment {seq}"))??;
        Ok(())
    }

    async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
        self.ran.await?
    }
}
