//! What the service manager is told (sd_notify(3)). Without `NOTIFY_SOCKET` all of it says nothing.
//!
//! The watchdog hears of us for as long as the store answers, not because some timer still runs.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::run::Ready;
use crate::store::Store;

/// Tells the service manager.
#[derive(Debug, Clone)]
pub struct Notifier {
    manager: bool,
}

impl Notifier {
    /// The one that started this process, if any.
    #[must_use]
    pub fn of_environment() -> Self {
        Self {
            manager: std::env::var_os("NOTIFY_SOCKET").is_some(),
        }
    }

    /// Everything answers; from now on the watchdog hears of us, where there is one.
    pub fn ready(&self, ready: &Ready) {
        let line = format!(
            "agents at {}, API and console at {}",
            ready.ingest, ready.http
        );
        self.tell(&[NotifyState::Ready, NotifyState::Status(&line)]);
        if let Some(limit) = self.manager.then(sd_notify::watchdog_enabled).flatten() {
            tokio::spawn(self.clone().beat(ready.services.store.clone(), limit / 3));
        }
    }

    /// The same end, of which the service manager is told.
    pub async fn told_of(self, shutdown: impl Future<Output = ()>) {
        shutdown.await;
        self.tell(&[NotifyState::Stopping]);
    }

    async fn beat(self, store: Store, every: Duration) {
        loop {
            match tokio::time::timeout(every, store.read()).await {
                Ok(Ok(_)) => self.tell(&[NotifyState::Watchdog]),
                Ok(Err(error)) => tracing::error!(%error, "the store does not answer"),
                Err(_) => tracing::error!("the store does not answer in time"),
            }
            tokio::time::sleep(every).await;
        }
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.manager
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "the service manager was not told");
        }
    }
}
