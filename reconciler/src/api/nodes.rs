//! Nodes: who they are, what they sent, what of it was not counted.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

use super::App;
use super::error::Problem;
use super::extract::{Body, Caller, Params};
use super::page::{Page, PageParams, cursor};
use crate::catalog::change::{known_node, set_node_state};
use crate::clock;
use crate::overview::silence::Silence;
use crate::store::inspect::{self, RefusalRow, SegmentRow, WorkloadRow};
use crate::store::nodes::{self, Node, NodeRow, NodeState};
use crate::store::{Connection, StoreError, decisions, streams};

/// A node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// What people call it; not unique.
    pub name: String,
    /// `active`, `banned` or `retired`.
    pub state: String,
    /// Why it is banned.
    pub reason: Option<String>,
    /// When it was enrolled.
    #[schema(format = DateTime)]
    pub enrolled_at: String,
    /// When it last said something, to the minute or so.
    #[schema(format = DateTime)]
    pub last_seen_at: Option<String>,
    /// Since when it is silent: active, and without a segment for longer than it may be.
    #[schema(format = DateTime)]
    pub silent_since: Option<String>,
    /// The key that it enrolled with.
    pub signing_key: String,
}

impl NodeView {
    /// With whether it is silent as of `now`.
    #[must_use]
    pub fn new(node: Node, silence: &Silence, now: Timestamp) -> Self {
        let silent_since = silence.since(&node, now).map(|since| since.to_string());
        Self {
            silent_since,
            ..Self::from(node)
        }
    }
}

impl From<Node> for NodeView {
    fn from(node: Node) -> Self {
        Self {
            id: node.id.to_string(),
            name: node.name,
            state: node.state.as_str().to_owned(),
            reason: match node.state {
                NodeState::Banned { reason, .. } => Some(reason),
                NodeState::Retired { lost, .. } => lost,
                NodeState::Active => None,
            },
            enrolled_at: node.enrolled_at.to_string(),
            last_seen_at: node.last_seen_at.map(|at| at.to_string()),
            silent_since: None,
            signing_key: node.signing_key.to_string(),
        }
    }
}

/// A segment as admitted.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SegmentView {
    /// Its stream.
    pub stream: String,
    /// Its number in the stream.
    pub seq: u64,
    /// Its hash.
    pub hash: String,
    /// First instant it accounts for.
    #[schema(format = DateTime)]
    pub covered_from: String,
    /// First instant after it.
    #[schema(format = DateTime)]
    pub covered_through: String,
    /// When it was committed.
    #[schema(format = DateTime)]
    pub received_at: String,
    /// `counted` or `quarantined`.
    pub verdict: String,
    /// Why it is quarantined, or was until a person let it count, as a word.
    pub doubt: Option<String>,
    /// The same in words.
    pub doubt_detail: Option<String>,
    /// How many intervals it holds.
    pub intervals: u64,
}

impl From<SegmentRow> for SegmentView {
    fn from(row: SegmentRow) -> Self {
        let (doubt, doubt_detail) = row.doubt.unzip();
        Self {
            stream: row.stream.to_string(),
            seq: row.seq.0,
            hash: row.hash.to_string(),
            covered_from: row.covered_from.to_string(),
            covered_through: row.covered_through.to_string(),
            received_at: row.received_at.to_string(),
            verdict: row.verdict,
            doubt,
            doubt_detail,
            intervals: row.intervals,
        }
    }
}

/// A stream of a node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct StreamView {
    /// Its id.
    pub stream: String,
    /// `open`, `frozen` (forked, until a person resolves it) or `ended`.
    pub state: String,
    /// The number of its next segment.
    pub next_seq: u64,
    /// First instant it accounts for.
    #[schema(format = DateTime)]
    pub covered_from: String,
    /// First instant it does not account for.
    #[schema(format = DateTime)]
    pub covered_through: String,
    /// Where its latest fork is, resolved or not; null when it never forked.
    pub forked_at: Option<u64>,
}

/// The streams of a node, in the order of their beginning.
pub(crate) async fn streams_of(
    conn: &mut Connection,
    node: NodeRow,
) -> Result<Vec<StreamView>, StoreError> {
    let mut views = Vec::new();
    for stream in streams::of_node(conn, node).await? {
        let fork = decisions::latest_fork(conn, stream.row).await?;
        views.push(StreamView {
            stream: stream.stream.to_string(),
            state: stream.status.to_string(),
            next_seq: stream.next.0,
            covered_from: stream.covered_from.to_string(),
            covered_through: stream.covered_through.to_string(),
            forked_at: fork.map(|(seq, _)| seq.0),
        });
    }
    Ok(views)
}

