//! By what time the loop goes, and what it waits for.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tallystick_common::time::{Micros, SECOND_US, Timestamp};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::now;
use crate::config::Config;

/// Shortest time between two samples where new groups ask for one before its time.
const EARLY_EVERY_US: u64 = SECOND_US;

/// By what time the loop goes.
pub(super) struct Pace {
    pub(super) sample_us: u64,
    pub(super) seal_us: u64,
    pub(super) sealed_at: Timestamp,
    pub(super) sampled: Timestamp,
    pub(super) due: Timestamp,
}

impl Pace {
    pub(super) fn of(config: &Config) -> Self {
        let sample_us = config.sample_seconds.saturating_mul(SECOND_US);
        let seal_us = config.seal_seconds.saturating_mul(SECOND_US);
        let sampled = now();
        Self {
            sample_us,
            seal_us,
            sealed_at: sampled.floor_to(seal_us),
            sampled,
            due: sampled.next_multiple(sample_us),
        }
    }

    /// Brings the next sample forward, as far as early ones may come.
    pub(super) fn hasten(&mut self) {
        let earliest = self.sampled.saturating_add(Micros(EARLY_EVERY_US));
        self.due = self.due.min(earliest.max(now()));
    }

    pub(super) fn sample_period(&self) -> Duration {
        Duration::from_micros(self.sample_us)
    }
}

pub(super) async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; an owned descriptor stays open for as long as it is registered"
)]
pub(super) fn awaitable(events: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(events, Interest::READABLE)
}

/// Until something happened to control groups; never, where that is not told.
pub(super) async fn readable(events: Option<&AsyncFd<OwnedFd>>) {
    let ready = match events {
        Some(events) => events.readable().await,
        None => std::future::pending().await,
    };
    // All of it is read before this is asked again.
    if let Ok(mut ready) = ready {
        ready.clear_ready();
    }
}

/// Until so much time has passed; never, where none is given.
pub(super) async fn elapsed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Never longer than a period, so that a clock set back does not stop the sampling.
pub(super) fn until(due: Timestamp, sample_us: u64) -> Duration {
    Duration::from_micros(due.since(now()).0.min(sample_us))
}
