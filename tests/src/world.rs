//! Both sides in this process, on loopback: the real reconciler with its store and its QUIC listener, and
//! nodes that enrolled with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Context as _;
use rustls::pki_types::CertificateDer;
use tallystick_agent::buffer::{Handle, StoredSegment};
use tallystick_agent::identity::Identity;
use tallystick_agent::ship::connection::{self, Link};
use tallystick_agent::ship::enroll::{Enrolment, NodeKeys, enroll};
use tallystick_agent::ship::{self, ShipEvent, Shipping, tls};
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::keys::SecretKey;
use tallystick_common::receipt::Receipt;
use tallystick_common::seal::SealedSegment;
use tallystick_common::segment::Previous;
use tallystick_common::time::{Micros, Timestamp};
use tallystick_common::wire::{
    ALPN_INGEST, Hello, InForce, JoinToken, Message, Position, Refused, Versions, Welcome,
};
use tallystick_reconciler::authority::join;
use tallystick_reconciler::config::Config;
use tallystick_reconciler::init;
use tallystick_reconciler::run::{Ready, RunError, run};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::fixture::{Chain, Size};
use crate::http::Api;

/// The wall clock.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::EPOCH.saturating_add(UNIX_EPOCH.elapsed().unwrap_or_default().into())
}

/// What a node says that nobody set anything for.
#[must_use]
pub fn nothing_set() -> InForce {
    InForce {
        settings: 0,
        digest: Hash::ZERO,
        problem: None,
    }
}

/// Waits for a state without standing in the way of what brings it.
///
/// # Panics
/// When the deadline passes; the message says what did not come.
pub async fn until<T>(deadline: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "{what} did not come within {deadline:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A reconciler that can go away and come back where it was.
#[derive(Debug)]
pub struct Reconciler {
    data: PathBuf,
    _folder: Option<tempfile::TempDir>,
    addresses: (SocketAddr, SocketAddr),
    api_token: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    ready: Ready,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), RunError>>,
}

impl Reconciler {
    /// A new one that serves.
    ///
    /// # Errors
    /// When it cannot be made, or does not serve.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut reconciler = Self::start_in(&folder.path().join("reconciler")).await?;
        reconciler._folder = Some(folder);
        Ok(reconciler)
    }

    /// A new one that serves, with `data` as its folder, which stays.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_in(data: &Path) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let secret = init::init(data, "test", now()).await?;
        let mut reconciler = Self {
            data: data.to_owned(),
            _folder: None,
            addresses: (any, any),
            api_token: secret.reveal().to_owned(),
            running: None,
        };
        reconciler.come_back().await?;
        Ok(reconciler)
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// Serves again.
    ///
    /// # Errors
    /// When it does not.
    pub async fn come_back(&mut self) -> anyhow::Result<()> {
        let mut config = Config::of(&self.data());
        (config.ingest, config.http) = self.addresses;
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let served = tokio::spawn(async move {
            let ready = move |ready| drop(tell.send(ready));
            let shutdown = async move {
                let _ = stopped.await;
            };
            Box::pin(run(&config, ready, shutdown)).await
        });
        let Ok(ready) = told.await else {
            served.await??;
            anyhow::bail!("it ended without a word");
        };
        let ready: Ready = ready;
        self.addresses = (ready.ingest, ready.http);
        self.running = Some(Running {
            ready,
            stop,
            served,
        });
        Ok(())
    }

    /// Stops in good order.
    ///
    /// # Errors
    /// When it does not.
    pub async fn go_away(&mut self) -> anyhow::Result<()> {
        let Running {
            ready,
            stop,
            served,
        } = self.running.take().context("it runs")?;
        drop(ready);
        let _ = stop.send(());
        Ok(served.await??)
    }

    /// What it works with.
    ///
    /// # Panics
    /// When it is away.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        &self.running.as_ref().expect("it serves").ready
    }

    /// From here on the API is asked with this token.
    pub fn take_token(&mut self, token: &str) {
        token.clone_into(&mut self.api_token);
    }

    /// Where agents reach it.
    #[must_use]
    pub fn address(&self) -> String {
        self.addresses.0.to_string()
    }

    /// Its API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::new(
            format!("http://{}", self.addresses.1),
            self.api_token.clone(),
        )
    }

    /// Enrols a new node.
    ///
    /// # Errors
    /// When that is refused.
    pub async fn node(&self, name: &str) -> anyhow::Result<Node> {
        let token = self.token().await?;
        let enrolment = enroll(&token, name, NodeKeys::draw()?).await?;
        Ok(Node { enrolment })
    }

    /// What a node joins with, once.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn token(&self) -> anyhow::Result<JoinToken> {
        let services = &self.ready().services;
        let (authority, store) = (&services.authority, &services.store);
        let addresses = vec![self.address()];
        Ok(join::create(authority, store, addresses, "", join::DEFAULT_LIFE, now()).await?)
    }
}

