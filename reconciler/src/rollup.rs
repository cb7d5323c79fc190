//! Rollups: counted usage by UTC hour, workload and meter, derived from segments by position.
//!
//! Owns how intervals fall into quarter-hour cells ([`Cells`]) and the task that lets the stored rows
//! follow the streams. Rows, registers and the position up to which they hold advance in one
//! transaction, compare-and-set on the position, so each segment is added exactly once. Streams share
//! transactions, because a transaction costs a wait for the disk. Readers add the stored tail beyond the
//! position by the same [`Cells`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tallystick_common::failpoint;
use tallystick_common::ids::Seq;
use tallystick_common::time::{Micros, SECOND_US, Timestamp};
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::store::again::again;
use crate::store::owners::Replica;
use crate::store::streams::{self, StoredSegment, Stream};
use crate::store::{Store, StoreError, rollups};

mod cells;
mod recount;
pub mod within;

pub use cells::{ByWorkload, Cell, Cells, Labels, Lasts, Metered, Quarters, RegisterEnd, place};
pub use recount::{Recounted, check, rebuild};

/// Segments read at once, of one stream or of many.
const PAGE: usize = 1024;
/// Rows from which on a transaction takes no further stream: commits wait behind it.
const ROWS: usize = 16_384;
/// How long segments may wait for their rollups.
const PERIOD: Duration = Duration::from_secs(2);
/// Whose process was silent for so long has its rollups made by others. Both making them costs time, not
/// truth: positions are compared and set.
const SILENCE: Micros = Micros(15 * SECOND_US);

/// What the next segments of one stream come to.
#[derive(Debug)]
pub struct Advance {
    /// The stream; its rollups hold up to [`Stream::rolled`].
    pub stream: Stream,
    /// The first segment after these.
    pub to: Seq,
    /// What is to be added.
    pub cells: Cells,
}

/// Lets rollups follow the streams of a process until `stop` holds true, and once more after it.
pub async fn follow(
    store: Store,
    replica: Replica,
    committed: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let stopping = *stop.borrow();
        if let Err(error) = catch_up_of(&store, replica).await {
            tracing::error!(%error, "rollups could not follow; they try again");
            // What failed is still to be done, whether or not another segment comes.
            committed.notify_one();
        }
        if stopping {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            _ = stop.changed() => {}
        }
        if !*stop.borrow() {
            tokio::select! {
                () = committed.notified() => {}
                _ = stop.changed() => {}
            }
        }
    }
}

/// Brings the rollups of every stream up to its admitted position.
///
/// # Errors
/// When the database fails; what was done stays done.
pub async fn catch_up(store: &Store) -> Result<(), StoreError> {
    follow_once(store, None).await
}

/// The same of the streams that a process owns and of those that nobody takes care of. Where a store is no
/// server, that is all of them.
///
/// # Errors
/// As [`catch_up`].
pub async fn catch_up_of(store: &Store, replica: Replica) -> Result<(), StoreError> {
    if !store.is_shared() {
        return catch_up(store).await;
    }
    let silent = clock::now().saturating_sub(SILENCE);
    follow_once(store, Some((replica, silent))).await
}

async fn follow_once(store: &Store, of: Option<(Replica, Timestamp)>) -> Result<(), StoreError> {
    let mut behind = {
        let mut tx = store.read().await?;
        VecDeque::from(streams::behind(&mut tx, of).await?)
    };
    follow_those(store, &mut behind).await
}

async fn follow_those(store: &Store, behind: &mut VecDeque<Stream>) -> Result<(), StoreError> {
    while !behind.is_empty() {
        let pages = read(store, behind, PAGE).await?;
        let advances = tokio::task::spawn_blocking(move || add_up(pages))
            .await
            .map_err(|error| StoreError::damaged("segments", error))??;
        for group in groups(&advances) {
            write(store, group).await?;
        }
    }
    Ok(())
}

/// Segments of one stream from its [`Stream::rolled`] on.
type Page = (Stream, Vec<StoredSegment>);

