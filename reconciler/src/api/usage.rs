//! Usage: by node, workload, meter and account; what nobody pays for; the last minutes; the first
//! page's figures.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tallystick_common::meter::Meter;
use tallystick_common::money::Money;
use tallystick_common::period::Period;
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US, Timestamp};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::Problem;
use super::extract::Params;
use super::page::{Page, PageParams};
use crate::billing::BillingError;
use crate::billing::list_price::ListPrice;
use crate::billing::usage::{AssignedUsage, assigned};
use crate::catalog::{CatalogError, Pattern, quarter_hour};
use crate::clock;
use crate::overview::{self, Chart, Overview, figures};

/// Longest span of `GET /v1/usage/recent` in minutes.
const RECENT_MAX: u64 = 60;

/// Which usage.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct UsageParams {
    /// Only of this account.
    pub account: Option<String>,
    /// Only of the node with this id or name.
    pub node: Option<String>,
    /// Only of workloads that this pattern stands for.
    pub workload: Option<String>,
    /// Only of this meter.
    #[param(example = "cpu.time")]
    pub meter: Option<String>,
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

/// Usage of one meter by one workload, for one account, in a span.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UsageView {
    /// The node's id.
    pub node: String,
    /// The node's name.
    pub node_name: String,
    /// The workload. `host` is the control reading of the whole node and is never billed.
    pub workload: String,
    /// Whose; null for `host` and for what no assignment matches.
    pub account: Option<String>,
    /// What is measured.
    pub meter: String,
    /// The meter's base unit.
    #[schema(value_type = String)]
    pub unit: tallystick_common::meter::Unit,
    /// In the base unit, a whole number (for a peak, the maximum).
    pub quantity: String,
    /// First instant of the span.
    #[schema(format = DateTime)]
    pub from: String,
    /// First instant after it.
    #[schema(format = DateTime)]
    pub to: String,
    /// Time really measured, microseconds added over registers.
    pub measured: u64,
    /// Time whose quantity is known in sum only, microseconds.
    pub interpolated: u64,
    /// Time without a value, microseconds.
    pub unmeasured: u64,
    /// Of usage of nobody, its value at list price if it were rated by itself; null where no list price is set,
    /// or it has no price for the meter.
    #[schema(value_type = Option<super::schema::Money>)]
    pub value: Option<Money>,
}

impl UsageView {
    pub(crate) fn new(usage: AssignedUsage, span: &Period) -> Self {
        let AssignedUsage { row, account } = usage;
        Self {
            node: row.node.to_string(),
            node_name: row.node_name,
            workload: row.workload.to_string(),
            account: account.map(|account| account.to_string()),
            meter: row.meter.name().to_owned(),
            unit: row.meter.unit(),
            quantity: row.quantity.to_string(),
            from: span.from.to_string(),
            to: span.to.to_string(),
            measured: row.measured.0,
            interpolated: row.interpolated.0,
            unmeasured: row.unmeasured.0,
            value: None,
        }
    }

    /// Of nobody, with its value where there is a list price.
    pub(crate) fn unassigned(
        usage: AssignedUsage,
        span: &Period,
        list: Option<&ListPrice>,
    ) -> Result<Self, BillingError> {
        let value = match list {
            Some(list) => list.value(&usage.row, *span)?,
            None => None,
        };
        let view = Self::new(usage, span);
        Ok(Self { value, ..view })
    }

    fn key(&self) -> String {
        let account = self.account.as_deref().unwrap_or("");
        format!(
            "{}\n{}\n{}\n{}",
            self.node, self.workload, self.meter, account
        )
    }
}

/// The span between two quarter-hours that is asked for: today so far, where nothing else is said.
pub(crate) fn span(
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    now: Timestamp,
) -> Result<Period, Problem> {
    let from = quarter_hour(from.unwrap_or_else(|| now.floor_to(24 * HOUR_US)))?;
    let to = quarter_hour(to.unwrap_or_else(|| now.next_multiple(QUARTER_HOUR_US)))?;
    if from < to {
        return Ok(Period { from, to });
    }
    Err(Problem::invalid(format!(
        "the span from {from} to {to} is empty: let `from` be before `to`"
    )))
}

impl UsageParams {
    pub(crate) fn span(&self, now: Timestamp) -> Result<Period, Problem> {
        span(self.from, self.to, now)
    }

    fn page(&self) -> PageParams {
        PageParams {
            limit: self.limit,
            cursor: self.cursor.clone(),
        }
    }

