//! Whether the process is alive and able to work.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::Problem;

/// The process is as it should be.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Version of the program.
    pub version: &'static str,
}

const OK: Health = Health {
    status: "ok",
    version: env!("CARGO_PKG_VERSION"),
};

/// Whether the process answers at all.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(OK)
}

/// Whether the store takes writes and ingest listens.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = Health), (status = 503, body = Problem)))]
pub(super) async fn readyz(State(app): State<App>) -> Result<Json<Health>, Problem> {
    let not_ready = |detail: String| {
        Problem::new(
            axum::http::StatusCode::SERVICE_UNAVAILABLE,
            "not-ready",
            "the reconciler cannot work",
            detail,
        )
    };
    if app.ingest.is_none() {
        return Err(not_ready("ingest does not listen".to_owned()));
    }
    match app.store().write().await {
        Ok(tx) => drop(tx),
        Err(error) => return Err(not_ready(format!("write to the store: {error}"))),
    }
    Ok(Json(OK))
}
