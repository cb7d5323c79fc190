//! Three reconcilers on one PostgreSQL, nodes that move between them, `kill -9` and SIGSTOP of any of them at
//! seeded moments: in the end every total is what the registers counted.
//!
//! The reconcilers are the real processes, each with a data folder of its own and a copy of the authority.
//! The nodes ship by the agent's own parts from journals and sled on disk; only their segments are made up.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tallystick_agent::buffer::{Buffer, Handle, Settings, StoredSegment};
use tallystick_agent::ship::enroll::{NodeKeys, enroll};
use tallystick_common::time::Timestamp;
use tallystick_reconciler::store::{Location, Store, inspect};
use tallystick_tests::bench::fleet::{self, Fleet, Member, SEAL_S};
use tallystick_tests::draw::Draw;
use tallystick_tests::fixture::{Chain, Size};
use tallystick_tests::postgres;
use tallystick_tests::process::{Process, binary, output};
use tallystick_tests::world::{Node, Shipper};

const REPLICAS: usize = 3;
const NODES: usize = 6;
const ROUNDS: usize = 12;
/// Segments of each node in one round.
const BURST: usize = 8;
const SIZE: Size = Size {
    workloads: 3,
    meters: 3,
    steps: 2,
};
const PATIENCE: Duration = Duration::from_secs(60);

/// One reconciler.
struct Replica {
    data: PathBuf,
    store: String,
    listen: Option<(SocketAddr, SocketAddr)>,
    process: Option<Process>,
}

impl Replica {
    fn command(&self) -> Command {
        let mut command = Command::new(binary("tallystick-reconciler"));
        command
            .env("TALLYSTICK_RECONCILER_DATA", &self.data)
            .env("TALLYSTICK_RECONCILER_STORE", &self.store);
        command
    }

    fn start(&mut self) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (ingest, http) = self.listen.unwrap_or((any, any));
        let mut command = self.command();
        command.args(["--json", "serve", "--ingest", &ingest.to_string()]);
        command.args(["--listen", &http.to_string()]);
        let mut process = Process::spawn(&mut command).unwrap();
        let told: Value = process
            .says(|said| serde_json::from_str(said.trim()).ok())
            .unwrap();
        let console = told["console"].as_str().unwrap();
        let http = console.trim_start_matches("http://").trim_end_matches('/');
        let ingest = told["ingest"].as_str().unwrap();
        self.listen = Some((ingest.parse().unwrap(), http.parse().unwrap()));
        self.process = Some(process);
    }

    /// SIGKILL, or SIGSTOP: one that is slow beyond measure and does not know that it was replaced.
    fn strike(&mut self, pauses: bool) {
        if pauses {
            let process = self.process.as_ref().expect("it runs");
            process.signal(Signal::STOP).unwrap();
        } else {
            self.process.take().expect("it runs").kill().unwrap();
        }
    }

    fn recover(&mut self) {
        match &self.process {
            Some(paused) => paused.signal(Signal::CONT).unwrap(),
            None => self.start(),
        }
    }

    fn address(&self) -> String {
        self.listen.expect("it served once").0.to_string()
    }
}

/// A node, its journal, and what it measured.
struct Station {
    node: Node,
    buffer: Handle,
    member: Member,
    /// Which reconciler it tries first.
    at: usize,
    shipper: Option<Shipper>,
}

impl Station {
    fn open(folder: &Path, node: Node, from: Timestamp) -> Self {
        let mut chain = Chain::new(node.id(), from, SEAL_S, SIZE);
        chain.key = node.signing_key();
        let folder = folder.join(format!("buffer-{}", chain.stream));
        std::fs::create_dir(&folder).unwrap();
        let (buffer, _) = Buffer::open(&folder, Settings::default(), chain.stream).unwrap();
        Self {
            node,
            buffer: Handle::new(buffer),
            member: Member::sealed(chain, 0),
            at: 0,
            shipper: None,
        }
    }

    fn seal(&mut self) {
        let sealed = self.member.chain.seal_next();
        let mut buffer = self.buffer.lock();
        let segment = StoredSegment {
            seq: sealed.header().seq,
            previous: buffer.head().hash,
            hash: sealed.hash(),
            covered_through: sealed.header().covered_through,
            bytes: sealed.bytes().to_vec(),
        };
        buffer.append(segment, &[]).unwrap();
    }

    /// Ships to this reconciler, or the next that answers; stops shipping elsewhere.
    async fn ship_to(&mut self, replicas: &[Replica], at: usize) {
        self.at = at % REPLICAS;
        if let Some(shipper) = self.shipper.take() {
            shipper.stop().await.unwrap();
        }
        let mut shipping = self.node.shipping();
        shipping.addresses = from(replicas, self.at);
        shipping.addresses_fixed = true;
        shipping.drain = Duration::from_millis(100);
        self.shipper = Some(Shipper::start(shipping, self.buffer.clone()));
    }

