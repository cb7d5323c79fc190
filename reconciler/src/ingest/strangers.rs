//! What those who are not enrolled tried: counted per reason, with a bounded sample.
//!
//! Strangers can cost no storage (I11): the counts are in memory and begin anew with the process.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tallystick_common::time::Timestamp;

/// How many of the latest attempts are kept.
const SAMPLE: usize = 32;
/// How much of a message is kept.
const DETAIL_CHARS: usize = 200;

/// Why somebody was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StrangerReason {
    /// The handshake failed: not TLS 1.3, no common protocol, broken off.
    Handshake,
    /// The client certificate was not issued by our authority, or is expired.
    Certificate,
    /// No client certificate where one is needed.
    NoCertificate,
    /// The handshake or the first message took too long.
    Slow,
    /// As many connections as allowed were open.
    TooMany,
    /// The first message was not one.
    Malformed,
    /// A join token that is unknown, used, expired or wrong.
    Token,
    /// A certificate of ours for a node that the store does not know.
    UnknownNode,
}

/// One attempt.
#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// From where.
    pub from: SocketAddr,
    /// Why it was refused.
    pub reason: StrangerReason,
    /// More, cut to 200 characters.
    pub detail: String,
}

/// Counts and the latest attempts.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Summary {
    /// Attempts per reason since the process began.
    pub counts: BTreeMap<StrangerReason, u64>,
    /// The latest of them, oldest first.
    pub latest: VecDeque<Attempt>,
}

/// The shared tally.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<Summary>);

impl Strangers {
    /// Counts one attempt.
    pub fn count(&self, at: Timestamp, from: SocketAddr, reason: StrangerReason, detail: &str) {
        let detail: String = detail.chars().take(DETAIL_CHARS).collect();
        tracing::info!(%from, ?reason, detail, "refused a stranger");
        let mut summary = self.lock();
        *summary.counts.entry(reason).or_default() += 1;
        if summary.latest.len() == SAMPLE {
            summary.latest.pop_front();
        }
        summary.latest.push_back(Attempt {
            at,
            from,
            reason,
            detail,
        });
    }

    /// What was counted so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Summary> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_but_not_kept() {
        let strangers = Strangers::default();
        let from = "127.0.0.1:9".parse().unwrap();
        for _ in 0..1000 {
            strangers.count(
                Timestamp::EPOCH,
                from,
                StrangerReason::Handshake,
                &"x".repeat(5000),
            );
        }
        let summary = strangers.summary();
        assert_eq!(summary.counts[&StrangerReason::Handshake], 1000);
        assert_eq!(summary.latest.len(), SAMPLE);
        assert!(
            summary
                .latest
                .iter()
                .all(|attempt| attempt.detail.len() <= DETAIL_CHARS)
        );
    }
}
