//! `api-token create|list|revoke`.

use clap::Subcommand;

use super::Session;
use super::output::say;
use crate::catalog::account::slug;
use crate::{auth, clock, store};

/// Tokens for the HTTP API, kept as hashes only.
#[derive(Debug, Subcommand)]
pub(super) enum ApiTokenCommand {
    /// Make a token; it is told once, alone on standard output.
    Create {
        /// What it is for, as the audit log names it (api:NAME): a-z, 0-9 and -.
        name: String,
    },
    /// Every token ever made, by name.
    List,
    /// Take a token's rights, and end console sessions begun with it.
    Revoke {
        /// Its name.
        name: String,
    },
}

impl ApiTokenCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (store, actor, now) = (&session.store, &session.actor, clock::now());
        match self {
            Self::Create { name } => {
                let name = slug("API token name", &name)?;
                let token = auth::create_named_token(store, &name, actor, now).await?;
                if session.output.json {
                    let told = serde_json::json!({ "name": name, "token": token.reveal() });
                    return session.output.value(&told);
                }
                say(&format!("{}\n", token.reveal()))
            }
            Self::List => {
                let tokens = store::auth::api_tokens(&mut *store.read().await?).await?;
                let columns = ["name", "role", "created_at", "revoked_at"];
                session.output.list(&tokens, &columns)
            }
            Self::Revoke { name } => {
                let revoked_at = auth::revoke_token(store, &name, actor, now).await?;
                let told = serde_json::json!({ "name": name, "revoked_at": revoked_at });
                session.output.one(&told, &["name", "revoked_at"])
            }
        }
    }
}
