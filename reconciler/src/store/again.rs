//! Transactions carried out again that failed for reasons that pass.
//!
//! What passes: PostgreSQL took the transaction back because of others at the same time (serialization
//! failure 40001, deadlock 40P01, a drawn number that another drew too 23505), another process moved what was
//! remembered, or SQLite's file stayed locked (5). Everything is then read and decided again. After
//! [`ATTEMPTS`] it counts as failed. A commit whose answer was lost is not tried again here: callers ask.

use std::time::Duration;

use super::StoreError;

/// How often a transaction is carried out at most.
pub const ATTEMPTS: u32 = 5;
/// The pause after the first failure; doubled after each.
const PAUSE: Duration = Duration::from_millis(5);

/// Errors that may pass.
pub trait Passing {
    /// Whether the same transaction may succeed if it is carried out again.
    fn is_passing(&self) -> bool;
}

impl Passing for StoreError {
    fn is_passing(&self) -> bool {
        match self {
            Self::Moved => true,
            Self::Sql(error) => {
                let code = error.as_database_error().and_then(|error| error.code());
                code.is_some_and(|code| matches!(&*code, "40001" | "40P01" | "23505" | "5"))
            }
            _ => false,
        }
    }
}

/// Counts how often a transaction was carried out; [`again`] does so.
#[derive(Debug, Default)]
pub struct Attempts(u32);

impl Attempts {
    /// How long to wait before the transaction is carried out again; none when `done` is how it ends.
    pub fn pause_after<T, E: Passing>(&mut self, done: &Result<T, E>) -> Option<Duration> {
        let passes = done.as_ref().is_err_and(Passing::is_passing);
        self.0 += 1;
        (passes && self.0 < ATTEMPTS).then(|| PAUSE * (1 << self.0))
    }
}

/// Carries out a future that an expression makes, and makes it anew for as long as what failed may pass.
macro_rules! again {
    ($work:expr) => {{
        let mut attempts = $crate::store::again::Attempts::default();
        loop {
            let done = $work.await;
            match attempts.pause_after(&done) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break done,
            }
        }
    }};
}
pub(crate) use again;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_but_not_for_ever() {
        let passing: Result<(), _> = Err(StoreError::Moved);
        let mut attempts = Attempts::default();
        let pauses = std::iter::from_fn(|| attempts.pause_after(&passing));
        let millis: Vec<u128> = pauses.map(|pause| pause.as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 80]);
        let failed: Result<(), _> = Err(StoreError::damaged("x", "y"));
        assert_eq!(Attempts::default().pause_after(&failed), None);
        assert_eq!(
            Attempts::default().pause_after(&Ok::<(), StoreError>(())),
            None
        );
    }
}
