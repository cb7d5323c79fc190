//! What the benchmarks share: how large a run is, where its files are, the table that it prints.
//!
//! A benchmark runs whole under `cargo bench`. Everywhere else, and with `--test`, it runs once and small,
//! to show that it works: the same convention as criterion's.

use std::fs;
use std::time::Duration;

pub mod bare;
pub mod durable;
pub mod events;
pub mod fleet;
pub mod intake;

/// Whether this run only shows that the benchmark works.
#[must_use]
pub fn is_quick() -> bool {
    let given = |flag: &str| std::env::args().any(|argument| argument == flag);
    given("--test") || !given("--bench")
}

/// A number from the environment, or `whole`; `quick` where this run only shows that it works.
///
/// # Panics
/// When the variable is not a number.
#[must_use]
pub fn setting(name: &str, whole: usize, quick: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().expect("a whole number"),
        Err(_) if is_quick() => quick,
        Err(_) => whole,
    }
}

/// A new folder beside this program: on the disk that was built on, whatever `/tmp` is.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    let own = std::env::current_exe().expect("a running benchmark has an executable");
    let beside = own.parent().expect("an executable is in a folder");
    // Some programs will not write below folders whose names begin with a dot, as they do by default.
    let made = tempfile::Builder::new().prefix("bench-").tempdir_in(beside);
    made.expect("the target folder is writable")
}

/// CPU time that this process has used so far, to 10 ms.
#[must_use]
pub fn cpu_time() -> Duration {
    cpu_time_of(std::process::id())
}

/// CPU time that a process has used so far, to 10 ms; nothing when there is none.
#[must_use]
pub fn cpu_time_of(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let fields = after.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel shows ticks of USER_HZ, which is 100 on every architecture that this is built for.
    Duration::from_millis(ticks * 10)
}

/// So many a second.
#[must_use]
pub fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// The middle one; of an even number the lower.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

/// The value that `share` of them (of 100) do not exceed, in milliseconds.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn percentile_ms(times: &mut [Duration], share: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0
}

/// With a blank between thousands.
#[must_use]
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(' ');
        }
        shown.push(digit);
    }
    shown
}

/// Rows under headings, as plain text.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self {
            rows: vec![headings.iter().map(ToString::to_string).collect()],
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(ToString::to_string).collect());
    }

    /// Prints it: the first column to the left, figures to the right.
    pub fn print(&self, title: &str) {
        println!("\n{title}");
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate();
            let line: Vec<String> = cells
                .map(|(column, (cell, width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            println!("  {}", line.join("  "));
        }
    }
}
