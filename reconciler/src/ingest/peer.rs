//! One peer's connection as whole messages, read within limits, over QUIC or over TCP with TLS.
//!
//! A thin skin: what a broken message means is decided by whoever reads. Over QUIC the one stream carries
//! the frames and the connection's own close says how it ended; over TCP a last frame (`Closing`) does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quinn::{ConnectionError, ReadError as QuicReadError, RecvStream, SendStream, VarInt};
use rustls::pki_types::CertificateDer;
use tallystick_common::wire::{CloseCode, Closing, FrameDecoder, FrameError, FrameKind, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

/// Most that is read at once, and so held beyond one frame.
const CHUNK_BYTES: usize = 64 << 10;
/// How long a peer may take to acknowledge the last words.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);
/// Silence for so long over TCP, keep-alives of the kernel aside, ends a write.
const WRITE_WITHIN: Duration = Duration::from_secs(60);

/// The peer takes nothing any more.
#[derive(Debug)]
pub(super) struct Gone;

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The stream ended, between messages.
    #[error("the stream ended")]
    Ended,
    /// The stream ended within a message.
    #[error("the stream ended within a frame")]
    CutOff,
    /// The connection is gone.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// What arrived is no frame.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// Another message than the one whose turn it is, by its kind's number.
    #[error("a frame of kind {found} where a {expected:?} was expected")]
    OutOfTurn {
        /// The number found.
        found: u8,
        /// What was expected.
        expected: FrameKind,
    },
}

/// What a handshake proved and agreed on, and a hold on the connection.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// From where.
    pub(super) from: SocketAddr,
    /// The protocol agreed on.
    pub(super) protocol: Option<Vec<u8>>,
    /// The certificate shown; TLS has checked that our CA issued it.
    pub(super) certificate: Option<CertificateDer<'static>>,
    hold: Hold,
}

#[derive(Debug, Clone)]
enum Hold {
    Quic(quinn::Connection),
    Tcp(Arc<Cut>),
}

/// Ends a TCP connection from outside of the task that serves it.
#[derive(Debug)]
struct Cut {
    id: usize,
    cut: watch::Sender<bool>,
}

impl Line {
    /// Of a QUIC connection after its handshake.
    pub(super) fn quic(connection: quinn::Connection) -> Self {
        let data = connection
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
        let chain = connection
            .peer_identity()
            .and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        Self {
            from: connection.remote_address(),
            protocol: data.and_then(|data| data.protocol),
            certificate: chain.and_then(|chain| chain.into_iter().next()),
            hold: Hold::Quic(connection),
        }
    }

    /// Of a TLS connection after its handshake.
    pub(super) fn tcp(from: SocketAddr, stream: &TlsStream<TcpStream>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (_, tls) = stream.get_ref();
        let chain = tls.peer_certificates();
        Self {
            from,
            protocol: tls.alpn_protocol().map(<[u8]>::to_vec),
            certificate: chain
                .and_then(|chain| chain.first())
                .map(|certificate| certificate.clone().into_owned()),
            hold: Hold::Tcp(Arc::new(Cut {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                cut: watch::Sender::new(false),
            })),
        }
    }

    /// Tells connections apart.
    pub(super) fn id(&self) -> (bool, usize) {
        match &self.hold {
            Hold::Quic(connection) => (false, connection.stable_id()),
            Hold::Tcp(cut) => (true, cut.id),
        }
    }

    /// Ends the connection, whoever is at work with it; over TCP without a word.
    pub(super) fn cut(&self, code: CloseCode, why: &str) {
        match &self.hold {
            Hold::Quic(connection) => {
                connection.close(VarInt::from_u32(code as u32), why.as_bytes());
            }
            Hold::Tcp(cut) => drop(cut.cut.send_replace(true)),
        }
    }

