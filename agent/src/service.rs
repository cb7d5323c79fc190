//! What the service manager is told, and what it and signals ask of a running agent.
//!
//! Owns the words of sd_notify(3) and when the watchdog hears of us. Does not own what is reloaded
//! (`run`), nor reads a clock: instants are passed in. Without `NOTIFY_SOCKET` all of it says nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::sync::mpsc;

use crate::config::{Config, ConfigError};

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Where an agent is told to reload, and whom it tells how it fares.
pub struct Service {
    /// The service manager.
    pub notifier: Notifier,
    /// Each item asks for a reload.
    pub reloads: mpsc::Receiver<()>,
    /// How.
    pub reread: Reread,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({:?})", self.notifier)
    }
}

impl Service {
    /// Of an agent that nobody manages and nobody reloads.
    #[must_use]
    pub fn none(config: &Config) -> Self {
        let config = config.clone();
        Self {
            notifier: Notifier { manager: false },
            reloads: mpsc::channel(1).1,
            reread: Box::new(move || Ok(config.clone())),
        }
    }
}

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

    /// How often it wants to hear of us at least, if it watches.
    #[must_use]
    pub fn watchdog_limit(&self) -> Option<Duration> {
        self.manager.then(sd_notify::watchdog_enabled).flatten()
    }

    /// Everything works (again).
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// A reload begins; it ends with [`Self::ready`].
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager was not told of the reload"),
        }
    }

    /// The agent stops.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// One line for people.
    pub fn status(&self, line: &str) {
        self.tell(&[NotifyState::Status(line)]);
    }

    /// The agent makes progress.
    pub fn beat(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        if self.manager
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::warn!(%error, "the service manager was not told");
        }
    }
}

/// Says when the watchdog may be told that all is well: as long as samples are taken in time, and not
/// because some timer still runs.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    every: Option<Duration>,
    next: Instant,
    progress: Instant,
    patience: Duration,
}

impl Heartbeat {
    /// Of a watchdog that waits for `limit`; samples come every `period`.
    #[must_use]
    pub fn new(limit: Option<Duration>, period: Duration, now: Instant) -> Self {
        Self {
            every: limit.map(|limit| limit / 3),
            next: now,
            progress: now,
            patience: period * 2,
        }
    }

    /// Samples come every `period` from now on.
    pub fn set_period(&mut self, period: Duration) {
        self.patience = period * 2;
    }

    /// A sample was taken.
    pub fn handle_progress(&mut self, now: Instant) {
        self.progress = now;
    }

    /// When to ask [`Self::poll`] next; never without a watchdog.
    #[must_use]
    pub fn timeout(&self) -> Option<Instant> {
        self.every.map(|_| self.next)
    }

    /// Whether to tell the watchdog now.
    pub fn poll(&mut self, now: Instant) -> bool {
        let Some(every) = self.every else {
            return false;
        };
        if now < self.next {
            return false;
        }
        self.next = now + every;
        now.saturating_duration_since(self.progress) <= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_heart_beats_between_rare_samples_and_stops_when_they_stay_away() {
        let start = Instant::now();
        let mut heart = Heartbeat::new(Some(30 * SECOND), 60 * SECOND, start);
        let beats: Vec<u32> = (0..=300u32)
            .filter(|second| heart.poll(start + *second * SECOND))
            .collect();
        assert_eq!(beats, (0..=120).step_by(10).collect::<Vec<u32>>());
        heart.handle_progress(start + 300 * SECOND);
        assert!(heart.poll(start + 310 * SECOND), "it recovers");
    }

    #[test]
    fn without_a_watchdog_there_is_nothing_to_wait_for() {
        let now = Instant::now();
        let mut heart = Heartbeat::new(None, SECOND, now);
        assert_eq!(heart.timeout(), None);
        assert!(!heart.poll(now + SECOND));
    }
}
