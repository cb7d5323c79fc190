//! `leakage`.

use anyhow::bail;
use clap::Args;

use super::Session;
use super::output::{say, table_of};
use crate::billing::leakage::{Leakage as Account, follow, report};
use crate::clock;

/// Whether all that was received is accounted for: received = billed + unbilled + quarantined + written off.
/// Exit code 1 when it is not.
#[derive(Debug, Args)]
pub(super) struct Leakage {}

impl Leakage {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let now = clock::now();
        // What a server would have done by now.
        while follow(&session.store, now).await?.is_some() {}
        let mut tx = session.store.read().await?;
        let account = report(&mut tx, u32::MAX, now).await?;
        match session.output.json {
            true => session.output.value(&account)?,
            false => say(&told(&account)?)?,
        }
        if account.adds_up() {
            return Ok(());
        }
        bail!(
            "the leakage account does not add up: hold rollups against their segments with `rollup check`, \
             and put them right with `rollup rebuild`"
        )
    }
}

fn told(account: &Account) -> anyhow::Result<String> {
    let columns = [
        "meter",
        "unit",
        "received",
        "billed",
        "unbilled",
        "unpriced",
        "quarantined",
        "written_off",
        "difference",
    ];
    let mut text = table_of(&account.meters, &columns)?;
    if !account.differing.is_empty() {
        let hours = table_of(&account.differing, &["from", "meter", "difference"])?;
        text.push_str(&format!("\nHours that do not add up\n{hours}"));
    }
    Ok(text)
}
