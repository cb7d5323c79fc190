//! `init`.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Args;

use super::output::{Output, say, sheet};
use super::token::address;
use super::{Common, actor};
use crate::authority::Authority;
use crate::config::{self, Config};
use crate::store::Location;
use crate::{clock, init};

/// Make a data folder ready: authority, store, the first API token (told once).
#[derive(Debug, Args)]
pub(super) struct Init {
    /// host:port at which nodes reach ingest; written to reconciler.toml, goes into join tokens.
    #[arg(long = "address", value_name = "HOST:PORT", value_parser = address)]
    addresses: Vec<String>,
}

impl Init {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let data = &common.data;
        let config = common.load()?;
        self.refuse(common, &config)?;
        let token = init::init_with(&config, &actor(), clock::now())
            .await
            .with_context(|| format!("make {} ready", data.display()))?;
        // The token is told whatever comes next: nobody can ask for it again.
        let configured = self.configure(data);
        let fingerprint = Authority::open_with(data, config.lives, clock::now())?
            .ca_fingerprint()
            .to_string();
        let output = Output { json: common.json };
        if output.json {
            output.value(&serde_json::json!({
                "data": data, "store": config.store.to_string(), "api_token": token.reveal(), "ca_fingerprint": fingerprint,
                "addresses": self.addresses,
            }))?;
        } else {
            say(&sheet(&[
                ("data folder", data.display().to_string()),
                ("store", config.store.to_string()),
                ("CA fingerprint", fingerprint),
                ("API token", token.reveal().to_owned()),
            ]))?;
            eprintln!(
                "The API token is told only now. Next: tallystick-reconciler serve --data {}",
                data.display()
            );
        }
        configured
    }

    /// Refuses before anything is written.
    fn refuse(&self, common: &Common, config: &Config) -> anyhow::Result<()> {
        let data = &common.data;
        let mut taken = vec![data.join("authority")];
        if let Location::File(store) = &config.store {
            taken.push(store.clone());
        }
        if let Some(there) = taken.iter().find(|path| path.exists()) {
            bail!(
                "make {folder} ready: {} is there already, nothing was changed; \
                 use the folder as it is (serve --data {folder}), or choose another with --data",
                there.display(),
                folder = data.display(),
            );
        }
        if self.addresses.is_empty() {
            return Ok(());
        }
        let own = data.join(config::FILE_NAME);
        let file = common.config.as_ref().unwrap_or(&own);
        if common.config.is_some() || own.exists() {
            bail!(
                "make {} ready: --address would be written to {}, which is yours; \
                 set listen.addresses in it and leave --address out",
                data.display(),
                file.display()
            );
        }
        Ok(())
    }

    fn configure(&self, data: &Path) -> anyhow::Result<()> {
        if self.addresses.is_empty() {
            return Ok(());
        }
        let path = data.join(config::FILE_NAME);
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(Config::file_of(&self.addresses).as_bytes())?;
            file.sync_all()
        };
        write().with_context(|| {
            format!(
                "write the addresses to {}; all else is ready: write them yourself",
                path.display()
            )
        })
    }
}
