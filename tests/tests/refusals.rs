//! What is not counted is kept with its reason and shown, and harms nobody else (I6, I11).

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tallystick_agent::buffer::{Buffer, Handle, Settings, StoredSegment};
use tallystick_agent::ship::connection::{self, Link};
use tallystick_agent::ship::tls;
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::SealedSegment;
use tallystick_common::segment::Previous;
use tallystick_common::time::{Micros, QUARTER_HOUR_US};
use tallystick_common::wire::{ALPN_INGEST, FrameKind, Hello, Message, RefusalReason, Versions};
use tallystick_tests::fixture::Chain;
use tallystick_tests::world::{Node, Reconciler, Shipper, an_hour_ago, now, refusal, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// A node that does everything right, all the while.
struct Good {
    buffer: Handle,
    chain: Chain,
    shipper: Shipper,
    _folder: tempfile::TempDir,
}

impl Good {
    fn start(node: &Node) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stream = StreamId([0x60; 16]);
        let (buffer, _) = Buffer::open(folder.path(), Settings::default(), stream).unwrap();
        let buffer = Handle::new(buffer);
        Self {
            chain: node.chain(stream, an_hour_ago()),
            shipper: node.ship(buffer.clone()),
            buffer,
            _folder: folder,
        }
    }

    /// Seals so many segments more and waits for their receipts.
    async fn ships(&mut self, segments: u64) {
        for _ in 0..segments {
            let sealed = self.chain.seal_next();
            self.buffer.lock().append(stored(&sealed), b"").unwrap();
        }
        until(PATIENCE, "the good node's receipts", || {
            (self.buffer.stats().unreceipted == 0).then_some(())
        })
        .await;
        assert_eq!(
            self.shipper.connections(),
            1,
            "it never lost its connection"
        );
    }
}

fn stored(sealed: &SealedSegment) -> StoredSegment {
    let header = sealed.header();
    StoredSegment {
        seq: header.seq,
        previous: match header.previous {
            Previous::Follows(hash) => hash,
            Previous::Opens { .. } => Hash::ZERO,
        },
        hash: sealed.hash(),
        covered_through: header.covered_through,
        bytes: sealed.bytes().to_vec(),
    }
}

fn frame(sealed: &SealedSegment) -> Vec<u8> {
    Message::Segment(sealed.bytes().to_vec()).to_frame()
}

/// Sends a whole segment and reads its receipt.
async fn receipted(link: &mut Link, sealed: &SealedSegment, node: &Node) -> Receipt {
    link.sender.send_frame(&frame(sealed)).await.unwrap();
    let Message::Receipt(receipt) = link.receive().await.unwrap() else {
        panic!("no receipt")
    };
    let bytes = receipt.to_bytes();
    node.read_receipt(&bytes)
        .expect("the receipt is signed by the reconciler")
}

fn words(rows: &[Value], key: &str) -> Vec<String> {
    let word = |row: &Value| row[key].as_str().unwrap_or("-").to_owned();
    rows.iter().map(word).collect()
}

