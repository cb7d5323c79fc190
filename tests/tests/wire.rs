//! Shipping between the real agent and the real listener over QUIC on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use tallystick_agent::buffer::{Buffer, Handle, Settings, StoredSegment};
use tallystick_agent::ship::connection::{self, ConnectError, Link};
use tallystick_agent::ship::enroll::{Enrolment, NodeKeys, enroll};
use tallystick_agent::ship::session::StreamOver;
use tallystick_agent::ship::{self, ShipEvent, Shipping, tls};
use tallystick_common::ids::{Hash, NodeId, Seq, StoreEpoch, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::seal::{SealedSegment, VerifiedSegment};
use tallystick_common::segment::Previous;
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::{
    ALPN_INGEST, FrameKind, Hello, Message, Position, RefusalReason, Refused, Versions, Welcome,
};
use tallystick_reconciler::authority::{Authority, join};
use tallystick_reconciler::ingest::Services;
use tallystick_reconciler::ingest::admit::Verdict;
use tallystick_reconciler::ingest::bulletin::Changes;
use tallystick_reconciler::ingest::intake::{Intake, Later, RefusedBytes, Stopped};
use tallystick_reconciler::ingest::listener::Listener;
use tallystick_reconciler::ingest::strangers::{StrangerReason, Strangers};
use tallystick_reconciler::store::nodes::{self, NodeState};
use tallystick_reconciler::store::{Store, StoreError};
use tallystick_tests::fixture::{Chain, Size};
use tokio::sync::{oneshot, watch};

const SIZE: Size = Size {
    workloads: 2,
    meters: 2,
    steps: 2,
};

fn now() -> Timestamp {
    Timestamp::from_micros(UNIX_EPOCH.elapsed().unwrap().as_micros() as u64).unwrap()
}

/// Waits for a state, up to a deadline.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "did not come: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Admission in memory: chains, and nothing else.
#[derive(Debug, Default)]
struct Memory {
    streams: Mutex<HashMap<StreamId, Vec<Hash>>>,
    refused: Mutex<Vec<RefusedBytes>>,
    submitted: Mutex<u64>,
    mute: AtomicBool,
    muted: Mutex<Vec<oneshot::Sender<Verdict>>>,
}

impl Memory {
    fn hashes(&self, stream: StreamId) -> Vec<Hash> {
        self.streams
            .lock()
            .unwrap()
            .get(&stream)
            .cloned()
            .unwrap_or_default()
    }

    fn judge(&self, segment: &VerifiedSegment) -> Verdict {
        let header = segment.header();
        let mut streams = self.streams.lock().unwrap();
        let hashes = streams.entry(header.stream).or_default();
        let place = header.seq.0 as usize;
        if let Some(known) = hashes.get(place) {
            let same = *known == segment.hash();
            return if same {
                Verdict::Duplicate
            } else {
                Verdict::Fork { known: *known }
            };
        }
        if place > hashes.len() {
            return Verdict::Ahead {
                expected: Seq(hashes.len() as u64),
            };
        }
        if let Previous::Follows(hash) = header.previous {
            assert_eq!(Some(&hash), hashes.last());
        }
        hashes.push(segment.hash());
        Verdict::Accepted
    }

    fn refusals(&self) -> Vec<RefusalReason> {
        self.refused
            .lock()
            .unwrap()
            .iter()
            .map(|kept| kept.refused.reason)
            .collect()
    }
}

impl Intake for Memory {
    fn position(&self, _: NodeId, stream: StreamId) -> Later<'_, Result<Position, StoreError>> {
        let hashes = self.hashes(stream);
        let position = Position {
            next: Seq(hashes.len() as u64),
            head: hashes.last().copied(),
        };
        Box::pin(async move { Ok(position) })
    }

    fn segment(
        &self,
        segment: VerifiedSegment,
        _: SocketAddr,
    ) -> Later<'_, Result<oneshot::Receiver<Verdict>, Stopped>> {
        *self.submitted.lock().unwrap() += 1;
        let verdict = self.judge(&segment);
        let (answer, later) = oneshot::channel();
        if self.mute.load(Ordering::SeqCst) {
            self.muted.lock().unwrap().push(answer);
        } else {
            let _ = answer.send(verdict);
        }
        Box::pin(async move { Ok(later) })
    }

    fn refuse(&self, refused: RefusedBytes) -> Later<'_, Result<oneshot::Receiver<()>, Stopped>> {
        self.refused.lock().unwrap().push(refused);
        let (answer, later) = oneshot::channel();
        let _ = answer.send(());
        Box::pin(async move { Ok(later) })
    }
}

