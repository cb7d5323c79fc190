//! `serve`.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::run::run;

/// Serve agents, API and console until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// UDP address for agents; overrides the configuration.
    #[arg(long)]
    ingest: Option<SocketAddr>,
    /// TCP address of API and console; overrides the configuration.
    #[arg(long)]
    http: Option<SocketAddr>,
}

impl Serve {
    pub(super) async fn run(self, mut config: Config) -> anyhow::Result<()> {
        config.ingest = self.ingest.unwrap_or(config.ingest);
        config.http = self.http.unwrap_or(config.http);
        let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        let ready = |ready: crate::run::Ready| {
            println!("ingest   {} (UDP)", ready.ingest);
            println!("console  http://{}/", ready.http);
        };
        Ok(run(&config, ready, shutdown).await?)
    }
}
