//! `authority show|rotate|retire`.

use clap::Subcommand;
use serde::Serialize;
use tallystick_common::ids::Hash;

use super::Session;
use super::output::{say, sheet, table_of};
use crate::authority::{Authority, EarlierAuthority};
use crate::{audit, clock};

/// The certificate authority that nodes trust.
#[derive(Debug, Subcommand)]
pub(super) enum AuthorityCommand {
    /// The present one, and those that it succeeded.
    Show,
    /// Put a new one in its place. Nodes learn of it when they next connect, without enrolling again;
    /// join tokens made before no longer enrol.
    Rotate,
    /// Let nodes trust an earlier one no longer. One that was offline all the while believes the present
    /// one still, by the certificate that the earlier one gave it.
    Retire {
        /// Its fingerprint, from `authority show`.
        fingerprint: Hash,
    },
}

#[derive(Debug, Serialize)]
struct View {
    fingerprint: Hash,
    earlier: Vec<EarlierAuthority>,
}

impl AuthorityCommand {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let (config, now) = (&session.config, clock::now());
        let authority = Authority::open_with(&config.data, config.lives, now)?;
        let done = match &self {
            Self::Show => None,
            Self::Rotate => {
                authority.rotate(now)?;
                Some(("authority.rotate", authority.ca_fingerprint()))
            }
            Self::Retire { fingerprint } => {
                authority.retire(fingerprint, now)?;
                Some(("authority.retire", *fingerprint))
            }
        };
        if let Some((action, fingerprint)) = done {
            let mut tx = session.store.write().await?;
            let note = audit::Note {
                at: now,
                actor: &session.actor,
                action,
                subject: &fingerprint.to_string(),
                detail: serde_json::json!({}),
            };
            audit::append(&mut tx, &note).await?;
            tx.commit().await?;
        }
        tell(session, &authority)
    }
}

fn tell(session: &Session, authority: &Authority) -> anyhow::Result<()> {
    let view = View {
        fingerprint: authority.ca_fingerprint(),
        earlier: authority.earlier(),
    };
    if session.output.json {
        return session.output.value(&view);
    }
    say(&sheet(&[("fingerprint", view.fingerprint.to_string())]))?;
    if view.earlier.is_empty() {
        return Ok(());
    }
    let columns = ["fingerprint", "succeeded_at", "retired"];
    say(&format!("\n{}", table_of(&view.earlier, &columns)?))
}
