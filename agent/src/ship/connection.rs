//! Talking to the reconciler: one connection, one stream, whole messages. QUIC, or TLS over TCP where QUIC
//! does not get through.
//!
//! The only user of quinn and of TCP towards the reconciler. Decides nothing: what to send and what an
//! answer means is in `session`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tallystick_common::wire::{CloseCode, Closing, FrameDecoder, FrameError, Message, SERVER_NAME};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// An address that does not answer for so long is given up.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// QUIC alone is tried for so long, then TCP beside it.
const HEAD_START: Duration = Duration::from_secs(3);
/// Often enough to keep address translation open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Silence for so long ends the connection.
const IDLE: Duration = Duration::from_secs(60);
/// How long the answer to a first message may take.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long a close waits for what was sent to arrive.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Most that is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Why the reconciler cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not one.
    #[error("find {address}: {error}: write it as host:port")]
    Resolve {
        /// The address.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// No socket.
    #[error("open a UDP socket: {0}")]
    Socket(std::io::Error),
    /// TLS could not be set up: a stored certificate or key does not fit.
    #[error("set up TLS: {0}")]
    Tls(rustls::Error),
    /// The connection was not made, or was lost.
    #[error("{}", explain(.0))]
    Lost(quinn::ConnectionError),
    /// The reconciler closed the connection with a word why.
    #[error("the reconciler closed the connection: {reason}")]
    Closed {
        /// How it ended; `None` for a code this version does not know.
        code: Option<CloseCode>,
        /// For people.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer in time: is the reconciler running, and its UDP port open?")]
    Slow,
    /// Neither transport gets through.
    #[error("{address} is not reached by UDP ({udp}), nor by TCP ({tcp})")]
    Unreachable {
        /// The address.
        address: String,
        /// What QUIC says.
        udp: Box<ConnectError>,
        /// What TCP says.
        tcp: Box<ConnectError>,
    },
    /// TCP or TLS over it.
    #[error("{}", explain_tcp(.0))]
    Tcp(std::io::Error),
    /// The stream ended where a message was expected.
    #[error("the reconciler ended the stream")]
    Ended,
    /// What arrived is no message.
    #[error("what the reconciler sent is no message: {0}")]
    Frame(#[from] FrameError),
}

impl From<quinn::ConnectionError> for ConnectError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: CloseCode::from_code(close.error_code.into_inner()),
                reason: String::from_utf8_lossy(&close.reason).into_owned(),
            },
            quinn::ConnectionError::TimedOut => Self::Slow,
            other => Self::Lost(other),
        }
    }
}

impl From<quinn::WriteError> for ConnectError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(error) => error.into(),
            _ => Self::Ended,
        }
    }
}

impl From<quinn::ReadError> for ConnectError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::ConnectionLost(error) => error.into(),
            _ => Self::Ended,
        }
    }
}

impl ConnectError {
    /// Whether the other transport may get through where this one did not.
    pub(crate) fn may_be_blocked(&self) -> bool {
        match self {
            Self::Slow | Self::Socket(_) => true,
            Self::Lost(error) => !matches!(
                error,
                quinn::ConnectionError::TransportError(_)
                    | quinn::ConnectionError::ConnectionClosed(_)
            ),
            // A TLS error is carried inside; without one the path is at fault.
            Self::Tcp(error) => !is_about_tls(error),
            _ => false,
        }
    }
}

/// Whether TLS failed, rather than the path below it.
#[must_use]
pub fn is_about_tls(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

fn explain(error: &quinn::ConnectionError) -> String {
    hinted(&error.to_string())
}

fn explain_tcp(error: &std::io::Error) -> String {
    hinted(&error.to_string())
}

fn hinted(text: &str) -> String {
    let hint = if text.contains("UnknownIssuer") {
        ": the reconciler there is another one than this node or its join token trusts"
    } else if text.contains("certificate expired") || text.contains("CertificateExpired") {
        ": a certificate has expired, or this host's clock is wrong"
    } else if text.contains("certificate") || text.contains("UnknownCA") {
        ": the reconciler does not accept this node's certificate"
    } else {
        ""
    };
    format!("{text}{hint}")
}

/// How frames travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tcp,
}

