//! How an answer is written: problems (RFC 9457) for people, `Status` and partial success for OTLP.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::otlp::Refused;
use super::protobuf::{put_bytes, put_number};

pub(super) type Reply = Response<Full<Bytes>>;

/// Seconds after which what was refused for lack of room may be tried again.
const RETRY_SECONDS: &str = "5";

/// How OTLP is spoken in one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// A JSON document.
pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    reply(status, "application/json", body.to_string().into_bytes())
}

/// What is wrong, for a person or a program that sends events.
pub(super) fn problem(status: StatusCode, field: Option<&str>, detail: &str) -> Reply {
    let mut body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("problem"),
        "status": status.as_u16(),
        "detail": detail,
    });
    if let Some(field) = field {
        body["field"] = json!(field);
    }
    reply(
        status,
        "application/problem+json",
        body.to_string().into_bytes(),
    )
}

/// OTLP: taken, but for what was refused.
pub(super) fn exported(encoding: Encoding, refused: &Refused) -> Reply {
    let body = match (encoding, refused.points) {
        (Encoding::Json, 0) => b"{}".to_vec(),
        (Encoding::Json, points) => json!({
            "partialSuccess": { "rejectedDataPoints": points.to_string(), "errorMessage": refused.message() },
        })
        .to_string()
        .into_bytes(),
        (Encoding::Protobuf, 0) => Vec::new(),
        (Encoding::Protobuf, points) => {
            let (mut partial, mut body) = (Vec::new(), Vec::new());
            put_number(&mut partial, 1, points as u64);
            put_bytes(&mut partial, 2, refused.message().as_bytes());
            put_bytes(&mut body, 1, &partial);
            body
        }
    };
    reply(StatusCode::OK, encoding.media_type(), body)
}

/// OTLP: nothing was taken.
pub(super) fn status(encoding: Encoding, status: StatusCode, message: &str) -> Reply {
    /// `google.rpc.Code`: invalid argument, and unavailable.
    const CODES: (u64, u64) = (3, 14);
    let code = if status.is_server_error() {
        CODES.1
    } else {
        CODES.0
    };
    let body = match encoding {
        Encoding::Json => json!({ "code": code, "message": message })
            .to_string()
            .into_bytes(),
        Encoding::Protobuf => {
            let mut body = Vec::new();
            put_number(&mut body, 1, code);
            put_bytes(&mut body, 2, message.as_bytes());
            body
        }
    };
    reply(status, encoding.media_type(), body)
}

impl Encoding {
    fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/x-protobuf",
        }
    }
}

fn reply(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    }
    reply
}
