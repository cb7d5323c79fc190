//! Figures for Prometheus, read from the store when asked for.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use tallystick_common::meter::{Kind, Meter};
use tallystick_common::time::{Micros, Timestamp};

use crate::api::{App, Problem};
use crate::clock;
use crate::overview::silence::Silence;
use crate::store::imbalances;
use crate::store::inspect::{self, Count};
use crate::store::leakage;
use crate::store::nodes::{self, NodeState};
use crate::store::{Connection, StoreError};

/// Figures in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn show(State(app): State<App>) -> Result<Response, Problem> {
    let mut tx = app.store().read().await?;
    let mut text = stored(&mut tx).await?;
    accounting(&mut tx, &mut text).await?;
    silent(&mut tx, &mut text, app.rules.silent_after, clock::now()).await?;
    let strangers = app.services.strangers.summary();
    let mut family = Family::new(
        &mut text,
        "tallystick_strangers_refused_total",
        "counter",
        "Connections refused that no enrolled node made, by reason.",
    );
    for (reason, count) in strangers.counts {
        let reason = serde_json::to_value(reason).unwrap_or_default();
        family.value(&[("reason", reason.as_str().unwrap_or("other"))], count);
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

async fn stored(conn: &mut Connection) -> Result<String, StoreError> {
    let mut text = String::new();
    let quarantined = sum(&inspect::quarantine_counts(conn).await?);
    let admitted = inspect::admitted(conn).await?;
    let mut family = Family::new(
        &mut text,
        "tallystick_segments_admitted_total",
        "counter",
        "Segments admitted, by verdict.",
    );
    family.value(
        &[("verdict", "counted")],
        admitted.saturating_sub(quarantined),
    );
    family.value(&[("verdict", "quarantined")], quarantined);
    let mut family = Family::new(
        &mut text,
        "tallystick_refusals_total",
        "counter",
        "What enrolled nodes sent and was refused, by reason.",
    );
    for (reason, count) in by_what(&inspect::refusal_counts(conn).await?) {
        family.value(&[("reason", &reason)], count);
    }
    for (name, help, counts) in [
        (
            "tallystick_streams",
            "Streams, by state.",
            inspect::stream_counts(conn).await?,
        ),
        (
            "tallystick_nodes",
            "Nodes, by state.",
            inspect::node_counts(conn).await?,
        ),
    ] {
        let mut family = Family::new(&mut text, name, "gauge", help);
        for count in counts {
            family.value(&[("state", &count.what)], count.count);
        }
    }
    let lag = inspect::rollup_lag(conn).await?;
    Family::new(
        &mut text,
        "tallystick_rollup_lag_segments",
        "gauge",
        "Segments stored that rollups do not hold yet.",
    )
    .value(&[], lag);
    Ok(text)
}

/// What is wrong with the books: hours that do not add up, and how many wait to be tallied.
async fn accounting(conn: &mut Connection, text: &mut String) -> Result<(), StoreError> {
    let mut sums: BTreeMap<Meter, i128> = BTreeMap::new();
    for (_, meter, tally) in leakage::tallies(conn, true).await? {
        let sum = sums.entry(meter).or_default();
        *sum = sum.saturating_add(tally.difference());
    }
    let mut family = Family::new(
        text,
        "tallystick_leakage_difference",
        "gauge",
        "Received without billed, unbilled, quarantined and written off, by meter in its base unit: must be zero.",
    );
    for meter in Meter::ALL.iter().filter(|meter| meter.kind() != Kind::Peak) {
        let sum = sums.get(meter).copied().unwrap_or(0);
        family.value(&[("meter", meter.name())], sum);
    }
    let mut family = Family::new(
        text,
        "tallystick_conservation_broken",
        "gauge",
        "Hours and meters in which a node's total is not what its workloads come to, by node.",
    );
    let broken: BTreeMap<_, _> = imbalances::counts(conn).await?.into_iter().collect();
    for node in nodes::all(conn).await? {
        let id = node.id.to_string();
        let count = broken.get(&node.row).copied().unwrap_or(0);
        family.value(&[("node", &id), ("name", &node.name)], count);
    }
    let (_, due) = leakage::due(conn, 0).await?;
    Family::new(
        text,
        "tallystick_leakage_hours_due",
        "gauge",
        "Hours of the leakage account that are to be tallied (again).",
    )
    .value(&[], due);
    Ok(())
}

/// Nodes that say nothing, though they should.
async fn silent(
    conn: &mut Connection,
    text: &mut String,
    after: Micros,
    now: Timestamp,
) -> Result<(), StoreError> {
    let silence = Silence::read(conn, after).await?;
    let nodes = nodes::all(conn).await?;
    let mut family = Family::new(
        text,
        "tallystick_node_silent",
        "gauge",
        "1 for a node that sent no segment for longer than it may.",
    );
    for node in nodes.iter().filter(|node| node.state == NodeState::Active) {
        let silent = silence.since(node, now).is_some();
        let id = node.id.to_string();
        family.value(&[("node", &id), ("name", &node.name)], u8::from(silent));
    }
    Ok(())
}

fn sum(counts: &[Count]) -> u64 {
    counts.iter().map(|count| count.count).sum()
}

fn by_what(counts: &[Count]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for count in counts {
        *sums.entry(count.what.clone()).or_default() += count.count;
    }
    sums
}

struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(text: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { text, name }
    }

    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, text)| label(name, text))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}

fn label(name: &str, text: &str) -> String {
    let text = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{text}\"")
}
