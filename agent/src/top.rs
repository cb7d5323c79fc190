//! A live view in the terminal: `status`, again and again, with rates.
//!
//! Owns the picture and its rates; what it shows is the running agent's `status.json`, which the agent
//! replaces at every sample while somebody watches. Plain text with two escape sequences; without a
//! terminal it is the same text, repeated.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Kind;
use tallystick_common::time::{SECOND_US, Timestamp};

use crate::status::Status;

/// Longer than the longest time between two looks.
const WATCHED_FOR: Duration = Duration::from_secs(30);
/// Longest time between two looks.
pub const INTERVAL_MAX: Duration = Duration::from_secs(20);
/// Clears the screen and begins at its top (ECMA-48: CUP, ED).
pub const CLEAR: &str = "\x1b[H\x1b[2J";

/// Whether somebody looks at the agent of this data folder.
#[must_use]
pub fn is_watched(data: &Path) -> bool {
    let touched = std::fs::metadata(mark(data)).and_then(|meta| meta.modified());
    touched.is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed < WATCHED_FOR))
}

/// Somebody looks. The mark is gone when this is dropped.
#[derive(Debug)]
pub struct Watch {
    mark: PathBuf,
}

impl Watch {
    /// Of a data folder. Without permission to write there, the view is as fresh as the last seal.
    #[must_use]
    pub fn begin(data: &Path) -> Self {
        let watch = Self { mark: mark(data) };
        watch.look();
        watch
    }

    /// Still looking.
    pub fn look(&self) {
        let _ = File::create(&self.mark);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.mark);
    }
}

fn mark(data: &Path) -> PathBuf {
    data.join("watched")
}

/// A register of a picture: whose, and its meter's code.
type Key = (WorkloadName, u16);

/// Pictures of one agent, each with the rates since the one before.
#[derive(Debug, Default)]
pub struct View {
    before: HashMap<Key, (u128, Timestamp)>,
    rates: HashMap<Key, u128>,
}

impl View {
    /// The next picture, of at most `rows` registers, the busiest first.
    pub fn picture(&mut self, status: &Status, now: Timestamp, rows: usize) -> String {
        self.learn(status);
        let mut shown: Vec<_> = status
            .registers
            .iter()
            .map(|register| {
                let key = (register.workload.clone(), register.meter.code());
                let rate = self.rates.get(&key).copied();
                (rate, &register.workload, register.meter, &*register.reading)
            })
            .collect();
        // By meter, so that like is beside like; the busiest of each first.
        shown.sort_by_key(|(rate, workload, meter, _)| {
            (meter.code(), std::cmp::Reverse(*rate), *workload)
        });
        let head = status.summary(now);
        let width = shown
            .iter()
            .take(rows)
            .map(|(_, workload, ..)| workload.as_str().len())
            .max()
            .unwrap_or(0)
            .max(8);
        let mut text = format!(
            "{head}\n{:15}  {:width$}  {:>24}  {:>20}\n",
            "meter", "workload", "reading", "per second"
        );
        for (rate, workload, meter, reading) in shown.iter().take(rows) {
            let rate = rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string());
            let (name, workload, unit) = (meter.name(), workload.as_str(), meter.unit());
            text += &format!("{name:15}  {workload:width$}  {reading:>24}  {rate:>20} {unit}\n");
        }
        if shown.len() > rows {
            text += &format!("({} more)\n", shown.len() - rows);
        }
        text
    }

    fn learn(&mut self, status: &Status) {
        let mut seen = HashMap::new();
        for register in &status.registers {
            let Ok(reading) = register.reading.parse::<u128>() else {
                continue;
            };
            let key = (register.workload.clone(), register.meter.code());
            match self.before.get(&key) {
                Some((before, at)) if register.through > *at => {
                    let passed = u128::from(register.through.since(*at).0);
                    let more = reading.saturating_sub(*before);
                    if register.meter.kind() != Kind::Peak {
                        let rate = more.saturating_mul(u128::from(SECOND_US)) / passed;
                        self.rates.insert(key.clone(), rate);
                    }
                }
                Some(_) => {}
                None => drop(self.rates.remove(&key)),
            }
            seen.insert(key, (reading, register.through));
        }
        self.rates.retain(|key, _| seen.contains_key(key));
        self.before = seen;
    }
}

#[cfg(test)]
mod tests {
    use tallystick_common::meter::Meter;

    use super::*;
    use crate::identity::Identity;
    use crate::identity::tests::enrolment;
    use crate::status::RegisterStatus;

    fn status(at: u64, readings: &[(&str, Meter, u64)]) -> Status {
        let folder = tempfile::tempdir().unwrap();
        let keys = Identity::keys_to_enroll(folder.path()).unwrap();
        let mut status = Status::new(&Identity {
            enrolment: enrolment(keys, &[]).1,
        });
        status.registers = readings
            .iter()
            .map(|(workload, meter, reading)| RegisterStatus {
                workload: WorkloadName::new(*workload).unwrap(),
                meter: *meter,
                reading: reading.to_string(),
                through: Timestamp::from_seconds(at).unwrap(),
            })
            .collect();
        status
    }

    #[test]
    fn a_rate_is_the_difference_of_two_readings_by_the_time_between_them() {
        let now = Timestamp::from_seconds(100).unwrap();
        let mut view = View::default();
        let cpu = Meter::CPU_TIME;
        let first = status(10, &[("cgroup/a", cpu, 1_000), ("cgroup/b", cpu, 5)]);
        assert!(!view.picture(&first, now, 10).contains("2000"));
        let second = status(20, &[("cgroup/a", cpu, 21_000), ("cgroup/b", cpu, 900_005)]);
        let picture = view.picture(&second, now, 10);
        let (a, b) = (picture.find("cgroup/a"), picture.find("cgroup/b"));
        assert!(b < a, "the busier one first: {picture}");
        assert!(
            picture.contains(" 2000 ") && picture.contains(" 90000 "),
            "{picture}"
        );
        let again = view.picture(&second, now, 1);
        assert!(
            again.contains(" 90000 ") && again.contains("(1 more)"),
            "{again}"
        );
    }

    #[test]
    fn an_agent_knows_whether_somebody_looks() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_watched(folder.path()));
        let watch = Watch::begin(folder.path());
        assert!(is_watched(folder.path()));
        drop(watch);
        assert!(!is_watched(folder.path()));
    }
}
