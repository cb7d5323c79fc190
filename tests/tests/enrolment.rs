//! Enrolment between the real agent and the real reconciler over QUIC on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tallystick_agent::ship::enroll::{EnrollError, Enrolment, NodeKeys, enroll};
use tallystick_common::ids::{Hash, NodeId, StoreEpoch, StreamId};
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::{JoinToken, Position, RefusalReason};
use tallystick_reconciler::authority::{Authority, join};
use tallystick_reconciler::ingest::Services;
use tallystick_reconciler::ingest::admit::Verdict;
use tallystick_reconciler::ingest::bulletin::Changes;
use tallystick_reconciler::ingest::intake::{Intake, Later, RefusedBytes, Stopped};
use tallystick_reconciler::ingest::listener::Listener;
use tallystick_reconciler::ingest::strangers::{StrangerReason, Strangers};
use tallystick_reconciler::store::{Store, StoreError};
use tokio::sync::{oneshot, watch};

/// Enrolment hands nothing to commit.
#[derive(Debug)]
struct Nobody;

impl Intake for Nobody {
    fn position(&self, _: NodeId, _: StreamId) -> Later<'_, Result<Position, StoreError>> {
        unreachable!()
    }

    fn segment(
        &self,
        _: VerifiedSegment,
        _: SocketAddr,
    ) -> Later<'_, Result<oneshot::Receiver<Verdict>, Stopped>> {
        unreachable!()
    }

    fn refuse(&self, _: RefusedBytes) -> Later<'_, Result<oneshot::Receiver<()>, Stopped>> {
        unreachable!()
    }
}

struct Reconciler {
    services: Arc<Services>,
    address: String,
    stop: watch::Sender<bool>,
    _data: tempfile::TempDir,
}

fn now() -> Timestamp {
    Timestamp::from_micros(UNIX_EPOCH.elapsed().unwrap().as_micros() as u64).unwrap()
}

impl Reconciler {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join(Store::FILE_NAME);
        let services = Arc::new(Services {
            authority: Authority::create(data.path(), now()).unwrap(),
            store: Store::create(&path, StoreEpoch([1; 16]), now())
                .await
                .unwrap(),
            intake: Arc::new(Nobody),
            strangers: Strangers::default(),
            addresses: vec![],
            connections_max: 100,
            changes: Changes::default(),
        });
        let listener =
            Listener::open("127.0.0.1:0".parse().unwrap(), Arc::clone(&services)).unwrap();
        let address = listener.address().to_string();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listener.run(stopped));
        Self {
            services,
            address,
            stop,
            _data: data,
        }
    }

    async fn token(&self, life: Micros) -> JoinToken {
        let Services {
            authority, store, ..
        } = &*self.services;
        join::create(
            authority,
            store,
            vec![self.address.clone()],
            "test",
            life,
            now(),
        )
        .await
        .unwrap()
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

async fn join(token: &JoinToken) -> Result<Enrolment, EnrollError> {
    enroll(token, "edge-1", NodeKeys::draw().unwrap()).await
}

fn refused_for(outcome: Result<Enrolment, EnrollError>) -> RefusalReason {
    match outcome {
        Err(EnrollError::Refused(refused)) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_token_makes_one_node() {
    let reconciler = Reconciler::start().await;
    let token = reconciler.token(join::DEFAULT_LIFE).await;
    let token = token.to_string().parse().unwrap();
    let enrolment = join(&token).await.unwrap();
    assert_eq!(enrolment.record.name, "edge-1");
    assert_eq!(
        enrolment.addresses,
        std::slice::from_ref(&reconciler.address)
    );
    assert_eq!(enrolment.receipt_keys.len(), 1);

    assert_eq!(refused_for(join(&token).await), RefusalReason::Token);
    assert_eq!(reconciler.strangers(StrangerReason::Token), 1);
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_answered_again() {
    let reconciler = Reconciler::start().await;
    let token = reconciler.token(join::DEFAULT_LIFE).await;
    let keys = NodeKeys::draw().unwrap();
    let first = enroll(&token, "edge-1", keys.clone()).await.unwrap();
    let second = enroll(&token, "edge-1", keys).await.unwrap();
    assert_eq!(first.record, second.record, "the same node");
}

#[tokio::test]
async fn an_expired_token_and_an_invented_one_are_refused() {
    let reconciler = Reconciler::start().await;
    let mut token = reconciler.token(Micros(0)).await;
    assert_eq!(refused_for(join(&token).await), RefusalReason::Token);
    token.secret = [9; 32];
    assert_eq!(refused_for(join(&token).await), RefusalReason::Token);
}

#[tokio::test]
async fn a_reconciler_with_another_fingerprint_is_told_nothing() {
    let reconciler = Reconciler::start().await;
    let mut token = reconciler.token(join::DEFAULT_LIFE).await;
    let right = std::mem::replace(&mut token.ca, Hash([9; 32]));
    match join(&token).await {
        Err(EnrollError::Connect { error, .. }) => {
            assert!(error.to_string().contains("another one"), "{error}");
        }
        other => panic!("connected: {other:?}"),
    }
    token.ca = right;
    join(&token)
        .await
        .expect("the token was not used up by the attempt");
}

#[tokio::test]
async fn a_stopped_listener_lets_go_of_its_port() {
    let reconciler = Reconciler::start().await;
    reconciler.stop.send(true).unwrap();
    let address: std::net::SocketAddr = reconciler.address.parse().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while std::net::UdpSocket::bind(address).is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "the port is still taken"
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