/// The next `left` segments of the first streams. The rest of the last one stays at the front.
async fn read(
    store: &Store,
    behind: &mut VecDeque<Stream>,
    mut left: usize,
) -> Result<Vec<Page>, StoreError> {
    let mut tx = store.read().await?;
    let mut pages = Vec::new();
    while left > 0
        && let Some(stream) = behind.pop_front()
    {
        let most = u32::try_from(left).unwrap_or(u32::MAX);
        let segments = streams::segments_from(&mut tx, stream.row, stream.rolled, most).await?;
        left = left.saturating_sub(segments.len());
        let next = segments
            .last()
            .map_or(stream.rolled, |last| last.seq.next());
        if segments.is_empty() {
            let from = stream.rolled;
            return Err(StoreError::damaged(
                "segments",
                format!("segment {from} is missing"),
            ));
        }
        if next < stream.next {
            behind.push_front(Stream {
                rolled: next,
                ..stream.clone()
            });
        }
        pages.push((stream, segments));
    }
    Ok(pages)
}

fn add_up(pages: Vec<Page>) -> Result<Vec<Advance>, StoreError> {
    let mut advances = Vec::with_capacity(pages.len());
    for (stream, segments) in pages {
        let (mut cells, mut to) = (Cells::default(), stream.rolled);
        for segment in segments {
            let counted = segment.counted;
            to = segment.seq.next();
            cells.add(&segment.read()?.1, counted);
        }
        advances.push(Advance { stream, to, cells });
    }
    Ok(advances)
}

/// Cuts them into transactions.
fn groups(advances: &[Advance]) -> impl Iterator<Item = &[Advance]> {
    let mut rest = advances;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let full = |advance: &Advance| {
            rows += rollups::rows(&advance.cells);
            rows >= ROWS
        };
        let count = rest
            .iter()
            .position(full)
            .map_or(rest.len(), |last| last + 1);
        let (group, after) = rest.split_at(count);
        rest = after;
        (!group.is_empty()).then_some(group)
    })
}

/// One transaction, or one for each stream when another writer has moved one of them: those that were
/// not moved still advance.
async fn write(store: &Store, group: &[Advance]) -> Result<(), StoreError> {
    if again!(try_write(store, group))? || group.len() == 1 {
        return Ok(());
    }
    for advance in group {
        again!(try_write(store, std::slice::from_ref(advance)))?;
    }
    Ok(())
}

