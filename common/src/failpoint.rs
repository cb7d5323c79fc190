//! Named places where a test build can kill its own process, as `kill -9` would.
//!
//! Owns nothing in a normal build: [`failpoint!`](crate::failpoint!) compiles to nothing unless the
//! `failpoints` feature is on. With it, `TALLYSTICK_FAILPOINT=name` or `name:N` in the environment
//! makes the N-th passing of that place (the first by default) write `failpoint NAME` to standard
//! error and send SIGKILL to the process: no unwinding, no flush, no destructor.

/// Kills the process here if the environment names this place. `name` is `side.part.moment`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// What a passing does in a build with failpoints.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let spec = std::env::var("TALLYSTICK_FAILPOINT").ok()?;
        let (name, count) = spec.split_once(':').unwrap_or((&spec, "1"));
        Some((name.to_owned(), AtomicU64::new(count.parse().ok()?)))
    });
    let Some((_, left)) = armed.as_ref().filter(|(armed, _)| armed == name) else {
        return;
    };
    if left.fetch_sub(1, Ordering::SeqCst) == 1 {
        eprintln!("failpoint {name}");
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is on its way to this very thread; nothing below may run.
        loop {
            std::thread::park();
        }
    }
}
