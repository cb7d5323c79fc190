//! `evidence export`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::Session;
use super::output::{say, sheet};
use crate::authority::Authority;
use crate::clock;
use crate::evidence::{Export, export};

/// What a customer can check an invoice with, without access to this reconciler.
#[derive(Debug, Subcommand)]
pub(super) enum EvidenceCommand {
    /// Write one file from which `tallystick-verify evidence` computes an invoice, or a correction of one, again.
    /// It shows the
    /// account's workloads and each node's `host`, and nothing of others.
    Export {
        /// Such as TS-2026-000001 or CN-2026-000001.
        #[arg(long, value_name = "NUMBER", visible_alias = "correction")]
        invoice: String,
        /// The file; it must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Show every block of the account's workloads, not only those that prove readings at bounds.
        #[arg(long)]
        full: bool,
    },
}

impl EvidenceCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let Self::Export { invoice, out, full } = self;
        let config = &session.config;
        let authority = Authority::open_with(&config.data, config.lives, clock::now())?;
        let order = Export {
            number: &invoice,
            full,
            epoch: session.store.epoch(),
        };
        let mut tx = session.store.read().await?;
        let file = export(&mut tx, &authority, &order, clock::now()).await?;
        write_new(&out, &file).with_context(|| format!("write {}", out.display()))?;
        if session.output.json {
            let told = serde_json::json!({ "invoice": invoice, "file": out, "bytes": file.len() });
            return session.output.value(&told);
        }
        say(&sheet(&[
            ("file", out.display().to_string()),
            ("bytes", file.len().to_string()),
            (
                "check with",
                format!("tallystick-verify evidence {}", out.display()),
            ),
        ]))
    }
}

/// A file that was there stays as it is.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;

    let mut file = std::fs::File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
