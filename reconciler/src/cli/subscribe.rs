//! `subscribe`.

use clap::Args;
use tallystick_common::time::Timestamp;

use super::Session;
use super::instant::instant;
use crate::catalog::change;
use crate::clock;

/// Let a plan price an account's usage from a quarter-hour on, until its next subscription.
#[derive(Debug, Args)]
pub(super) struct Subscribe {
    /// The account's id.
    account: String,
    /// NAME for the latest version, or NAME@VERSION.
    plan: String,
    /// From when: a quarter-hour such as 2026-11-01T00:00:00Z, or now for the present one's beginning.
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Timestamp,
}

impl Subscribe {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (store, actor, now) = (&session.store, &session.actor, clock::now());
        let made =
            change::subscribe(store, &self.account, &self.plan, self.from, actor, now).await?;
        let fields = ["id", "account", "plan", "plan_version", "from"];
        session.output.one(&made, &fields)
    }
}
