//! Talking to the reconciler: one QUIC connection, one stream, whole messages.
//!
//! The only user of quinn. Decides nothing: what to send and what an answer means is in `session`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, IdleTimeout, TransportConfig, VarInt};
use tallystick_common::wire::{CloseCode, FrameDecoder, FrameError, Message, SERVER_NAME};

/// An address that does not answer for so long is given up.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
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

fn explain(error: &quinn::ConnectionError) -> String {
    let text = error.to_string();
    let hint = if text.contains("UnknownIssuer") {
        ": the reconciler there is another one than this node or its join token trusts"
    } else if text.contains("certificate expired") || text.contains("CertificateExpired") {
        ": this node's certificate has expired; enrol it again"
    } else if text.contains("certificate") || text.contains("UnknownCA") {
        ": the reconciler does not accept this node's certificate"
    } else {
        ""
    };
    format!("{text}{hint}")
}

/// A connection with its one stream open in both directions.
#[derive(Debug)]
pub struct Link {
    endpoint: Endpoint,
    connection: quinn::Connection,
    /// Towards the reconciler.
    pub sender: Sender,
    /// From the reconciler.
    pub receiver: Receiver,
}

/// The sending half.
#[derive(Debug)]
pub struct Sender(quinn::SendStream);

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    stream: quinn::RecvStream,
    decoder: FrameDecoder,
}

/// Connects to `address` (`host:port`), trying everything that its name stands for.
///
/// # Errors
/// When nothing there answers as the reconciler that `tls` believes.
pub async fn connect(address: &str, tls: rustls::ClientConfig) -> Result<Link, ConnectError> {
    let config = client_config(tls)?;
    let resolved =
        tokio::net::lookup_host(address)
            .await
            .map_err(|error| ConnectError::Resolve {
                address: address.to_owned(),
                error,
            })?;
    let mut last = ConnectError::Slow;
    for remote in resolved {
        match tokio::time::timeout(CONNECT_WITHIN, connect_to(remote, config.clone())).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::Slow,
        }
    }
    Err(last)
}

async fn connect_to(remote: SocketAddr, config: ClientConfig) -> Result<Link, ConnectError> {
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
    let receiver = Receiver {
        stream: recv,
        decoder: FrameDecoder::new(),
    };
    Ok(Link {
        endpoint,
        connection,
        sender: Sender(send),
        receiver,
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
        self.split().2.close(CloseCode::Done).await;
    }

    /// Both halves, and what closes the connection.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver, Closer) {
        let Self {
            endpoint,
            connection,
            sender,
            receiver,
        } = self;
        (
            sender,
            receiver,
            Closer {
                endpoint,
                connection,
            },
        )
    }
}

/// What closes a connection.
#[derive(Debug)]
pub struct Closer {
    endpoint: Endpoint,
    connection: quinn::Connection,
}

impl Closer {
    /// Closes the connection and waits, shortly, until the reconciler knows.
    pub async fn close(self, code: CloseCode) {
        self.connection.close(VarInt::from_u32(code as u32), b"");
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.endpoint.wait_idle()).await;
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
        Ok(self.0.write_all(frame).await?)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // An error says that the stream is closed, which is what was wanted.
        let _ = self.0.finish();
    }
}

impl Receiver {
    /// The next message. Nothing is lost when the call is abandoned.
    ///
    /// # Errors
    /// When the connection is lost or closed, or what arrives is no message.
    pub async fn receive(&mut self) -> Result<Message, ConnectError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let chunk = self.stream.read_chunk(CHUNK_BYTES, true).await?;
            self.decoder.push(&chunk.ok_or(ConnectError::Ended)?.bytes);
        }
    }
}
