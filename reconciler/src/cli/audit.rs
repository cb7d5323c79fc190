//! `audit verify|checkpoint|list`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use tallystick_common::audit::SignedCheckpoint;

use super::Session;
use super::evidence::write_new;
use super::output::{say, sheet};
use crate::api::audit::AuditEntry;
use crate::audit::{self, Checkpoint, Verification};
use crate::authority::Authority;
use crate::{clock, evidence};

/// The hash-chained log of every change.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Recompute the whole chain, and tell where it stands: keep that outside to prove later that
    /// nothing was cut off.
    Verify {
        /// A checkpoint that was kept, through which the log must still pass: what `audit verify` or
        /// `audit checkpoint` told, or a file that holds it.
        #[arg(long, alias = "checkpoint", value_name = "CHECKPOINT", value_parser = held)]
        since: Option<Held>,
    },
    /// Where the log stands, signed: one line, to be kept elsewhere. Whoever holds it can tell later
    /// whether anything before it was changed, and whether an invoice was issued by then.
    Checkpoint {
        /// Write it to this file, which must not exist, too.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
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
            Self::Verify { since } => verify(session, since).await,
            Self::Checkpoint { out } => tell(session, out.as_deref()).await,
            Self::List { limit, after } => list(session, limit, after).await,
        }
    }
}

/// A checkpoint that somebody kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    Bare(Checkpoint),
    Signed(Box<SignedCheckpoint>),
}

impl Held {
    /// What it says, if this installation signed it.
    fn read(&self, authority: &Authority) -> anyhow::Result<Checkpoint> {
        match self {
            Self::Bare(checkpoint) => Ok(*checkpoint),
            Self::Signed(signed) => {
                let key = authority.receipt_key().public();
                let said = signed.statement.verify(&key);
                let said = said.context("verify the checkpoint: is it of this installation?")?;
                Ok(said.checkpoint)
            }
        }
    }
}

async fn tell(session: &Session, out: Option<&Path>) -> anyhow::Result<()> {
    let config = &session.config;
    let authority = Authority::open_with(&config.data, config.lives, clock::now())?;
    let mut tx = session.store.read().await?;
    let epoch = session.store.epoch();
    let (checkpoint, signed) =
        evidence::checkpoint(&mut tx, &authority, epoch, clock::now()).await?;
    if let Some(path) = out {
        write_new(path, format!("{signed}\n").as_bytes())
            .with_context(|| format!("write {}", path.display()))?;
    }
    if session.output.json {
        return session.output.value(&serde_json::json!({
            "entries": checkpoint.entries, "head": checkpoint.head, "checkpoint": signed.to_string(),
        }));
    }
    say(&format!("{signed}\n"))
}

async fn verify(session: &Session, kept: Option<Held>) -> anyhow::Result<()> {
    let kept = match kept {
        Some(kept) => {
            let config = &session.config;
            let authority = Authority::open_with(&config.data, config.lives, clock::now())?;
            Some(kept.read(&authority)?)
        }
        None => None,
    };
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
            "verify the audit log: it does not pass through checkpoint {kept}: entries were cut off or written anew; compare with a backup"
        );
    }
    let checkpoint = found.to_string();
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

fn held(text: &str) -> Result<Held, String> {
    let kept = std::fs::read_to_string(text).ok();
    let text = kept.as_deref().unwrap_or(text);
    let signed = || text.parse().map(|signed| Held::Signed(Box::new(signed)));
    let bare = text.parse().map(Held::Bare);
    bare.or_else(|_| signed())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::Hash;

    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_is_told_or_from_a_file() {
        let head = Hash([7; 32]);
        let kept = Checkpoint { entries: 12, head };
        assert_eq!(held(&kept.to_string()), Ok(Held::Bare(kept)));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{kept}\n")).unwrap();
        assert_eq!(held(file.path().to_str().unwrap()), Ok(Held::Bare(kept)));
        for bad in ["12", "12:", ":", "x:y"] {
            assert!(held(bad).is_err(), "{bad}");
        }
    }
}