/// What is metered on a node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WorkloadView {
    /// Its name.
    pub workload: String,
    /// What it calls itself, as its newest counted segment says.
    pub labels: BTreeMap<String, String>,
    /// When its first register began.
    #[schema(format = DateTime)]
    pub first_seen_at: String,
}

impl From<WorkloadRow> for WorkloadView {
    fn from(row: WorkloadRow) -> Self {
        Self {
            workload: row.name,
            labels: row.labels,
            first_seen_at: row.first_seen_at.to_string(),
        }
    }
}

/// Something that was not counted, with its reason. Its bytes are in the store.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct RefusalView {
    /// Its number.
    pub id: u64,
    /// Who sent it; null for strangers.
    pub node: Option<String>,
    /// Why, as a word.
    pub reason: String,
    /// Why, in words.
    pub detail: String,
    /// The stream it claimed, where that could be read.
    pub stream: Option<String>,
    /// The number it claimed, where that could be read.
    pub seq: Option<u64>,
    /// When.
    #[schema(format = DateTime)]
    pub received_at: String,
    /// How many bytes it had.
    pub byte_count: u64,
}

impl From<RefusalRow> for RefusalView {
    fn from(row: RefusalRow) -> Self {
        let (stream, seq) = row.claimed.unzip();
        Self {
            id: row.id,
            node: row.node.map(|node| node.to_string()),
            reason: row.reason,
            detail: row.detail,
            stream: stream.map(|stream| stream.to_string()),
            seq,
            received_at: row.received_at.to_string(),
            byte_count: row.byte_count,
        }
    }
}

/// Why a node is banned.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ban {
    /// In words, for the audit log and the node's page.
    pub reason: String,
}

/// Why a node will never ship its final segment.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lost {
    /// In words, for the audit log and the node's page.
    pub lost: String,
}

/// Every node, in the order of enrolment.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", params(PageParams),
    responses((status = 200, body = Page<NodeView>)))]
pub(super) async fn list(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<NodeView>>, Problem> {
    let mut tx = app.store().read().await?;
    let nodes = nodes::all(&mut tx).await?;
    let silence = Silence::read(&mut tx, app.rules.silent_after).await?;
    let page = page.cut(nodes, |node| format!("{:020}", node.row.0))?;
    let now = clock::now();
    Ok(Json(page.map(|node| NodeView::new(node, &silence, now))))
}

/// One node, by id or name.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn show(
    State(app): State<App>,
    Path(node): Path<String>,
) -> Result<Json<NodeView>, Problem> {
    let mut tx = app.store().read().await?;
    let node = known_node(&mut tx, &node).await?;
    let silence = Silence::read(&mut tx, app.rules.silent_after).await?;
    Ok(Json(NodeView::new(node, &silence, clock::now())))
}

/// The streams of a node, in the order of their beginning: lives of its agent's buffer.
#[utoipa::path(get, path = "/v1/nodes/{node}/streams", tag = "nodes",
    params(("node" = String, Path, description = "id or name"), PageParams),
    responses((status = 200, body = Page<StreamView>), (status = 404, body = Problem)))]
pub(super) async fn streams(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<StreamView>>, Problem> {
    let mut tx = app.store().read().await?;
    let node = known_node(&mut tx, &node).await?;
    let views = streams_of(&mut tx, node.row).await?;
    let numbered = views.into_iter().enumerate();
    let page = page.cut(numbered.collect(), |(place, _)| format!("{place:020}"))?;
    Ok(Json(page.map(|(_, view)| view)))
}

/// What is metered on a node, by name, with its labels.
#[utoipa::path(get, path = "/v1/nodes/{node}/workloads", tag = "nodes",
    params(("node" = String, Path, description = "id or name"), PageParams),
    responses((status = 200, body = Page<WorkloadView>), (status = 404, body = Problem)))]
pub(super) async fn workloads(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<WorkloadView>>, Problem> {
    let mut tx = app.store().read().await?;
    let node = known_node(&mut tx, &node).await?;
    let rows = inspect::workloads(&mut tx, node.row).await?;
    let page = page.cut(rows, |row| row.name.clone())?;
    Ok(Json(page.map(WorkloadView::from)))
}

/// What a node sent and was admitted, oldest first.
#[utoipa::path(get, path = "/v1/nodes/{node}/segments", tag = "nodes",
    params(("node" = String, Path, description = "id or name"), PageParams),
    responses((status = 200, body = Page<SegmentView>), (status = 404, body = Problem)))]
