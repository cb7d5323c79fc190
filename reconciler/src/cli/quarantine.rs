//! `quarantine list|decisions|accept|reject`.

use clap::{Args, Subcommand};
use serde::Serialize;
use tallystick_common::ids::{Seq, StreamId};

use super::Session;
use super::output::say;
use crate::api::decisions::{DecidedView, DecisionView};
use crate::api::nodes::SegmentView;
use crate::authority::Authority;
use crate::catalog::change::known_node;
use crate::clock;
use crate::decision::{Decided, Judgement, Order, decide};
use crate::store::nodes::{self, Node};
use crate::store::{decisions, inspect};

/// Rows read at once.
const PAGE: u32 = 1000;

/// Segments that are stored and do not count, and decisions on them.
#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// What does not count, with the doubt.
    List {
        /// Only of this node, by id or name.
        #[arg(long)]
        node: Option<String>,
    },
    /// What was decided, by whom and why, oldest first.
    Decisions {
        /// Only on segments of this node, by id or name.
        #[arg(long)]
        node: Option<String>,
    },
    /// Let segments count. Every question of admission is asked again; what is broken, or would count something
    /// twice, stays.
    Accept(Which),
    /// Settle that segments do not count, also when they were accepted before.
    Reject(Which),
}

/// Which segments, and why.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Id or name.
    node: String,
    /// The stream.
    stream: StreamId,
    /// The segment's number.
    seq: u64,
    /// The last segment's number, when it is about several: all of them, or none.
    #[arg(long, value_name = "SEQ")]
    through: Option<u64>,
    /// Why, for the audit log.
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Serialize)]
struct Quarantined {
    node: String,
    node_name: String,
    #[serde(flatten)]
    segment: SegmentView,
}

impl QuarantineCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::List { node } => list(session, node.as_deref()).await,
            Self::Decisions { node } => decisions_on(session, node.as_deref()).await,
            Self::Accept(which) => which.decide(session, Judgement::Accept).await,
            Self::Reject(which) => which.decide(session, Judgement::Reject).await,
        }
    }
}

impl Which {
    async fn decide(self, session: &Session, judgement: Judgement) -> anyhow::Result<()> {
        let signing = signing(session)?;
        let order = Order {
            node: &self.node,
            stream: self.stream,
            reason: &self.reason,
            actor: &session.actor,
            signer: signing.receipt_key(),
        };
        let range = (Seq(self.seq), Seq(self.through.unwrap_or(self.seq)));
        let decided = decide(&session.store, &order, range, judgement, clock::now()).await?;
        tell(session, decided)
    }
}

/// The keys that sign decisions.
pub(super) fn signing(session: &Session) -> anyhow::Result<Authority> {
    let config = &session.config;
    Ok(Authority::open_with(
        &config.data,
        config.lives,
        clock::now(),
    )?)
}

/// Says what came of a decision.
pub(super) fn tell(session: &Session, decided: Decided) -> anyhow::Result<()> {
    let view = DecidedView::from(decided);
    if session.output.json {
        return session.output.value(&view);
    }
    match &view.decision {
        Some(decision) => session.output.one(
            decision,
            &[
                "number", "kind", "stream", "first", "last", "reason", "by", "at",
            ],
        )?,
        None => say("nothing was changed; this would come of it\n")?,
    }
    session.output.one(&view, &["segments_changed"])?;
    for words in &view.set_aside {
        say(&format!("set aside: {words}\n"))?;
    }
    if view.touched.is_empty() {
        return Ok(());
    }
    say("\n")?;
    let columns = ["account", "period_from", "period_to", "invoice"];
    session.output.list(&view.touched, &columns)
}

async fn list(session: &Session, node: Option<&str>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let of: Vec<Node> = match node {
        Some(node) => vec![known_node(&mut tx, node).await?],
        None => nodes::all(&mut tx).await?,
    };
    let mut rows = Vec::new();
    for node in of {
        let mut after = (0, -1);
        loop {
            let page = inspect::segments(&mut tx, node.row, true, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = (last.stream_row, i64::try_from(last.seq.0)?);
            rows.extend(page.into_iter().map(|segment| Quarantined {
                node: node.id.to_string(),
                node_name: node.name.clone(),
                segment: segment.into(),
            }));
        }
    }
    let columns = [
        "node_name",
        "stream",
        "seq",
        "covered_from",
        "covered_through",
        "doubt",
        "doubt_detail",
    ];
    session.output.list(&rows, &columns)
}

async fn decisions_on(session: &Session, node: Option<&str>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let node = match node {
        Some(node) => Some(known_node(&mut tx, node).await?.row),
        None => None,
    };
    let mut rows: Vec<DecisionView> = Vec::new();
    loop {
        let after = rows.last().map_or(0, |row| row.number);
        let page = decisions::list(&mut tx, node, after, PAGE).await?;
        if page.is_empty() {
            break;
        }
        rows.extend(page.into_iter().map(DecisionView::from));
    }
    let columns = [
        "number", "at", "by", "kind", "node", "stream", "first", "last", "reason",
    ];
    session.output.list(&rows, &columns)
}
