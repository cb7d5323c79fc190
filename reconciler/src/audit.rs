//! The audit log (I12): what persons and rules changed, appended to and never changed.
//!
//! Each entry is hashed together with the hash of the entry before it, so that a changed, removed or
//! inserted entry breaks the chain from there on ([`tallystick_common::audit`] says how). That the *latest*
//! entries were cut off shows only to somebody who kept a [`Checkpoint`]. An entry belongs into the
//! transaction of the change it tells of.

use serde::Serialize;
use tallystick_common::audit::AuditContent;
pub use tallystick_common::audit::Checkpoint;
use tallystick_common::ids::Hash;
use tallystick_common::time::Timestamp;

use crate::store::column::{bytes, instant, unsigned};
use crate::store::sql::{self, Row};
use crate::store::{Connection, StoreError};

/// What is to be noted.
#[derive(Debug, Clone)]
pub struct Note<'a> {
    /// When.
    pub at: Timestamp,
    /// Who: `cli:USER`, `api:TOKEN`, `rule:NAME`.
    pub actor: &'a str,
    /// What was done: `node.ban`, `plan.apply`, `invoice.issue`.
    pub action: &'a str,
    /// To what: an id or a name.
    pub subject: &'a str,
    /// More, as JSON.
    pub detail: serde_json::Value,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number, from 1 without a hole.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More: the JSON text as hashed.
    pub detail: String,
    /// Random: hides the content from who is shown its hash alone.
    pub salt: Hash,
    /// The hash of the entry before, zero for the first.
    pub previous: Hash,
    /// Its hash.
    pub hash: Hash,
}

/// What [`verify`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// The chain holds.
    Whole(Checkpoint),
    /// The chain breaks.
    Broken {
        /// The first entry that does not fit.
        seq: u64,
        /// What does not.
        why: &'static str,
    },
}

impl Entry {
    /// What it says, as it is hashed.
    #[must_use]
    pub fn content(&self) -> AuditContent {
        AuditContent {
            salt: self.salt.0,
            at: self.at,
            actor: self.actor.clone(),
            action: self.action.clone(),
            subject: self.subject.clone(),
            detail: self.detail.clone(),
        }
    }

    fn computed_hash(&self) -> Hash {
        let before = Checkpoint {
            entries: self.seq.saturating_sub(1),
            head: self.previous,
        };
        before.then(&self.content().hash()).head
    }

    fn flaw(&self, before: Checkpoint) -> Option<&'static str> {
        if self.seq != before.entries + 1 {
            Some("entries before it are missing")
        } else if self.previous != before.head {
            Some("it does not name the hash of the entry before it")
        } else if self.hash != self.computed_hash() {
            Some("its content was changed")
        } else {
            None
        }
    }
}

/// Appends an entry. Only one writer at a time gets to it.
///
/// # Errors
/// When the database fails.
pub async fn append(conn: &mut Connection, note: &Note<'_>) -> Result<Entry, StoreError> {
    crate::store::take_turn(conn).await?;
    let before = head(conn).await?;
    let mut entry = Entry {
        seq: before.entries + 1,
        at: note.at,
        actor: note.actor.to_owned(),
        action: note.action.to_owned(),
        subject: note.subject.to_owned(),
        detail: note.detail.to_string(),
        salt: salt()?,
        previous: before.head,
        hash: Hash::ZERO,
    };
    entry.hash = entry.computed_hash();
    sql::query(
        "INSERT INTO audit (seq, at, actor, action, subject, detail, salt, previous, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(crate::store::column::number(entry.seq, "an audit entry")?)
    .bind(entry.at.as_i64())
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(&entry.subject)
    .bind(&entry.detail)
    .bind(entry.salt.0.to_vec())
    .bind(entry.previous.0.to_vec())
    .bind(entry.hash.0.to_vec())
    .execute(conn)
    .await?;
    Ok(entry)
}

fn salt() -> Result<Hash, StoreError> {
    let mut salt = Hash::ZERO;
    getrandom::fill(&mut salt.0).map_err(|error| StoreError::Random(error.to_string()))?;
    Ok(salt)
}

/// The entry that tells of a change to a subject, the first if there are several.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn entry_of(
    conn: &mut Connection,
    action: &str,
    subject: &str,
) -> Result<Option<Entry>, StoreError> {
    let query = "SELECT * FROM audit WHERE action = $1 AND subject = $2 ORDER BY seq LIMIT 1";
    let row = sql::query(query)
        .bind(action)
        .bind(subject)
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Where the log stands.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn head(conn: &mut Connection) -> Result<Checkpoint, StoreError> {
    let last = sql::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        .fetch_optional(conn)
        .await?;
    let Some(row) = last else {
        return Ok(Checkpoint::NONE);
    };
    Ok(Checkpoint {
        entries: unsigned(&row, "seq", "audit.seq")?,
        head: Hash(bytes(&row, "hash", "audit.hash")?),
    })
}

/// Up to `limit` entries after entry `after`, in order.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn entries(
    conn: &mut Connection,
    after: u64,
    limit: u32,
) -> Result<Vec<Entry>, StoreError> {
    let rows = sql::query("SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2")
        .bind(crate::store::column::number(after, "an audit entry")?)
        .bind(i64::from(limit))
        .fetch_all(conn)
        .await?;
    rows.iter().map(read).collect()
}