struct Reconciler {
    services: Arc<Services>,
    memory: Arc<Memory>,
    address: String,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl Reconciler {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(Store::FILE_NAME);
        let memory = Arc::new(Memory::default());
        let services = Arc::new(Services {
            authority: Authority::create(data.path(), now()).unwrap(),
            store: Store::create(&path, StoreEpoch([1; 16]), now())
                .await
                .unwrap(),
            intake: memory.clone(),
            strangers: Strangers::default(),
            addresses: vec![],
            connections_max: 100,
            changes: Changes::default(),
        });
        let listener = Listener::open("127.0.0.1:0".parse().unwrap(), services.clone()).unwrap();
        let address = listener.address().to_string();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(listener.run(stopped));
        Self {
            services,
            memory,
            address,
            stop,
            served,
            _data: data,
        }
    }

    /// Stops and listens again at the same address.
    async fn restart(&mut self) {
        self.stop.send(true).unwrap();
        (&mut self.served).await.unwrap();
        let address: SocketAddr = self.address.parse().unwrap();
        let mut reopened = None;
        until("the port", || {
            reopened = Listener::open(address, self.services.clone()).ok();
            reopened.is_some()
        })
        .await;
        let listener = reopened.unwrap();
        let (stop, stopped) = watch::channel(false);
        self.stop = stop;
        self.served = tokio::spawn(listener.run(stopped));
    }

    async fn node(&self) -> Node {
        let Services {
            authority, store, ..
        } = &*self.services;
        let life = join::DEFAULT_LIFE;
        let addresses = vec![self.address.clone()];
        let token = join::create(authority, store, addresses, "", life, now())
            .await
            .unwrap();
        Node {
            enrolment: enroll(&token, "node", NodeKeys::draw().unwrap())
                .await
                .unwrap(),
        }
    }

    async fn set_state(&self, node: NodeId, state: NodeState) {
        let mut tx = self.services.store.write().await.unwrap();
        assert!(
            nodes::set_state(&mut tx, node, &state, now())
                .await
                .unwrap()
        );
        tx.commit().await.unwrap();
    }

    fn strangers(&self, reason: StrangerReason) -> u64 {
        self.services
            .strangers
            .summary()
            .counts
            .get(&reason)
            .copied()
            .unwrap_or(0)
    }
}

struct Node {
    enrolment: Enrolment,
}

impl Node {
    fn id(&self) -> NodeId {
        self.enrolment.record.node
    }

    fn chain(&self, stream: StreamId) -> Chain {
        let from = now()
            .saturating_sub(Micros::from_seconds(100_000))
            .floor_to(1_000_000);
        let mut chain = Chain::new(self.id(), from, 1, SIZE);
        chain.key = SecretKey::from_seed(&self.enrolment.keys.signing_seed);
        chain.stream = stream;
        chain
    }

    fn tls(&self) -> rustls::ClientConfig {
        let ca = CertificateDer::from(self.enrolment.ca.clone());
        let certificate = CertificateDer::from(self.enrolment.certificate.clone());
        tls::enrolled(
            &ca,
            certificate,
            &self.enrolment.keys.tls_seed,
            0,
            ALPN_INGEST,
        )
        .unwrap()
    }

    async fn link(&self) -> Link {
        connection::connect(&self.enrolment.addresses[0], self.tls())
            .await
            .unwrap()
    }

    fn hello(&self, stream: StreamId) -> Hello {
        Hello {
            // The first version: nothing comes between receipts.
            versions: Versions {
                oldest: 1,
                newest: 1,
            },
            software: "test".to_owned(),
            node: self.id(),
            stream,
            oldest: Seq::FIRST,
            position: Position {
                next: Seq::FIRST,
                head: None,
            },
        }
    }

    async fn welcomed(&self, stream: StreamId) -> (Link, Welcome) {
        let mut link = self.link().await;
        link.send(&Message::Hello(self.hello(stream)))
            .await
            .unwrap();
        match link.receive().await.unwrap() {
            Message::Welcome(welcome) => (link, welcome),
            other => panic!("not welcomed: {other:?}"),
        }
    }