    async fn settled(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        while self.buffer.stats().unreceipted > 0 {
            if Instant::now() > end {
                let shipper = self.shipper.as_ref().expect("it ships");
                let told = shipper.saw(|event| {
                    println!("{event:?}");
                    false
                });
                assert_eq!(told, None);
                panic!("{what} did not come");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn from(replicas: &[Replica], first: usize) -> Vec<String> {
    let order = (0..replicas.len()).map(|place| (first + place) % replicas.len());
    order.map(|place| replicas[place].address()).collect()
}

async fn replicas(folder: &Path) -> Vec<Replica> {
    let store = postgres::url(&postgres::database("template0").await);
    let mut replicas: Vec<Replica> = (0..REPLICAS)
        .map(|place| Replica {
            data: folder.join(format!("reconciler-{place}")),
            store: store.clone(),
            listen: None,
            process: None,
        })
        .collect();
    output(replicas[0].command().arg("init")).unwrap();
    for place in 1..REPLICAS {
        std::fs::create_dir(&replicas[place].data).unwrap();
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(replicas[0].data.join("authority"));
        output(copy.arg(&replicas[place].data)).unwrap();
    }
    replicas.iter_mut().for_each(Replica::start);
    replicas
}

async fn stations(folder: &Path, replicas: &[Replica], begin: Timestamp) -> Vec<Station> {
    let mut stations = Vec::new();
    for place in 0..NODES {
        let through = &replicas[place % REPLICAS];
        let mut command = through.command();
        command.args(["token", "create", "--address", &through.address()]);
        let token = output(&mut command).unwrap().trim().parse().unwrap();
        let keys = NodeKeys::draw().unwrap();
        let enrolment = enroll(&token, &format!("node-{place}"), keys)
            .await
            .unwrap();
        let mut station = Station::open(folder, Node { enrolment }, begin);
        station.ship_to(replicas, place).await;
        stations.push(station);
    }
    stations
}

/// Nodes move when their reconciler dies, and now and then without a reason. (Left alone they notice a dead one
/// within a minute, too long for a test of many.)
async fn rounds(draw: &mut Draw, replicas: &mut [Replica], stations: &mut [Station]) {
    for round in 0..ROUNDS {
        let victim = usize::try_from(draw.below(REPLICAS as u64)).unwrap();
        let pauses = round % 2 == 1;
        let strikes = usize::try_from(draw.below(BURST as u64)).unwrap();
        for burst in 0..BURST {
            stations.iter_mut().for_each(Station::seal);
            if burst == strikes {
                replicas[victim].strike(pauses);
                for station in stations.iter_mut().filter(|station| station.at == victim) {
                    station.ship_to(replicas, victim + 1).await;
                }
            }
            let moves = usize::try_from(draw.below(NODES as u64)).unwrap();
            let to = usize::try_from(draw.below(REPLICAS as u64)).unwrap();
            let away = burst >= strikes && to == victim;
            let to = if away { to + 1 } else { to };
            stations[moves].ship_to(replicas, to).await;
        }
        for (place, station) in stations.iter().enumerate() {
            let what =
                format!("round {round}: receipts of node {place} without reconciler {victim}");
            station.settled(&what).await;
        }
        replicas[victim].recover();
    }
}

async fn rolled_up(store: &Store) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut tx = store.read().await.unwrap();
        if inspect::rollup_lag(&mut tx).await.unwrap() == 0 {
            return;
        }
        assert!(Instant::now() < end, "rollups did not follow");
        drop(tx);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_move_between_killed_reconcilers_are_billed_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut draw = Draw::seeded("replicas");
    let mut replicas = replicas(folder.path()).await;
    let segments = ROUNDS * BURST;
    let begin = fleet::beginning(segments);
    let mut stations = stations(folder.path(), &replicas, begin).await;
    rounds(&mut draw, &mut replicas, &mut stations).await;
    let mut members = Vec::new();
    for mut station in stations {
        station.shipper.take().unwrap().stop().await.unwrap();
        members.push(station.member);
    }
    let location = Location::parse(&replicas[0].store, folder.path()).unwrap();
    let store = Store::open(&location).await.unwrap();
    rolled_up(&store).await;
    let fleet = Fleet::of(members, segments, SIZE, begin);
    let mut tx = store.read().await.unwrap();
    let admitted = inspect::admitted(&mut tx).await.unwrap();
    assert_eq!(admitted, fleet.segments() as u64, "each segment once");
    assert!(
        inspect::quarantine_counts(&mut tx)
            .await
            .unwrap()
            .is_empty()
    );
    drop(tx);
    fleet.check(&store).await.unwrap();
    store.close().await;
    for replica in replicas {
        let process = replica.process.expect("it runs");
        assert!(process.terminate().unwrap().success());
    }
}
