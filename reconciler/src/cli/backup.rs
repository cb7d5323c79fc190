//! `backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use tallystick_common::ids::Hash;

use super::Session;
use super::output::{Output, say, sheet};
use crate::backup::{self, Manifest};
use crate::clock;

/// Make a backup of store, keys and configuration, while a server may run.
#[derive(Debug, Args)]
pub(super) struct Backup {
    /// A folder that is not there yet. Whoever reads it is the reconciler: keep it as the keys are kept.
    #[arg(long, value_name = "DIR", required = true)]
    to: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Option<BackupCommand>,
}

/// What else is done with backups.
#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Check every file, table and audit entry of a backup. Changes nothing.
    Verify {
        /// The backup.
        #[arg(value_name = "DIR")]
        backup: PathBuf,
    },
}

impl Backup {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let Some(to) = self.to else {
            anyhow::bail!("make a backup: name a folder with --to");
        };
        let (config, file) = (&session.config, &session.config_file);
        let (manifest, digest) =
            backup::make(config, file, &session.store, &to, clock::now()).await?;
        tell(session.output, &manifest, digest)
    }
}

impl BackupCommand {
    pub(super) async fn run(self, output: Output) -> anyhow::Result<()> {
        let Self::Verify { backup } = self;
        let verified = backup::verify(&backup).await?;
        tell(output, &verified.manifest, verified.digest)
    }
}

fn tell(output: Output, manifest: &Manifest, digest: Hash) -> anyhow::Result<()> {
    let rows: u64 = manifest.tables.iter().map(|table| table.rows).sum();
    let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    if output.json {
        return output.value(&json!({ "digest": digest, "manifest": manifest }));
    }
    say(&sheet(&[
        ("made at", manifest.made_at.to_string()),
        ("store epoch", manifest.epoch.to_string()),
        ("schema", manifest.schema.to_string()),
        ("audit log", manifest.audit.clone()),
        (
            "rows",
            format!("{rows} in {} tables", manifest.tables.len()),
        ),
        (
            "bytes",
            format!("{bytes} in {} files", manifest.files.len()),
        ),
        ("digest", digest.to_string()),
    ]))
}