pub(super) async fn segments(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<SegmentView>>, Problem> {
    segment_page(&app, &node, &page, false).await
}

/// What a node sent and was stored, but not counted, oldest first.
#[utoipa::path(get, path = "/v1/nodes/{node}/quarantine", tag = "nodes",
    params(("node" = String, Path, description = "id or name"), PageParams),
    responses((status = 200, body = Page<SegmentView>), (status = 404, body = Problem)))]
pub(super) async fn quarantine(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<SegmentView>>, Problem> {
    segment_page(&app, &node, &page, true).await
}

async fn segment_page(
    app: &App,
    node: &str,
    page: &PageParams,
    quarantined_only: bool,
) -> Result<Json<Page<SegmentView>>, Problem> {
    let limit = page.limit()?;
    let after = match page.after()? {
        None => (0, -1),
        Some(key) => key
            .split_once('/')
            .and_then(|(stream, seq)| Some((stream.parse().ok()?, seq.parse().ok()?)))
            .ok_or_else(|| {
                Problem::invalid("cursor is not usable: give `next` of the page before")
            })?,
    };
    let mut tx = app.store().read().await?;
    let node = known_node(&mut tx, node).await?;
    let more = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = inspect::segments(&mut tx, node.row, quarantined_only, after, more).await?;
    let rest = rows.len() > limit;
    rows.truncate(limit);
    let key = |row: &SegmentRow| cursor(&format!("{}/{}", row.stream_row, row.seq.0));
    let next = rows.last().filter(|_| rest).map(key);
    Ok(Json(Page {
        items: rows.into_iter().map(SegmentView::from).collect(),
        next,
    }))
}

/// What a node sent and was refused, oldest first.
#[utoipa::path(get, path = "/v1/nodes/{node}/refusals", tag = "nodes",
    params(("node" = String, Path, description = "id or name"), PageParams),
    responses((status = 200, body = Page<RefusalView>), (status = 404, body = Problem)))]
pub(super) async fn refusals(
    State(app): State<App>,
    Path(node): Path<String>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<RefusalView>>, Problem> {
    refusal_page(&app, Some(&node), &page).await
}

/// Everything that was refused, oldest first.
#[utoipa::path(get, path = "/v1/refusals", tag = "nodes", params(PageParams),
    responses((status = 200, body = Page<RefusalView>)))]
pub(super) async fn all_refusals(
    State(app): State<App>,
    Params(page): Params<PageParams>,
) -> Result<Json<Page<RefusalView>>, Problem> {
    refusal_page(&app, None, &page).await
}

async fn refusal_page(
    app: &App,
    node: Option<&str>,
    page: &PageParams,
) -> Result<Json<Page<RefusalView>>, Problem> {
    let (limit, after) = (page.limit()?, page.after_number()?);
    let mut tx = app.store().read().await?;
    let node = match node {
        Some(node) => Some(known_node(&mut tx, node).await?.row),
        None => None,
    };
    let more = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = inspect::refusals(&mut tx, node, after, more).await?;
    let rest = rows.len() > limit;
    rows.truncate(limit);
    let next = rows
        .last()
        .filter(|_| rest)
        .map(|row| cursor(&row.id.to_string()));
    Ok(Json(Page {
        items: rows.into_iter().map(RefusalView::from).collect(),
        next,
    }))
}

/// Takes nothing from a node any more.
#[utoipa::path(post, path = "/v1/nodes/{node}/ban", tag = "nodes", request_body = Ban,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn ban(
    State(app): State<App>,
    Path(node): Path<String>,
    Caller(actor): Caller,
    Body(ban): Body<Ban>,
) -> Result<Json<NodeView>, Problem> {
    let now = clock::now();
    let state = NodeState::Banned {
        at: now,
        reason: ban.reason,
    };
    Ok(Json(
        set_node_state(app.store(), &node, state, &actor, now)
            .await?
            .into(),
    ))
}

/// Gives up a node that will never ship its final segment. One that can retires by `tallystick-agent retire`.
#[utoipa::path(post, path = "/v1/nodes/{node}/retire", tag = "nodes", request_body = Lost,
    params(("node" = String, Path, description = "id or name")),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn retire(
    State(app): State<App>,
    Path(node): Path<String>,
    Caller(actor): Caller,
    Body(lost): Body<Lost>,
) -> Result<Json<NodeView>, Problem> {
    let now = clock::now();
    let state = NodeState::Retired {
        at: now,
        lost: Some(lost.lost),
    };
    Ok(Json(
        set_node_state(app.store(), &node, state, &actor, now)
            .await?
            .into(),
    ))
}
