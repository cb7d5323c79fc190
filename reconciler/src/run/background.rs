//! What works behind the listeners: commit and rollups.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::ingest::commit;
use crate::ingest::intake::Intake;
use crate::rollup;
use crate::store::{Store, StoreError};

/// How long sessions have to let go of commit when it stops.
const LETTING_GO: Duration = Duration::from_secs(10);

/// The running tasks.
pub(super) struct Background {
    /// Where sessions hand over what arrived.
    pub(super) intake: Arc<dyn Intake>,
    committing: JoinHandle<()>,
    rolling: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Starts them, after rollups have caught up with what an earlier process committed.
pub(super) async fn background(store: &Store) -> Result<Background, StoreError> {
    rollup::catch_up(store).await?;
    let committed = Arc::new(Notify::new());
    let (handle, committer) = commit::channel(store.clone(), clock::now, Arc::clone(&committed));
    let (stop, stopped) = watch::channel(false);
    Ok(Background {
        intake: Arc::new(handle),
        committing: tokio::spawn(committer.run()),
        rolling: tokio::spawn(rollup::follow(store.clone(), committed, stopped)),
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
    }
}