/// What the first page says of a node.
fn figures(overview: &Value, name: &str) -> (u64, u64) {
    let mut nodes = overview["nodes"].as_array().unwrap().iter();
    let node = nodes.find(|node| node["name"] == name).unwrap();
    let figure = |key: &str| node[key].as_u64().unwrap();
    (figure("refused"), figure("quarantined"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bytes_are_kept_with_their_reason_and_shown_while_a_good_node_ships_on() {
    let reconciler = Reconciler::start().await.unwrap();
    let api = reconciler.api();
    let mut good = Good::start(&reconciler.node("good").await.unwrap());
    good.ships(3).await;
    let bad = reconciler.node("bad").await.unwrap();
    let stream = StreamId([0xbd; 16]);
    let chain = || bad.chain(stream, an_hour_ago());
    let whole = frame(&chain().seal_next());

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    let mut foreign = chain();
    foreign.key = SecretKey::from_seed(&[1; 32]);
    let mut other = bad.chain(stream, an_hour_ago());
    other.node = NodeId([3; 16]);
    let mut newer = whole.clone();
    newer[5] = 2;
    let truncated = whole[..whole.len() - 7].to_vec();
    let oversized = vec![FrameKind::Segment as u8, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
    let mut later = chain();
    later.seal_next();
    let cases = [
        ("a flipped bit", flipped, None),
        (
            "a wrong key",
            frame(&foreign.seal_next()),
            Some("signature"),
        ),
        (
            "another node's segment",
            frame(&other.seal_next()),
            Some("wrong_node"),
        ),
        ("a newer format", newer, Some("newer_format")),
        ("a truncated frame", truncated, Some("frame")),
        ("an oversized frame", oversized, Some("oversized")),
        (
            "no segment at all",
            Message::Segment(vec![1, 0xff, 3]).to_frame(),
            Some("format"),
        ),
        (
            "a segment too early",
            frame(&later.seal_next()),
            Some("ahead"),
        ),
    ];
    for (number, (what, bytes, expected)) in cases.iter().enumerate() {
        let (mut link, _) = bad.welcomed(stream).await.unwrap();
        link.sender.send_frame(bytes).await.unwrap();
        link.sender.finish();
        let told = refusal(&mut link).await.unwrap().reason;
        // Where the bit was decides whether it is the form or the signature that fails.
        match expected {
            Some(expected) => assert_eq!(told.as_str(), *expected, "{what}"),
            None => assert!(matches!(
                told,
                RefusalReason::Signature | RefusalReason::Format
            )),
        }
        let kept = api.all("/v1/nodes/bad/refusals").unwrap();
        assert_eq!(kept.len(), number + 1, "{what} is shown");
        let kept = kept.last().unwrap();
        assert_eq!(kept["reason"], told.as_str(), "{what}");
        assert!(!kept["detail"].as_str().unwrap().is_empty(), "{what}");
        let size = kept["byte_count"].as_u64().unwrap() as usize;
        assert!(
            size == bytes.len() || size + 5 == bytes.len(),
            "{what} is kept whole: {kept}"
        );
        good.ships(1).await;
    }
    let overview = api.get("/v1/overview").unwrap();
    assert_eq!(figures(&overview, "bad"), (cases.len() as u64, 0));
    assert_eq!(figures(&overview, "good"), (0, 0));
    assert_eq!(api.all("/v1/refusals").unwrap().len(), cases.len());

    // Nothing of it stands in the way of the right segment.
    let (mut link, _) = bad.welcomed(stream).await.unwrap();
    assert_eq!(
        receipted(&mut link, &chain().seal_next(), &bad).await.seq,
        Seq::FIRST
    );
    good.ships(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_may_not_speak_are_told_why_and_it_is_shown() {
    let reconciler = Reconciler::start().await.unwrap();
    let api = reconciler.api();
    let mut good = Good::start(&reconciler.node("good").await.unwrap());
    good.ships(1).await;
    let bad = reconciler.node("bad").await.unwrap();
    let stream = StreamId([3; 16]);

    let told = async |hello: Hello| {
        let mut link = bad.link().await.unwrap();
        link.send(&Message::Hello(hello)).await.unwrap();
        refusal(&mut link).await.unwrap()
    };
    let newer = Versions {
        oldest: 90,
        newest: 99,
    };
    let refused = told(Hello {
        versions: newer,
        ..bad.hello(stream)
    })
    .await;
    assert_eq!(refused.reason, RefusalReason::Version);
    assert!(
        refused.detail.contains("90") && refused.detail.contains('1'),
        "{}",
        refused.detail
    );
    good.ships(1).await;

    api.post("/v1/nodes/bad/ban", &json!({ "reason": "stolen" }))
        .unwrap();
    assert_eq!(told(bad.hello(stream)).await.reason, RefusalReason::Banned);
    good.ships(1).await;
    let kept = api.all("/v1/nodes/bad/refusals").unwrap();
    assert_eq!(words(&kept, "reason"), ["version", "banned"]);
    assert_eq!(api.get("/v1/nodes/bad").unwrap()["reason"], "stolen");

    // A certificate of our own authority for a node that nobody enrolled: a stranger, counted only.
    let ghost = NodeId([7; 16]);
    let services = &reconciler.ready().services;
    let key = SecretKey::from_seed(&[5; 32]).public();
    let certificate = services.authority.issue_client(ghost, &key, now()).unwrap();
    let certificate = CertificateDer::from(certificate.to_vec());
    let ca = CertificateDer::from(bad.enrolment.ca.clone());
    let tls = tls::enrolled(&ca, certificate, &[5; 32], 0, ALPN_INGEST).unwrap();
    let mut link = connection::connect(&reconciler.address(), tls)
        .await
        .unwrap();
    let hello = Hello {
        node: ghost,
        ..bad.hello(stream)
    };
    link.send(&Message::Hello(hello)).await.unwrap();
    assert_eq!(
        refusal(&mut link).await.unwrap().reason,
        RefusalReason::UnknownNode
    );
    let metrics = api.ask("GET", "/metrics", None).unwrap().body;
    let counted = metrics.lines().any(|line| {
        line.starts_with("tallystick_strangers_refused_total{")
            && line.contains("unknown_node")
            && line.ends_with(" 1")
    });
    assert!(counted, "{metrics}");
    good.ships(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_from_the_future_are_quarantined_and_the_stream_goes_on() {
    let reconciler = Reconciler::start().await.unwrap();
    let api = reconciler.api();
    let node = reconciler.node("fast").await.unwrap();
    let stream = StreamId([0xfa; 16]);
    let begin = now().floor_to(1_000_000);
    let mut chain = node.chain(stream, begin.saturating_sub(Micros::from_seconds(1)));
    let (mut link, _) = node.welcomed(stream).await.unwrap();
    assert!(
        receipted(&mut link, &chain.seal_next(), &node)
            .await
            .quarantined
            .is_empty()
    );
    let mut future = Vec::new();
    for _ in 0..6 {
        let receipt = receipted(&mut link, &chain.seal_next(), &node).await;
        future.extend(receipt.quarantined);
    }
    assert_eq!(
        future.last(),
        Some(&Seq(6)),
        "the receipt says that it is not counted"
    );

    // The wall passes it: what follows counts.
    let mut next = chain.seal_next();
    let through = next.header().covered_through;
    until(PATIENCE, "the wall clock", || {
        (now() > through).then_some(())
    })
    .await;
    let receipt = receipted(&mut link, &next, &node).await;
    assert_eq!((receipt.seq, receipt.quarantined.len()), (Seq(7), 0));
    next = chain.seal_next();
    until(PATIENCE, "the wall clock", || {
        (now() > next.header().covered_through).then_some(())
    })
    .await;
    assert!(
        receipted(&mut link, &next, &node)
            .await
            .quarantined
            .is_empty()
    );

    let segments = api.all("/v1/nodes/fast/segments").unwrap();
    assert_eq!(segments.len(), 9, "all are kept");
    let held = api.all("/v1/nodes/fast/quarantine").unwrap();
    assert_eq!(held.len(), future.len());
    assert!(
        words(&held, "doubt").iter().all(|doubt| doubt == "future"),
        "{held:?}"
    );
    let overview = api.get("/v1/overview").unwrap();
    assert_eq!(figures(&overview, "fast"), (0, future.len() as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_stops_its_stream_and_bills_neither_branch_twice() {
    let reconciler = Reconciler::start().await.unwrap();
    let api = reconciler.api();
    let mut good = Good::start(&reconciler.node("good").await.unwrap());
    let node = reconciler.node("cloned").await.unwrap();
    let stream = StreamId([0xf0; 16]);
    let began = an_hour_ago();
    let mut chain = node.chain(stream, began);
    let (mut link, _) = node.welcomed(stream).await.unwrap();
    let first = chain.seal_next();
    receipted(&mut link, &first, &node).await;
    receipted(&mut link, &chain.seal_next(), &node).await;
    let from = began.floor_to(QUARTER_HOUR_US);
    let usage = || {
        api.all(&format!("/v1/usage?from={from}&node=cloned"))
            .unwrap()
    };
    let before = words(&usage(), "quantity");
    assert!(!before.is_empty());

    // The clone goes on from the same first segment with usage of its own.
    let mut clone = node.chain(stream, began);
    assert_eq!(
        clone.seal_next().hash(),
        first.hash(),
        "up to here they are one"
    );
    clone.diverge();
    let forked = clone.seal_next();
    let (mut link, _) = node.welcomed(stream).await.unwrap();
    link.sender.send_frame(&frame(&forked)).await.unwrap();
    assert_eq!(
        refusal(&mut link).await.unwrap().reason,
        RefusalReason::Fork
    );

    let kept = api.all("/v1/nodes/cloned/refusals").unwrap();
    assert_eq!(words(&kept, "reason"), ["fork"], "{kept:?}");
    assert_eq!(
        (&kept[0]["seq"], &kept[0]["stream"]),
        (&json!(1), &json!(stream.to_string()))
    );
    let audit = api.all("/v1/audit").unwrap();
    assert!(
        words(&audit, "action").contains(&"stream.freeze".to_owned()),
        "{audit:?}"
    );
    assert_eq!(
        words(&usage(), "quantity"),
        before,
        "the other branch changes no total"
    );

    // Frozen until a person decides: the first branch does not go on either.
    let mut link = node.link().await.unwrap();
    link.send(&Message::Hello(node.hello(stream)))
        .await
        .unwrap();
    let mut stopped = None;
    if let Message::Refused(refused) = link.receive().await.unwrap() {
        stopped = Some(refused.reason);
    } else {
        link.sender
            .send_frame(&frame(&chain.seal_next()))
            .await
            .unwrap();
        stopped = stopped.or(Some(refusal(&mut link).await.unwrap().reason));
    }
    assert_eq!(stopped, Some(RefusalReason::Busy), "it is to be sent again");
    assert_eq!(api.all("/v1/nodes/cloned/segments").unwrap().len(), 2);
    good.ships(2).await;
}