/// `false`, and nothing has happened, when another writer has moved one of the streams.
async fn try_write(store: &Store, group: &[Advance]) -> Result<bool, StoreError> {
    failpoint!("reconciler.rollup.before");
    let mut tx = store.ingest().await?;
    rollups::add(&mut tx, group).await?;
    // Last, because commit waits for whoever holds the row of its stream.
    if !streams::roll(&mut tx, group).await? {
        return Ok(false);
    }
    failpoint!("reconciler.rollup.written");
    tx.commit().await?;
    failpoint!("reconciler.rollup.done");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::ingest::commit;
    use crate::ingest::intake::Intake as _;
    use crate::ingest::testing::{Agent, at};
    use crate::store::sql;
    use crate::store::testing::{self, ENGINES, Engine, Home};

    async fn stored(engine: Engine) -> (Home, Store) {
        let (folder, store) = testing::store(engine).await;
        let (intake, committer) = commit::channel(store.clone(), || at(3600), Arc::default());
        let committing = tokio::spawn(committer.run());
        for number in 1..=3 {
            let mut agent = Agent::new(number, number).enrolled(&store).await;
            for _ in 0..4 {
                let peer = SocketAddr::from(([127, 0, 0, 1], 9));
                let answer = intake.segment(agent.next(60, 1000), peer).await.unwrap();
                assert!(answer.await.unwrap().advances());
            }
        }
        drop(intake);
        committing.await.unwrap();
        (folder, store)
    }

    async fn behind(store: &Store) -> VecDeque<Stream> {
        let mut tx = store.read().await.unwrap();
        VecDeque::from(streams::behind(&mut tx, None).await.unwrap())
    }

    /// CPU time in the rollups, and how many streams are behind.
    async fn held(store: &Store) -> (i64, usize) {
        let left = behind(store).await.len();
        let mut tx = store.read().await.unwrap();
        let query =
            "SELECT CAST(COALESCE(SUM(quantity0), 0) AS BIGINT) FROM rollups WHERE meter = $1";
        let sum = sql::query_scalar(query)
            .bind(i64::from(tallystick_common::meter::Meter::CPU_TIME.code()))
            .fetch_one(&mut tx)
            .await
            .unwrap();
        (sum, left)
    }

    #[tokio::test]
    async fn a_stream_that_another_writer_moved_is_added_once_and_holds_up_no_other() {
        for engine in ENGINES {
            let (_folder, store) = stored(engine).await;
            let pages = read(&store, &mut behind(&store).await, PAGE).await.unwrap();
            let advances = add_up(pages).unwrap();
            assert_eq!(advances.len(), 3);
            assert_eq!(held(&store).await, (0, 3));
            write(&store, &advances[1..2]).await.unwrap();
            assert_eq!(held(&store).await, (4000, 2));
            assert!(!try_write(&store, &advances).await.unwrap());
            assert_eq!(held(&store).await, (4000, 2), "all of it or none");
            write(&store, &advances).await.unwrap();
            assert_eq!(held(&store).await, (12_000, 0));
            write(&store, &advances).await.unwrap();
            assert_eq!(held(&store).await, (12_000, 0), "I1");
        }
    }

    #[tokio::test]
    async fn what_is_read_in_pieces_adds_up_to_the_same() {
        for engine in ENGINES {
            let (_folder, store) = stored(engine).await;
            let (mut behind, mut sizes) = (behind(&store).await, Vec::new());
            while !behind.is_empty() {
                let pages = read(&store, &mut behind, 5).await.unwrap();
                sizes.extend(pages.iter().map(|(_, segments)| segments.len()));
                write(&store, &add_up(pages).unwrap()).await.unwrap();
            }
            assert_eq!(sizes, [4, 1, 3, 2, 2]);
            assert_eq!(held(&store).await, (12_000, 0));
        }
    }

    /// A register that a quarantined segment moves ends elsewhere than what was counted of it.
    #[tokio::test]
    async fn what_a_moved_register_counted_stays_with_its_first_workload() {
        for engine in ENGINES {
            let (_folder, store) = testing::store(engine).await;
            let (intake, committer) = commit::channel(store.clone(), || at(3600), Arc::default());
            let committing = tokio::spawn(committer.run());
            let mut agent = Agent::new(1, 1).enrolled(&store).await;
            let mut moved = {
                let peer = SocketAddr::from(([127, 0, 0, 1], 9));
                let answer = intake.segment(agent.next(60, 1000), peer).await.unwrap();
                assert!(answer.await.unwrap().advances());
                agent.draft(60, 500)
            };
            moved.part(1).workload = "cgroup/elsewhere";
            let peer = SocketAddr::from(([127, 0, 0, 1], 9));
            let answer = intake.segment(agent.seal(&moved), peer).await.unwrap();
            assert!(answer.await.unwrap().advances(), "quarantined");
            drop(intake);
            committing.await.unwrap();
            catch_up(&store).await.unwrap();
            assert_eq!(held(&store).await, (1000, 0));
            let mut tx = store.read().await.unwrap();
            let query = "SELECT w.name FROM rollups r JOIN workloads w ON w.id = r.workload WHERE r.quantity0 = 1000";
            let name: String = sql::query_scalar(query).fetch_one(&mut tx).await.unwrap();
            assert_eq!(name, "cgroup/web");
        }
    }

    #[tokio::test]
    async fn two_that_follow_at_once_add_once() {
        for engine in ENGINES {
            let (_folder, store) = stored(engine).await;
            let (one, two) = tokio::join!(catch_up(&store), catch_up(&store));
            one.and(two).unwrap();
            assert_eq!(held(&store).await, (12_000, 0));
        }
    }
}
