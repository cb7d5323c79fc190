//! `audit verify|list`.

use anyhow::bail;
use clap::Subcommand;
use tallystick_common::ids::Hash;

use super::Session;
use super::output::{say, sheet};
use crate::api::audit::AuditEntry;
use crate::audit::{self, Checkpoint, Verification};

/// The hash-chained log of every change.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Recompute the whole chain, and tell where it stands: keep that outside to prove later that
    /// nothing was cut off.
    Verify {
        /// A checkpoint told by an earlier `audit verify`, through which the log must still pass.
        #[arg(long, value_name = "ENTRIES:HASH", value_parser = checkpoint)]
        checkpoint: Option<Checkpoint>,
    },
    /// Entries, oldest first; the latest if not said otherwise.
    List {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Only those after this entry.
        #[arg(long, value_name = "SEQ")]
        after: Option<u64>,
    },
}

impl AuditCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Verify { checkpoint } => verify(session, checkpoint).await,
            Self::List { limit, after } => list(session, limit, after).await,
        }
    }
}

async fn verify(session: &Session, kept: Option<Checkpoint>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let found = match audit::verify(&mut tx).await? {
        Verification::Whole(found) => found,
        Verification::Broken { seq, why } => bail!(
            "verify the audit log: it breaks at entry {seq}: {why}; compare with a backup, see `audit list --after {}`",
            seq.saturating_sub(1)
        ),
    };
    if let Some(kept) = kept
        && !audit::passes(&mut tx, kept).await?
    {
        bail!(
            "verify the audit log: it does not pass through checkpoint {}:{}: entries were cut off or written anew; compare with a backup",
            kept.entries,
            kept.head
        );
    }
    let checkpoint = format!("{}:{}", found.entries, found.head);
    if session.output.json {
        return session.output.value(&serde_json::json!({
            "whole": true, "entries": found.entries, "head": found.head, "checkpoint": checkpoint,
        }));
    }
    say(&sheet(&[
        ("whole", format!("{} entries", found.entries)),
        ("checkpoint", checkpoint),
    ]))
}

async fn list(session: &Session, limit: u32, after: Option<u64>) -> anyhow::Result<()> {
    let mut tx = session.store.read().await?;
    let after = match after {
        Some(after) => after,
        None => audit::head(&mut tx)
            .await?
            .entries
            .saturating_sub(u64::from(limit)),
    };
    let entries = audit::entries(&mut tx, after, limit).await?;
    let entries: Vec<AuditEntry> = entries.into_iter().map(AuditEntry::from).collect();
    let columns = ["seq", "at", "actor", "action", "subject", "detail"];
    session.output.list(&entries, &columns)
}

fn checkpoint(text: &str) -> Result<Checkpoint, String> {
    let parse = || {
        let (entries, head) = text.split_once(':')?;
        Some(Checkpoint {
            entries: entries.parse().ok()?,
            head: head.parse::<Hash>().ok()?,
        })
    };
    parse().ok_or_else(|| "write ENTRIES:HASH as `audit verify` told it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_is_told() {
        let head = Hash([7; 32]);
        let told = format!("12:{head}");
        assert_eq!(checkpoint(&told), Ok(Checkpoint { entries: 12, head }));
        for bad in ["12", "12:", ":", "x:y"] {
            assert!(checkpoint(bad).is_err(), "{bad}");
        }
    }
}
