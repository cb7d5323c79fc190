//! `token create`.

use clap::Subcommand;
use tallystick_common::time::Micros;

use super::Session;
use super::output::say;
use crate::api::tokens::is_host_port;
use crate::authority::{Authority, join};
use crate::{audit, clock};

/// Join tokens for nodes.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token with which one host becomes a node. It is told once, alone on standard output.
    Create {
        /// host:port at which the node reaches ingest; those of the configuration if not given.
        #[arg(long = "address", value_name = "HOST:PORT", value_parser = address)]
        addresses: Vec<String>,
        /// For how long it holds: 90s, 30m, 24h, 7d.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = life)]
        expires: Micros,
        /// What it is for, in words.
        #[arg(long, default_value = "")]
        note: String,
    },
}

impl Token {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let Self::Create {
            mut addresses,
            expires,
            note,
        } = self;
        if addresses.is_empty() {
            addresses.clone_from(&session.config.addresses);
        }
        let now = clock::now();
        let config = &session.config;
        let authority = Authority::open_with(&config.data, config.lives, now)?;
        let token =
            join::create(&authority, &session.store, addresses, &note, expires, now).await?;
        let mut tx = session.store.write().await?;
        let detail = serde_json::json!({ "addresses": token.addresses, "note": note });
        let entry = audit::Note {
            at: now,
            actor: &session.actor,
            action: "join_token.create",
            subject: "",
            detail,
        };
        audit::append(&mut tx, &entry).await?;
        tx.commit().await?;
        if session.output.json {
            let expires_at = now.saturating_add(expires);
            return session.output.value(&serde_json::json!({
                "token": token.to_string(), "addresses": token.addresses, "expires_at": expires_at,
            }));
        }
        say(&format!("{token}\n"))
    }
}

/// A `host:port` as typed.
pub(super) fn address(text: &str) -> Result<String, String> {
    if is_host_port(text) {
        Ok(text.to_owned())
    } else {
        Err("write host:port, such as tally.example.net:8621".to_owned())
    }
}

fn life(text: &str) -> Result<Micros, String> {
    crate::config::life_seconds(text).map(Micros::from_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_and_a_unit() {
        assert_eq!(life("24h"), Ok(Micros::from_seconds(86_400)));
        assert_eq!(life("90s"), Ok(Micros::from_seconds(90)));
        for bad in ["", "h", "24", "0h", "1w", "-1h", "1µ"] {
            assert!(life(bad).is_err(), "{bad}");
        }
    }
}
