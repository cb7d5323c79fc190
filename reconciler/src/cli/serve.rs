//! `serve`.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Common;
use super::output::{Output, say, sheet};
use crate::run::{Ready, run};
use crate::service::Notifier;

/// Serve agents, API and console until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// TCP address of API and console; overrides the configuration.
    #[arg(long, alias = "http", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// UDP address for agents; overrides the configuration.
    #[arg(long, value_name = "ADDR:PORT")]
    ingest: Option<SocketAddr>,
}

impl Serve {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<()> {
        let mut config = common.load()?;
        config.ingest = self.ingest.unwrap_or(config.ingest);
        config.http = self.listen.unwrap_or(config.http);
        let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        let output = Output { json: common.json };
        let notifier = Notifier::of_environment();
        let (told, shutdown) = (notifier.clone(), notifier.told_of(shutdown));
        let ready = move |ready: Ready| {
            // Whoever does not read these lines is served all the same.
            drop(announce(output, &ready));
            told.ready(&ready);
        };
        Ok(run(&config, ready, shutdown).await?)
    }
}

fn announce(output: Output, ready: &Ready) -> anyhow::Result<()> {
    let console = format!("http://{}/", ready.http);
    if output.json {
        return output.value(&serde_json::json!({ "ingest": ready.ingest, "console": console }));
    }
    say(&sheet(&[
        ("ingest", format!("{} (UDP)", ready.ingest)),
        ("console", console),
    ]))
}
