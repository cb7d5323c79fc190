//! Join tokens.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tallystick_common::time::Micros;
use utoipa::ToSchema;

use super::App;
use super::error::Problem;
use super::extract::{Body, Caller};
use super::guard::ToldOnce;
use crate::authority::join::{self, DEFAULT_LIFE, JoinError};
use crate::{audit, clock};

/// A join token that is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// `host:port` at which the node reaches ingest; the configured addresses if not given.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// For people.
    #[serde(default)]
    pub note: String,
    /// How long it holds, in seconds; a day if not given.
    pub life_seconds: Option<u64>,
}

/// A join token. It is told once.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct JoinToken {
    /// The text to give to `tallystick-agent enroll`.
    pub token: String,
    /// The addresses in it.
    pub addresses: Vec<String>,
    /// From when it no longer holds.
    #[schema(format = DateTime)]
    pub expires_at: String,
}

/// Makes a one-time token with which a host becomes a node.
#[utoipa::path(post, path = "/v1/join-tokens", tag = "nodes", request_body = NewJoinToken,
    responses((status = 201, body = JoinToken)))]
pub(super) async fn create(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(new): Body<NewJoinToken>,
) -> Result<Response, Problem> {
    let mut addresses = new.addresses;
    if addresses.is_empty() {
        addresses.clone_from(&app.services.addresses);
    }
    if let Some(bad) = addresses.iter().find(|address| !is_host_port(address)) {
        return Err(Problem::invalid(format!(
            "address {bad:?} is not usable: write host:port"
        )));
    }
    let life = new.life_seconds.map_or(DEFAULT_LIFE, Micros::from_seconds);
    let now = clock::now();
    let (authority, store) = (&app.services.authority, app.store());
    let token = join::create(authority, store, addresses, &new.note, life, now)
        .await
        .map_err(|error| match error {
            JoinError::NoAddress => Problem::invalid(error.to_string()),
            other => Problem::internal(&other),
        })?;
    let mut tx = store.write().await?;
    let detail = serde_json::json!({ "addresses": token.addresses, "note": new.note });
    let note = audit::Note {
        at: now,
        actor: &actor,
        action: "join_token.create",
        subject: "",
        detail,
    };
    audit::append(&mut tx, &note).await?;
    tx.commit().await?;
    let made = JoinToken {
        token: token.to_string(),
        addresses: token.addresses.clone(),
        expires_at: now.saturating_add(life).to_string(),
    };
    let mut response = (StatusCode::CREATED, Json(made)).into_response();
    response.extensions_mut().insert(ToldOnce);
    Ok(response)
}

/// Whether a text is `host:port`.
pub(crate) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
