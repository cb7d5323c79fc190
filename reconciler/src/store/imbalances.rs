//! Hours of nodes that are not conserved, and where segments end that such an hour is made of.

use tallystick_common::ids::Seq;
use tallystick_common::meter::Meter;
use tallystick_common::time::Timestamp;

use super::column::{self, instant, number, unsigned};
use super::nodes::NodeRow;
use super::sql;
use super::streams::StreamRow;
use super::{Connection, StoreError};

/// A segment and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Its number.
    pub seq: Seq,
    /// First instant after it.
    pub ends: Timestamp,
}

/// An hour of a node in which a meter is not conserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imbalance {
    /// The node.
    pub node: NodeRow,
    /// The meter.
    pub meter: Meter,
    /// By how much, a whole number with its sign.
    pub difference: String,
}

/// The last segment of a stream that ends by an instant.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn ending_by(
    conn: &mut Connection,
    stream: StreamRow,
    at: Timestamp,
) -> Result<Option<Bound>, StoreError> {
    let row = sql::query(
        "SELECT seq, covered_through FROM segments WHERE stream = $1 AND covered_through <= $2 \
         ORDER BY covered_through DESC, seq DESC LIMIT 1",
    )
    .bind(stream.0)
    .bind(at.as_i64())
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Bound {
            seq: Seq(unsigned(&row, "seq", "segments.seq")?),
            ends: instant(&row, "covered_through", "segments.covered_through")?,
        })
    })
    .transpose()
}

/// Whether one of these segments is quarantined.
///
/// # Errors
/// When the database fails.
pub async fn is_doubted(
    conn: &mut Connection,
    stream: StreamRow,
    first: Seq,
    last: Seq,
) -> Result<bool, StoreError> {
    let row = sql::query(
        "SELECT seq FROM segments WHERE stream = $1 AND seq >= $2 AND seq <= $3 AND verdict = 'quarantined' LIMIT 1",
    )
    .bind(stream.0)
    .bind(column::seq(first)?)
    .bind(column::seq(last)?)
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// Keeps what is not conserved in an hour, in place of what was kept of it.
///
/// # Errors
/// When the database fails.
pub async fn replace(
    conn: &mut Connection,
    hour: u64,
    found: &[Imbalance],
) -> Result<(), StoreError> {
    let hour = number(hour, "an hour")?;
    sql::query("DELETE FROM imbalances WHERE hour = $1")
        .bind(hour)
        .execute(&mut *conn)
        .await?;
    for imbalance in found {
        sql::query(
            "INSERT INTO imbalances (hour, node, meter, difference) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (hour, node, meter) DO NOTHING",
        )
        .bind(hour)
        .bind(imbalance.node.0)
        .bind(i64::from(imbalance.meter.code()))
        .bind(&imbalance.difference)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// In how many hours and meters each node is not conserved.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn counts(conn: &mut Connection) -> Result<Vec<(NodeRow, u64)>, StoreError> {
    let query = "SELECT node, COUNT(*) FROM imbalances GROUP BY node ORDER BY node";
    let rows: Vec<(i64, i64)> = sql::query_as(query).fetch_all(conn).await?;
    Ok(rows
        .into_iter()
        .map(|(node, count)| (NodeRow(node), u64::try_from(count).unwrap_or(0)))
        .collect())
}
