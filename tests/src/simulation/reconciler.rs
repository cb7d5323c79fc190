//! The reconciler's half: its real store, commit, rollups and billing, on files that are copied as they are.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tallystick_common::failpoint;
use tallystick_common::ids::{NodeId, StoreEpoch, StreamId};
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::time::Timestamp;
use tallystick_common::wire::Position;
use tallystick_reconciler::ingest::admit::Verdict;
use tallystick_reconciler::ingest::commit::{self, Handle};
use tallystick_reconciler::ingest::intake::Intake as _;
use tallystick_reconciler::rollup;
use tallystick_reconciler::store::{Store, sql};
use tokio::task::JoinHandle;

use super::agent::Folders;
use super::op::Crash;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Sets this thread's clock.
pub fn set_clock(now: u64) {
    NOW.set(now);
}

/// This thread's clock.
#[must_use]
pub fn clock() -> Timestamp {
    Timestamp::from_micros(NOW.get()).unwrap_or(Timestamp::EPOCH)
}

/// A reconciler.
#[derive(Debug)]
pub struct Reconciler {
    path: PathBuf,
    /// Its store.
    pub store: Store,
    replicas: Vec<Replica>,
    /// Which of them is spoken to.
    serving: usize,
}

/// One process that admits segments into the store.
#[derive(Debug)]
struct Replica {
    intake: Handle,
    task: JoinHandle<()>,
}

impl Replica {
    fn of(store: &Store) -> Self {
        let (intake, committer) = commit::channel(store.clone(), clock, Arc::default());
        let task = tokio::spawn(committer.run());
        Self { intake, task }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What unwinds a process that dies.
struct Died;

impl Reconciler {
    /// Serves a copy of a store.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn on_copy(of: &Path, folders: &mut Folders) -> anyhow::Result<Self> {
        let path = folders.fresh();
        copy_store(of, &path)?;
        Self::open(path).await
    }

    async fn open(path: PathBuf) -> anyhow::Result<Self> {
        let store = Store::open(path.as_path()).await?;
        Ok(Self {
            path,
            replicas: vec![Replica::of(&store)],
            serving: 0,
            store,
        })
    }

    /// Is killed, and serves again from what its files held at that moment.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub async fn crash(&mut self, folders: &mut Folders) -> anyhow::Result<()> {
        let path = folders.fresh();
        copy_store(&self.path, &path)?;
        self.replace(path).await
    }

    /// A copy of its store as it is at this moment.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn backup(&self, folders: &mut Folders) -> anyhow::Result<PathBuf> {
        let path = folders.fresh();
        copy_store(&self.path, &path)?;
        Ok(path)
    }

    /// Serves an older copy of its store, which begins another life.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn restore(
        &mut self,
        copy: &Path,
        epoch: StoreEpoch,
        folders: &mut Folders,
    ) -> anyhow::Result<()> {
        let path = folders.fresh();
        copy_store(copy, &path)?;
        let store = Store::open(path.as_path()).await?;
        let mut tx = store.write().await?;
        sql::query("UPDATE meta SET store_epoch = $1")
            .bind(epoch.as_bytes().to_vec())
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        store.close().await;
        self.replace(path).await
    }

    async fn replace(&mut self, path: PathBuf) -> anyhow::Result<()> {
        self.replicas.clear();
        let old = std::mem::replace(self, Self::open(path).await?);
        old.store.close().await;
        remove_store(&old.path);
        Ok(())
    }

    /// Ends.
    pub async fn close(mut self) {
        self.replicas.clear();
        self.store.close().await;
    }

    /// From now on another process on the same store is spoken to; the one before is still there.
    pub fn change_replica(&mut self) {
        if self.replicas.len() < 2 {
            self.replicas.push(Replica::of(&self.store));
        }
        self.serving = 1 - self.serving;
    }

    fn intake(&self) -> &Handle {
        &self.replicas[self.serving].intake
    }

    /// Where a stream stands.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn position(&self, node: NodeId, stream: StreamId) -> anyhow::Result<Position> {
        Ok(self.intake().position(node, stream).await?)
    }

    /// Commits segments together: what it answers to each, and nothing when it dies there.
    ///
    /// # Errors
    /// When commit has ended.
    pub async fn deliver(
        &mut self,
        segments: Vec<VerifiedSegment>,
        crash: Option<Crash>,
    ) -> anyhow::Result<Vec<Option<Verdict>>> {
        let peer = SocketAddr::from(([127, 0, 0, 1], 9));
        if let Some(crash) = crash {
            die_at(match crash {
                Crash::Before => "reconciler.commit.before",
                Crash::Midway => "reconciler.commit.written",
                Crash::After => "reconciler.commit.done",
            });
        }
        let mut waiting = Vec::new();
        for segment in segments {
            waiting.push(self.intake().segment(segment, peer).await?);
        }
        let mut verdicts = Vec::new();
        for verdict in waiting {
            verdicts.push(verdict.await.ok());
        }
        failpoint::listen(None);
        Ok(verdicts)
    }

    /// Lets rollups follow; whether it died.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn roll_up(&self, crash: Option<Crash>) -> anyhow::Result<bool> {
        let place = crash.map(|crash| match crash {
            Crash::Before => "reconciler.rollup.before",
            Crash::Midway => "reconciler.rollup.written",
            Crash::After => "reconciler.rollup.done",
        });
        let store = self.store.clone();
        let done = dying_at(place, async move { rollup::catch_up(&store).await }).await?;
        Ok(done.transpose()?.is_none())
    }
}

/// Does something as a task of its own: what it came to, and nothing when it died at that place.
///
/// # Errors
/// When it failed in another way.
pub async fn dying_at<T: Send + 'static>(
    place: Option<&'static str>,
    act: impl Future<Output = T> + Send + 'static,
) -> anyhow::Result<Option<T>> {
    if let Some(place) = place {
        die_at(place);
    }
    let done = tokio::spawn(act).await;
    failpoint::listen(None);
    match done.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => Ok(Some(done)),
        Err(Ok(panic)) if panic.is::<Died>() => Ok(None),
        Err(_) => anyhow::bail!("a task of the reconciler panicked"),
    }
}

fn die_at(place: &'static str) {
    failpoint::listen(Some(Box::new(move |passed: &str| {
        if passed == place {
            std::panic::resume_unwind(Box::new(Died));
        }
    })));
}

/// The files of a store: with its log, the state of the last commit.
fn copy_store(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    let log = log_of(from);
    if log.exists() {
        std::fs::copy(&log, log_of(to))?;
    }
    Ok(())
}

fn remove_store(path: &Path) {
    for file in [path.to_owned(), log_of(path)] {
        let _ = std::fs::remove_file(file);
    }
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}