/// A connection with its one stream open in both directions.
#[derive(Debug)]
pub struct Link {
    closer: Closer,
    /// Towards the reconciler.
    pub sender: Sender,
    /// From the reconciler.
    pub receiver: Receiver,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender(Sending);

#[derive(Debug)]
enum Sending {
    Quic(quinn::SendStream),
    Tcp {
        stream: Box<WriteHalf<TlsStream<TcpStream>>>,
        /// A frame was begun and not ended: nothing can be said any more.
        within_frame: bool,
    },
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    stream: Receiving,
    decoder: FrameDecoder,
}

#[derive(Debug)]
enum Receiving {
    Quic(quinn::RecvStream),
    Tcp(Box<ReadHalf<TlsStream<TcpStream>>>),
}

/// Connects to `address` (`host:port`), trying everything that its name stands for: by QUIC, and where
/// that does not get through, by TCP.
///
/// # Errors
/// When nothing there answers as the reconciler that `tls` believes.
pub async fn connect(address: &str, tls: rustls::ClientConfig) -> Result<Link, ConnectError> {
    let mut quic = Box::pin(connect_quic(address, tls.clone()));
    let mut udp = match tokio::time::timeout(HEAD_START, &mut quic).await {
        Ok(connected) => Some(match blocked(connected) {
            Ok(why) => why,
            Err(settled) => return *settled,
        }),
        Err(_) => None,
    };
    let mut tcp = Box::pin(connect_tcp(address, tls));
    let mut over_tcp = None;
    loop {
        let (connected, why) = tokio::select! {
            connected = &mut quic, if udp.is_none() => (connected, &mut udp),
            connected = &mut tcp, if over_tcp.is_none() => (connected, &mut over_tcp),
            else => break,
        };
        match blocked(connected) {
            Ok(error) => *why = Some(error),
            Err(settled) => return *settled,
        }
    }
    Err(ConnectError::Unreachable {
        address: address.to_owned(),
        udp: Box::new(udp.unwrap_or(ConnectError::Slow)),
        tcp: Box::new(over_tcp.unwrap_or(ConnectError::Slow)),
    })
}

/// The error after which the other transport may still get through; what settles the matter otherwise.
fn blocked(
    connected: Result<Link, ConnectError>,
) -> Result<ConnectError, Box<Result<Link, ConnectError>>> {
    match connected {
        Err(error) if error.may_be_blocked() => Ok(error),
        settled => Err(Box::new(settled)),
    }
}

/// Connects by QUIC alone.
///
/// # Errors
/// As [`connect`].
pub async fn connect_quic(address: &str, tls: rustls::ClientConfig) -> Result<Link, ConnectError> {
    let config = client_config(tls)?;
    let mut last = ConnectError::Slow;
    for remote in resolve(address).await? {
        match tokio::time::timeout(CONNECT_WITHIN, quic_to(remote, config.clone())).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::Slow,
        }
    }
    Err(last)
}

/// Connects by TLS over TCP alone.
///
/// # Errors
/// As [`connect`].
pub async fn connect_tcp(address: &str, tls: rustls::ClientConfig) -> Result<Link, ConnectError> {
    let tls = Arc::new(tls);
    let mut last = ConnectError::Slow;
    for remote in resolve(address).await? {
        match tokio::time::timeout(CONNECT_WITHIN, tcp_to(remote, Arc::clone(&tls))).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => last = ConnectError::Tcp(error),
            Err(_) => last = ConnectError::Slow,
        }
    }
    Err(last)
}

/// What a name stands for.
///
/// # Errors
/// When it stands for nothing.
pub async fn resolve(
    address: &str,
) -> Result<impl Iterator<Item = SocketAddr> + Send + use<>, ConnectError> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(|error| ConnectError::Resolve {
            address: address.to_owned(),
            error,
        })?
        .collect();
    Ok(found.into_iter())
}

async fn quic_to(remote: SocketAddr, config: ClientConfig) -> Result<Link, ConnectError> {
    let local: SocketAddr = if remote.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let endpoint = Endpoint::client(local).map_err(ConnectError::Socket)?;
    let connecting = endpoint
        .connect_with(config, remote, SERVER_NAME)
        .map_err(|error| ConnectError::Tls(rustls::Error::General(error.to_string())))?;
    let connection = connecting.await?;
    let (send, recv) = connection.open_bi().await?;
    Ok(Link {
        closer: Closer(Hold::Quic {
            endpoint,
            connection,
        }),
        sender: Sender(Sending::Quic(send)),
        receiver: Receiver::new(Receiving::Quic(recv)),
    })
}

async fn tcp_to(remote: SocketAddr, tls: Arc<rustls::ClientConfig>) -> std::io::Result<Link> {
    let stream = TcpStream::connect(remote).await?;
    stream.set_nodelay(true)?;
    let alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE)
        .with_retries(3);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&alive)?;
    socket.set_tcp_user_timeout(Some(IDLE))?;
    let name = ServerName::try_from(SERVER_NAME).expect("a name of letters and dots");
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (recv, send) = tokio::io::split(stream);
    Ok(Link {
        closer: Closer(Hold::Tcp),
        sender: Sender(Sending::Tcp {
            stream: Box::new(send),
            within_frame: false,
        }),
        receiver: Receiver::new(Receiving::Tcp(Box::new(recv))),
    })
}

