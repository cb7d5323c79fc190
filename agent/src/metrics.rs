//! Answers `GET /metrics` on loopback.
//!
//! Owns one socket and as much of HTTP/1.1 as a scrape needs: one request a connection, its head read
//! within limits, its body never. What is told is in [`crate::figures`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::figures::Figures;

/// Longest head of a request.
const HEAD_BYTES: usize = 8 << 10;
/// How long a request and its answer may take.
const WITHIN: Duration = Duration::from_secs(5);
/// Requests answered at once; others wait.
const AT_ONCE: usize = 4;

/// The metrics address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "listen on {address} for metrics: {error}; choose another address (metrics), or stop what uses it"
)]
pub struct MetricsError {
    address: SocketAddr,
    error: std::io::Error,
}

/// A bound socket.
///
/// # Errors
/// When the address is taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, MetricsError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| MetricsError { address, error })
}

/// Answers until it is dropped.
pub async fn serve(listener: TcpListener, figures: watch::Receiver<Figures>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let figures = *figures.borrow();
                tokio::spawn(async move {
                    // Whoever goes away early, or is too slow, gets nothing; that is theirs to notice.
                    let _ = tokio::time::timeout(WITHIN, answer(stream, &figures)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a metrics connection was not taken");
                tokio::time::sleep(WITHIN).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, figures: &Figures) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !ended(&head) && head.len() < HEAD_BYTES {
        let room = HEAD_BYTES - head.len();
        if (&mut stream).take(room as u64).read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(respond(&head, figures).as_bytes()).await?;
    stream.shutdown().await
}

fn ended(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n")
}

/// The whole answer to a request's head.
fn respond(head: &[u8], figures: &Figures) -> String {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let target = match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) if ended(head) => target,
        (Some("HEAD" | "POST" | "PUT" | "DELETE" | "PATCH"), ..) => {
            return whole("405 Method Not Allowed", "only GET is answered here\n");
        }
        _ => return whole("400 Bad Request", "not an HTTP request\n"),
    };
    match target.split('?').next() {
        Some("/metrics") => whole("200 OK", &figures.to_string()),
        _ => whole("404 Not Found", "only /metrics is here\n"),
    }
}

fn whole(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::NodeId;

    use super::*;

    fn figures() -> Figures {
        Figures {
            samples: 7,
            ..Figures::new(NodeId([1; 16]))
        }
    }

    #[test]
    fn each_request_is_answered_as_it_deserves() {
        let first = |request: &str| {
            let answer = respond(request.as_bytes(), &figures());
            answer.lines().next().unwrap_or_default().to_owned()
        };
        assert_eq!(first("GET /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 200 OK");
        assert_eq!(first("GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(
            first("POST /metrics HTTP/1.1\r\n\r\n"),
            "HTTP/1.1 405 Method Not Allowed"
        );
        for bad in [
            "",
            "\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nX: 1",
            "\u{16}\u{3}",
        ] {
            assert_eq!(first(bad), "HTTP/1.1 400 Bad Request", "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_scrape_gets_the_figures_even_while_others_say_nothing() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_tell, told) = watch::channel(figures());
        let serving = tokio::spawn(serve(listener, told));
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(
            text.contains("\ntallystick_agent_samples_total 7\n"),
            "{text}"
        );
        serving.abort();
    }
}
