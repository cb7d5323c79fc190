//! `node list|show|config|ban|retire|resolve|revoke`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use tallystick_common::ids::{Hash, Seq, StreamId};
use tallystick_common::time::Timestamp;

use super::Session;
use super::output::{duration, say, sheet, table_of};
use super::quarantine::{signing, tell};
use crate::api::nodes::{NodeView, RefusalView, SegmentView, StreamView, streams_of};
use crate::authority::Authority;
use crate::catalog::change::{known_node, set_node_state};
use crate::catalog::settings::set_node_settings;
use crate::clock;
use crate::config::Rules;
use crate::decision::{Keep, Order, resolve, revoke};
use crate::overview::silence::Silence;
use crate::overview::{NodeToday, figures};
use crate::store::inspect;
use crate::store::nodes::{self, Node, NodeState};
use crate::store::settings;
use crate::store::{Connection, StoreError};

const FIELDS: [&str; 8] = [
    "id",
    "name",
    "state",
    "reason",
    "enrolled_at",
    "last_seen_at",
    "silent_since",
    "signing_key",
];

/// How many of the latest refusals and quarantined segments `show` tells.
const LATEST: u32 = 10;

/// Enrolled hosts.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Every node.
    List,
    /// One node: last segment, today's coverage, what was refused or quarantined, and why.
    Show {
        /// Id or name.
        node: String,
    },
    /// How a node meters: show what is set and what it says is in force, or set it.
    Config {
        /// Id or name.
        node: String,
        /// TOML with any of sample_seconds, seal_seconds, [cgroups], [interfaces], [filesystems]; each
        /// replaces the node's own. `-` reads standard input.
        file: Option<PathBuf>,
        /// Leave everything to the node's own configuration again.
        #[arg(long, conflicts_with = "file")]
        clear: bool,
    },
    /// Take nothing from a node any more.
    Ban {
        /// Id or name.
        node: String,
        /// Why, for the audit log and the node's page.
        #[arg(long)]
        reason: String,
    },
    /// Give up a node that will never ship its final segment; what it has not shipped is missing for ever.
    /// One that can is retired by `tallystick-agent retire --yes` on its host.
    Retire {
        /// Id or name.
        node: String,
        /// Why it is lost, for the audit log and the node's page.
        #[arg(long, value_name = "REASON")]
        lost: Option<String>,
    },
    /// Say which branch of a forked stream is the node's.
    Resolve {
        /// Id or name.
        node: String,
        /// The forked stream.
        stream: StreamId,
        /// Which branch.
        #[arg(long, value_enum)]
        keep: Branch,
        /// Why, for the audit log.
        #[arg(long)]
        reason: String,
    },
    /// Revoke the key that signs a node's segments: nothing from a place in a stream on counts, and it signs nothing
    /// new. The host enrols again, as a new node.
    Revoke {
        /// Id or name.
        node: String,
        /// A stream that the key signs.
        #[arg(long)]
        stream: StreamId,
        /// The first segment that may not be the node's own.
        #[arg(long, value_name = "SEQ")]
        from_seq: u64,
        /// Why, for the audit log and the node.
        #[arg(long)]
        reason: String,
        /// Only say what it would come to.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which branch of a fork.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Branch {
    /// The one that was admitted: its stream goes on.
    Admitted,
    /// The other one: what was admitted from the fork on counts no longer, and the stream is over.
    Other,
}

/// A node and how it stands.
#[derive(Debug, Serialize)]
struct NodeDetail {
    #[serde(flatten)]
    node: NodeView,
    today: Option<NodeToday>,
    refusal_counts: Vec<RefusalCount>,
    latest_refusals: Vec<RefusalView>,
    latest_quarantined: Vec<SegmentView>,
    streams: Vec<StreamView>,
}

/// How often a node was refused for one reason, ever.
#[derive(Debug, Serialize)]
struct RefusalCount {
    reason: String,
    count: u64,
}

