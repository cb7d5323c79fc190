//! Corrections of issued periods, and how accounts are corrected.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tallystick_common::correction::{Correction, CorrectionKind};
use tallystick_common::money::Money;
use tallystick_common::statement::Statement;
use tallystick_common::time::Timestamp;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::Problem;
use super::extract::{Body, Caller, Params};
use super::invoices::{EvidenceParams, evidence_of, month};
use super::page::{Page, PageParams};
use super::schema;
use crate::billing::correction::issue::{Corrected, CorrectionOrder, IssueAs, issue_correction};
use crate::billing::correction::{Proposal, propose};
use crate::billing::document::{CutPosition, Outstanding};
use crate::catalog::account::CorrectionPolicy;
use crate::catalog::change;
use crate::clock;
use crate::store::{self, corrections::CorrectionRow};

/// Which period.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct IssuedPeriod {
    /// The month in which the period begins.
    #[param(example = "2026-11")]
    pub period: String,
}

/// A correction that is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssueCorrection {
    /// The account's id.
    pub account: String,
    /// The month in which the period begins.
    #[schema(example = "2026-11")]
    pub period: String,
    /// As what; by the account's policy if not given.
    #[serde(rename = "as")]
    pub issue_as: Option<IssueAs>,
}

/// What correcting a period now would say.
#[derive(Debug, Clone, Serialize)]
pub struct CorrectionDraft {
    /// When it was computed.
    pub at: Timestamp,
    /// What it corrects, why, and by how much.
    pub correction: Correction,
    /// The period as it is known now.
    pub statement: Statement,
    /// Nodes that have not accounted for all of it still.
    pub outstanding: Vec<Outstanding>,
    /// Up to where each stream is counted.
    pub cut: Vec<CutPosition>,
}

impl CorrectionDraft {
    /// A proposal computed at `at`.
    #[must_use]
    pub fn new(proposal: Proposal, at: Timestamp) -> Self {
        Self {
            at,
            correction: proposal.correction,
            statement: proposal.draft.statement,
            outstanding: proposal.draft.outstanding,
            cut: proposal.draft.cut,
        }
    }
}

/// An issued correction, in short.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CorrectionSummary {
    /// `CN-2026-000001`, `CI-2026-000001` or `CL-2026-000001`.
    pub number: String,
    /// What it is.
    #[schema(value_type = schema::CorrectionKind)]
    pub kind: CorrectionKind,
    /// Whose.
    pub account: String,
    /// The invoice that it corrects.
    pub invoice: String,
    /// The document before it of the same period.
    pub base: String,
    /// First instant of the period.
    #[schema(format = DateTime)]
    pub period_from: String,
    /// First instant after it.
    #[schema(format = DateTime)]
    pub period_to: String,
    /// The difference; negative on a credit note.
    #[schema(value_type = schema::Money)]
    pub total: Money,
    /// BLAKE3 of the document's bytes.
    pub digest: String,
    /// When it was issued.
    #[schema(format = DateTime)]
    pub issued_at: String,
    /// The invoice that carries its lines; null until one does.
    pub carried_by: Option<String>,
}

impl From<CorrectionRow> for CorrectionSummary {
    fn from(row: CorrectionRow) -> Self {
        let issued = row.issued;
        Self {
            number: issued.number,
            kind: row.kind,
            account: issued.account,
            invoice: row.invoice,
            base: row.base,
            period_from: issued.period.from.to_string(),
            period_to: issued.period.to.to_string(),
            total: issued.total,
            digest: issued.digest,
            issued_at: issued.issued_at.to_string(),
            carried_by: row.carried_by,
        }
    }
}

/// What asking to correct led to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IssuedCorrection {
    /// Whether nothing differs from what had been issued before: nothing changed then.
    pub already_issued: bool,
    /// The correction; null when nothing differs from the invoice.
    pub correction: Option<CorrectionSummary>,
}

impl From<Corrected> for IssuedCorrection {
    fn from(corrected: Corrected) -> Self {
        Self {
            already_issued: !matches!(corrected, Corrected::Now(_)),
            correction: corrected.correction().cloned().map(Into::into),
        }
    }
}

/// What becomes of corrections by which an account owes more.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// A document of its own, or lines on the next invoice.
    pub policy: CorrectionPolicy,
}

