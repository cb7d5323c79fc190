//! The socket: HTTP/1.1, two addresses, one answer each.
//!
//! | | |
//! |---|---|
//! | `POST /v1/events` | CloudEvents 1.0 in JSON: structured, batched, binary |
//! | `POST /v1/metrics` | OTLP metrics, Protocol Buffers or JSON |
//!
//! Owns the socket's file, the limits of connections and bodies, and the words of each answer. What is to be
//! counted goes into a bounded queue; when that is full, the answer is 503 with `Retry-After`.

use std::convert::Infallible;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::event::{self, EventError};
use super::otlp::{self, Refused};
use super::peer::Caller;
use super::reply::{self, Encoding, Reply};
use super::{Answer, Content, IntakeError, Request};
use crate::config::{Config, Globs};

/// Most connections at one time.
const CONNECTIONS: usize = 128;
/// Most requests that wait to be counted.
pub const QUEUE: usize = 1_024;
/// Longest body.
const BODY_BYTES: usize = 4 << 20;
/// How long a request may take to arrive, and a connection may be idle.
const ARRIVAL: Duration = Duration::from_secs(60);

/// The listening socket; its file goes when this does.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    meters: Globs,
    groups: Globs,
    report_for_others: Vec<u32>,
    queue: mpsc::Sender<Request>,
}

