//! Drafts and issued invoices.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tallystick_common::period::Month;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::document::DraftDocument;
use super::error::Problem;
use super::extract::{Body, Caller, Params};
use super::page::{Page, PageParams};
use super::schema;
use crate::billing::draft::{Which, draft as compute};
use crate::billing::issue::{Issued, Order, issue as close};
use crate::clock;
use crate::evidence::{Export, export};
use crate::store::{self, billing::InvoiceRow};

/// Which period.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PeriodParams {
    /// The month in which the period begins; the present period if not given.
    #[param(example = "2026-11")]
    pub period: Option<String>,
}

/// An invoice that is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueInvoice {
    /// The account's id.
    pub account: String,
    /// The month in which the period begins.
    #[schema(example = "2026-11")]
    pub period: String,
    /// Closes the period although nodes are outstanding, for this reason, which the document names.
    pub accept_gaps: Option<String>,
}

/// How much evidence.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EvidenceParams {
    /// Every block of the account's workloads, not only those that prove the readings at bounds.
    #[serde(default)]
    pub full: bool,
}

/// An issued invoice, in short.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct InvoiceSummary {
    /// `TS-2026-000001`.
    pub number: String,
    /// Who owes.
    pub account: String,
    /// First instant of the period.
    #[schema(format = DateTime)]
    pub period_from: String,
    /// First instant after it.
    #[schema(format = DateTime)]
    pub period_to: String,
    /// The total, rounded.
    #[schema(value_type = schema::Money)]
    pub total: tallystick_common::money::Money,
    /// BLAKE3 of the document's bytes.
    pub digest: String,
    /// When it was issued.
    #[schema(format = DateTime)]
    pub issued_at: String,
}

impl From<InvoiceRow> for InvoiceSummary {
    fn from(row: InvoiceRow) -> Self {
        Self {
            number: row.number,
            account: row.account,
            period_from: row.period.from.to_string(),
            period_to: row.period.to.to_string(),
            total: row.total,
            digest: row.digest,
            issued_at: row.issued_at.to_string(),
        }
    }
}

/// What asking to issue led to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IssuedInvoice {
    /// Whether the period had been issued before: nothing changed then.
    pub already_issued: bool,
    /// The invoice.
    pub invoice: InvoiceSummary,
}

/// The period that begins in a month.
pub(super) fn month(text: &str) -> Result<Which, Problem> {
    let month: Month = text
        .parse()
        .map_err(|error: tallystick_common::period::PeriodError| {
            Problem::invalid(error.to_string())
        })?;
    Ok(Which::Month(month))
}

/// What an account owes for a period, as of now, with the steps of each line.
#[utoipa::path(get, path = "/v1/accounts/{account}/draft", tag = "invoices",
    params(("account" = String, Path, description = "id"), PeriodParams),
    responses((status = 200, body = schema::Draft), (status = 404, body = Problem)))]
pub(super) async fn draft(
    State(app): State<App>,
    Path(account): Path<String>,
    Params(params): Params<PeriodParams>,
) -> Result<Json<DraftDocument>, Problem> {
    let now = clock::now();
    let which = params.period.as_deref().map_or(Ok(Which::At(now)), month)?;
    let mut tx = app.store().read().await?;
    let draft = compute(&mut tx, &account, which, &app.seller, now).await?;
    Ok(Json(DraftDocument::new(draft, now)))
}

/// Issued invoices, by number.
#[utoipa::path(get, path = "/v1/invoices", tag = "invoices", params(PageParams),
    responses((status = 200, body = Page<InvoiceSummary>)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<InvoiceSummary>>, Problem> {
    let mut tx = app.store().read().await?;
    let page = page.cut(store::billing::invoices(&mut tx, None).await?, |row| {
        row.number.clone()
    })?;
    Ok(Json(page.map(InvoiceSummary::from)))
}

/// Issues the invoice of a period that has ended. Asking again says as what it was issued.
#[utoipa::path(post, path = "/v1/invoices", tag = "invoices", request_body = IssueInvoice,
    responses((status = 200, body = IssuedInvoice, description = "issued before"),
        (status = 201, body = IssuedInvoice), (status = 409, body = Problem)))]
pub(super) async fn issue(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(new): Body<IssueInvoice>,
) -> Result<(StatusCode, Json<IssuedInvoice>), Problem> {
    let order = Order {
        account: &new.account,
        which: month(&new.period)?,
        accept_gaps: new.accept_gaps.as_deref(),
        seller: &app.seller,
        actor: &actor,
    };
    let issued = close(app.store(), &order, clock::now()).await?;
    let (status, already_issued) = match &issued {
        Issued::Now(_) => (StatusCode::CREATED, false),
        Issued::Before(_) => (StatusCode::OK, true),
    };
    let invoice = issued.invoice().clone().into();
    Ok((
        status,
        Json(IssuedInvoice {
            already_issued,
            invoice,
        }),
    ))
}

/// The document of an issued invoice: the very bytes that its digest is of.
#[utoipa::path(get, path = "/v1/invoices/{number}", tag = "invoices",
    params(("number" = String, Path, description = "TS-2026-000001")),
    responses((status = 200, body = schema::Invoice), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(number): Path<String>,
) -> Result<Response, Problem> {
    let mut tx = app.store().read().await?;
    let row = store::billing::invoice(&mut tx, &number).await?;
    let row =
        row.ok_or_else(|| Problem::not_found(format!("no invoice has the number {number}")))?;
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::ETAG, format!("\"{}\"", row.digest)),
    ];
    Ok((headers, row.document).into_response())
}

/// Evidence of an issued invoice: one file, with which a third party computes it again
/// (`tallystick-verify evidence FILE`).
#[utoipa::path(get, path = "/v1/invoices/{number}/evidence", tag = "invoices",
    params(("number" = String, Path, description = "TS-2026-000001"), EvidenceParams),
    responses((status = 200, body = Vec<u8>, content_type = "application/vnd.tallystick.evidence"),
        (status = 404, body = Problem)))]
pub(super) async fn evidence(
    State(app): State<App>,
    Path(number): Path<String>,
    Params(params): Params<EvidenceParams>,
) -> Result<Response, Problem> {
    evidence_of(&app, &number, &params).await
}

/// Evidence of an invoice or a correction, as a file.
pub(super) async fn evidence_of(
    app: &App,
    number: &str,
    params: &EvidenceParams,
) -> Result<Response, Problem> {
    let order = Export {
        number,
        full: params.full,
        epoch: app.store().epoch(),
    };
    let mut tx = app.store().read().await?;
    let file = export(&mut tx, &app.services.authority, &order, clock::now()).await?;
    let name = format!("attachment; filename=\"{number}.evidence\"");
    let headers = [
        (
            header::CONTENT_TYPE,
            "application/vnd.tallystick.evidence".to_owned(),
        ),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, file).into_response())
}
