//! Named places where a test build can kill its own process, as `kill -9` would.
//!
//! Owns nothing in a normal build: [`failpoint!`](crate::failpoint!) compiles to nothing unless the
//! `failpoints` feature is on. With it, `TALLYSTICK_FAILPOINT=name` or `name:N` in the environment
//! makes the N-th passing of that place (the first by default) write `failpoint NAME` to standard
//! error and send SIGKILL to the process: no unwinding, no flush, no destructor.
//!
//! A test that simulates many processes in one may listen to the passings of its thread instead
//! ([`listen`]), and may take the check of an invariant out of it ([`remove`]), to see whether anything
//! notices. Neither is there in a normal build.

/// Kills the process here if the environment names this place. `name` is `side.part.moment`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        $crate::failpoint::pass($name);
    };
}

/// Whether this thread is to go without the check of an invariant, by its name: never in a normal build.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub const fn is_removed(_invariant: &str) -> bool {
    false
}

#[cfg(feature = "failpoints")]
pub use simulated::{is_removed, listen, remove};

/// One thread that plays several processes.
#[cfg(feature = "failpoints")]
mod simulated {
    use std::cell::{Cell, RefCell};

    type Listener = Box<dyn FnMut(&str)>;

    thread_local! {
        static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
        static REMOVED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Tells every passing on this thread to `listener`, which may unwind; nobody when there is none.
    pub fn listen(listener: Option<Listener>) {
        LISTENER.set(listener);
    }

    /// This thread goes without that check from now on; with all of them when there is none.
    pub fn remove(invariant: Option<&'static str>) {
        REMOVED.set(invariant);
    }

    /// Whether this thread is to go without the check of an invariant, by its name.
    #[must_use]
    pub fn is_removed(invariant: &str) -> bool {
        REMOVED.get() == Some(invariant)
    }

    /// Who unwinds is listened to no more.
    pub(super) fn tell(name: &str) {
        if let Some(mut listener) = LISTENER.take() {
            listener(name);
            LISTENER.set(Some(listener));
        }
    }
}

/// What a passing does in a build with failpoints.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    simulated::tell(name);
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
