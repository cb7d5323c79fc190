//! Admission and commit under load, without a network: sessions that verify segments and hand them over.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tallystick_common::ids::StoreEpoch;
use tallystick_common::seal::SealedSegment;
use tallystick_reconciler::ingest::admit::Verdict;
use tallystick_reconciler::ingest::commit;
use tallystick_reconciler::ingest::intake::Intake;
use tallystick_reconciler::rollup;
use tallystick_reconciler::store::{Store, StoreError, inspect};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use super::fleet::Fleet;
use crate::world::now;

/// What one run took.
#[derive(Debug)]
pub struct Run {
    /// Until every segment was on disk and its verdict known.
    pub durable: Duration,
    /// Until the rollups had followed as well.
    pub rolled: Duration,
    /// CPU time of the whole process in that time.
    pub cpu: Duration,
    /// From handing over to the verdict, for each segment.
    pub waits: Vec<Duration>,
}

/// A new store in a file of `folder`.
///
/// # Errors
/// When it cannot be made.
pub async fn sqlite(folder: &Path) -> Result<Store, StoreError> {
    Store::create(&folder.join(Store::FILE_NAME), StoreEpoch([7; 16]), now()).await
}

/// Lets every node of `fleet` hand over its segments, `window` of them at a time, into `store`, which is new;
/// checks the totals in the end.
///
/// # Errors
/// When something fails or a segment is not accepted.
pub async fn run(store: Store, fleet: &Arc<Fleet>, window: usize) -> anyhow::Result<Run> {
    fleet.enrol(&store).await?;
    let committed = Arc::new(Notify::new());
    let (handle, committer) = commit::channel(store.clone(), now, Arc::clone(&committed));
    let replica = committer.replica();
    let (stop, stopped) = watch::channel(false);
    let (cpu, began) = (super::cpu_time(), Instant::now());
    let committing = tokio::spawn(committer.run());
    let following = tokio::spawn(rollup::follow(store.clone(), replica, committed, stopped));
    let waits = hand_over(Arc::new(handle), fleet, window).await?;
    let durable = began.elapsed();
    committing.await?;
    let _ = stop.send(true);
    following.await?;
    let (rolled, cpu) = (began.elapsed(), super::cpu_time().saturating_sub(cpu));
    let mut tx = store.read().await?;
    ensure!(
        inspect::rollup_lag(&mut tx).await? == 0,
        "the rollups have not caught up"
    );
    ensure!(inspect::admitted(&mut tx).await? == fleet.segments() as u64);
    drop(tx);
    fleet.check(&store).await?;
    store.close().await;
    Ok(Run {
        durable,
        rolled,
        cpu,
        waits,
    })
}

async fn hand_over(
    intake: Arc<dyn Intake>,
    fleet: &Arc<Fleet>,
    window: usize,
) -> anyhow::Result<Vec<Duration>> {
    let mut sessions = JoinSet::new();
    for place in 0..fleet.members.len() {
        sessions.spawn(session(
            Arc::clone(&intake),
            Arc::clone(fleet),
            place,
            window,
        ));
    }
    drop(intake);
    let mut waits = Vec::with_capacity(fleet.segments());
    while let Some(ended) = sessions.join_next().await {
        waits.extend(ended??);
    }
    Ok(waits)
}

/// As a connection does: parse, verify, hand over, wait for verdicts in order.
async fn session(
    intake: Arc<dyn Intake>,
    fleet: Arc<Fleet>,
    place: usize,
    window: usize,
) -> anyhow::Result<Vec<Duration>> {
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let member = &fleet.members[place];
    let ring = member.ring();
    let mut due = VecDeque::new();
    let mut waits = Vec::with_capacity(member.segments.len());
    for bytes in &member.segments {
        if due.len() == window {
            waits.push(accepted(due.pop_front()).await?);
        }
        let segment = SealedSegment::parse(bytes.clone())?.verify(&ring)?;
        let handed = Instant::now();
        due.push_back((handed, intake.segment(segment, peer).await?));
    }
    while !due.is_empty() {
        waits.push(accepted(due.pop_front()).await?);
    }
    Ok(waits)
}

async fn accepted(
    waiting: Option<(Instant, oneshot::Receiver<Verdict>)>,
) -> anyhow::Result<Duration> {
    let (handed, verdict) = waiting.context("something is due")?;
    let verdict = verdict.await?;
    ensure!(verdict == Verdict::Accepted, "{verdict:?}");
    Ok(handed.elapsed())
}