fn client_config(tls: rustls::ClientConfig) -> Result<ClientConfig, ConnectError> {
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|error| ConnectError::Tls(rustls::Error::General(error.to_string())))?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(256 << 10))
        .receive_window(VarInt::from_u32(256 << 10))
        .send_window(8 << 20)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

impl Link {
    /// How its frames travel.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self.closer.0 {
            Hold::Quic { .. } => Transport::Quic,
            Hold::Tcp => Transport::Tcp,
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the connection is lost or closed.
    pub async fn send(&mut self, message: &Message) -> Result<(), ConnectError> {
        self.sender.send(message).await
    }

    /// The next message.
    ///
    /// # Errors
    /// When the connection is lost or closed, or what arrives is no message.
    pub async fn receive(&mut self) -> Result<Message, ConnectError> {
        self.receiver.receive().await
    }

    /// Ends the stream and closes the connection.
    pub async fn close(self) {
        let (sender, _receiver, closer) = self.split();
        closer.close(sender, CloseCode::Done).await;
    }

    /// Both halves, and what closes the connection.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver, Closer) {
        (self.sender, self.receiver, self.closer)
    }
}

/// What closes a connection.
#[derive(Debug)]
pub struct Closer(Hold);

#[derive(Debug)]
enum Hold {
    Quic {
        endpoint: Endpoint,
        connection: quinn::Connection,
    },
    Tcp,
}

impl Closer {
    /// Closes the connection and waits, shortly, until the reconciler knows.
    pub async fn close(self, mut sender: Sender, code: CloseCode) {
        match self.0 {
            Hold::Quic {
                endpoint,
                connection,
            } => {
                connection.close(VarInt::from_u32(code as u32), b"");
                let _ = tokio::time::timeout(CLOSE_WITHIN, endpoint.wait_idle()).await;
            }
            Hold::Tcp => {
                let _ = tokio::time::timeout(CLOSE_WITHIN, sender.say_close(code)).await;
            }
        }
    }
}

impl Sender {
    /// Sends a message.
    ///
    /// # Errors
    /// When the connection is lost or closed.
    pub async fn send(&mut self, message: &Message) -> Result<(), ConnectError> {
        self.send_frame(&message.to_frame()).await
    }

    /// Sends bytes that are a frame already.
    ///
    /// # Errors
    /// When the connection is lost or closed.
    pub async fn send_frame(&mut self, frame: &[u8]) -> Result<(), ConnectError> {
        match &mut self.0 {
            Sending::Quic(stream) => Ok(stream.write_all(frame).await?),
            Sending::Tcp {
                stream,
                within_frame,
            } => {
                *within_frame = true;
                stream.write_all(frame).await.map_err(ConnectError::Tcp)?;
                stream.flush().await.map_err(ConnectError::Tcp)?;
                *within_frame = false;
                Ok(())
            }
        }
    }

    /// Says that nothing more will be sent; over TCP the close does.
    pub fn finish(&mut self) {
        if let Sending::Quic(stream) = &mut self.0 {
            // An error says that the stream is closed, which is what was wanted.
            let _ = stream.finish();
        }
    }

    /// The last word over TCP. After half a frame there is none: the connection breaks off.
    async fn say_close(&mut self, code: CloseCode) -> Result<(), ConnectError> {
        if matches!(
            self.0,
            Sending::Tcp {
                within_frame: true,
                ..
            }
        ) {
            return Ok(());
        }
        let closing = Closing {
            code: code as u32,
            why: String::new(),
        };
        self.send(&Message::Closing(closing)).await?;
        match &mut self.0 {
            Sending::Tcp { stream, .. } => stream.shutdown().await.map_err(ConnectError::Tcp),
            Sending::Quic(_) => Ok(()),
        }
    }
}

impl Receiver {
    fn new(stream: Receiving) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(),
        }
    }

    /// The next message. Nothing is lost when the call is abandoned.
    ///
    /// # Errors
    /// When the connection is lost or closed, or what arrives is no message.
    pub async fn receive(&mut self) -> Result<Message, ConnectError> {
        loop {
            match self.decoder.next_message()? {
                Some(Message::Closing(closing)) if matches!(self.stream, Receiving::Tcp(_)) => {
                    return Err(ConnectError::Closed {
                        code: CloseCode::from_code(u64::from(closing.code)),
                        reason: closing.why,
                    });
                }
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), ConnectError> {
        match &mut self.stream {
            Receiving::Quic(stream) => {
                let chunk = stream.read_chunk(CHUNK_BYTES, true).await?;
                self.decoder.push(&chunk.ok_or(ConnectError::Ended)?.bytes);
            }
            Receiving::Tcp(stream) => {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                if stream
                    .read_buf(&mut chunk)
                    .await
                    .map_err(ConnectError::Tcp)?
                    == 0
                {
                    return Err(ConnectError::Ended);
                }
                self.decoder.push(&chunk);
            }
        }
        Ok(())
    }
}
