//! `rollup check|rebuild`.

use anyhow::bail;
use clap::Subcommand;

use super::Session;
use crate::clock;
use crate::rollup::{check, rebuild};

const FIELDS: [&str; 4] = ["rows", "registers", "differing", "first"];

/// Hourly sums and registers, which are derived from segments.
#[derive(Debug, Subcommand)]
pub(super) enum RollupCommand {
    /// Count every stored segment again, and name the first cell that differs. Changes nothing.
    Check,
    /// Count every stored segment again, and replace what differs. A server may run meanwhile.
    Rebuild,
}

impl RollupCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Check => {
                let found = check(&session.store).await?;
                session.output.one(&found, &FIELDS)?;
                if let Some(first) = found.first {
                    bail!(
                        "check rollups: {} rows are not what their segments make them, first {first}; \
                         put them right with `rollup rebuild`",
                        found.differing
                    );
                }
                Ok(())
            }
            Self::Rebuild => {
                let found = rebuild(&session.store, &session.actor, clock::now()).await?;
                session.output.one(&found, &FIELDS)
            }
        }
    }
}
