//! Central settings of nodes, by version, and what each node says is in force.

use tallystick_common::ids::{Hash, NodeId};
use tallystick_common::time::Timestamp;
use tallystick_common::wire::{InForce, Settings};

use super::column::{bytes, instant, number, unsigned};
use super::nodes::NodeRow;
use super::sql;
use super::{Connection, StoreError};

/// What a node said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What is in force.
    pub in_force: InForce,
    /// When it said so.
    pub at: Timestamp,
}

/// The newest settings of a node, if there were any ever.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn of(conn: &mut Connection, node: NodeId) -> Result<Option<Settings>, StoreError> {
    let query = "SELECT s.version, s.document FROM node_settings s JOIN nodes n ON n.id = s.node \
                 WHERE n.node = $1 ORDER BY s.version DESC LIMIT 1";
    let row = sql::query(query)
        .bind(node.0.to_vec())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        Ok(Settings {
            version: unsigned(&row, "version", "node_settings.version")?,
            document: row.try_get("document")?,
        })
    })
    .transpose()
}

/// Sets them anew, as the next version.
///
/// # Errors
/// When the database fails.
pub async fn add(
    conn: &mut Connection,
    node: NodeRow,
    settings: &Settings,
    by: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO node_settings (number, node, version, document, set_at, set_by) \
         SELECT COALESCE(MAX(number), 0) + 1, $1, $2, $3, $4, $5 FROM node_settings",
    )
    .bind(node.0)
    .bind(number(settings.version, "node_settings.version")?)
    .bind(settings.document.as_str())
    .bind(at.as_i64())
    .bind(by)
    .execute(conn)
    .await?;
    Ok(())
}

/// Rises with every change of any node's settings.
///
/// # Errors
/// When the database fails.
pub async fn newest(conn: &mut Connection) -> Result<i64, StoreError> {
    let query = "SELECT COALESCE(MAX(number), 0) FROM node_settings";
    Ok(sql::query_scalar(query).fetch_one(conn).await?)
}

/// What the node said last, if it ever did.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn told(conn: &mut Connection, node: NodeRow) -> Result<Option<Told>, StoreError> {
    let query = "SELECT settings, digest, problem, told_at FROM node_in_force WHERE node = $1";
    let row = sql::query(query).bind(node.0).fetch_optional(conn).await?;
    row.map(|row| {
        Ok(Told {
            in_force: InForce {
                settings: unsigned(&row, "settings", "node_in_force.settings")?,
                digest: Hash(bytes(&row, "digest", "node_in_force.digest")?),
                problem: row.try_get("problem")?,
            },
            at: instant(&row, "told_at", "node_in_force.told_at")?,
        })
    })
    .transpose()
}

/// The settings that nodes say are in force, by node.
///
/// # Errors
/// When the database fails.
pub async fn kept(conn: &mut Connection) -> Result<Vec<(NodeRow, String)>, StoreError> {
    let query = "SELECT s.node, s.document FROM node_in_force f \
                 JOIN node_settings s ON s.node = f.node AND s.version = f.settings WHERE f.problem IS NULL";
    let rows: Vec<(i64, String)> = sql::query_as(query).fetch_all(conn).await?;
    Ok(rows
        .into_iter()
        .map(|(node, document)| (NodeRow(node), document))
        .collect())
}

/// Keeps a node's word.
///
/// # Errors
/// When the database fails.
pub async fn note(
    conn: &mut Connection,
    node: NodeRow,
    in_force: &InForce,
    at: Timestamp,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO node_in_force (node, settings, digest, problem, told_at) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (node) DO UPDATE SET \
         settings = excluded.settings, digest = excluded.digest, problem = excluded.problem, \
         told_at = excluded.told_at",
    )
    .bind(node.0)
    .bind(number(in_force.settings, "node_in_force.settings")?)
    .bind(in_force.digest.as_bytes().to_vec())
    .bind(in_force.problem.as_deref())
    .bind(at.as_i64())
    .execute(conn)
    .await?;
    Ok(())
}
