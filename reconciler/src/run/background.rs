//! What works behind the listeners: commit and rollups.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::ingest::commit::{self, FORGOTTEN};
use crate::ingest::intake::Intake;
use crate::rollup;
use crate::store::owners::{self, Replica};
use crate::store::{Store, StoreError};

/// How long sessions have to let go of commit when it stops.
const LETTING_GO: Duration = Duration::from_secs(10);
/// How often this process says that it runs.
const BEAT: Duration = Duration::from_secs(3);

/// The running tasks.
pub(super) struct Background {
    /// Where sessions hand over what arrived.
    pub(super) intake: Arc<dyn Intake>,
    /// Who this process is among those that share the store.
    pub(super) replica: Replica,
    committing: JoinHandle<()>,
    rolling: JoinHandle<()>,
    beating: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Starts them, after rollups have caught up with what an earlier process committed.
pub(super) async fn background(store: &Store) -> Result<Background, StoreError> {
    store.warn_of_weakness().await?;
    let committed = Arc::new(Notify::new());
    let (handle, committer) = commit::channel(store.clone(), clock::now, Arc::clone(&committed));
    let replica = committer.replica();
    rollup::catch_up_of(store, replica).await?;
    let (stop, stopped) = watch::channel(false);
    Ok(Background {
        intake: Arc::new(handle),
        replica,
        committing: tokio::spawn(committer.run()),
        rolling: tokio::spawn(rollup::follow(store.clone(), replica, committed, stopped)),
        beating: tokio::spawn(beat(store.clone(), replica)),
        stop,
    })
}

impl Background {
    /// Lets them finish what they have. Every other holder of the intake must be gone.
    pub(super) async fn stop(self) {
        drop(self.intake);
        // A session that does not let go loses nothing by this: it has no receipt for what is not on disk.
        let _ = tokio::time::timeout(LETTING_GO, self.committing).await;
        let _ = self.stop.send(true);
        let _ = self.rolling.await;
        self.beating.abort();
    }
}

/// Says again and again that this process runs, where others look for that.
async fn beat(store: Store, replica: Replica) {
    while store.is_shared() {
        let said = async {
            let now = clock::now();
            let mut tx = store.ingest().await?;
            owners::renew(&mut tx, replica, now, now.saturating_sub(FORGOTTEN)).await?;
            tx.commit().await.map_err(StoreError::from)
        };
        if let Err(error) = said.await {
            tracing::warn!(%error, "this process could not say that it runs; others may make its rollups");
        }
        tokio::time::sleep(BEAT).await;
    }
}