impl Server {
    /// Listens at `path`. Whatever comes in goes into `queue`.
    ///
    /// # Errors
    /// When that cannot be, or somebody listens there already.
    pub fn bind(
        path: &Path,
        config: &Config,
        queue: mpsc::Sender<Request>,
    ) -> Result<Self, IntakeError> {
        let settings = &config.intake;
        let (meters, groups) = (settings.meters.compile()?, config.cgroups.compile()?);
        let failed = |action| {
            let path = path.to_owned();
            move |source| IntakeError::Socket {
                action,
                path,
                source,
            }
        };
        remove_stale(path).map_err(failed("replace"))?;
        let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
        let mode = std::fs::Permissions::from_mode(settings.mode);
        std::fs::set_permissions(path, mode).map_err(failed("set the mode of"))?;
        if let Some(group) = settings.group {
            std::os::unix::fs::chown(path, None, Some(group))
                .map_err(failed("set the group of"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            listener,
            shared: Arc::new(Shared {
                meters,
                groups,
                report_for_others: settings.report_for_others.clone(),
                queue,
            }),
        })
    }

    /// Serves until dropped.
    pub async fn serve(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&self.shared);
                    match Arc::clone(&room).try_acquire_owned() {
                        Ok(place) => drop(tokio::spawn(async move {
                            connection(stream, shared).await;
                            drop(place);
                        })),
                        Err(_) => turn_away(&stream),
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: not a reason to spin.
                    tracing::warn!(%error, "the intake could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a killed agent left; not a socket on which somebody listens, nor a file of another kind.
fn remove_stale(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(facts) if !facts.file_type().is_socket() => {
            return Err(std::io::Error::other("it is there and no socket"));
        }
        Ok(_) => {}
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(std::io::Error::other("another program listens there"));
    }
    std::fs::remove_file(path)
}

fn turn_away(stream: &UnixStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // A new connection's buffer is empty; who does not get the words sees the connection end.
    let _ = stream.try_write(FULL);
}

async fn connection(stream: UnixStream, shared: Arc<Shared>) {
    // Who connected, not who may have been handed the connection since.
    let peer = stream.peer_cred().ok();
    let caller = Caller::of(
        peer,
        &shared.report_for_others,
        &shared.groups,
        Path::new("/proc"),
    );
    let caller = Arc::new(caller);
    let service = service_fn(move |request| {
        let (shared, caller) = (Arc::clone(&shared), Arc::clone(&caller));
        async move { Ok::<_, Infallible>(handle(request, &shared, &caller).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVAL)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the intake ended early");
    }
}

async fn handle(request: HttpRequest<Incoming>, shared: &Shared, caller: &Caller) -> Reply {
    let (head, body) = request.into_parts();
    let events = match head.uri.path() {
        "/v1/events" => true,
        "/v1/metrics" => false,
        _ => {
            let why = "there are /v1/events for CloudEvents and /v1/metrics for OTLP";
            return reply::problem(StatusCode::NOT_FOUND, None, why);
        }
    };
    if head.method != Method::POST {
        return reply::problem(
            StatusCode::METHOD_NOT_ALLOWED,
            None,
            "usage is reported by POST",
        );
    }
    if head
        .headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        let why = "bodies are not compressed here: it would save nothing on a Unix socket";
        return reply::problem(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Some("content-encoding"),
            why,
        );
    }
    let body = match arrived(body).await {
        Ok(body) => body,
        Err(reply) => return *reply,
    };
    if events {
        take_events(&head.headers, &body, shared, caller).await
    } else {
        take_metrics(&head.headers, &body, shared, caller).await
    }
}

async fn arrived(body: Incoming) -> Result<Bytes, Box<Reply>> {
    let body = Limited::new(body, BODY_BYTES).collect();
    match tokio::time::timeout(ARRIVAL, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let why = format!("a body has at most {BODY_BYTES} bytes: send it in parts");
            Err(Box::new(reply::problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                None,
                &why,
            )))
        }
        Ok(Err(error)) => {
            let why = format!("the body did not arrive whole: {error}");
            Err(Box::new(reply::problem(
                StatusCode::BAD_REQUEST,
                None,
                &why,
            )))
        }
        Err(_) => {
            let why = "the body did not arrive in time";
            Err(Box::new(reply::problem(
                StatusCode::REQUEST_TIMEOUT,
                None,
                why,
            )))
        }
    }
}

async fn take_events(headers: &HeaderMap, body: &[u8], shared: &Shared, caller: &Caller) -> Reply {
    let kind = media_type(headers);
    let meters = &shared.meters;
    let events = match kind.as_str() {
        "application/cloudevents+json" => event::structured(body, caller, meters),
        "application/cloudevents-batch+json" => event::batch(body, caller, meters),
        kind if headers.contains_key("ce-specversion") && event::is_json(kind) => {
            event::binary(headers, body, caller, meters)
        }
        _ => {
            let why = format!(
                "{kind:?} is not taken: send application/cloudevents+json, application/cloudevents-batch+json, or JSON with ce- headers"
            );
            return reply::problem(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Some("content-type"),
                &why,
            );
        }
    };
    let events = match events {
        Ok(events) => events,
        Err(EventError::Wrong(wrong)) => {
            let field = Some(wrong.field.as_str());
            return reply::problem(StatusCode::BAD_REQUEST, field, &wrong.to_string());
        }
        Err(EventError::Foreign(why)) => {
            return reply::problem(StatusCode::FORBIDDEN, Some("subject"), &why.to_string());
        }
    };
    match shared.count(Content::Events(events)).await {
        Answer::Counted { new, known, .. } => {
            let status = if new > 0 {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            reply::json(status, &json!({ "counted": new, "known": known }))
        }
        Answer::Conflict(place) => {
            let field = format!("[{place}].id");
            let why = "this source and id were counted before, with another workload, meter or value: give it an id of its own";
            reply::problem(StatusCode::CONFLICT, Some(&field), why)
        }
        Answer::Later(why) => reply::problem(StatusCode::SERVICE_UNAVAILABLE, None, &why),
    }
}

async fn take_metrics(headers: &HeaderMap, body: &[u8], shared: &Shared, caller: &Caller) -> Reply {
    let kind = media_type(headers);
    let (encoding, metrics) = match kind.as_str() {
        "application/x-protobuf" => (
            Encoding::Protobuf,
            otlp::read_protobuf(body).map_err(|error| error.to_string()),
        ),
        "application/json" => (
            Encoding::Json,
            otlp::read_json(body).map_err(|error| error.to_string()),
        ),
        _ => {
            let why =
                format!("{kind:?} is not taken: send application/x-protobuf or application/json");
            return reply::problem(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Some("content-type"),
                &why,
            );
        }
    };
    let metrics = match metrics {
        Ok(metrics) => metrics,
        Err(why) => return reply::status(encoding, StatusCode::BAD_REQUEST, &why),
    };
    let otlp::Sorted {
        counts,
        mut refused,
    } = otlp::sort(&metrics, caller, &shared.meters);
    let names: Vec<String> = counts
        .iter()
        .map(|count| count.register.0.to_string())
        .collect();
    let total = counts.len();
    match shared.count_if_any(Content::Counts(counts), total).await {
        Answer::Counted { unclear, .. } => {
            for (place, why) in &unclear {
                let name = names.get(*place).map_or("", String::as_str);
                refused.add(1, name, why);
            }
            answer_export(encoding, &refused, total > unclear.len())
        }
        Answer::Later(why) => reply::status(encoding, StatusCode::SERVICE_UNAVAILABLE, &why),
        Answer::Conflict(_) => {
            reply::status(encoding, StatusCode::BAD_REQUEST, "it was counted before")
        }
    }
}

/// Partial success where something was taken; a bad request where all of it was refused.
fn answer_export(encoding: Encoding, refused: &Refused, taken: bool) -> Reply {
    if taken || refused.points == 0 {
        reply::exported(encoding, refused)
    } else {
        reply::status(encoding, StatusCode::BAD_REQUEST, &refused.message())
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or("").split(';').next().unwrap_or("");
    kind.trim().to_ascii_lowercase()
}

impl Shared {
    async fn count_if_any(&self, content: Content, items: usize) -> Answer {
        if items > 0 {
            return self.count(content).await;
        }
        Answer::Counted {
            new: 0,
            known: 0,
            unclear: Vec::new(),
        }
    }

    async fn count(&self, content: Content) -> Answer {
        let (answer, told) = oneshot::channel();
        if self.queue.try_send(Request { content, answer }).is_err() {
            return Answer::Later("too much waits to be counted".to_owned());
        }
        let stopping = |_| Answer::Later("the agent is stopping".to_owned());
        told.await.unwrap_or_else(stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::intake::Target;
    use crate::intake::client::{Call, exchange};

    /// A server whose queue holds one request, and nobody empties it unless the test does.
    fn serve(dir: &Path) -> (Target, mpsc::Receiver<Request>) {
        let uid = rustix::process::geteuid().as_raw();
        let mut config = Config::default();
        config.intake.report_for_others = vec![uid];
        let (fill, queue) = mpsc::channel(1);
        let path = dir.join("intake.sock");
        let server = Server::bind(&path, &config, fill).unwrap();
        tokio::spawn(server.serve());
        (Target::Unix(path, "/v1/events".to_owned()), queue)
    }

    async fn post(target: &Target, kind: &str, body: &[u8]) -> (u16, String) {
        let kind = format!("content-type: {kind}");
        let call = Call {
            method: "POST",
            headers: &[&kind],
            body,
        };
        let reply = exchange(target, &call).await.unwrap();
        (reply.status, String::from_utf8(reply.body).unwrap())
    }

    const EVENT: &[u8] = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"w","data":{"value":1}}"#;
    const CLOUDEVENT: &str = "application/cloudevents+json";

    #[tokio::test]
    async fn more_than_can_wait_is_told_to_come_later() {
        let folder = tempfile::tempdir().unwrap();
        let (target, mut queue) = serve(folder.path());
        let waiting = tokio::spawn({
            let target = target.clone();
            async move { post(&target, CLOUDEVENT, EVENT).await }
        });
        let first = queue.recv().await.unwrap();
        // Another takes the only place.
        let crowd = tokio::spawn({
            let target = target.clone();
            async move { post(&target, CLOUDEVENT, EVENT).await }
        });
        while queue.is_empty() {
            tokio::task::yield_now().await;
        }
        let (status, body) = post(&target, CLOUDEVENT, EVENT).await;
        assert_eq!(status, 503, "{body}");
        let counted = Answer::Counted {
            new: 1,
            known: 0,
            unclear: Vec::new(),
        };
        first.answer.send(counted.clone()).unwrap();
        assert_eq!(waiting.await.unwrap().0, 202);
        queue.recv().await.unwrap().answer.send(counted).unwrap();
        assert_eq!(crowd.await.unwrap().0, 202);
    }

    #[tokio::test]
    async fn what_is_no_report_is_refused_with_the_way_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        let (target, _queue) = serve(folder.path());
        for (kind, body, status, says) in [
            ("text/plain", EVENT, 415, "application/cloudevents+json"),
            (CLOUDEVENT, b"{".as_slice(), 400, "the body"),
            (CLOUDEVENT, b"{}", 400, "specversion"),
            (CLOUDEVENT, &[b' '; BODY_BYTES + 1], 413, "in parts"),
        ] {
            let (found, said) = post(&target, kind, body).await;
            assert_eq!(found, status, "{said}");
            assert!(said.contains(says), "{said}");
        }
        let Target::Unix(socket, _) = &target else {
            return;
        };
        let elsewhere = Target::Unix(socket.clone(), "/metrics".to_owned());
        assert_eq!(post(&elsewhere, CLOUDEVENT, EVENT).await.0, 404);
        let metrics = Target::Unix(socket.clone(), "/v1/metrics".to_owned());
        assert_eq!(post(&metrics, "application/json", b"{}").await.0, 200);
        assert_eq!(
            post(&metrics, "application/x-protobuf", b"\xff").await.0,
            400
        );
    }

    #[tokio::test]
    async fn a_socket_in_use_and_a_file_are_left_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("intake.sock");
        let bind = || Server::bind(&path, &Config::default(), mpsc::channel(1).0);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let server = bind().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = bind().unwrap_err().to_string();
        assert!(
            error.contains("another program") && error.contains("intake.socket"),
            "{error}"
        );
        drop(server);
        assert!(!path.exists());
        std::fs::write(&path, b"a file").unwrap();
        assert!(bind().is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }
}
