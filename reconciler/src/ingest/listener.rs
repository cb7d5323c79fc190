//! Who may do what after the handshake.
//!
//! Owns the accept loop, the number of connections, the deadlines of handshake and first message, and
//! draining. Each connection is a task of its own: what one peer does harms no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, Incoming, VarInt};
use tallystick_common::ids::NodeId;
use tallystick_common::keys::PublicKey;
use tallystick_common::wire::{
    ALPN_ENROLL, ALPN_INGEST, ALPN_RENEW, CloseCode, FrameKind, Message, RefusalReason,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::endpoint::{self, EndpointError};
use super::enroll::{EnrollError, enroll};
use super::guests::Guests;
use super::peer::{Line, Reader, Sender, Wire};
use super::renew;
use super::strangers::StrangerReason;
use super::{Services, connection};
use crate::authority::{last_second, node_of};

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long the first message may take after it.
pub(super) const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(10);
/// How long sessions have for their last receipts when the server stops.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// How many free UDP ports are tried until one's TCP port is free too.
const PORTS_TRIED: usize = 20;
/// How long nothing is taken over TCP after the system could not give a socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening side of ingest and enrolment.
pub struct Listener {
    endpoint: Endpoint,
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    services: Arc<Services>,
    guests: Arc<Guests>,
    address: SocketAddr,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener(at {})", self.address)
    }
}

impl Listener {
    /// Opens the UDP port (0: a free one) and the TCP port of the same number.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn open(address: SocketAddr, services: Arc<Services>) -> Result<Self, EndpointError> {
        let mut tries = if address.port() == 0 { PORTS_TRIED } else { 1 };
        let (endpoint, tcp, address) = loop {
            let endpoint = endpoint::open(address, &services.authority)?;
            let bound = endpoint
                .local_addr()
                .map_err(|error| EndpointError::Listen { address, error })?;
            tries -= 1;
            match endpoint::open_tcp(bound) {
                Ok(tcp) => break (endpoint, tcp, bound),
                Err(_) if tries > 0 => {}
                Err(error) => return Err(error),
            }
        };
        let tls = endpoint::tls(&services.authority)?;
        Ok(Self {
            endpoint,
            tcp,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
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
                (stream, from) = accept_tcp(&self.tcp) => {
                    self.take_tcp(stream, from, &mut tasks, &for_tasks);
                }
            }
        }
        self.stop(tasks).await;
    }

    async fn stop(self, mut tasks: JoinSet<()>) {
        drop(self.tcp);
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
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                if let Some((line, wire)) = handshake(incoming, &services).await {
                    serve(line, wire, services, guests, shutdown).await;
                }
            });
        }
    }

    fn take_tcp(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        tasks: &mut JoinSet<()>,
        shutdown: &watch::Receiver<bool>,
    ) {
        if tasks.len() >= self.services.connections_max {
            return self.services.stranger(from, StrangerReason::TooMany, "");
        }
        let (services, guests) = (Arc::clone(&self.services), Arc::clone(&self.guests));
        let (acceptor, shutdown) = (self.acceptor.clone(), shutdown.clone());
        tasks.spawn(async move {
            endpoint::keep_alive(&stream);
            if let Some((line, wire)) = handshake_tcp(stream, from, &acceptor, &services).await {
                serve(line, wire, services, guests, shutdown).await;
            }
        });
    }
}

async fn accept_tcp(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "a TCP connection was not taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
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
    line: Line,
    wire: Wire,
    services: Arc<Services>,
    guests: Arc<Guests>,
    shutdown: watch::Receiver<bool>,
) {
    let protocol = line.protocol.clone();
    match protocol.as_deref() {
        Some(ALPN_ENROLL) => return serve_enrolment(&line, wire, &services).await,
        Some(ALPN_RENEW | ALPN_INGEST) => {}
        // QUIC never comes here; over TLS a client may name no protocol at all.
        _ => return services.stranger(line.from, StrangerReason::Handshake, "no protocol named"),
    }
    let Some((node, tls_key)) = line.certificate.as_ref().and_then(node_of) else {
        services.stranger(line.from, StrangerReason::NoCertificate, "");
        let why = "this protocol needs a node's certificate; enrol first";
        return part(&line, wire, CloseCode::Refused, why).await;
    };
    if protocol.as_deref() == Some(ALPN_RENEW) {
        return renew::serve(&line, wire, node, tls_key, &services).await;
    }
    if has_expired(&line, &services) {
        services.stranger(line.from, StrangerReason::Certificate, "expired");
        let why = "the node's certificate has expired; renew it";
        return part(&line, wire, CloseCode::Expired, why).await;
    }
    let _place = Guests::admit(&guests, node, &line);
    serve_node(line, wire, node, tls_key, services, shutdown).await;
}

