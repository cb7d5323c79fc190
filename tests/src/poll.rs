//! Waiting for a state: asked again and again until a deadline, never slept for.

use std::time::{Duration, Instant};

/// The first `Some` that `ask` gives.
///
/// # Panics
/// When the deadline passes; the message says what did not come.
pub fn until<T>(deadline: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "{what} did not come within {deadline:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
