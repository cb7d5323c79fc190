//! Who may do what after the handshake.
//!
//! Owns the accept loop, the number of connections, the deadlines of handshake and first message, and
//! draining. Each connection is a task of its own: what one peer does harms no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use tallystick_common::ids::NodeId;
use tallystick_common::wire::{ALPN_ENROLL, CloseCode, FrameKind, Message, RefusalReason};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::endpoint::{self, EndpointError};
use super::enroll::{EnrollError, enroll};
use super::guests::Guests;
use super::peer::{self, Reader};
use super::strangers::StrangerReason;
use super::{Services, connection};
use crate::authority::node_of;

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long the first message may take after it.
pub(super) const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(10);
/// How long sessions have for their last receipts when the server stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// The listening side of ingest and enrolment.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    services: Arc<Services>,
    guests: Arc<Guests>,
    address: SocketAddr,
}

impl Listener {
    /// Opens the UDP port (0: a free one).
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn open(address: SocketAddr, services: Arc<Services>) -> Result<Self, EndpointError> {
        let endpoint = endpoint::open(address, &services.authority)?;
        let address = endpoint
            .local_addr()
            .map_err(|error| EndpointError::Listen { address, error })?;
        Ok(Self {
            endpoint,
            services,
            guests: Arc::default(),
            address,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` holds true, or nobody holds it any more; then takes no more, lets
    /// every session commit what it has read and send its last receipts, and closes.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        let for_tasks = shutdown.clone();
        loop {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => report(ended),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.take(incoming, &mut tasks, &for_tasks),
                    None => break,
                },
            }
        }
        self.endpoint.set_server_config(None);
        let drained = async {
            while let Some(ended) = tasks.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(DRAIN_WITHIN, drained).await.is_err() {
            tracing::warn!("sessions did not end in time; their agents will send again");
        }
        self.endpoint.close(
            VarInt::from_u32(CloseCode::ShuttingDown as u32),
            b"shutting down",
        );
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }

    fn take(&self, incoming: Incoming, tasks: &mut JoinSet<()>, shutdown: &watch::Receiver<bool>) {
        let limit = self.services.connections_max;
        if tasks.len() >= limit {
            let from = incoming.remote_address();
            self.services.stranger(from, StrangerReason::TooMany, "");
            incoming.refuse();
        } else if tasks.len() >= limit / 2 && incoming.may_retry() {
            // Half full: let senders prove their address before they cost a handshake.
            let _ = incoming.retry();
        } else {
            let (services, guests) = (Arc::clone(&self.services), Arc::clone(&self.guests));
            tasks.spawn(serve(incoming, services, guests, shutdown.clone()));
        }
    }
}

/// A task that panicked is a defect, and ends alone.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

async fn serve(
    incoming: Incoming,
    services: Arc<Services>,
    guests: Arc<Guests>,
    shutdown: watch::Receiver<bool>,
) {
    let from = incoming.remote_address();
    let Some(connection) = handshake(incoming, from, &services).await else {
        return;
    };
    if protocol(&connection).as_deref() == Some(ALPN_ENROLL) {
        return serve_enrolment(&connection, &services).await;
    }
    match identity(&connection) {
        Some((node, tls_key)) => {
            let _place = Guests::admit(&guests, node, &connection);
            connection::serve(connection, node, tls_key, services, shutdown).await;
        }
        None => {
            services.stranger(from, StrangerReason::NoCertificate, "");
            let why = b"this protocol needs a node's certificate; enrol first";
            connection.close(VarInt::from_u32(CloseCode::Refused as u32), why);
        }
    }
}

async fn handshake(
    incoming: Incoming,
    from: SocketAddr,
    services: &Services,
) -> Option<Connection> {
    let accepted = async { incoming.accept()?.await };
    let (reason, detail) = match tokio::time::timeout(HANDSHAKE_WITHIN, accepted).await {
        Ok(Ok(connection)) => return Some(connection),
        Ok(Err(error)) => {
            let text = error.to_string();
            let certificate = text.contains("certificate") || text.contains("UnknownIssuer");
            let reason = if certificate {
                StrangerReason::Certificate
            } else {
                StrangerReason::Handshake
            };
            (reason, text)
        }
        Err(_) => (StrangerReason::Slow, "handshake".to_owned()),
    };
    services.stranger(from, reason, &detail);
    None
}

fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?
        .protocol
}

/// The node whose certificate the peer showed; TLS has checked that our CA issued it.
fn identity(connection: &Connection) -> Option<(NodeId, tallystick_common::keys::PublicKey)> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    node_of(chain.first()?)
}

async fn serve_enrolment(connection: &Connection, services: &Services) {
    let from = connection.remote_address();
    let opened = tokio::time::timeout(FIRST_MESSAGE_WITHIN, async {
        let (send, recv) = connection.accept_bi().await.ok()?;
        let mut reader = Reader::new(recv);
        Some((send, reader.next_of(FrameKind::Enroll).await))
    });
    let (mut send, message) = match opened.await {
        Ok(Some(opened)) => opened,
        Ok(None) => return,
        Err(_) => {
            services.stranger(from, StrangerReason::Slow, "enrolment request");
            return connection.close(VarInt::from_u32(CloseCode::Slow as u32), b"too slow");
        }
    };
    let (answer, code) = match message {
        Ok(Message::Enroll(request)) => answer_enrolment(services, from, &request).await,
        other => {
            let detail = other
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default();
            services.stranger(from, StrangerReason::Malformed, &detail);
            return connection.close(
                VarInt::from_u32(CloseCode::Refused as u32),
                detail.as_bytes(),
            );
        }
    };
    if peer::send(&mut send, &answer).await.is_ok() {
        peer::close(connection, send, code, "answered").await;
    }
}

async fn answer_enrolment(
    services: &Services,
    from: SocketAddr,
    request: &tallystick_common::wire::EnrollRequest,
) -> (Message, CloseCode) {
    let error = match services.draw_node() {
        Ok(node) => {
            let (authority, store) = (&services.authority, &services.store);
            let addresses = &services.addresses;
            match enroll(authority, store, request, node, addresses, services.now()).await {
                Ok(enrolled) => {
                    tracing::info!(%from, name = request.name, "enrolled a node");
                    return (Message::Enrolled(enrolled), CloseCode::Done);
                }
                Err(error) => error,
            }
        }
        Err(error) => EnrollError::Authority(error),
    };
    let refused = error.to_refused();
    match refused.reason {
        RefusalReason::Busy => tracing::error!(%error, "could not enrol a node"),
        RefusalReason::Token => services.stranger(from, StrangerReason::Token, &refused.detail),
        _ => services.stranger(from, StrangerReason::Malformed, &refused.detail),
    }
    (Message::Refused(refused), CloseCode::Refused)
}