async fn serve_node(
    line: Line,
    wire: Wire,
    node: NodeId,
    tls_key: PublicKey,
    services: Arc<Services>,
    shutdown: watch::Receiver<bool>,
) {
    let held = line.clone();
    tokio::select! {
        () = held.is_cut() => {}
        () = connection::serve(line, wire, node, tls_key, services, shutdown) => {}
    }
}

fn has_expired(line: &Line, services: &Services) -> bool {
    let last = line.certificate.as_ref().map(last_second);
    let now = services.now().as_micros() / tallystick_common::time::SECOND_US;
    !matches!(last, Some(Ok(last)) if now <= last)
}

/// Says the one word before the end; over QUIC the peer's stream is not waited for.
async fn part(line: &Line, wire: Wire, code: CloseCode, why: &str) {
    match wire {
        Wire::Quic(_) => line.cut(code, why),
        tcp @ Wire::Tcp(_) => {
            if let Some((sender, _)) = tcp.open().await {
                sender.close(line, code, why).await;
            }
        }
    }
}

async fn handshake(incoming: Incoming, services: &Services) -> Option<(Line, Wire)> {
    let from = incoming.remote_address();
    let accepted = async { incoming.accept()?.await };
    match tokio::time::timeout(HANDSHAKE_WITHIN, accepted).await {
        Ok(Ok(connection)) => {
            return Some((Line::quic(connection.clone()), Wire::Quic(connection)));
        }
        Ok(Err(error)) => failed(from, &error.to_string(), services),
        Err(_) => services.stranger(from, StrangerReason::Slow, "handshake"),
    }
    None
}

async fn handshake_tcp(
    stream: TcpStream,
    from: SocketAddr,
    acceptor: &TlsAcceptor,
    services: &Services,
) -> Option<(Line, Wire)> {
    match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            return Some((Line::tcp(from, &stream), Wire::Tcp(Box::new(stream))));
        }
        Ok(Err(error)) => failed(from, &error.to_string(), services),
        Err(_) => services.stranger(from, StrangerReason::Slow, "handshake"),
    }
    None
}

fn failed(from: SocketAddr, error: &str, services: &Services) {
    let certificate = error.contains("certificate") || error.contains("UnknownIssuer");
    let reason = if certificate {
        StrangerReason::Certificate
    } else {
        StrangerReason::Handshake
    };
    services.stranger(from, reason, error);
}

/// The first message of a peer that may say only one, and where the answer goes.
pub(super) async fn only_message(
    line: &Line,
    wire: Wire,
    kind: FrameKind,
    services: &Services,
) -> Option<(Sender, Message)> {
    let opened = tokio::time::timeout(FIRST_MESSAGE_WITHIN, async {
        let (sender, mut reader): (Sender, Reader) = wire.open().await?;
        Some((sender, reader.next_of(kind).await))
    });
    match opened.await {
        Ok(Some((sender, Ok(message)))) => Some((sender, message)),
        Ok(Some((sender, Err(error)))) => {
            let detail = error.to_string();
            services.stranger(line.from, StrangerReason::Malformed, &detail);
            sender.close(line, CloseCode::Refused, &detail).await;
            None
        }
        Ok(None) => None,
        Err(_) => {
            services.stranger(line.from, StrangerReason::Slow, "first message");
            line.cut(CloseCode::Slow, "too slow");
            None
        }
    }
}

async fn serve_enrolment(line: &Line, wire: Wire, services: &Services) {
    let Some((mut sender, message)) = only_message(line, wire, FrameKind::Enroll, services).await
    else {
        return;
    };
    let Message::Enroll(request) = message else {
        return;
    };
    let (answer, code) = answer_enrolment(services, line.from, &request).await;
    if sender.send(&answer).await.is_ok() {
        sender.close(line, code, "answered").await;
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