    pub(crate) fn filter(&self) -> Result<Filter<'_>, Problem> {
        let pattern = |text: &String| Pattern::new("workload", text).map_err(CatalogError::from);
        let meter = |name: &String| {
            name.parse::<Meter>()
                .map_err(|error| Problem::invalid(error.to_string()))
        };
        Ok(Filter {
            account: self.account.as_deref(),
            node: self.node.as_deref(),
            workload: self.workload.as_ref().map(pattern).transpose()?,
            meter: self.meter.as_ref().map(meter).transpose()?,
        })
    }
}

/// Which rows are asked for.
pub(crate) struct Filter<'a> {
    account: Option<&'a str>,
    node: Option<&'a str>,
    workload: Option<Pattern>,
    meter: Option<Meter>,
}

impl Filter<'_> {
    pub(crate) fn keeps(&self, usage: &AssignedUsage) -> bool {
        let row = &usage.row;
        let account = usage.account.as_ref().map(|account| account.as_str());
        self.account.is_none_or(|wanted| account == Some(wanted))
            && self
                .node
                .is_none_or(|node| row.node_name == node || row.node.to_string() == node)
            && self
                .workload
                .as_ref()
                .is_none_or(|pattern| pattern.matches(row.workload.as_str()))
            && self.meter.is_none_or(|meter| row.meter == meter)
    }
}

/// Usage, by node, workload, meter and account.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(UsageParams),
    responses((status = 200, body = Page<UsageView>)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(params): Params<UsageParams>,
) -> Result<Json<Page<UsageView>>, Problem> {
    let (span, kept) = kept(&app, &params).await?;
    let views = kept.into_iter();
    let views = views.map(|usage| UsageView::new(usage, &span)).collect();
    Ok(Json(params.page().cut(views, UsageView::key)?))
}

/// Usage that no assignment gives to an account: nobody pays for it. With its value, where the installation
/// names a list price.
#[utoipa::path(get, path = "/v1/usage/unassigned", tag = "usage", params(UsageParams),
    responses((status = 200, body = Page<UsageView>)))]
pub(super) async fn unassigned(
    State(app): State<App>,
    Params(params): Params<UsageParams>,
) -> Result<Json<Page<UsageView>>, Problem> {
    let (span, mut kept) = kept(&app, &params).await?;
    kept.retain(AssignedUsage::is_unassigned);
    let mut tx = app.store().read().await?;
    let list = match &app.rules.list_plan {
        Some(plan) => Some(ListPrice::read(&mut tx, plan).await?),
        None => None,
    };
    let view = |usage| UsageView::unassigned(usage, &span, list.as_ref());
    let views = kept.into_iter().map(view).collect::<Result<_, _>>()?;
    Ok(Json(params.page().cut(views, UsageView::key)?))
}

async fn kept(app: &App, params: &UsageParams) -> Result<(Period, Vec<AssignedUsage>), Problem> {
    let (span, filter) = (params.span(clock::now())?, params.filter()?);
    let mut tx = app.store().read().await?;
    let mut rows = assigned(&mut tx, span).await?;
    rows.retain(|usage| filter.keeps(usage));
    Ok((span, rows))
}

/// Which of the last minutes.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct RecentParams {
    /// The meter; `cpu.time` if not given.
    #[param(example = "cpu.time")]
    pub meter: Option<String>,
    /// How many minutes back, 1 to 60; 5 if not given.
    #[param(minimum = 1, maximum = 60)]
    pub minutes: Option<u64>,
}

/// A meter of every workload over the last minutes.
#[utoipa::path(get, path = "/v1/usage/recent", tag = "usage", params(RecentParams),
    responses((status = 200, body = Chart)))]
pub(super) async fn recent(
    State(app): State<App>,
    Params(params): Params<RecentParams>,
) -> Result<Json<Chart>, Problem> {
    let meter = match params.meter {
        None => Meter::CPU_TIME,
        Some(name) => name
            .parse()
            .map_err(|error: tallystick_common::meter::UnknownMeter| {
                Problem::invalid(error.to_string())
            })?,
    };
    let minutes = params.minutes.unwrap_or(5);
    if !(1..=RECENT_MAX).contains(&minutes) {
        return Err(Problem::invalid(format!(
            "minutes {minutes} is not usable: give 1 to {RECENT_MAX}"
        )));
    }
    let span = Micros::from_seconds(60 * minutes);
    let mut tx = app.store().read().await?;
    Ok(Json(
        figures::recent(&mut tx, meter, span, clock::now()).await?,
    ))
}

/// Every figure of the console's first page.
#[utoipa::path(get, path = "/v1/overview", tag = "usage",
    responses((status = 200, body = Overview)))]
pub(super) async fn overview(State(app): State<App>) -> Result<Json<Overview>, Problem> {
    let mut tx = app.store().read().await?;
    Ok(Json(
        overview::overview(&mut tx, &app.seller, &app.rules, clock::now()).await?,
    ))
}
