//! Billing periods: who is complete, who waits for which node; and closing one with gaps.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use tallystick_common::period::Month;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::Problem;
use super::extract::{Body, Caller, Params};
use super::page::{Page, PageParams};
use crate::billing::closing::{self, Close, PeriodView};
use crate::clock;

/// Whose periods.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PeriodsParams {
    /// Only of this account.
    pub account: Option<String>,
    /// 1 to 1000, 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u16>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

/// Why a period closes although nodes are outstanding.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClosePeriod {
    /// In words; the invoice and the audit log name it.
    pub accept_gaps: String,
}

fn month(text: &str) -> Result<Month, Problem> {
    text.parse()
        .map_err(|error: tallystick_common::period::PeriodError| {
            Problem::invalid(error.to_string())
        })
}

/// Periods up to the present ones, by account and time.
#[utoipa::path(get, path = "/v1/periods", tag = "periods", params(PeriodsParams),
    responses((status = 200, body = Page<PeriodView>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(params): Params<PeriodsParams>,
) -> Result<Json<Page<PeriodView>>, Problem> {
    let mut tx = app.store().read().await?;
    let account = params.account.as_deref();
    let views = closing::periods(&mut tx, account, &app.rules.closing, clock::now()).await?;
    let page = PageParams {
        limit: params.limit,
        cursor: params.cursor,
    };
    Ok(Json(page.cut(views, |view| {
        format!("{}\n{}", view.account, view.period)
    })?))
}

/// One period of an account.
#[utoipa::path(get, path = "/v1/accounts/{account}/periods/{period}", tag = "periods",
    params(("account" = String, Path, description = "id"),
        ("period" = String, Path, description = "the month in which it begins: 2026-11")),
    responses((status = 200, body = PeriodView), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(app): State<App>,
    Path((account, period)): Path<(String, String)>,
) -> Result<Json<PeriodView>, Problem> {
    let mut tx = app.store().read().await?;
    let rules = &app.rules.closing;
    Ok(Json(
        closing::period(&mut tx, &account, month(&period)?, rules, clock::now()).await?,
    ))
}

/// Closes a period that has ended although nodes are outstanding. The invoice, once issued, names the gaps. One
/// that is closed stays as it is.
#[utoipa::path(post, path = "/v1/accounts/{account}/periods/{period}/close", tag = "periods",
    request_body = ClosePeriod,
    params(("account" = String, Path, description = "id"),
        ("period" = String, Path, description = "the month in which it begins: 2026-11")),
    responses((status = 200, body = PeriodView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn close(
    State(app): State<App>,
    Path((account, period)): Path<(String, String)>,
    Caller(actor): Caller,
    Body(order): Body<ClosePeriod>,
) -> Result<Json<PeriodView>, Problem> {
    let order = Close {
        account: &account,
        month: month(&period)?,
        reason: &order.accept_gaps,
        actor: &actor,
    };
    let rules = &app.rules.closing;
    Ok(Json(
        closing::close(app.store(), &order, rules, clock::now()).await?,
    ))
}
