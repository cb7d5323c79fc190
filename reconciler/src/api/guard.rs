//! Who may ask, and asking once: bearer tokens and `Idempotency-Key`.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::error::Problem;
use super::extract::Caller;
use crate::store::auth::{Kept, keep_answer, take_key};
use crate::{auth, clock};

/// Largest body of a request or of a kept answer, in bytes.
const BODY_MAX: usize = 2 << 20;

/// Lets a request through when its bearer token is known; a POST with an `Idempotency-Key` is
/// carried out once and answered the same afterwards, for a day.
pub(super) async fn guard(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let token = bearer(request.headers()).ok_or_else(Problem::unauthorized)?;
    let actor = auth::token_actor(app.store(), token)
        .await?
        .ok_or_else(Problem::unauthorized)?;
    request.extensions_mut().insert(Caller(actor.clone()));
    match request.headers().get("idempotency-key").cloned() {
        Some(key) if request.method() == Method::POST => {
            once(&app, &actor, &idempotency_key(&key)?, request, next).await
        }
        _ => Ok(next.run(request).await),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn idempotency_key(value: &HeaderValue) -> Result<String, Problem> {
    let text = value.to_str().unwrap_or_default();
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=255).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(Problem::malformed(
        "Idempotency-Key is not usable: give 1 to 255 visible ASCII characters",
    ))
}

async fn once(
    app: &App,
    actor: &str,
    key: &str,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_MAX)
        .await
        .map_err(|error| Problem::malformed(error.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(format!("{} {}\n", parts.method, parts.uri).as_bytes())
        .update(&body);
    let digest = hasher.finalize().to_hex();
    let mut tx = app.store().write().await?;
    let kept = take_key(&mut tx, actor, key, &digest, clock::now()).await?;
    tx.commit().await?;
    match kept {
        Kept::New => {
            let response = next.run(Request::from_parts(parts, Body::from(body))).await;
            keep(app, actor, key, response).await
        }
        Kept::Answered { status, body } => Ok(answer_again(status, body)),
        Kept::Busy => Err(Problem::conflict(
            "in-progress",
            "a request with this Idempotency-Key is still being carried out: ask again later",
        )),
        Kept::Other => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "key-reused",
            "the Idempotency-Key belongs to another request",
            "this Idempotency-Key came with another request before: use a new one",
        )),
    }
}

async fn keep(app: &App, actor: &str, key: &str, response: Response) -> Result<Response, Problem> {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, BODY_MAX)
        .await
        .map_err(|error| Problem::internal(&error))?;
    // An answer that tells a secret is not kept: only its hash may be in the store.
    let secret = parts.extensions.get::<ToldOnce>().is_some();
    let (status, text) = if secret {
        let problem = Problem::conflict(
            "told-once",
            "the secret was told in the first answer and is not kept: make a new one",
        );
        (
            problem.status,
            serde_json::to_string(&problem).unwrap_or_default(),
        )
    } else {
        (
            parts.status.as_u16(),
            String::from_utf8_lossy(&body).into_owned(),
        )
    };
    let mut tx = app.store().write().await?;
    keep_answer(&mut tx, actor, key, status, &text).await?;
    tx.commit().await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Marks an answer that holds a secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToldOnce;

fn answer_again(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = if status.is_success() {
        "application/json"
    } else {
        "application/problem+json"
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::HeaderName::from_static("idempotency-replayed"),
            HeaderValue::from_static("true"),
        ),
    ];
    (status, headers, body).into_response()
}
