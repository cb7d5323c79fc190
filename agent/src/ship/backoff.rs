//! How long to wait before the next attempt to connect.
//!
//! Pure: the random number is passed in. Delays double from the shortest to the longest and are
//! jittered over their upper half, so that a fleet cut off together does not return together.

use std::time::Duration;

/// The state of one row of failed attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Nothing failed yet. `longest` is raised to `shortest` when it lies below.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest: longest.max(shortest),
            failures: 0,
        }
    }

    /// An attempt failed: how long to wait, between half of this step's delay and the whole of it.
    pub fn after_failure(&mut self, random: u64) -> Duration {
        let doubled = self
            .shortest
            .saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let whole = doubled.min(self.longest);
        let half = whole / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        (whole - half) + Duration::from_micros(random % span.saturating_add(1))
    }

    /// An attempt was of use: begin anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_begin_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let delays: Vec<u128> = (0..8)
            .map(|_| backoff.after_failure(0).as_millis())
            .collect();
        assert_eq!(
            delays,
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        backoff.reset();
        assert_eq!(backoff.after_failure(0), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(shortest in 1u64..100_000, longest in 1u64..10_000_000, draws: Vec<u64>) {
            let mut backoff = Backoff::new(Duration::from_millis(shortest), Duration::from_millis(longest));
            for random in draws {
                let delay = backoff.after_failure(random);
                prop_assert!(delay >= Duration::from_millis(shortest) / 2);
                prop_assert!(delay <= Duration::from_millis(longest.max(shortest)));
            }
        }
    }
}