impl NodeCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (store, now) = (&session.store, clock::now());
        let node = match self {
            Self::List => return list(session).await,
            Self::Show { node } => return show(session, &node, now).await,
            Self::Config { node, file, clear } => {
                return configure(session, &node, file, clear, now).await;
            }
            Self::Ban { node, reason } => {
                let state = NodeState::Banned { at: now, reason };
                set_node_state(store, &node, state, &session.actor, now).await?
            }
            Self::Retire { node, lost } => {
                let state = NodeState::Retired { at: now, lost };
                set_node_state(store, &node, state, &session.actor, now).await?
            }
            Self::Resolve {
                node,
                stream,
                keep,
                reason,
            } => {
                let keep = match keep {
                    Branch::Admitted => Keep::Admitted,
                    Branch::Other => Keep::Other,
                };
                let signing = signing(session)?;
                let order = order(session, &node, stream, &reason, &signing);
                return tell(session, resolve(store, &order, keep, now).await?);
            }
            Self::Revoke {
                node,
                stream,
                from_seq,
                reason,
                dry_run,
            } => {
                let signing = signing(session)?;
                let order = order(session, &node, stream, &reason, &signing);
                let decided = revoke(store, &order, Seq(from_seq), dry_run, now).await?;
                return tell(session, decided);
            }
        };
        session.output.one(&NodeView::from(node), &FIELDS)
    }
}

fn order<'a>(
    session: &'a Session,
    node: &'a str,
    stream: StreamId,
    reason: &'a str,
    signing: &'a Authority,
) -> Order<'a> {
    Order {
        node,
        stream,
        reason,
        actor: &session.actor,
        signer: signing.receipt_key(),
    }
}

/// What is set for a node, and what it says of it.
#[derive(Debug, Serialize)]
struct ConfigView {
    version: u64,
    document: String,
    in_force: Option<u64>,
    digest: Option<Hash>,
    problem: Option<String>,
    told_at: Option<Timestamp>,
}

async fn configure(
    session: &Session,
    node: &str,
    file: Option<PathBuf>,
    clear: bool,
    now: Timestamp,
) -> anyhow::Result<()> {
    let document = match file {
        None if clear => Some(String::new()),
        None => None,
        Some(path) => Some(read_document(&path)?),
    };
    if let Some(document) = document {
        set_node_settings(&session.store, node, &document, &session.actor, now).await?;
    }
    let mut tx = session.store.read().await?;
    let node = known_node(&mut tx, node).await?;
    let set = settings::of(&mut tx, node.id).await?;
    let told = settings::told(&mut tx, node.row).await?;
    let (version, document) = set.map_or((0, String::new()), |set| (set.version, set.document));
    let told_at = told.as_ref().map(|told| told.at);
    let told = told.map(|told| told.in_force);
    let view = ConfigView {
        version,
        document,
        in_force: told.as_ref().map(|told| told.settings),
        digest: told.as_ref().map(|told| told.digest),
        problem: told.and_then(|told| told.problem),
        told_at,
    };
    let fields = ["version", "in_force", "digest", "problem", "told_at"];
    session.output.one(&view, &fields)?;
    if session.output.json || view.document.is_empty() {
        return Ok(());
    }
    say(&format!("\n{}", view.document))
}

fn read_document(path: &Path) -> anyhow::Result<String> {
    let read = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(path)
    };
    read.with_context(|| format!("read the settings {}", path.display()))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let silence = Silence::read(&mut tx, session.config.rules.silent_after).await?;
    let (nodes, now) = (nodes::all(&mut tx).await?.into_iter(), clock::now());
    let nodes: Vec<NodeView> = nodes
        .map(|node| NodeView::new(node, &silence, now))
        .collect();
    let columns = [
        "id",
        "name",
        "state",
        "enrolled_at",
        "last_seen_at",
        "silent_since",
    ];
    session.output.list(&nodes, &columns)
}

async fn show(session: &Session, node: &str, now: Timestamp) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let node = known_node(&mut tx, node).await?;
    let detail = detail(&mut tx, node, &session.config.rules, now).await?;
    if session.output.json {
        return session.output.value(&detail);
    }
    session.output.one(&detail.node, &FIELDS)?;
    say(&rest(&detail)?)
}