    fn shipping(&self) -> Shipping {
        Shipping {
            node: self.id(),
            tls_seed: self.enrolment.keys.tls_seed,
            certificate: self.enrolment.certificate.clone(),
            ca: self.enrolment.ca.clone(),
            enrolled_at: self.enrolment.record.at,
            successions: self.enrolment.successions.clone(),
            retirements: self.enrolment.retirements.clone(),
            receipt_keys: self.enrolment.receipt_keys.clone(),
            addresses: self.enrolment.addresses.clone(),
            addresses_fixed: false,
            in_force: watch::channel(tallystick_tests::world::nothing_set()).1,
            probe_quic_after: Duration::from_secs(600),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(200),
            drain: Duration::from_secs(5),
        }
    }
}

/// A running agent, as far as shipping goes.
struct Agent {
    buffer: Handle,
    chain: Chain,
    events: Arc<Mutex<Vec<ShipEvent>>>,
    stop: watch::Sender<bool>,
    ran: tokio::task::JoinHandle<()>,
    _data: tempfile::TempDir,
}

impl Agent {
    fn start(node: &Node) -> Self {
        let data = tempfile::tempdir().unwrap();
        let stream = StreamId(node.id().0);
        let (buffer, _) = Buffer::open(data.path(), Settings::default(), stream).unwrap();
        let buffer = Handle::new(buffer);
        let chain = node.chain(buffer.stream());
        let events = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let (sink, handle, shipping) = (events.clone(), buffer.clone(), node.shipping());
        let ran = tokio::spawn(async move {
            let tell = move |event| sink.lock().unwrap().push(event);
            ship::run(shipping, handle, tell, stopped).await.unwrap();
        });
        Self {
            buffer,
            chain,
            events,
            stop,
            ran,
            _data: data,
        }
    }

    fn seal(&mut self, segments: usize) {
        for _ in 0..segments {
            let sealed = self.chain.seal_next();
            append(&self.buffer, &sealed);
        }
    }

    fn receipted(&self) -> Option<Seq> {
        self.buffer
            .lock()
            .last_receipt()
            .map(|receipt| receipt.through)
    }

    async fn settled(&self) {
        let last = self.buffer.head().last();
        until("the last receipt", || self.receipted() == last).await;
    }
}

fn append(buffer: &Handle, sealed: &SealedSegment) {
    let header = sealed.header();
    let previous = match header.previous {
        Previous::Follows(hash) => hash,
        Previous::Opens { .. } => Hash::ZERO,
    };
    let segment = StoredSegment {
        seq: header.seq,
        previous,
        hash: sealed.hash(),
        covered_through: header.covered_through,
        bytes: sealed.bytes().to_vec(),
    };
    buffer.lock().append(segment, b"").unwrap();
}

