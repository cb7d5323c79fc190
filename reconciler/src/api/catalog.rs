//! Accounts, assignments, plans and subscriptions.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

use super::App;
use super::error::Problem;
use super::extract::{Body, Caller, Params};
use super::page::{Page, PageParams};
use crate::catalog::assignment::NewAssignment;
use crate::catalog::change::{self, NewAccount};
use crate::catalog::{Account, Assignment, Subscription};
use crate::clock;
use crate::store::{self, catalog::PlanVersion};

/// An account that is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// Slug.
    #[schema(example = "acme")]
    pub id: String,
    /// Name on documents.
    pub name: String,
    /// ISO 4217 code.
    #[schema(example = "EUR")]
    pub currency: String,
    /// IANA name; UTC if not given.
    pub time_zone: Option<String>,
    /// Day of the month on which periods begin; 1 if not given.
    #[schema(minimum = 1, maximum = 31)]
    pub anchor_day: Option<u8>,
}

/// An assignment that is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAssignment {
    /// The account's id.
    pub account: String,
    /// A node's id, or a pattern on nodes' names.
    #[schema(example = "web-*")]
    pub node: String,
    /// A pattern on workloads' names. `host/other` only by a pattern that begins with `host/`.
    #[schema(example = "cgroup/*")]
    pub workload: String,
    /// From when: a quarter-hour.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// Ends what is the account's of it: from then on it is nobody's.
    #[serde(default)]
    pub ends: bool,
    /// Needed to say of a time that was invoiced, or in place of an assignment from the same instant, what was
    /// not said before. What was issued stays; `/v1/accounts/{account}/correction` shows what follows.
    #[serde(default)]
    pub correct: bool,
}

/// A subscription that is asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSubscription {
    /// The account's id.
    pub account: String,
    /// `NAME` for the latest version, or `NAME@VERSION`.
    #[schema(example = "starter")]
    pub plan: String,
    /// From when: a quarter-hour.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
}

/// A plan's document.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDocument {
    /// TOML.
    pub toml: String,
}

/// A plan that passed its check.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CheckedPlan {
    /// Its name.
    pub plan: String,
    /// Digest of its meaning.
    pub digest: String,
    /// Its canonical document.
    #[schema(value_type = Object)]
    pub document: serde_json::Value,
}

/// A version of a plan. Never changed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PlanView {
    /// Its name.
    pub plan: String,
    /// 1, 2, 3 in the order of applying.
    pub version: i64,
    /// Digest of its meaning, cited by invoices.
    pub digest: String,
    /// Currency of its prices.
    pub currency: String,
    /// When it was applied.
    #[schema(format = DateTime)]
    pub applied_at: String,
    /// Its canonical document.
    #[schema(value_type = Object)]
    pub document: serde_json::Value,
    /// The TOML as applied.
    pub source: String,
}

impl From<PlanVersion> for PlanView {
    fn from(version: PlanVersion) -> Self {
        Self {
            document: serde_json::from_str(&version.document).unwrap_or_default(),
            plan: version.plan,
            version: version.version,
            digest: version.digest,
            currency: version.currency,
            applied_at: version.applied_at.to_string(),
            source: version.source,
        }
    }
}

/// Every account, by id.
#[utoipa::path(get, path = "/v1/accounts", tag = "accounts", params(PageParams),
    responses((status = 200, body = Page<Account>)))]
pub(super) async fn accounts(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<Account>>, Problem> {
    let mut tx = app.store().read().await?;
    let accounts = store::catalog::accounts(&mut tx).await?;
    Ok(Json(page.cut(accounts, |account| account.id.to_string())?))
}

/// Makes an account. Asking again with the same fields gives the same account.
#[utoipa::path(post, path = "/v1/accounts", tag = "accounts", request_body = CreateAccount,
    responses((status = 201, body = Account), (status = 409, body = Problem)))]
pub(super) async fn create_account(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(new): Body<CreateAccount>,
) -> Result<(StatusCode, Json<Account>), Problem> {
    let new_account = NewAccount {
        id: &new.id,
        name: &new.name,
        currency: &new.currency,
        time_zone: new.time_zone.as_deref().unwrap_or("UTC"),
        anchor_day: new.anchor_day.unwrap_or(1),
    };
    let made = change::create_account(app.store(), &new_account, &actor, clock::now()).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// One account.
#[utoipa::path(get, path = "/v1/accounts/{account}", tag = "accounts",
    params(("account" = String, Path, description = "id")),
    responses((status = 200, body = Account), (status = 404, body = Problem)))]
pub(super) async fn account(
    State(app): State<App>,
    Path(account): Path<String>,
) -> Result<Json<Account>, Problem> {
    let mut tx = app.store().read().await?;
    Ok(Json(change::known_account(&mut tx, &account).await?))
}