async fn detail(
    conn: &mut Connection,
    node: Node,
    rules: &Rules,
    now: Timestamp,
) -> Result<NodeDetail, StoreError> {
    let silence = Silence::read(conn, rules.silent_after).await?;
    let counts = inspect::refusal_counts(conn).await?.into_iter();
    let counts = counts.filter(|count| count.node == Some(node.row));
    let refusals = inspect::latest_refusals(conn, node.row, LATEST).await?;
    let quarantined = inspect::latest_quarantined(conn, node.row, LATEST).await?;
    Ok(NodeDetail {
        streams: streams_of(conn, node.row).await?,
        refusal_counts: counts
            .map(|count| RefusalCount {
                reason: count.what,
                count: count.count,
            })
            .collect(),
        latest_refusals: refusals.into_iter().map(RefusalView::from).collect(),
        latest_quarantined: quarantined.into_iter().map(SegmentView::from).collect(),
        today: figures::node_today(conn, node.clone(), rules, now).await?,
        node: NodeView::new(node, &silence, now),
    })
}

/// All but the fields of the node itself, for people.
fn rest(detail: &NodeDetail) -> anyhow::Result<String> {
    let mut text = detail.today.as_ref().map_or_else(String::new, standing);
    if !detail.refusal_counts.is_empty() {
        let counts = table_of(&detail.refusal_counts, &["reason", "count"])?;
        let columns = ["received_at", "reason", "seq", "detail"];
        let latest = table_of(&detail.latest_refusals, &columns)?;
        text.push_str(&format!("\nRefused\n{counts}\nRefused last\n{latest}"));
    }
    if !detail.latest_quarantined.is_empty() {
        let columns = ["received_at", "stream", "seq", "doubt", "doubt_detail"];
        let latest = table_of(&detail.latest_quarantined, &columns)?;
        text.push_str(&format!("\nQuarantined last\n{latest}"));
    }
    let forked = |stream: &&StreamView| stream.state == "frozen";
    let forked: Vec<&StreamView> = detail.streams.iter().filter(forked).collect();
    if !forked.is_empty() {
        let columns = ["stream", "forked_at", "next_seq", "covered_through"];
        let table = table_of(&forked, &columns)?;
        text.push_str(&format!("\nForked, and held until `node resolve`\n{table}"));
    }
    Ok(text)
}

fn standing(today: &NodeToday) -> String {
    let last = today.last_segment.as_ref().map(|last| {
        format!(
            "{} of stream {}, received {}",
            last.seq.0, last.stream, last.received_at
        )
    });
    let through = today
        .last_segment
        .as_ref()
        .map(|last| last.covered_through.to_string());
    let none = || "-".to_owned();
    sheet(&[
        ("last segment", last.unwrap_or_else(none)),
        ("covered through", through.unwrap_or_else(none)),
        ("lag", today.lag.map_or_else(none, duration)),
        ("today (UTC)", coverage(today)),
        ("refused", today.refused.to_string()),
        ("quarantined", today.quarantined.to_string()),
        ("not conserved", today.unbalanced.to_string()),
    ])
}

