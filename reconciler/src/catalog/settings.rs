//! Central settings of a node: what may be set, and setting it.
//!
//! Whether a node can run with them (periods that divide one another, groups inside groups) only the node
//! knows; it says so, and goes on with its own until then.

use tallystick_common::time::Timestamp;
use tallystick_common::wire::Settings;

use super::CatalogError;
use super::change::{ChangeError, known_node};
use crate::audit::{self, Note};
use crate::store::again::again;
use crate::store::{Store, StoreError, settings};

/// Keys that may be set centrally: numbers, and tables of globs.
const NUMBERS: [&str; 2] = ["sample_seconds", "seal_seconds"];
const SELECTIONS: [&str; 3] = ["cgroups", "interfaces", "filesystems"];
/// Longest document.
const DOCUMENT_BYTES: usize = 32 << 10;

/// Sets how a node meters, as the next version; the same again changes nothing. An empty document leaves
/// everything to the node.
///
/// # Errors
/// When the document sets what may not be set, there is no such node, or the database fails.
pub async fn set_node_settings(
    store: &Store,
    node: &str,
    document: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Settings, ChangeError> {
    again!(set_node_settings_once(store, node, document, actor, now))
}

async fn set_node_settings_once(
    store: &Store,
    node: &str,
    document: &str,
    actor: &str,
    now: Timestamp,
) -> Result<Settings, ChangeError> {
    check(document)?;
    let mut tx = store.write().await?;
    let node = known_node(&mut tx, node).await?;
    let before = settings::of(&mut tx, node.id).await?;
    let version = before.as_ref().map_or(1, |before| before.version + 1);
    if let Some(before) = before.filter(|before| before.document == document) {
        return Ok(before);
    }
    let new = Settings {
        version,
        document: document.to_owned(),
    };
    settings::add(&mut tx, node.row, &new, actor, now).await?;
    let note = Note {
        at: now,
        actor,
        action: "node.config",
        subject: &node.id.to_string(),
        detail: serde_json::json!({ "version": version, "document": document }),
    };
    audit::append(&mut tx, &note).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(new)
}

fn check(document: &str) -> Result<(), CatalogError> {
    let wrong = |value: &str, why: String| CatalogError::Invalid {
        what: "node settings",
        value: value.to_owned(),
        why,
    };
    if document.len() > DOCUMENT_BYTES {
        let why = format!("write at most {DOCUMENT_BYTES} bytes");
        return Err(wrong(&format!("of {} bytes", document.len()), why));
    }
    let table: toml::Table = toml::from_str(document)
        .map_err(|error: toml::de::Error| wrong("document", error.message().to_owned()))?;
    for (key, value) in &table {
        let sound = match value {
            toml::Value::Integer(seconds) => NUMBERS.contains(&key.as_str()) && *seconds > 0,
            toml::Value::Table(selection) => {
                SELECTIONS.contains(&key.as_str())
                    && selection.iter().all(|(key, globs)| is_globs(key, globs))
            }
            _ => false,
        };
        if !sound {
            let why = "set sample_seconds and seal_seconds (whole numbers from 1 on), or cgroups, interfaces \
                       and filesystems (tables with lists of patterns: include, exclude)";
            return Err(wrong(key, why.to_owned()));
        }
    }
    Ok(())
}

fn is_globs(key: &str, globs: &toml::Value) -> bool {
    let list = globs.as_array();
    ["include", "exclude"].contains(&key)
        && list.is_some_and(|list| list.iter().all(toml::Value::is_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_periods_and_selections_can_be_set() {
        for sound in [
            "",
            "seal_seconds = 60",
            "[cgroups]\ninclude = [\"*\"]\nexclude = []",
        ] {
            assert!(check(sound).is_ok(), "{sound}");
        }
        for (bad, named) in [
            ("data = \"/\"", "data"),
            ("seal_seconds = 0", "seal_seconds"),
            ("[cgroups]\nonly = []", "cgroups"),
            ("[interfaces]\ninclude = [1]", "interfaces"),
            ("seal_seconds", "document"),
        ] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }
}
