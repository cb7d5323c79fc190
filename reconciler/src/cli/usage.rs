//! `usage`.

use clap::Args;
use tallystick_common::time::Timestamp;

use super::Session;
use crate::api::usage::{UsageParams, UsageView, is_unassigned};
use crate::billing::usage::assigned;
use crate::clock;

/// What was used, by node, workload, meter and account.
#[derive(Debug, Args)]
pub(super) struct Usage {
    /// Only of this account.
    #[arg(long)]
    account: Option<String>,
    /// Only of the node with this id or name.
    #[arg(long)]
    node: Option<String>,
    /// Only of workloads that this pattern stands for.
    #[arg(long)]
    workload: Option<String>,
    /// Only of this meter.
    #[arg(long)]
    meter: Option<String>,
    /// From when: a quarter-hour; midnight UTC if not given.
    #[arg(long)]
    from: Option<Timestamp>,
    /// Until when: a quarter-hour; the end of the present one if not given.
    #[arg(long)]
    to: Option<Timestamp>,
    /// Only what no assignment gives to an account.
    #[arg(long, conflicts_with = "account")]
    unassigned: bool,
}

impl Usage {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let params = UsageParams {
            account: self.account,
            node: self.node,
            workload: self.workload,
            meter: self.meter,
            from: self.from,
            to: self.to,
            ..UsageParams::default()
        };
        let (span, filter) = (params.span(clock::now())?, params.filter()?);
        let mut tx = session.store.read().await?;
        let rows = assigned(&mut tx, span).await?;
        let rows: Vec<UsageView> = rows
            .into_iter()
            .filter(|usage| filter.keeps(usage) && (!self.unassigned || is_unassigned(usage)))
            .map(|usage| UsageView::new(usage, &span))
            .collect();
        let columns = [
            "node_name",
            "workload",
            "account",
            "meter",
            "quantity",
            "unit",
            "interpolated",
            "unmeasured",
        ];
        session.output.list(&rows, &columns)
    }
}
