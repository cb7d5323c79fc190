//! Decisions on quarantine, forks and keys.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tallystick_common::ids::{Seq, StreamId};
use utoipa::ToSchema;

use super::App;
use super::error::Problem;
use super::extract::{Body, Caller, Params};
use super::page::{Page, PageParams, cursor};
use crate::catalog::change::known_node;
use crate::clock;
use crate::decision::{self, Decided, Judgement, Keep, Order, Touched};
use crate::store::decisions::{self, DecisionRow};

/// A decision. Of two that name a segment the one with the higher number holds.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecisionView {
    /// 1, 2, 3 in the order of deciding.
    pub number: u64,
    /// `accept`, `reject`, `keep_admitted`, `keep_other` or `revoke`.
    pub kind: String,
    /// Whose segments.
    pub node: String,
    /// Their stream.
    pub stream: String,
    /// The first of them.
    pub first: u64,
    /// The last of them; null: everything from the first on.
    pub last: Option<u64>,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// When.
    #[schema(format = DateTime)]
    pub at: String,
}

impl From<DecisionRow> for DecisionView {
    fn from(row: DecisionRow) -> Self {
        Self {
            number: row.number,
            kind: row.kind.to_string(),
            node: row.node.to_string(),
            stream: row.stream.to_string(),
            first: row.first.0,
            last: row.last.map(|last| last.0),
            reason: row.reason,
            by: row.by,
            at: row.at.to_string(),
        }
    }
}

/// A period of an account that has usage in the segments decided on.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TouchedView {
    /// The account.
    pub account: String,
    /// First instant of its period.
    #[schema(format = DateTime)]
    pub period_from: String,
    /// First instant after it.
    #[schema(format = DateTime)]
    pub period_to: String,
    /// The invoice that was issued for it: it stays as it is.
    pub invoice: Option<String>,
}

impl From<Touched> for TouchedView {
    fn from(touched: Touched) -> Self {
        Self {
            account: touched.account,
            period_from: touched.period_from.to_string(),
            period_to: touched.period_to.to_string(),
            invoice: touched.invoice,
        }
    }
}

/// What came of a decision.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DecidedView {
    /// The decision; null when it was only asked what it would do.
    pub decision: Option<DecisionView>,
    /// Whether it had been decided so before: nothing changed then.
    pub already_decided: bool,
    /// Segments that count, or count no longer, by it.
    pub segments_changed: u64,
    /// Doubts that it sets aside, in words.
    pub set_aside: Vec<String>,
    /// Whose bills it changes.
    pub touched: Vec<TouchedView>,
}

impl From<Decided> for DecidedView {
    fn from(decided: Decided) -> Self {
        let touched = decided.touched.into_iter();
        Self {
            decision: decided.decision.map(DecisionView::from),
            already_decided: decided.before,
            segments_changed: decided.changed,
            set_aside: decided.set_aside,
            touched: touched.map(TouchedView::from).collect(),
        }
    }
}

/// Whether quarantined segments count.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgementWord {
    /// They count.
    Accept,
    /// They do not.
    Reject,
}

/// A decision on quarantined segments.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// Their stream.
    pub stream: String,
    /// The segment's number.
    pub seq: u64,
    /// The last one's number, when it is about several.
    pub through: Option<u64>,
    /// Whether they count.
    pub judgement: JudgementWord,
    /// Why, for the audit log.
    pub reason: String,
}

/// Which branch of a fork.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepWord {
    /// The one that was admitted.
    Admitted,
    /// The other one.
    Other,
}

/// How a fork is resolved.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// The forked stream.
    pub stream: String,
    /// Which branch is the node's.
    pub keep: KeepWord,
    /// Why, for the audit log.
    pub reason: String,
}

/// Which key is revoked, and from where on.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// A stream that it signs.
    pub stream: String,
    /// The first segment that may not be the node's own.
    pub from_seq: u64,
    /// Why, for the audit log and the node.
    pub reason: String,
    /// Only says what it would come to.
    #[serde(default)]
    pub dry_run: bool,
}

type Answer = Result<(StatusCode, Json<DecidedView>), Problem>;

