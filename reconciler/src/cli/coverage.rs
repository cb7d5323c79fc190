//! `coverage`.

use clap::Args;
use tallystick_common::period::Month;
use tallystick_common::time::Timestamp;

use super::Session;
use super::instant::instant;
use super::output::{duration, say, table};
use crate::api::coverage::CoverageParams;
use crate::clock;
use crate::overview::coverage::{CoverageRow, Reason, report};

/// How the time of nodes, workloads or an account is accounted for, and why it is not all exact.
#[derive(Debug, Args)]
pub(super) struct Coverage {
    /// Only of the node with this id or name, and of its workloads.
    #[arg(long)]
    node: Option<String>,
    /// Only of nodes that this account may own workloads of, and of the workloads that are its own.
    #[arg(long)]
    account: Option<String>,
    /// Only of workloads that this pattern stands for, and of nodes.
    #[arg(long, value_name = "GLOB")]
    workload: Option<String>,
    /// The account's period that begins in this month, such as 2026-11; the present one if not given.
    #[arg(long, value_name = "MONTH", requires = "account", conflicts_with_all = ["from", "to"])]
    period: Option<Month>,
    /// From when: a quarter-hour, or now for the present one's beginning; midnight UTC if not given.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Option<Timestamp>,
    /// Until when: a quarter-hour; the end of the present one if not given.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    to: Option<Timestamp>,
}

impl Coverage {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let params = CoverageParams {
            node: self.node,
            account: self.account,
            workload: self.workload,
            period: self.period.map(|month| month.to_string()),
            from: self.from,
            to: self.to,
            ..CoverageParams::default()
        };
        let now = clock::now();
        let mut tx = session.store.read().await?;
        let ask = params.ask(&mut tx, now).await?;
        let rows = report(&mut tx, &ask, now).await?;
        if session.output.json {
            return session.output.value(&rows);
        }
        say(&format!("{}\n{}", ask.span, told(&rows)))
    }
}

fn told(rows: &[CoverageRow]) -> String {
    let columns = [
        "node",
        "workload",
        "exact",
        "interpolated",
        "unmeasured",
        "quarantined",
        "missing",
    ];
    let cells = |row: &CoverageRow| {
        let coverage = row.coverage;
        let mut cells = whose(row).to_vec();
        let times = [
            coverage.exact,
            coverage.interpolated,
            coverage.unmeasured,
            coverage.quarantined,
            coverage.missing,
        ];
        cells.extend(times.map(duration));
        cells
    };
    let cells: Vec<_> = rows.iter().map(cells).collect();
    let mut text = table(&columns, &cells);
    let reasons: Vec<_> = rows.iter().flat_map(reasons).collect();
    if !reasons.is_empty() {
        let columns = [
            "node", "workload", "from", "to", "class", "why", "meters", "segments",
        ];
        text.push_str(&format!("\nWhy\n{}", table(&columns, &reasons)));
    }
    if rows.iter().any(|row| row.more_reasons) {
        text.push_str("There are more reasons: ask for a shorter span.\n");
    }
    text
}

fn whose(row: &CoverageRow) -> [String; 2] {
    let workload = row.workload.as_ref().map(ToString::to_string);
    [
        row.node_name.clone(),
        workload.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn reasons(row: &CoverageRow) -> impl Iterator<Item = Vec<String>> {
    row.reasons.iter().map(|reason| {
        let mut cells = whose(row).to_vec();
        cells.extend(words(reason));
        cells
    })
}

fn words(reason: &Reason) -> [String; 6] {
    let or_dash = |words: Vec<String>, between: &str| match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(between),
    };
    let class = serde_json::to_value(reason.class).unwrap_or_default();
    let meters = reason.meters.iter().map(ToString::to_string).collect();
    let segments = reason.segments.iter();
    let segments = segments.map(|link| format!("{} of {}", link.seq, link.stream));
    [
        reason.from.to_string(),
        reason.to.to_string(),
        class.as_str().unwrap_or_default().to_owned(),
        reason.why.clone(),
        or_dash(meters, ","),
        or_dash(segments.collect(), ", "),
    ]
}