/// What the reconciler says last before it closes.
async fn refusal(link: &mut Link) -> Refused {
    loop {
        match link
            .receive()
            .await
            .expect("a refusal comes before the close")
        {
            Message::Refused(refused) => return refused,
            Message::Receipt(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_segments_arrive_in_order_once() {
    let reconciler = Reconciler::start().await;
    let node = reconciler.node().await;
    let mut agent = Agent::start(&node);
    agent.seal(1000);
    agent.settled().await;
    assert_eq!(reconciler.memory.hashes(agent.chain.stream).len(), 1000);
    assert_eq!(
        *reconciler.memory.submitted.lock().unwrap(),
        1000,
        "none was sent twice"
    );
    agent.seal(1);
    agent.settled().await;
    agent.stop.send(true).unwrap();
    agent.ran.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_in_the_middle_lose_and_double_nothing() {
    let mut reconciler = Reconciler::start().await;
    let node = reconciler.node().await;
    let mut agent = Agent::start(&node);
    for _ in 0..5 {
        let before = *reconciler.memory.submitted.lock().unwrap();
        agent.seal(20);
        until("some more", || {
            *reconciler.memory.submitted.lock().unwrap() > before
        })
        .await;
        let sealing = async {
            for _ in 0..80 {
                agent.seal(1);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(reconciler.restart(), sealing);
    }
    agent.settled().await;
    assert_eq!(reconciler.memory.hashes(agent.chain.stream).len(), 500);
    assert!(
        reconciler.memory.refusals().is_empty(),
        "{:?}",
        reconciler.memory.refusals()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_receipt_is_given_again_without_sending_again() {
    let mut reconciler = Reconciler::start().await;
    let node = reconciler.node().await;
    let mut agent = Agent::start(&node);
    reconciler.memory.mute.store(true, Ordering::SeqCst);
    agent.seal(10);
    until("ten segments", || {
        reconciler.memory.hashes(agent.chain.stream).len() == 10
    })
    .await;
    assert_eq!(agent.receipted(), None, "no receipt before commit");
    reconciler.memory.mute.store(false, Ordering::SeqCst);
    reconciler.memory.muted.lock().unwrap().clear();
    reconciler.restart().await;
    agent.settled().await;
    assert_eq!(*reconciler.memory.submitted.lock().unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_are_kept_with_their_reason_while_a_good_agent_ships_on() {
    let reconciler = Reconciler::start().await;
    let good = reconciler.node().await;
    let mut agent = Agent::start(&good);
    let bad = reconciler.node().await;
    let stream = StreamId([0xbd; 16]);
    let segment = bad.chain(stream).seal_next().bytes().to_vec();
    let whole = Message::Segment(segment.clone()).to_frame();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut newer = whole.clone();
    newer[5] = 2;
    let mut foreign = bad.chain(stream);
    foreign.key = SecretKey::from_seed(&[1; 32]);
    let foreign = Message::Segment(foreign.seal_next().bytes().to_vec()).to_frame();
    let other = Message::Segment(good.chain(stream).seal_next().bytes().to_vec()).to_frame();
    let truncated = whole[..whole.len() - 7].to_vec();
    let oversized = vec![FrameKind::Segment as u8, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
    let mut later = bad.chain(stream);
    later.seal_next();
    let ahead = Message::Segment(later.seal_next().bytes().to_vec()).to_frame();
    let cases = [
        (flipped, RefusalReason::Signature),
        (newer, RefusalReason::NewerFormat),
        (foreign, RefusalReason::Signature),
        (other, RefusalReason::WrongNode),
        (truncated, RefusalReason::Frame),
        (oversized, RefusalReason::Oversized),
        (vec![0xee, 1, 2], RefusalReason::Frame),
        (
            vec![FrameKind::Hello as u8, 0, 0, 0, 1, 9],
            RefusalReason::Message,
        ),
        (
            Message::Hello(bad.hello(stream)).to_frame(),
            RefusalReason::Message,
        ),
        (
            Message::Segment(vec![1, 0xff, 3]).to_frame(),
            RefusalReason::Format,
        ),
    ];
    for (bytes, reason) in &cases {
        agent.seal(20);
        let (mut link, _) = bad.welcomed(stream).await;
        link.sender.send_frame(bytes).await.unwrap();
        link.sender.finish();
        assert_eq!(refusal(&mut link).await.reason, *reason);
        let (kept_reason, kept) = {
            let refused = reconciler.memory.refused.lock().unwrap();
            let last = refused.last().unwrap();
            assert_eq!(last.node, bad.id());
            (last.refused.reason, last.bytes.clone())
        };
        assert_eq!(kept_reason, *reason);
        let payload = &bytes[5.min(bytes.len())..];
        assert!(kept == *bytes || kept == payload, "kept whole: {reason}");
    }
    let (mut link, _) = bad.welcomed(stream).await;
    link.sender.send_frame(&ahead).await.unwrap();
    assert_eq!(refusal(&mut link).await.reason, RefusalReason::Ahead);

    agent.settled().await;
    assert_eq!(
        reconciler.memory.hashes(agent.chain.stream).len(),
        20 * cases.len()
    );
    let connects = |event: &&ShipEvent| matches!(event, ShipEvent::Connected { .. });
    let events = agent.events.lock().unwrap();
    assert_eq!(
        events.iter().filter(connects).count(),
        1,
        "the good agent never lost its connection"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn banned_retired_unknown_and_newer_peers_are_told_why() {
    let reconciler = Reconciler::start().await;
    let stream = StreamId([3; 16]);
    let node = reconciler.node().await;

    let mut newer = node.hello(stream);
    newer.versions = Versions {
        oldest: 90,
        newest: 99,
    };
    let mut link = node.link().await;
    link.send(&Message::Hello(newer)).await.unwrap();
    let told = refusal(&mut link).await;
    assert_eq!(told.reason, RefusalReason::Version);
    assert!(
        told.detail.contains("this reconciler 1 to 2"),
        "{}",
        told.detail
    );

    let mut other = node.hello(stream);
    other.node = NodeId([9; 16]);
    let mut link = node.link().await;
    link.send(&Message::Hello(other)).await.unwrap();
    assert_eq!(refusal(&mut link).await.reason, RefusalReason::WrongNode);

    let banned = NodeState::Banned {
        at: now(),
        reason: "stolen".to_owned(),
    };
    let lost = NodeState::Retired {
        at: now(),
        lost: Some("burnt".to_owned()),
    };
    for (state, reason) in [
        (banned, RefusalReason::Banned),
        (lost, RefusalReason::Retired),
    ] {
        reconciler.set_state(node.id(), state).await;
        let mut link = node.link().await;
        link.send(&Message::Hello(node.hello(stream)))
            .await
            .unwrap();
        assert_eq!(refusal(&mut link).await.reason, reason);
    }
    let kept = reconciler.memory.refusals();
    let expected = [
        RefusalReason::Version,
        RefusalReason::WrongNode,
        RefusalReason::Banned,
        RefusalReason::Retired,
    ];
    assert_eq!(kept, expected);

    let tls_key = SecretKey::from_seed(&[5; 32]);
    let ghost = NodeId([7; 16]);
    let certificate = reconciler
        .services
        .authority
        .issue_client(ghost, &tls_key.public(), now())
        .unwrap();
    let ca = CertificateDer::from(node.enrolment.ca.clone());
    let config = tls::enrolled(
        &ca,
        CertificateDer::from(certificate.to_vec()),
        &[5; 32],
        0,
        ALPN_INGEST,
    )
    .unwrap();
    let mut link = connection::connect(&reconciler.address, config)
        .await
        .unwrap();
    link.send(&Message::Hello(Hello {
        node: ghost,
        ..node.hello(stream)
    }))
    .await
    .unwrap();
    assert_eq!(refusal(&mut link).await.reason, RefusalReason::UnknownNode);
    assert_eq!(reconciler.strangers(StrangerReason::UnknownNode), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_counted_and_told_nothing() {
    let (ours, theirs) = (Reconciler::start().await, Reconciler::start().await);
    let foreign = theirs.node().await;
    let ca = CertificateDer::from(ours.node().await.enrolment.ca);
    let certificate = CertificateDer::from(foreign.enrolment.certificate.clone());
    let seed = &foreign.enrolment.keys.tls_seed;
    let config = tls::enrolled(&ca, certificate, seed, 0, ALPN_INGEST).unwrap();
    let outcome = match connection::connect(&ours.address, config).await {
        Ok(mut link) => link.receive().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(ConnectError::Lost(_))), "{outcome:?}");
    until("the count", || {
        ours.strangers(StrangerReason::Certificate) == 1
    })
    .await;

    let pinned = tls::pinned(|_| true, ALPN_INGEST).unwrap();
    // The refusal may come while connecting or with the first message.
    if let Ok(mut link) = connection::connect(&ours.address, pinned).await {
        assert!(link.receive().await.is_err());
    }
    until("the count", || {
        ours.strangers(StrangerReason::NoCertificate) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolled_back_agent_learns_that_its_stream_is_over() {
    let reconciler = Reconciler::start().await;
    let node = reconciler.node().await;
    let mut agent = Agent::start(&node);
    agent.seal(10);
    agent.settled().await;
    agent.stop.send(true).unwrap();
    agent.ran.await.unwrap();

    let mut rolled_back = Agent::start(&node);
    until("the news", || {
        let events = rolled_back.events.lock().unwrap();
        events.iter().any(|event| {
            matches!(
                event,
                ShipEvent::StreamOver {
                    why: StreamOver::RolledBack { .. },
                    ..
                }
            )
        })
    })
    .await;
    let stream = StreamId([0x77; 16]);
    let after = rolled_back.buffer.lock().position();
    rolled_back
        .buffer
        .lock()
        .begin_stream(stream, after, None)
        .unwrap();
    rolled_back.chain = node.chain(stream);
    rolled_back.seal(5);
    rolled_back.settled().await;
    assert_eq!(reconciler.memory.hashes(stream).len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hoards_connections_loses_its_oldest() {
    let reconciler = Reconciler::start().await;
    let node = reconciler.node().await;
    let stream = StreamId([4; 16]);
    let (mut oldest, _) = node.welcomed(stream).await;
    let mut newer = Vec::new();
    for _ in 0..4 {
        newer.push(node.welcomed(stream).await);
    }
    assert!(matches!(
        oldest.receive().await,
        Err(ConnectError::Closed { .. })
    ));
    let (link, _) = newer.last_mut().unwrap();
    let segment = node.chain(stream).seal_next().bytes().to_vec();
    link.send(&Message::Segment(segment)).await.unwrap();
    assert!(matches!(link.receive().await.unwrap(), Message::Receipt(_)));
}