/// Whether the log still passes through a checkpoint that somebody kept: nothing up to it was cut off
/// or written anew. Means something only for a log that [`verify`] found whole.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn passes(conn: &mut Connection, kept: Checkpoint) -> Result<bool, StoreError> {
    let Some(before) = kept.entries.checked_sub(1) else {
        return Ok(kept.head == Hash::ZERO);
    };
    let entry = entries(conn, before, 1).await?.pop();
    Ok(entry.is_some_and(|entry| entry.seq == kept.entries && entry.hash == kept.head))
}

/// Recomputes the whole chain.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn verify(conn: &mut Connection) -> Result<Verification, StoreError> {
    const PAGE: u32 = 1000;
    let mut before = Checkpoint::NONE;
    loop {
        let page = entries(conn, before.entries, PAGE).await?;
        if page.is_empty() {
            return Ok(Verification::Whole(before));
        }
        for entry in page {
            if let Some(why) = entry.flaw(before) {
                return Ok(Verification::Broken {
                    seq: entry.seq,
                    why,
                });
            }
            before = Checkpoint {
                entries: entry.seq,
                head: entry.hash,
            };
        }
    }
}

fn read(row: &Row) -> Result<Entry, StoreError> {
    Ok(Entry {
        seq: unsigned(row, "seq", "audit.seq")?,
        at: instant(row, "at", "audit.at")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        detail: row.try_get("detail")?,
        salt: Hash(bytes(row, "salt", "audit.salt")?),
        previous: Hash(bytes(row, "previous", "audit.previous")?),
        hash: Hash(bytes(row, "hash", "audit.hash")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{ENGINES, Engine, Home, store};

    async fn log_of(engine: Engine, count: u64) -> (Home, crate::store::Store) {
        let (folder, store) = store(engine).await;
        let mut tx = store.write().await.unwrap();
        for number in 0..count {
            let note = Note {
                at: Timestamp::from_micros(number).unwrap(),
                actor: "cli:anna",
                action: "node.ban",
                subject: "edge-1",
                detail: serde_json::json!({ "number": number }),
            };
            append(&mut tx, &note).await.unwrap();
        }
        tx.commit().await.unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn an_untouched_log_is_whole() {
        for engine in ENGINES {
            let (_folder, store) = log_of(engine, 5).await;
            let mut tx = store.read().await.unwrap();
            let Verification::Whole(found) = verify(&mut tx).await.unwrap() else {
                panic!("broken")
            };
            assert_eq!(found.entries, 5);
            assert_eq!(found, head(&mut tx).await.unwrap());
        }
    }

    async fn after(engine: Engine, damage: &'static str) -> Verification {
        let (_folder, store) = log_of(engine, 5).await;
        let mut tx = store.write().await.unwrap();
        assert_eq!(
            sql::query(damage)
                .execute(&mut tx)
                .await
                .unwrap()
                .rows_affected(),
            1
        );
        verify(&mut tx).await.unwrap()
    }

    #[tokio::test]
    async fn a_changed_entry_is_found() {
        for engine in ENGINES {
            for damage in [
                "UPDATE audit SET actor = 'cli:eve' WHERE seq = 3",
                "UPDATE audit SET detail = '{}' WHERE seq = 3",
                "UPDATE audit SET at = 77 WHERE seq = 3",
                "UPDATE audit SET salt = previous WHERE seq = 3",
            ] {
                let found = after(engine, damage).await;
                let expected = matches!(found, Verification::Broken { seq: 3, .. });
                assert!(expected, "{damage}: {found:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_removed_entry_is_found() {
        for engine in ENGINES {
            let found = after(engine, "DELETE FROM audit WHERE seq = 3").await;
            assert!(
                matches!(found, Verification::Broken { seq: 4, .. }),
                "{found:?}"
            );
        }
    }

    #[tokio::test]
    async fn cut_off_entries_show_against_a_checkpoint() {
        for engine in ENGINES {
            let (_folder, store) = log_of(engine, 5).await;
            let mut tx = store.write().await.unwrap();
            let kept = head(&mut tx).await.unwrap();
            sql::query("DELETE FROM audit WHERE seq = 5")
                .execute(&mut tx)
                .await
                .unwrap();
            assert_ne!(verify(&mut tx).await.unwrap(), Verification::Whole(kept));
            assert!(!passes(&mut tx, kept).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_log_passes_through_every_checkpoint_it_ever_had() {
        for engine in ENGINES {
            let (_folder, store) = log_of(engine, 5).await;
            let mut tx = store.read().await.unwrap();
            assert!(passes(&mut tx, Checkpoint::NONE).await.unwrap());
            for entry in entries(&mut tx, 0, 10).await.unwrap() {
                let kept = Checkpoint {
                    entries: entry.seq,
                    head: entry.hash,
                };
                assert!(passes(&mut tx, kept).await.unwrap());
                let other = Checkpoint {
                    head: Hash([1; 32]),
                    ..kept
                };
                assert!(!passes(&mut tx, other).await.unwrap());
            }
        }
    }
}