fn answer(decided: Decided) -> (StatusCode, Json<DecidedView>) {
    let made = decided.decision.is_some() && !decided.before;
    let status = if made {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    (status, Json(decided.into()))
}

fn stream_of(text: &str) -> Result<StreamId, Problem> {
    text.parse()
        .map_err(|error| Problem::invalid(format!("stream {text:?} is not usable: {error}")))
}

fn order<'a>(
    app: &'a App,
    node: &'a str,
    stream: &str,
    reason: &'a str,
    actor: &'a str,
) -> Result<Order<'a>, Problem> {
    Ok(Order {
        node,
        stream: stream_of(stream)?,
        reason,
        actor,
        signer: app.services.authority.receipt_key(),
    })
}

/// Decisions on a node's segments, oldest first.
#[utoipa::path(get, path = "/v1/nodes/{node}/decisions", tag = "decisions",
    params(("node" = String, Path, description = "id or name"), PageParams),
    responses((status = 200, body = Page<DecisionView>), (status = 404, body = Problem)))]
pub(super) async fn list(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<DecisionView>>, Problem> {
    let (limit, after) = (page.limit()?, page.after_number()?);
    let mut tx = app.store().read().await?;
    let node = known_node(&mut tx, &node).await?;
    let more = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = decisions::list(&mut tx, Some(node.row), after, more).await?;
    let rest = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| rest);
    Ok(Json(Page {
        next: last.map(|row| cursor(&row.number.to_string())),
        items: rows.into_iter().map(DecisionView::from).collect(),
    }))
}

/// Lets quarantined segments count, or not. Accepting asks every question of admission again: what would count twice,
/// or is broken, is refused.
#[utoipa::path(post, path = "/v1/nodes/{node}/quarantine/decide", tag = "decisions", request_body = Decide,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = DecidedView, description = "decided so before"),
        (status = 201, body = DecidedView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn decide(
    State(app): State<App>,
    Path(node): Path<String>,
    Caller(actor): Caller,
    Body(new): Body<Decide>,
) -> Answer {
    let order = order(&app, &node, &new.stream, &new.reason, &actor)?;
    let range = (Seq(new.seq), Seq(new.through.unwrap_or(new.seq)));
    let judgement = match new.judgement {
        JudgementWord::Accept => Judgement::Accept,
        JudgementWord::Reject => Judgement::Reject,
    };
    let decided = decision::decide(app.store(), &order, range, judgement, clock::now()).await?;
    Ok(answer(decided))
}

/// Resolves the fork of a frozen stream: one branch is the node's.
#[utoipa::path(post, path = "/v1/nodes/{node}/resolve", tag = "decisions", request_body = Resolve,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = DecidedView, description = "decided so before"),
        (status = 201, body = DecidedView), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub(super) async fn resolve(
    State(app): State<App>,
    Path(node): Path<String>,
    Caller(actor): Caller,
    Body(new): Body<Resolve>,
) -> Answer {
    let order = order(&app, &node, &new.stream, &new.reason, &actor)?;
    let keep = match new.keep {
        KeepWord::Admitted => Keep::Admitted,
        KeepWord::Other => Keep::Other,
    };
    Ok(answer(
        decision::resolve(app.store(), &order, keep, clock::now()).await?,
    ))
}

/// Revokes a node's key from a place in a stream on: nothing from there on counts, and it signs nothing new. The host
/// enrols again, as a new node.
#[utoipa::path(post, path = "/v1/nodes/{node}/revoke", tag = "decisions", request_body = Revoke,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = DecidedView, description = "decided so before, or only asked"),
        (status = 201, body = DecidedView), (status = 404, body = Problem)))]
pub(super) async fn revoke(
    State(app): State<App>,
    Path(node): Path<String>,
    Caller(actor): Caller,
    Body(new): Body<Revoke>,
) -> Answer {
    let order = order(&app, &node, &new.stream, &new.reason, &actor)?;
    let from = Seq(new.from_seq);
    let decided = decision::revoke(app.store(), &order, from, new.dry_run, clock::now()).await?;
    Ok(answer(decided))
}