fn coverage(today: &NodeToday) -> String {
    let coverage = today.coverage;
    let causes = match today.causes() {
        causes if causes.is_empty() => String::new(),
        causes => format!(" ({causes})"),
    };
    format!(
        "exact {}, interpolated {}, unmeasured {}{causes}, quarantined {}, missing {}",
        duration(coverage.exact),
        duration(coverage.interpolated),
        duration(coverage.unmeasured),
        duration(coverage.quarantined),
        duration(coverage.missing),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::testing::{self, NODE, at};
    use crate::store::Store;
    use crate::store::sql;
    use crate::store::testing::{ENGINES, store};

    /// `web-1` with a counted and a quarantined segment, and a refusal.
    async fn doubtful(store: &Store) {
        testing::node(store, at("2026-11-22T12:00:00Z")).await;
        let mut tx = store.write().await.unwrap();
        for (seq, verdict, doubt) in [
            (3_i64, "quarantined", Some("future")),
            (4, "counted", None::<&str>),
        ] {
            sql::query(
                "INSERT INTO segments (stream, seq, hash, covered_from, covered_through, received_at, \
                 verdict, doubt_code, doubt, interval_count, bytes) \
                 VALUES (1, $1, $2, 0, $3, $3, $4, $5, 'ends in an hour', 1, $2)",
            )
            .bind(seq)
            .bind(vec![5_u8; 32])
            .bind(at("2026-11-22T12:00:00Z").as_i64())
            .bind(verdict)
            .bind(doubt)
            .execute(&mut tx)
            .await
            .unwrap();
        }
        sql::query(
            "INSERT INTO refusals (id, node, reason, detail, received_at, byte_count, bytes) \
             VALUES (1, 1, 'signature', 'not signed by its key', $1, 3, $2)",
        )
        .bind(at("2026-11-22T11:00:00Z").as_i64())
        .bind(vec![1_u8; 3])
        .execute(&mut tx)
        .await
        .unwrap();
        sql::query(
            "INSERT INTO refusal_counts (node, reason, count, byte_count, kept_count, kept_bytes, first_at, last_at) \
             VALUES (1, 'signature', 7, 21, 1, 3, 0, 0)",
        )
        .execute(&mut tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_node_shows_what_was_not_counted_and_why() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            doubtful(&store).await;
            let now = at("2026-11-22T12:00:30Z");
            let mut tx = store.read().await.unwrap();
            let node = known_node(&mut tx, &NODE.to_string()).await.unwrap();
            let detail = detail(&mut tx, node, &Rules::default(), now).await.unwrap();
            let text = rest(&detail).unwrap();
            for expected in [
                "last segment     4 of stream",
                "covered through  2026-11-22T12:00:00Z",
                "lag              30s",
                "quarantined 12h 00m 00s, missing 30s",
                "refused          7",
                "quarantined      1",
                "not signed by its key",
                "ends in an hour",
            ] {
                assert!(text.contains(expected), "{expected:?} in\n{text}");
            }
            let json = serde_json::to_value(&detail).unwrap();
            assert_eq!(json["name"], "web-1");
            assert_eq!(json["last_seen_at"], "2026-11-22T12:00:00Z");
            assert_eq!(json["refusal_counts"][0]["count"], 7);
            assert_eq!(json["latest_quarantined"][0]["doubt"], "future");
        }
    }

    #[tokio::test]
    async fn a_ban_without_a_reason_is_refused() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            let now = at("2026-11-22T12:00:00Z");
            testing::node(&store, now).await;
            let ban = async |reason: &str| {
                let state = NodeState::Banned {
                    at: now,
                    reason: reason.to_owned(),
                };
                set_node_state(&store, "web-1", state, "cli:anna", now).await
            };
            let refused = ban(" ").await.unwrap_err().to_string();
            assert!(refused.contains("write why"), "{refused}");
            let mut tx = store.read().await.unwrap();
            let node = known_node(&mut tx, "web-1").await.unwrap();
            assert_eq!(node.state, NodeState::Active, "nothing was changed");
            drop(tx);
            assert_eq!(ban("sold").await.unwrap().state.as_str(), "banned");
        }
    }

    #[tokio::test]
    async fn a_node_that_sent_nothing_shows_that() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            testing::node(&store, at("2026-11-22T12:00:00Z")).await;
            let mut tx = store.read().await.unwrap();
            let node = known_node(&mut tx, "web-1").await.unwrap();
            assert_eq!(node.last_seen_at, None);
            let detail = detail(&mut tx, node, &Rules::default(), at("2026-11-22T12:00:30Z")).await;
            let text = rest(&detail.unwrap()).unwrap();
            assert!(text.contains("last segment     -"), "{text}");
            assert!(!text.contains("Refused"), "{text}");
        }
    }
}
