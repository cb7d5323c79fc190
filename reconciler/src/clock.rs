//! The server's clock, read at the edges only: everything inside takes an instant.

use tallystick_common::time::Timestamp;

/// Now, by the system's wall clock.
#[must_use]
pub fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(micros).unwrap_or(Timestamp::MAX)
}
