//! How the time of nodes, workloads and accounts is accounted for, and why it is not all exact.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tallystick_common::period::Month;
use tallystick_common::time::Timestamp;
use utoipa::IntoParams;

use super::App;
use super::error::Problem;
use super::extract::Params;
use super::page::{Page, PageParams};
use super::usage::span;
use crate::billing::draft::{Which, period_of};
use crate::catalog::change::{known_account, known_node};
use crate::catalog::{CatalogError, Pattern};
use crate::clock;
use crate::overview::coverage::{Ask, CoverageRow, report};
use crate::store::Connection;

/// Whose coverage, and of which time.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CoverageParams {
    /// Only of the node with this id or name, and of its workloads.
    pub node: Option<String>,
    /// Only of nodes that this account may own workloads of, and of the workloads that are its own.
    pub account: Option<String>,
    /// Only of workloads that this pattern stands for, and of nodes.
    pub workload: Option<String>,
    /// The account's period that begins in this month, in place of `from` and `to`.
    #[param(example = "2026-11")]
    pub period: Option<String>,
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

impl CoverageParams {
    pub(crate) async fn ask(&self, conn: &mut Connection, now: Timestamp) -> Result<Ask, Problem> {
        let node = match &self.node {
            Some(node) => Some(known_node(conn, node).await?.row),
            None => None,
        };
        let account = match &self.account {
            Some(account) => Some(known_account(conn, account).await?),
            None => None,
        };
        let pattern = |text: &String| Pattern::new("workload", text).map_err(CatalogError::from);
        let bounded = self.from.is_some() || self.to.is_some();
        let span = match (&account, &self.period) {
            (None, Some(_)) => {
                return Err(Problem::invalid(
                    "period is an account's: give account, too",
                ));
            }
            (Some(_), Some(_)) if bounded => {
                return Err(Problem::invalid("give either period, or from and to"));
            }
            (Some(account), Some(month)) => period_of(account, Which::Month(parsed(month)?))?,
            (Some(account), None) if !bounded => period_of(account, Which::At(now))?,
            _ => span(self.from, self.to, now)?,
        };
        Ok(Ask {
            span,
            node,
            account: account.map(|account| account.id),
            workload: self.workload.as_ref().map(pattern).transpose()?,
        })
    }
}

fn parsed(month: &str) -> Result<Month, Problem> {
    month
        .parse()
        .map_err(|error: tallystick_common::period::PeriodError| {
            Problem::invalid(error.to_string())
        })
}

fn key(row: &CoverageRow) -> String {
    let workload = row.workload.as_ref().map_or("", |name| name.as_str());
    format!("{}\n{}\n{workload}", row.node_name, row.node)
}

/// How time is accounted for: a row for each node, followed by its workloads where a node, an account or a
/// workload is asked for. Rows say why time is not exact, with the segments that say so.
#[utoipa::path(get, path = "/v1/coverage", tag = "coverage", params(CoverageParams),
    responses((status = 200, body = Page<CoverageRow>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(params): Params<CoverageParams>,
) -> Result<Json<Page<CoverageRow>>, Problem> {
    let now = clock::now();
    let mut tx = app.store().read().await?;
    let ask = params.ask(&mut tx, now).await?;
    let rows = report(&mut tx, &ask, now).await?;
    let page = PageParams {
        limit: params.limit,
        cursor: params.cursor.clone(),
    };
    Ok(Json(page.cut(rows, key)?))
}
