//! How a node stands with its installation over time: certificates that expire, authorities that change,
//! networks that block UDP, settings made centrally.

use std::fs;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tallystick_agent::identity::Identity;
use tallystick_agent::ship::renewal::Validity;
use tallystick_agent::ship::{ShipEvent, connection, tls};
use tallystick_agent::status::{LinkStatus, Status};
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::seal::SealedSegment;
use tallystick_common::wire::{ALPN_RENEW, Message, RefusalReason, Renew, Versions};
use tallystick_reconciler::store::{Store, streams};
use tallystick_tests::poll;
use tallystick_tests::process::output;
use tallystick_tests::relay;
use tallystick_tests::sides::Sides;
use tallystick_tests::world::{self, Reconciler, now};

const PATIENCE: Duration = Duration::from_secs(60);

fn identity(sides: &Sides) -> Identity {
    Identity::load(&sides.agent_data()).unwrap().unwrap()
}

fn certificate(sides: &Sides) -> Vec<u8> {
    identity(sides).enrolment.certificate
}

/// Waits until the agent's status is as it should be.
fn status_when(sides: &Sides, what: &str, is: impl Fn(&Status) -> bool) -> Status {
    poll::until(PATIENCE, what, || {
        sides.status().ok().filter(|status| is(status))
    })
}

/// Waits for a receipt of a segment that does not exist yet.
fn receipted_on(sides: &Sides) {
    let sealed = sides.status().unwrap().next_seq;
    status_when(sides, "a receipt for something new", |status| {
        status.receipted_through.is_some_and(|seq| seq >= sealed) && status.receipted_at.is_some()
    });
}

fn wait_for_expiry(certificate: &[u8]) {
    let last = Validity::of(certificate).unwrap().last;
    poll::until(PATIENCE, "the end of the certificate", || {
        (now().as_micros() / 1_000_000 > last).then_some(())
    });
}

#[test]
fn certificates_of_seconds_are_renewed_again_and_again_while_shipping_goes_on() {
    let mut sides = Sides::prepare_with(&[], "[certificates]\nnode = \"6s\"\n").unwrap();
    sides.start_agent(None).unwrap();
    let mut last = certificate(&sides);
    for _ in 0..3 {
        last = poll::until(PATIENCE, "another certificate", || {
            let now = certificate(&sides);
            (now != last).then_some(now)
        });
        receipted_on(&sides);
    }
}

