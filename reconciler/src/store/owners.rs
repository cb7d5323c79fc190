//! Which process admits the segments of which nodes.
//!
//! A node's owner may remember where its streams stand; nobody else may. A process that is handed a segment
//! of a node that it does not own takes the node ([`take`]): that waits for the owner's open transaction,
//! needs no word from it, and makes every later one of it see that it lost something ([`losses`]).
//! No clock is part of this.

use tallystick_common::ids::BootId;
use tallystick_common::time::Timestamp;

use super::bulk::{Bulk, Values};
use super::nodes::NodeRow;
use super::{Connection, StoreError, sql};

/// A process that admits segments, by a number that no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replica(pub i64);

/// Who owns a node that nobody owns: numbers of processes are not negative.
pub const NOBODY: Replica = Replica(-1);

/// How often something was taken from a process, if it is known here. Nobody takes anything from it before
/// the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn losses(conn: &mut Connection, of: Replica) -> Result<Option<i64>, StoreError> {
    let query = match conn {
        Connection::Sqlite(_) => "SELECT taken FROM replicas WHERE id = $1",
        Connection::Postgres(_) => "SELECT taken FROM replicas WHERE id = $1 FOR SHARE",
    };
    Ok(sql::query_scalar(query)
        .bind(of.0)
        .fetch_optional(conn)
        .await?)
}

/// Makes a process known, or says that it still runs. Forgets those that were silent since `forgotten`.
///
/// # Errors
/// When the database fails.
pub async fn renew(
    conn: &mut Connection,
    replica: Replica,
    now: Timestamp,
    forgotten: Timestamp,
) -> Result<(), StoreError> {
    sql::query("DELETE FROM replicas WHERE seen_at < $1 AND id <> $2")
        .bind(forgotten.as_i64())
        .bind(replica.0)
        .execute(conn)
        .await?;
    sql::query(
        "INSERT INTO replicas (id, seen_at) VALUES ($1, $2) \
         ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at",
    )
    .bind(replica.0)
    .bind(now.as_i64())
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes a node from whoever has it and gives it to nobody: who admits its next segment takes it anew, and until
/// this transaction ends nobody does. What processes remember of it, and of kernels, is forgotten.
///
/// # Errors
/// When the database fails.
pub async fn release(conn: &mut Connection, node: NodeRow) -> Result<(), StoreError> {
    let before = owners(conn, &[node]).await?;
    sql::query(
        "INSERT INTO owners (node, replica, epoch) VALUES ($1, $2, 1) \
         ON CONFLICT (node) DO UPDATE SET replica = excluded.replica, epoch = owners.epoch + 1",
    )
    .bind(node.0)
    .bind(NOBODY.0)
    .execute(&mut *conn)
    .await?;
    for owner in before {
        lose(conn, owner).await?;
    }
    Ok(())
}

/// The nodes that a process owns.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Connection, replica: Replica) -> Result<Vec<NodeRow>, StoreError> {
    let query = "SELECT node FROM owners WHERE replica = $1";
    let rows: Vec<i64> = sql::query_scalar(query)
        .bind(replica.0)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(NodeRow).collect())
}

/// Takes nodes from whoever has them, in a transaction of its own that holds no row of `replica`: rows are
/// locked in one order everywhere (owners by node, then replicas by number), so that nobody waits in a circle.
///
/// # Errors
/// When the database fails.
pub async fn take(
    conn: &mut Connection,
    replica: Replica,
    nodes: &[NodeRow],
) -> Result<(), StoreError> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    let mut losers = owners(conn, &nodes).await?;
    losers.retain(|loser| *loser != replica);
    losers.sort_unstable();
    losers.dedup();
    for loser in losers {
        lose(conn, loser).await?;
    }
    let bulk = Bulk {
        before: "INSERT INTO owners (node, replica, epoch)",
        columns: 3,
        after: "ON CONFLICT (node) DO UPDATE SET replica = excluded.replica, epoch = owners.epoch + 1 \
                WHERE owners.replica <> excluded.replica",
    };
    let bind = |values: &mut Values, node: &NodeRow| {
        values.add(node.0)?;
        values.add(replica.0)?;
        values.add(1_i64)
    };
    bulk.execute(conn, &nodes, bind).await.map(drop)
}

async fn owners(conn: &mut Connection, nodes: &[NodeRow]) -> Result<Vec<Replica>, StoreError> {
    let bulk = Bulk {
        before: "SELECT o.replica AS replica FROM (",
        columns: 1,
        after: match conn {
            Connection::Sqlite(_) => ") AS v JOIN owners o ON o.node = v.column1",
            Connection::Postgres(_) => {
                ") AS v JOIN owners o ON o.node = v.column1 ORDER BY o.node FOR UPDATE OF o"
            }
        },
    };
    let bind = |values: &mut Values, node: &NodeRow| values.add(node.0);
    let rows = bulk.fetch(conn, nodes, bind).await?;
    rows.iter()
        .map(|row| Ok(Replica(row.try_get("replica")?)))
        .collect()
}

async fn lose(conn: &mut Connection, loser: Replica) -> Result<(), StoreError> {
    sql::query("UPDATE replicas SET taken = taken + 1 WHERE id = $1")
        .bind(loser.0)
        .execute(conn)
        .await?;
    Ok(())
}

/// Tells the owners of all nodes that claim a kernel that another node claims it, too, and keeps them from
/// going on before this transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn contest(
    conn: &mut Connection,
    replica: Replica,
    boot: BootId,
) -> Result<(), StoreError> {
    let query = "SELECT DISTINCT o.replica FROM boots b JOIN owners o ON o.node = b.node \
                 WHERE b.boot = $1 AND o.replica <> $2 ORDER BY o.replica";
    let losers: Vec<i64> = sql::query_scalar(query)
        .bind(boot.0.as_slice())
        .bind(replica.0)
        .fetch_all(conn)
        .await?;
    for loser in losers {
        lose(conn, Replica(loser)).await?;
    }
    Ok(())
}
