//! The leakage account.

use axum::Json;
use axum::extract::State;

use super::App;
use super::error::Problem;
use crate::billing::leakage::{Leakage, report};
use crate::clock;

/// Hours that are tallied for one answer, where the job has not yet done so: the present one, mostly.
const HOURS: u32 = 4;

/// Whether all that was received is accounted for: received = billed + unbilled + quarantined + written off,
/// by meter. The difference must be zero.
#[utoipa::path(get, path = "/v1/leakage", tag = "usage",
    responses((status = 200, body = Leakage)))]
pub(super) async fn show(State(app): State<App>) -> Result<Json<Leakage>, Problem> {
    let mut tx = app.store().read().await?;
    Ok(Json(report(&mut tx, HOURS, clock::now()).await?))
}
