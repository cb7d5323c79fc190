//! The rows of one node in some hours, put in place of those that are there.

use std::ops::Range;

use super::super::column::number;
use super::super::nodes::NodeRow;
use super::super::sql;
use super::super::{Connection, StoreError};
use super::{Row, hours, merged, names, put_labels, put_rows};
use crate::rollup::Advance;

/// Replaces what rollups hold of a node in hours since 1970 by what its streams come to there.
///
/// # Errors
/// When the database fails, or a cell exceeds a BIGINT (which admission rules out).
pub async fn replace_hours(
    conn: &mut Connection,
    node: NodeRow,
    of: Range<u64>,
    advances: &[Advance],
) -> Result<(), StoreError> {
    sql::query(
        "DELETE FROM rollups WHERE hour >= $1 AND hour < $2 \
         AND workload IN (SELECT id FROM workloads WHERE node = $3)",
    )
    .bind(number(of.start, "an hour")?)
    .bind(number(of.end, "an hour")?)
    .bind(node.0)
    .execute(&mut *conn)
    .await?;
    let names = names(conn, advances).await?;
    let mut rows: Vec<Row> = Vec::new();
    for advance in advances {
        let own = hours(advance, &names)?.into_iter();
        rows.extend(own.filter(|row| of.contains(&row.hour)));
    }
    put_rows(conn, &merged(rows)).await?;
    put_labels(conn, advances, &names).await
}
