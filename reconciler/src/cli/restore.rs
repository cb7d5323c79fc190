//! `restore`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::output::{Output, say, sheet};
use super::{Common, actor};
use crate::backup::{self, Exclusions, Restored};
use crate::clock;
use crate::config::{self, Config};
use crate::store::Location;

/// Restore a backup into an empty data folder, and a file or database without a store. It begins a new life of the
/// store: API tokens, join tokens and sessions of the backup hold no longer, and documents get numbers of a new
/// series. Agents send again what they keep. Cut off, it is run again.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup.
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// bans.log of a data folder that was in use, once for each; that of the data folder restored into, if it is
    /// there, when not given.
    #[arg(long, value_name = "FILE")]
    bans: Vec<PathBuf>,
    /// A node that was banned after the backup, by id or name.
    #[arg(long, value_name = "NODE")]
    ban: Vec<String>,
    /// Nobody else was banned after the backup, as far as anybody knows.
    #[arg(long)]
    accept_unknown_bans: bool,
    /// Count every segment of the backup again first.
    #[arg(long)]
    check_rollups: bool,
}

impl Restore {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let config = self.config(common)?;
        let exclusions = Exclusions {
            files: self.bans,
            nodes: self.ban,
            accept_unknown: self.accept_unknown_bans,
        };
        let order = backup::restore::Order {
            backup: &self.backup,
            config: &config,
            exclusions: &exclusions,
            check_rollups: self.check_rollups,
            actor: &actor(),
        };
        let restored = Box::pin(backup::restore(order, clock::now())).await?;
        let output = Output { json: common.json };
        tell(output, &config, &restored)?;
        remind(common, &config)
    }

    /// What holds where it is restored: the data folder's own configuration, else the backup's.
    fn config(&self, common: &Common) -> anyhow::Result<Config> {
        let own = common.config_file();
        let kept = self.backup.join(config::FILE_NAME);
        let config = if own.exists() || !kept.exists() {
            match &common.config {
                Some(file) => Config::load_file(&common.data, file)?,
                None => Config::load(&common.data)?,
            }
        } else {
            Config::load_file(&common.data, &kept)?
        };
        Ok(common.with_store(config)?)
    }
}

fn tell(output: Output, config: &Config, restored: &Restored) -> anyhow::Result<()> {
    let (plan, token) = (&restored.plan, restored.api_token.reveal());
    let store = config.store.to_string();
    if output.json {
        return output.value(&json!({
            "data": config.data, "store": store, "api_token": token, "restored": plan,
        }));
    }
    let (voided, exclusions) = (&plan.voided, &plan.exclusions);
    let voided = format!(
        "{} API tokens, {} join tokens, {} sessions",
        voided.api_tokens, voided.join_tokens, voided.sessions
    );
    let shut_out = format!(
        "{} nodes, {} keys; {} nodes that enrolled later are unknown",
        exclusions.shut_out.len(),
        exclusions.keys_revoked,
        exclusions.unknown.len()
    );
    say(&sheet(&[
        ("data folder", config.data.display().to_string()),
        ("store", store),
        ("backup of", plan.made_at.to_string()),
        ("epoch before", plan.epoch_before.to_string()),
        ("epoch", plan.epoch.to_string()),
        ("next numbers", format!("TS-…-{}-000001", plan.series)),
        ("void", voided),
        ("shut out", shut_out),
        ("API token", token.to_owned()),
    ]))?;
    eprintln!("The API token is told only now.");
    Ok(())
}

/// The configuration that was restored may name where the store was.
fn remind(common: &Common, config: &Config) -> anyhow::Result<()> {
    let held = common.config_file();
    let says = match held.exists() {
        true => Config::load_file(&common.data, &held)?.store,
        false => Config::of(&common.data).store,
    };
    if says != config.store {
        let named = match &config.store {
            Location::File(path) => path.display().to_string(),
            server @ Location::Server(_) => server.to_string(),
        };
        eprintln!(
            "{} does not name this store: set store = {named:?} in it, or serve with --store.",
            held.display()
        );
    }
    Ok(())
}
