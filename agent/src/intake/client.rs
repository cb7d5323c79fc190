//! The smallest HTTP client that serves here: one request, one answer, over a Unix socket or loopback.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::config::intake::Target;

/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer.
const ANSWER_BYTES: u64 = 32 << 20;

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Lines of the head, without line ends.
    pub headers: &'a [&'a str],
    /// May be empty.
    pub body: &'a [u8],
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Sends `call` to `target`.
///
/// # Errors
/// When nobody answers in time, or not in HTTP.
pub async fn exchange(target: &Target, call: &Call<'_>) -> io::Result<Reply> {
    let exchange = async {
        match target {
            Target::Loopback(address, path) => {
                speak(
                    TcpStream::connect(address).await?,
                    path,
                    &address.to_string(),
                    call,
                )
                .await
            }
            Target::Unix(socket, path) => {
                speak(UnixStream::connect(socket).await?, path, "localhost", call).await
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

/// HTTP/1.0: the answer comes in one piece and ends with the connection.
async fn speak(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    call: &Call<'_>,
) -> io::Result<Reply> {
    let mut head = format!("{} {path} HTTP/1.0\r\nhost: {host}\r\n", call.method);
    for header in call.headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", call.body.len()));
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(call.body).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    read(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

fn read(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Reply {
        status: status.parse().ok()?,
        body: answer[end + 4..].to_vec(),
    })
}
