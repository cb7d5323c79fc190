//! The sockets: UDP for QUIC, and TCP of the same address for where UDP is blocked; TLS 1.3 on both, for
//! enrolled nodes and for those that want to be.
//!
//! Owns TLS, transport limits and the sockets' settings. Who may do what after the handshake is
//! decided in `listener`.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{IdleTimeout, TokioRuntime, TransportConfig, VarInt};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tallystick_common::wire::{ALPN_ENROLL, ALPN_INGEST, ALPN_RENEW};
use tokio::net::{TcpListener, TcpStream};

use super::reset;
use crate::authority::Authority;
use crate::authority::tls::provider;

/// Wanted size of the UDP receive buffer: the kernel's default loses packets under load.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// A connection that says nothing for so long is gone; agents keep theirs alive far more often.
const IDLE: Duration = Duration::from_secs(60);
/// What one peer may have in flight towards us, which bounds its memory here.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address is taken or not ours.
    #[error(
        "listen on UDP {address} for agents: {error}; stop what uses it, or choose another address (--ingest, or listen.ingest in reconciler.toml)"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The same, of TCP.
    #[error("listen on TCP {address}: {error}: choose another address or stop what listens there")]
    ListenTcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The authority's certificates cannot be used for TLS.
    #[error("set up TLS: {0}")]
    Tls(String),
}

/// Opens the endpoint.
///
/// # Errors
/// When the address cannot be listened on, or the certificates do not fit.
pub fn open(address: SocketAddr, authority: &Authority) -> Result<quinn::Endpoint, EndpointError> {
    let crypto = QuicServerConfig::try_from(tls(authority)?)
        .map_err(|error| EndpointError::Tls(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    config
        .max_incoming(1 << 10)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(4 << 20);
    let failed = |error| EndpointError::Listen { address, error };
    let socket = socket(address).map_err(failed)?;
    quinn::Endpoint::new(
        reset::endpoint_config(authority),
        Some(config),
        socket,
        Arc::new(TokioRuntime),
    )
    .map_err(failed)
}

/// TLS of both sockets. A client certificate is asked for and, if shown, must be ours: enrolment has
/// none yet.
///
/// # Errors
/// When TLS 1.3 cannot be had.
pub fn tls(authority: &Authority) -> Result<ServerConfig, EndpointError> {
    let shown = Arc::new(authority.handshakes());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| EndpointError::Tls(error.to_string()))?
        .with_client_cert_verifier(Arc::clone(&shown) as _)
        .with_cert_resolver(shown);
    config.alpn_protocols = [ALPN_INGEST, ALPN_ENROLL, ALPN_RENEW]
        .map(<[u8]>::to_vec)
        .to_vec();
    Ok(config)
}

/// Listens on the TCP port of the same number.
///
/// # Errors
/// When it cannot be listened on.
pub fn open_tcp(address: SocketAddr) -> Result<TcpListener, EndpointError> {
    let failed = |error| EndpointError::ListenTcp { address, error };
    let listen = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        // A restart must not wait for what the last process left in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1 << 10)?;
        socket.set_nonblocking(true)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(failed)
}

/// Lets the kernel find out, within a minute, that a peer is gone.
pub(super) fn keep_alive(stream: &TcpStream) {
    let alive = TcpKeepalive::new()
        .with_time(IDLE / 4)
        .with_interval(IDLE / 4)
        .with_retries(3);
    let socket = SockRef::from(stream);
    // Without it a dead peer holds its place until the node's next connections push it out.
    let _ = socket.set_tcp_keepalive(&alive);
    let _ = stream.set_nodelay(true);
}

/// One long-lived stream per connection is all the protocol uses.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .send_window(256 << 10)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    transport
}

fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    raise_receive_buffer(&socket);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A capped buffer costs packets under load, never correctness, so it is only told.
fn raise_receive_buffer(socket: &Socket) {
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    let bytes = socket.recv_buffer_size().unwrap_or(0);
    if bytes < RECEIVE_BUFFER_BYTES {
        tracing::warn!(
            bytes,
            wanted_bytes = RECEIVE_BUFFER_BYTES,
            "the kernel caps the UDP receive buffer; raise net.core.rmem_max for busy reconcilers"
        );
    }
}