#[test]
fn a_certificate_that_expired_long_ago_is_renewed_unless_the_node_is_banned() {
    let mut sides = Sides::prepare_with(&[], "[certificates]\nnode = \"1s\"\n").unwrap();
    let first = certificate(&sides);
    wait_for_expiry(&first);
    sides.configure_reconciler("").unwrap();
    sides.restart_reconciler().unwrap();
    sides
        .reconcile(&["node", "ban", "metered", "--reason", "unpaid"])
        .unwrap();
    sides.start_agent(None).unwrap();
    status_when(
        &sides,
        "the ban",
        |status| matches!(&status.link, LinkStatus::Waiting { why, needs_action: true } if why.contains("unpaid")),
    );
    assert_eq!(certificate(&sides), first);
    sides.agent.take().unwrap().terminate().unwrap();

    // A second node of the same kind, which nobody banned.
    let mut sides = Sides::prepare_with(&[], "[certificates]\nnode = \"1s\"\n").unwrap();
    let first = certificate(&sides);
    wait_for_expiry(&first);
    sides.configure_reconciler("").unwrap();
    sides.restart_reconciler().unwrap();
    sides.start_agent(None).unwrap();
    receipted_on(&sides);
    let renewed = Validity::of(&certificate(&sides)).unwrap();
    assert!(renewed.last > now().as_micros() / 1_000_000 + 80 * 86_400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_gives_a_certificate_for_nobody_but_the_node_that_shows_its_own() {
    let reconciler = Reconciler::start().await.unwrap();
    let node = reconciler.node("a").await.unwrap();
    let other = reconciler.node("b").await.unwrap();
    let ask = async |of: &world::Node, about: &world::Node| {
        let ca = CertificateDer::from(of.enrolment.ca.clone());
        let shown = CertificateDer::from(of.enrolment.certificate.clone());
        let seed = &of.enrolment.keys.tls_seed;
        let tls = tls::enrolled(&ca, shown, seed, 0, ALPN_RENEW).unwrap();
        let mut link = connection::connect(&reconciler.address(), tls)
            .await
            .unwrap();
        let request = Renew {
            versions: Versions::OURS,
            software: "test".to_owned(),
            node: about.id(),
        };
        link.send(&Message::Renew(request)).await.unwrap();
        link.receive().await.unwrap()
    };
    let Message::Renewed(renewed) = ask(&node, &node).await else {
        panic!("not renewed")
    };
    assert_eq!(renewed.trust.receipt_keys, node.enrolment.receipt_keys);
    let Message::Refused(refused) = ask(&node, &other).await else {
        panic!("not refused")
    };
    assert_eq!(refused.reason, RefusalReason::WrongNode);
}

#[test]
fn the_servers_own_certificate_is_renewed_while_it_serves() {
    let mut sides = Sides::prepare_with(&[], "[certificates]\nserver = \"6s\"\n").unwrap();
    let file = sides.reconciler_data().join("authority/server.crt");
    let mut last = fs::read(&file).unwrap();
    let first = last.clone();
    for _ in 0..3 {
        last = poll::until(PATIENCE, "another certificate of the server", || {
            let now = fs::read(&file).unwrap();
            (now != last).then_some(now)
        });
    }
    assert_ne!(last, first);
    // The first one has expired by now.
    sides.start_agent(None).unwrap();
    receipted_on(&sides);
}

#[test]
fn an_authority_is_rotated_and_retired_without_a_node_enrolling_again() {
    let mut sides = Sides::prepare(&[]).unwrap();
    sides.start_agent(None).unwrap();
    receipted_on(&sides);
    let enrol = |sides: &Sides, data: &std::path::Path| {
        let token = sides.join_token().unwrap();
        let mut command = sides.agent_command();
        command.args(["--data", data.to_str().unwrap(), "enroll", &token]);
        output(&mut command).unwrap();
    };
    // Enrolled before, and offline all the while.
    let away = tempfile::tempdir().unwrap();
    enrol(&sides, away.path());

    let shown = |sides: &Sides| -> Value {
        let shown = sides.reconcile(&["--json", "authority", "show"]).unwrap();
        serde_json::from_str(&shown).unwrap()
    };
    let before = shown(&sides)["fingerprint"].as_str().unwrap().to_owned();
    sides.reconcile(&["authority", "rotate"]).unwrap();
    assert_ne!(shown(&sides)["fingerprint"], before.as_str());
    poll::until(PATIENCE, "the news of it", || {
        (identity(&sides).enrolment.successions.len() == 1).then_some(())
    });
    receipted_on(&sides);
    let agent = sides.agent.take().unwrap();
    agent.terminate().unwrap();
    sides.start_agent(None).unwrap();
    receipted_on(&sides);

    sides.reconcile(&["authority", "retire", &before]).unwrap();
    assert_eq!(shown(&sides)["earlier"][0]["retired"], true);
    poll::until(PATIENCE, "the news of that", || {
        (identity(&sides).enrolment.retirements.len() == 1).then_some(())
    });
    sides.restart_reconciler().unwrap();
    receipted_on(&sides);
    let fresh = tempfile::tempdir().unwrap();
    enrol(&sides, fresh.path());

    // Back after all of it, it believes the new one by what the old one once said.
    let agent = sides.agent.take().unwrap();
    agent.terminate().unwrap();
    let mut command = sides.agent_command();
    command.arg("--data").arg(away.path()).arg("run");
    let _returned = tallystick_tests::process::Process::spawn(&mut command).unwrap();
    poll::until(PATIENCE, "a receipt for who was away", || {
        let published = fs::read(away.path().join("status.json")).ok()?;
        let status: Status = serde_json::from_slice(&published).ok()?;
        let learned = Identity::load(away.path()).unwrap().unwrap();
        let enrolment = learned.enrolment;
        (status.receipted_at.is_some() && enrolment.retirements.len() == 1).then_some(())
    });
}

#[test]
fn where_udp_is_blocked_segments_go_by_tcp() {
    let mut sides = Sides::prepare(&[]).unwrap();
    let only_tcp = relay::tcp(sides.ingest().unwrap()).unwrap();
    let config = fs::read_to_string(sides.agent_config()).unwrap();
    // The first address does not answer at all.
    let addresses = format!("addresses = [\"127.0.0.1:9\", \"{only_tcp}\"]\n");
    fs::write(sides.agent_config(), addresses + &config).unwrap();
    sides.start_agent(None).unwrap();
    let status = status_when(&sides, "a connection", |status| {
        matches!(status.link, LinkStatus::Connected { .. })
    });
    let LinkStatus::Connected { address, tcp: true } = status.link else {
        panic!("{:?}", status.link)
    };
    assert_eq!(address, only_tcp.to_string());
    receipted_on(&sides);
    // It goes in good order, and nothing of it is refused.
    sides.agent.take().unwrap().terminate().unwrap();
    assert_eq!(sides.status().unwrap().unreceipted, 0);
    let refusals = sides.api().unwrap().all("/v1/refusals").unwrap();
    assert!(refusals.is_empty(), "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_is_taken_up_again_as_soon_as_it_gets_through() {
    use tallystick_agent::buffer::{Buffer, Handle, Settings};
    use tallystick_agent::ship::connection::Transport;

    let reconciler = Reconciler::start().await.unwrap();
    let node = reconciler.node("a").await.unwrap();
    let target = reconciler.ready().ingest;
    let only_tcp = relay::tcp(target).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stream = StreamId([0x61; 16]);
    let (buffer, _) = Buffer::open(folder.path(), Settings::default(), stream).unwrap();
    let mut shipping = node.shipping();
    shipping.addresses = vec![only_tcp.to_string()];
    shipping.probe_quic_after = Duration::from_millis(500);
    let shipper = world::Shipper::start(shipping, Handle::new(buffer));
    let by = |event: &ShipEvent| match event {
        ShipEvent::Connected { transport, .. } => Some(*transport),
        _ => None,
    };
    world::until(PATIENCE, "a connection by TCP", || {
        shipper.saw(|event| by(event) == Some(Transport::Tcp))
    })
    .await;
    relay::udp(only_tcp, target).unwrap();
    world::until(PATIENCE, "one by QUIC", || {
        shipper.saw(|event| by(event) == Some(Transport::Quic))
    })
    .await;
    shipper.stop().await.unwrap();
}

/// The configuration digests in the headers of the one stream, from that segment on.
async fn digests(sides: &Sides, from: Seq) -> Vec<Hash> {
    let path = sides.reconciler_data().join(Store::FILE_NAME);
    let store = Store::open(&path).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let row = streams::all(&mut tx).await.unwrap()[0].row;
    let segments = streams::segments_from(&mut tx, row, from, u32::MAX);
    let digest = |bytes| SealedSegment::parse(bytes).unwrap().header().config;
    let stored = segments.await.unwrap().into_iter();
    let digests = stored.map(|segment| digest(segment.bytes)).collect();
    drop(tx);
    store.close().await;
    digests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn central_settings_are_in_force_in_headers_and_confirmed_or_refused_with_their_reason() {
    let mut sides = Sides::prepare(&[]).unwrap();
    sides.start_agent(None).unwrap();
    receipted_on(&sides);
    let own = digests(&sides, Seq(0)).await[0];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    let set = |text: &str| {
        fs::write(&file, text).unwrap();
        sides.reconcile(&["node", "config", "metered", file.to_str().unwrap()])
    };
    let said = |sides: &Sides| -> Value {
        let said = sides
            .reconcile(&["--json", "node", "config", "metered"])
            .unwrap();
        serde_json::from_str(&said).unwrap()
    };
    set("[interfaces]\ninclude = []\n").unwrap();
    let confirmed = poll::until(PATIENCE, "the node's word", || {
        let said = said(&sides);
        (said["in_force"] == 1 && said["problem"].is_null()).then_some(said)
    });
    let digest: Hash = confirmed["digest"].as_str().unwrap().parse().unwrap();
    assert_ne!(digest, own);
    let from = sides.status().unwrap().next_seq;
    receipted_on(&sides);
    receipted_on(&sides);
    let sealed = digests(&sides, from).await;
    assert!(
        sealed.contains(&digest) && !sealed.contains(&own),
        "{sealed:?}"
    );

    let refused = set("data = \"/\"\n").unwrap_err().to_string();
    assert!(refused.contains("sample_seconds"), "{refused}");
    set("seal_seconds = 7\n").unwrap();
    let told = poll::until(PATIENCE, "the node's no", || {
        let said = said(&sides);
        (said["in_force"] == 2).then_some(said)
    });
    assert!(
        told["problem"].as_str().unwrap().contains("seal_seconds"),
        "{told}"
    );
    assert_eq!(told["digest"], own.to_string(), "its own is in force");

    // They outlive both sides.
    set("[interfaces]\ninclude = []\n").unwrap();
    status_when(&sides, "version 3", |status| status.central_version == 3);
    sides.agent.take().unwrap().terminate().unwrap();
    sides.reconciler.take().unwrap().terminate().unwrap();
    sides.start_agent(None).unwrap();
    let status = status_when(&sides, "the next segments", |status| status.unreceipted > 1);
    assert_eq!((status.central_version, status.central_problem), (3, None));
    sides.start_reconciler(None).unwrap();
    let from = status.next_seq;
    receipted_on(&sides);
    assert!(
        digests(&sides, from)
            .await
            .iter()
            .all(|sealed| *sealed == digest)
    );
}
