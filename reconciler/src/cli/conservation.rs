//! `conservation`.

use anyhow::bail;
use clap::Args;
use tallystick_common::time::Timestamp;

use super::Session;
use super::instant::instant;
use super::output::{say, table_of};
use crate::api::conservation::ConservationParams;
use crate::catalog::change::known_node;
use crate::clock;
use crate::overview::conservation::{Verdict, balances};

/// Whether a node's total is what its control groups and host/other come to, by hour and additive meter. Exit
/// code 1 when it is not.
#[derive(Debug, Args)]
pub(super) struct Conservation {
    /// Id or name.
    node: String,
    /// From when: a quarter-hour, or now for the present one's beginning; midnight UTC if not given.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Option<Timestamp>,
    /// Until when: a quarter-hour; the end of the present one if not given.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    to: Option<Timestamp>,
}

impl Conservation {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let params = ConservationParams {
            from: self.from,
            to: self.to,
            ..ConservationParams::default()
        };
        let span = params.span(clock::now())?;
        let mut tx = session.store.read().await?;
        let node = known_node(&mut tx, &self.node).await?;
        let rows = balances(&mut tx, &node, span).await?;
        let columns = [
            "hour",
            "meter",
            "host",
            "workloads",
            "other",
            "excess",
            "undivided",
            "difference",
            "verdict",
        ];
        match session.output.json {
            true => session.output.value(&rows)?,
            false => say(&format!("{span}\n{}", table_of(&rows, &columns)?))?,
        }
        let broken = rows.iter().filter(|row| row.verdict == Verdict::Broken);
        match broken.count() {
            0 => Ok(()),
            count => bail!(
                "node {}: {count} sums are not conserved; see that its agent is genuine and up to date",
                node.name
            ),
        }
    }
}