/// Every assignment, in the order of making.
#[utoipa::path(get, path = "/v1/assignments", tag = "accounts", params(PageParams),
    responses((status = 200, body = Page<Assignment>)))]
pub(super) async fn assignments(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<Assignment>>, Problem> {
    let mut tx = app.store().read().await?;
    let rules = store::catalog::assignments(&mut tx).await?;
    Ok(Json(page.cut(rules.iter().cloned().collect(), |rule| {
        format!("{:020}", rule.id)
    })?))
}

/// Assigns workloads of nodes to an account, or ends that. Asking again gives the same assignment.
#[utoipa::path(post, path = "/v1/assignments", tag = "accounts", request_body = CreateAssignment,
    responses((status = 201, body = Assignment), (status = 409, body = Problem)))]
pub(super) async fn assign(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(new): Body<CreateAssignment>,
) -> Result<(StatusCode, Json<Assignment>), Problem> {
    let rule = NewAssignment::new(new.account.parse()?, &new.node, &new.workload, new.from)?;
    let rule = if new.ends { rule.ending() } else { rule };
    let rule = rule.correcting(new.correct);
    let made = change::assign(app.store(), &rule, &actor, clock::now()).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Every version of every plan.
#[utoipa::path(get, path = "/v1/plans", tag = "plans", params(PageParams),
    responses((status = 200, body = Page<PlanView>)))]
pub(super) async fn plans(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<PlanView>>, Problem> {
    let mut tx = app.store().read().await?;
    let plans = store::catalog::plan_versions(&mut tx).await?;
    let page = page.cut(plans, |plan| format!("{} {:020}", plan.plan, plan.version))?;
    Ok(Json(page.map(PlanView::from)))
}

/// Checks a plan without applying it.
#[utoipa::path(post, path = "/v1/plans/check", tag = "plans", request_body = PlanDocument,
    responses((status = 200, body = CheckedPlan), (status = 422, body = Problem)))]
pub(super) async fn check_plan(
    Body(document): Body<PlanDocument>,
) -> Result<Json<CheckedPlan>, Problem> {
    let plan = change::check_plan("document", &document.toml)?;
    Ok(Json(CheckedPlan {
        digest: plan.digest().to_string(),
        document: serde_json::from_str(&plan.canonical_json()).unwrap_or_default(),
        plan: plan.name,
    }))
}

/// Applies a plan: a new version, unless its latest version means the same.
#[utoipa::path(post, path = "/v1/plans", tag = "plans", request_body = PlanDocument,
    responses((status = 201, body = PlanView), (status = 422, body = Problem)))]
pub(super) async fn apply_plan(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(document): Body<PlanDocument>,
) -> Result<(StatusCode, Json<PlanView>), Problem> {
    let toml = &document.toml;
    let made = change::apply_plan(app.store(), "document", toml, &actor, clock::now()).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// One plan: `NAME` for the latest version, or `NAME@VERSION`.
#[utoipa::path(get, path = "/v1/plans/{plan}", tag = "plans",
    params(("plan" = String, Path, description = "NAME or NAME@VERSION")),
    responses((status = 200, body = PlanView), (status = 404, body = Problem)))]
pub(super) async fn plan(
    State(app): State<App>,
    Path(plan): Path<String>,
) -> Result<Json<PlanView>, Problem> {
    let mut tx = app.store().read().await?;
    Ok(Json(change::known_plan(&mut tx, &plan).await?.into()))
}

/// Every subscription, in the order of making.
#[utoipa::path(get, path = "/v1/subscriptions", tag = "plans", params(PageParams),
    responses((status = 200, body = Page<Subscription>)))]
pub(super) async fn subscriptions(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<Subscription>>, Problem> {
    let mut tx = app.store().read().await?;
    let all = store::catalog::subscriptions(&mut tx, None).await?;
    Ok(Json(page.cut(all, |held| format!("{:020}", held.id))?))
}

/// Subscribes an account to a plan. Asking again gives the same subscription.
#[utoipa::path(post, path = "/v1/subscriptions", tag = "plans", request_body = CreateSubscription,
    responses((status = 201, body = Subscription), (status = 409, body = Problem)))]
pub(super) async fn subscribe(
    State(app): State<App>,
    Caller(actor): Caller,
    Body(new): Body<CreateSubscription>,
) -> Result<(StatusCode, Json<Subscription>), Problem> {
    let (store, now) = (app.store(), clock::now());
    let made = change::subscribe(store, &new.account, &new.plan, new.from, &actor, now).await?;
    Ok((StatusCode::CREATED, Json(made)))
}