/// A node that enrolled.
#[derive(Debug)]
pub struct Node {
    /// Its keys and certificates.
    pub enrolment: Enrolment,
}

impl Node {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.enrolment.record.node
    }

    /// What it signs segments with.
    #[must_use]
    pub fn signing_key(&self) -> SecretKey {
        SecretKey::from_seed(&self.enrolment.keys.signing_seed)
    }

    /// A stream of sound segments, of one second each, that begins at `from`.
    #[must_use]
    pub fn chain(&self, stream: StreamId, from: Timestamp) -> Chain {
        let size = Size {
            workloads: 2,
            meters: 2,
            steps: 2,
        };
        let mut chain = Chain::new(self.id(), from, 1, size);
        chain.key = self.signing_key();
        chain.stream = stream;
        chain
    }

    /// Connects, by mutual TLS with its certificate.
    ///
    /// # Errors
    /// When nobody answers, or the certificate is not taken.
    pub async fn link(&self) -> anyhow::Result<Link> {
        let ca = CertificateDer::from(self.enrolment.ca.clone());
        let certificate = CertificateDer::from(self.enrolment.certificate.clone());
        let seed = &self.enrolment.keys.tls_seed;
        let tls = tls::enrolled(&ca, certificate, seed, 0, ALPN_INGEST)?;
        Ok(connection::connect(&self.enrolment.addresses[0], tls).await?)
    }

    /// What it says first about a stream that it has not begun to send.
    #[must_use]
    pub fn hello(&self, stream: StreamId) -> Hello {
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

    /// Connects and says hello.
    ///
    /// # Errors
    /// When it is not welcome.
    pub async fn welcomed(&self, stream: StreamId) -> anyhow::Result<(Link, Welcome)> {
        let mut link = self.link().await?;
        link.send(&Message::Hello(self.hello(stream))).await?;
        match link.receive().await? {
            Message::Welcome(welcome) => Ok((link, welcome)),
            other => anyhow::bail!("not welcomed: {other:?}"),
        }
    }

    /// What a receipt says, if one of the reconciler's keys signed it.
    #[must_use]
    pub fn read_receipt(&self, bytes: &[u8]) -> Option<Receipt> {
        let enrolment = self.enrolment.clone();
        Identity { enrolment }.read_receipt(bytes)
    }

    /// What shipping needs, with short waits between attempts.
    #[must_use]
    pub fn shipping(&self) -> Shipping {
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
            in_force: watch::channel(nothing_set()).1,
            probe_quic_after: Duration::from_secs(600),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(500),
            drain: Duration::from_secs(5),
        }
    }

    /// Ships what is and comes into `buffer`.
    #[must_use]
    pub fn ship(&self, buffer: Handle) -> Shipper {
        Shipper::start(self.shipping(), buffer)
    }
}

/// A node's shipping at work.
#[derive(Debug)]
pub struct Shipper {
    events: Arc<Mutex<Vec<ShipEvent>>>,
    stop: watch::Sender<bool>,
    ran: JoinHandle<anyhow::Result<()>>,
}

impl Shipper {
    /// Ships what is and comes into `buffer`.
    #[must_use]
    pub fn start(shipping: Shipping, buffer: Handle) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let sink = Arc::clone(&events);
        let ran = tokio::spawn(async move {
            let tell = move |event| {
                if let Ok(mut sink) = sink.lock() {
                    sink.push(event);
                }
            };
            ship::run(shipping, buffer, tell, stopped).await?;
            Ok(())
        });
        Self { events, stop, ran }
    }

    /// `Some` once such an event came.
    #[must_use]
    pub fn saw(&self, is: impl Fn(&ShipEvent) -> bool) -> Option<()> {
        let events = self.events.lock().ok()?;
        events.iter().any(is).then_some(())
    }

    /// How often it has connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        let events = self.events.lock().map(|events| {
            let connected = |event: &&ShipEvent| matches!(event, ShipEvent::Connected { .. });
            events.iter().filter(connected).count()
        });
        events.unwrap_or_default()
    }

    /// Stops after the last receipts.
    ///
    /// # Errors
    /// When it failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
        self.ran.await?
    }
}

/// What the reconciler says last before it closes the connection; receipts before it are passed over.
///
/// # Errors
/// When the connection ends without a reason.
pub async fn refusal(link: &mut Link) -> anyhow::Result<Refused> {
    loop {
        match link.receive().await? {
            Message::Refused(refused) => return Ok(refused),
            Message::Receipt(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
}

/// An hour ago, on a second.
#[must_use]
pub fn an_hour_ago() -> Timestamp {
    now()
        .saturating_sub(Micros::from_seconds(3600))
        .floor_to(1_000_000)
}

/// A segment as an agent's buffer keeps it.
#[must_use]
pub fn stored(sealed: &SealedSegment) -> StoredSegment {
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
