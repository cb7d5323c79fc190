//! Whether a node's total is what its workloads come to (I4).

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Micros, Timestamp};
use utoipa::IntoParams;

use super::App;
use super::error::Problem;
use super::extract::Params;
use super::page::{Page, PageParams};
use super::usage::span;
use crate::catalog::change::known_node;
use crate::clock;
use crate::overview::conservation::{Balance, balances};

/// Longest span of one answer.
const LONGEST: Micros = Micros(31 * 24 * HOUR_US);

/// Of which time.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ConservationParams {
    /// From when: a quarter-hour; midnight UTC if not given.
    #[param(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Until when: a quarter-hour; the end of the present one if not given.
    #[param(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// 1 to 1000, 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

impl ConservationParams {
    pub(crate) fn span(&self, now: Timestamp) -> Result<Period, Problem> {
        let span = span(self.from, self.to, now)?;
        if span.to.since(span.from) <= LONGEST {
            return Ok(span);
        }
        Err(Problem::invalid(format!(
            "{span} is too long: ask for 31 days at most"
        )))
    }
}

/// Host total against control groups and `host/other`, by hour and meter.
#[utoipa::path(get, path = "/v1/nodes/{node}/conservation", tag = "conservation",
    params(("node" = String, Path, description = "id or name"), ConservationParams),
    responses((status = 200, body = Page<Balance>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(params): Params<ConservationParams>,
) -> Result<Json<Page<Balance>>, Problem> {
    let span = params.span(clock::now())?;
    let mut tx = app.store().read().await?;
    let node = known_node(&mut tx, &node).await?;
    let rows = balances(&mut tx, &node, span).await?;
    let page = PageParams {
        limit: params.limit,
        cursor: params.cursor,
    };
    Ok(Json(page.cut(rows, |row| {
        format!("{}\n{}\n{:05}", row.hour, row.stream, row.meter.code())
    })?))
}