/// What correcting an issued period now would say, with reasons.
#[utoipa::path(get, path = "/v1/accounts/{account}/correction", tag = "corrections",
    params(("account" = String, Path, description = "id"), IssuedPeriod),
    responses((status = 200, body = schema::CorrectionDraft), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn draft(
    State(app): State<App>,
    Path(account): Path<String>,
    Params(params): Params<IssuedPeriod>,
) -> Result<Json<CorrectionDraft>, Problem> {
    let now = clock::now();
    let mut tx = app.store().read().await?;
    let proposal = propose(&mut tx, &account, month(&params.period)?, now).await?;
    Ok(Json(CorrectionDraft::new(proposal, now)))
}

/// How the account is corrected.
#[utoipa::path(get, path = "/v1/accounts/{account}/correction-policy", tag = "corrections",
    params(("account" = String, Path, description = "id")),
    responses((status = 200, body = PolicyDocument), (status = 404, body = Problem)))]
pub(super) async fn policy(
    State(app): State<App>,
    Path(account): Path<String>,
) -> Result<Json<PolicyDocument>, Problem> {
    let mut tx = app.store().read().await?;
    let account = change::known_account(&mut tx, &account).await?;
    let policy = store::corrections::policy(&mut tx, &account.id).await?;
    Ok(Json(PolicyDocument { policy }))
}

/// Says how the account is corrected from now on.
#[utoipa::path(post, path = "/v1/accounts/{account}/correction-policy", tag = "corrections",
    params(("account" = String, Path, description = "id")), request_body = PolicyDocument,
    responses((status = 200, body = PolicyDocument), (status = 404, body = Problem)))]
pub(super) async fn set_policy(
    State(app): State<App>,
    Path(account): Path<String>,
    Caller(actor): Caller,
    Body(new): Body<PolicyDocument>,
) -> Result<Json<PolicyDocument>, Problem> {
    let (store, now) = (app.store(), clock::now());
    change::set_correction_policy(store, &account, new.policy, &actor, now).await?;
    Ok(Json(new))
}

/// Issued corrections, in the order of issuing.
#[utoipa::path(get, path = "/v1/corrections", tag = "corrections", params(PageParams),
    responses((status = 200, body = Page<CorrectionSummary>)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<CorrectionSummary>>, Problem> {
    let mut tx = app.store().read().await?;
    let rows = store::corrections::all(&mut tx, None).await?;
    let key = |row: &CorrectionRow| {
        let at = row.issued.issued_at.as_micros();
        format!("{at:020} {}", row.issued.number)
    };
    let page = page.cut(rows, key)?;
    Ok(Json(page.map(Into::into)))
}

/// Issues what is known now otherwise than was said. Asking again changes nothing.
#[utoipa::path(post, path = "/v1/corrections", tag = "corrections", request_body = IssueCorrection,
    responses((status = 200, body = IssuedCorrection, description = "nothing differs"),
        (status = 201, body = IssuedCorrection), (status = 409, body = Problem)))]
pub(super) async fn issue(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(new): Body<IssueCorrection>,
) -> Result<(StatusCode, Json<IssuedCorrection>), Problem> {
    let order = CorrectionOrder {
        account: &new.account,
        which: month(&new.period)?,
        issue_as: new.issue_as,
        actor: &actor,
    };
    let issued: IssuedCorrection = issue_correction(app.store(), &order, clock::now())
        .await?
        .into();
    let status = match issued.already_issued {
        false => StatusCode::CREATED,
        true => StatusCode::OK,
    };
    Ok((status, Json(issued)))
}

/// The document of an issued correction: the very bytes that its digest is of.
#[utoipa::path(get, path = "/v1/corrections/{number}", tag = "corrections",
    params(("number" = String, Path, description = "CN-2026-000001")),
    responses((status = 200, body = schema::Invoice), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(number): Path<String>,
) -> Result<Response, Problem> {
    let mut tx = app.store().read().await?;
    let row = store::corrections::numbered(&mut tx, &number).await?;
    let row =
        row.ok_or_else(|| Problem::not_found(format!("no correction has the number {number}")))?;
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::ETAG, format!("\"{}\"", row.issued.digest)),
    ];
    Ok((headers, row.issued.document).into_response())
}

/// Evidence of an issued correction: one file, with which a third party computes it again, and what it corrects
/// with it.
#[utoipa::path(get, path = "/v1/corrections/{number}/evidence", tag = "corrections",
    params(("number" = String, Path, description = "CN-2026-000001"), EvidenceParams),
    responses((status = 200, body = Vec<u8>, content_type = "application/vnd.tallystick.evidence"),
        (status = 404, body = Problem)))]
pub(super) async fn evidence(
    State(app): State<App>,
    Path(number): Path<String>,
    Params(params): Params<EvidenceParams>,
) -> Result<Response, Problem> {
    evidence_of(&app, &number, &params).await
}
