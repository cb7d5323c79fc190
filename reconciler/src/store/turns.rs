//! Jobs that one process does for all that share a store.
//!
//! A turn is held until an instant and may be renewed before; whoever comes after it takes it. It keeps work
//! from being done twice, nothing more: what a job does holds whether or not another does it, too.

use tallystick_common::time::Timestamp;

use super::owners::Replica;
use super::sql;
use super::{Connection, StoreError};

/// Takes or renews the turn at a job, unless another holds it as of `now`. Whether it is this one's.
///
/// # Errors
/// When the database fails.
pub async fn take(
    conn: &mut Connection,
    job: &str,
    holder: Replica,
    now: Timestamp,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let taken = sql::query(
        "INSERT INTO turns (job, holder, until) VALUES ($1, $2, $4) ON CONFLICT (job) DO UPDATE SET \
         holder = excluded.holder, until = excluded.until WHERE turns.holder = excluded.holder OR turns.until <= $3",
    )
    .bind(job)
    .bind(holder.0)
    .bind(now.as_i64())
    .bind(until.as_i64())
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::testing::at;
    use crate::store::Store;
    use crate::store::testing::{ENGINES, store};

    async fn asks(store: &Store, who: i64, now: u64) -> bool {
        let mut tx = store.write().await.unwrap();
        let taken = take(&mut tx, "x", Replica(who), at(now), at(now + 60)).await;
        tx.commit().await.unwrap();
        taken.unwrap()
    }

    #[tokio::test]
    async fn a_turn_is_one_processs_until_it_lapses() {
        for engine in ENGINES {
            let (_home, store) = store(engine).await;
            assert!(asks(&store, 1, 0).await);
            assert!(!asks(&store, 2, 59).await);
            assert!(asks(&store, 1, 59).await, "renewed");
            assert!(!asks(&store, 2, 118).await);
            assert!(asks(&store, 2, 119).await);
            assert!(!asks(&store, 1, 120).await);
        }
    }
}
