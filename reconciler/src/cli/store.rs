//! `store move`.

use clap::Subcommand;

use super::Session;
use crate::store::{Location, moving};

/// Where the store is.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Copy everything from the file to a PostgreSQL database without a store, and compare each table as it
    /// arrived. Stop the server first; the file stays as it is.
    Move {
        /// postgres://USER@HOST/DATABASE, or the folder of a server's socket.
        #[arg(long, value_name = "LOCATION")]
        to: String,
    },
}

impl StoreCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let Self::Move { to } = self;
        let to = Location::parse(&to, &session.config.data)?;
        if let Location::File(_) = to {
            anyhow::bail!(
                "move the store to {to}: that is a file; a store moves from a file to a server"
            );
        }
        if session.store.is_shared() {
            anyhow::bail!(
                "move the store to {to}: {} is on a server already; use the tools of PostgreSQL",
                session.config.store
            );
        }
        let (server, copied) = moving::copy(&session.store, &to).await?;
        server.close().await;
        session.output.list(&copied, &["table", "rows", "digest"])?;
        let file = &session.config.store;
        eprintln!(
            "Everything of {file} is in {to}, compared table by table. Next: set store in reconciler.toml to it, \
             and put {file} away: nothing may be admitted there any more."
        );
        Ok(())
    }
}
