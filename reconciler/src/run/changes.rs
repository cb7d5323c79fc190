//! Takes up, while serving, what changes beside it: the authority's files, a certificate at half life,
//! settings made by another process.

use std::time::Duration;

use tokio::sync::watch;

use crate::authority::Authority;
use crate::clock;
use crate::store::{Store, StoreError, settings};

/// How soon a change is seen.
const EVERY: Duration = Duration::from_secs(1);

/// Looks again and again, and tells connections when something they say may have changed.
pub(super) async fn follow(authority: Authority, store: Store, tell: watch::Sender<u64>) {
    let mut settings = None;
    let mut failing = false;
    loop {
        let renewed = authority.refresh(clock::now());
        let newest = newest(&store).await;
        let failed = match (&renewed, &newest) {
            (Err(error), _) => Some(error.to_string()),
            (_, Err(error)) => Some(error.to_string()),
            _ => None,
        };
        if let (Some(error), false) = (&failed, failing) {
            tracing::error!(
                error,
                "changes are not taken up; what was there before stays"
            );
        }
        failing = failed.is_some();
        if matches!(renewed, Ok(true)) {
            tracing::info!("the authority's certificates have changed; new connections see them");
        }
        let set = newest.ok().filter(|newest| settings != Some(*newest));
        if matches!(renewed, Ok(true)) || set.is_some() {
            settings = set.or(settings);
            tell.send_modify(|version| *version += 1);
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn newest(store: &Store) -> Result<i64, StoreError> {
    let mut tx = store.read().await?;
    settings::newest(&mut tx).await
}