    /// When somebody cut a TCP connection; QUIC tells by itself.
    pub(super) async fn is_cut(&self) {
        match &self.hold {
            Hold::Quic(_) => std::future::pending().await,
            Hold::Tcp(cut) => {
                let mut cut = cut.cut.subscribe();
                // An error says that nobody is left who could cut it.
                if cut.wait_for(|cut| *cut).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Where the frames come from and go to: the one stream that the peer opens, or the whole of a TLS
/// connection.
pub(super) enum Wire {
    /// Its stream is still to come.
    Quic(quinn::Connection),
    /// There already.
    Tcp(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Both halves; over QUIC once the peer has opened its stream.
    pub(super) async fn open(self) -> Option<(Sender, Reader)> {
        Some(match self {
            Self::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await.ok()?;
                (
                    Sender(Sending::Quic(send)),
                    Reader::new(Receiving::Quic(recv)),
                )
            }
            Self::Tcp(stream) => {
                let (recv, send) = tokio::io::split(*stream);
                (
                    Sender(Sending::Tcp(send)),
                    Reader::new(Receiving::Tcp(recv)),
                )
            }
        })
    }
}

/// The sending half.
#[derive(Debug)]
pub(super) struct Sender(Sending);

#[derive(Debug)]
enum Sending {
    Quic(SendStream),
    Tcp(WriteHalf<TlsStream<TcpStream>>),
}

impl Sender {
    /// Sends a message.
    pub(super) async fn send(&mut self, message: &Message) -> Result<(), Gone> {
        let frame = message.to_frame();
        match &mut self.0 {
            Sending::Quic(stream) => stream.write_all(&frame).await.map_err(|_| Gone),
            Sending::Tcp(stream) => {
                let written = async {
                    stream.write_all(&frame).await?;
                    stream.flush().await
                };
                match tokio::time::timeout(WRITE_WITHIN, written).await {
                    Ok(Ok(())) => Ok(()),
                    _ => Err(Gone),
                }
            }
        }
    }

    /// Closes the connection so that what was sent before is read: waits, shortly, until it has
    /// arrived.
    pub(super) async fn close(mut self, line: &Line, code: CloseCode, why: &str) {
        let closing = Message::Closing(Closing {
            code: code as u32,
            why: why.to_owned(),
        });
        match &mut self.0 {
            Sending::Quic(stream) => {
                if stream.finish().is_ok() {
                    let _ = tokio::time::timeout(LAST_WORDS_WITHIN, stream.stopped()).await;
                }
                line.cut(code, why);
            }
            Sending::Tcp(_) => {
                let last = self.send(&closing);
                let _ = tokio::time::timeout(LAST_WORDS_WITHIN, last).await;
                if let Sending::Tcp(stream) = &mut self.0 {
                    let _ = tokio::time::timeout(LAST_WORDS_WITHIN, stream.shutdown()).await;
                }
            }
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Receiving,
    decoder: FrameDecoder,
}

#[derive(Debug)]
enum Receiving {
    Quic(RecvStream),
    Tcp(ReadHalf<TlsStream<TcpStream>>),
}

impl Reader {
    fn new(stream: Receiving) -> Self {
        Self {
            stream,
            decoder: FrameDecoder::new(),
        }
    }

    /// The next message. Nothing is lost when the call is abandoned.
    pub(super) async fn next(&mut self) -> Result<Message, ReadError> {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return self.judge(message);
            }
            self.fill().await?;
        }
    }

    /// The next message, which has to be of this kind: another is refused by its first byte, before
    /// more than a chunk of it is held.
    pub(super) async fn next_of(&mut self, expected: FrameKind) -> Result<Message, ReadError> {
        loop {
            if let Some(&found) = self.unread().first()
                && found != expected as u8
                && !(found == FrameKind::Closing as u8 && self.is_tcp())
            {
                return Err(ReadError::OutOfTurn { found, expected });
            }
            if let Some(message) = self.decoder.next_message()? {
                return self.judge(message);
            }
            self.fill().await?;
        }
    }

    /// What arrived and is not part of a message returned.
    pub(super) fn unread(&self) -> &[u8] {
        self.decoder.unread()
    }

    fn is_tcp(&self) -> bool {
        matches!(self.stream, Receiving::Tcp(_))
    }

    /// A closing word over TCP is the end, as QUIC's close is.
    fn judge(&self, message: Message) -> Result<Message, ReadError> {
        match message {
            Message::Closing(closing) if self.is_tcp() => {
                Err(if in_good_order(u64::from(closing.code)) {
                    ReadError::Lost(closing.why)
                } else {
                    ReadError::Ended
                })
            }
            message => Ok(message),
        }
    }

    async fn fill(&mut self) -> Result<(), ReadError> {
        let whole = self.unread().is_empty();
        let ended = || {
            if whole {
                ReadError::Ended
            } else {
                ReadError::CutOff
            }
        };
        match &mut self.stream {
            Receiving::Quic(stream) => {
                match stream.read_chunk(CHUNK_BYTES, true).await {
                    Ok(Some(chunk)) => {
                        self.decoder.push(&chunk.bytes);
                        Ok(())
                    }
                    Ok(None) | Err(QuicReadError::Reset(_)) => Err(ended()),
                    // A peer that goes in good order, or whose connection breaks, sends the rest again.
                    Err(QuicReadError::ConnectionLost(ConnectionError::ApplicationClosed(
                        close,
                    ))) if !in_good_order(close.error_code.into_inner()) => Err(ended()),
                    Err(QuicReadError::ConnectionLost(error)) => {
                        Err(ReadError::Lost(error.to_string()))
                    }
                    Err(_) => Err(ReadError::Ended),
                }
            }
            Receiving::Tcp(stream) => {
                let mut chunk = Vec::with_capacity(CHUNK_BYTES);
                match stream.read_buf(&mut chunk).await {
                    // The peer said that it ends, without a closing word.
                    Ok(0) => Err(ended()),
                    Ok(_) => {
                        self.decoder.push(&chunk);
                        Ok(())
                    }
                    Err(error) => Err(ReadError::Lost(error.to_string())),
                }
            }
        }
    }
}

fn in_good_order(code: u64) -> bool {
    matches!(
        CloseCode::from_code(code),
        Some(CloseCode::Done | CloseCode::ShuttingDown)
    )
}
