//! Application usage: how what an application counts is named.
//!
//! An application counts under names of its own (`requests`, `exports`), which no table can list. Sealed
//! bytes need no table either: the name stands in the workload, `app/REPORTER/NAME`, and the meter says only
//! in which unit it counts (`app.count`, `app.bytes`, `app.seconds`). A price picks one application meter
//! by that last part of the name. Owns this grammar; who may report for whom is the agent's affair.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{IdError, WorkloadName};
use crate::meter::Meter;

/// What begins the name of every workload that an application reports.
pub const PREFIX: &str = "app/";

/// The name of one thing that an application counts.
///
/// Grammar: 1 to 128 ASCII letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct AppMeter(String);

/// A text that is not the name of an application meter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of an application meter: use 1 to 128 letters, digits, \".\", \"_\" and \"-\", beginning with a letter or digit"
)]
pub struct NotAnAppMeter(pub String);

impl AppMeter {
    /// Longest name in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Checks the grammar.
    ///
    /// # Errors
    /// When the text breaks it.
    pub fn new(name: impl Into<String>) -> Result<Self, NotAnAppMeter> {
        let name = name.into();
        let begins = name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if begins && name.len() <= Self::MAX_BYTES && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(NotAnAppMeter(name))
        }
    }

    /// The workload under which `reporter` counts this.
    ///
    /// # Errors
    /// When the reporter's name cannot be part of one.
    pub fn workload(&self, reporter: &str) -> Result<WorkloadName, IdError> {
        WorkloadName::new(reporter)?;
        WorkloadName::new(format!("{PREFIX}{reporter}/{}", self.0))
    }

    /// Whether `workload` counts this.
    #[must_use]
    pub fn names(&self, workload: &WorkloadName) -> bool {
        is_reported(workload)
            && workload
                .as_str()
                .rsplit_once('/')
                .is_some_and(|(_, name)| name == self.0)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether an application reports this workload.
#[must_use]
pub fn is_reported(workload: &WorkloadName) -> bool {
    workload.as_str().starts_with(PREFIX)
}

/// Whether applications report in this meter.
#[must_use]
pub fn is_app_meter(meter: Meter) -> bool {
    [Meter::APP_COUNT, Meter::APP_BYTES, Meter::APP_SECONDS].contains(&meter)
}

impl fmt::Display for AppMeter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AppMeter {
    type Err = NotAnAppMeter;

    fn from_str(text: &str) -> Result<Self, NotAnAppMeter> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for AppMeter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_what_is_counted_is_the_last_part_of_the_workload() {
        let requests = AppMeter::new("http.requests").unwrap();
        let workload = requests.workload("system.slice/web.service").unwrap();
        assert_eq!(
            workload.as_str(),
            "app/system.slice/web.service/http.requests"
        );
        assert!(is_reported(&workload) && requests.names(&workload));
        assert!(!AppMeter::new("requests").unwrap().names(&workload));
        let cgroup = WorkloadName::new("cgroup/http.requests").unwrap();
        assert!(!requests.names(&cgroup));
        assert!(requests.workload("").is_err() && requests.workload("/web").is_err());
        assert!(requests.workload(&"x".repeat(500)).is_err());
    }

    #[test]
    fn names_follow_the_grammar() {
        for good in ["requests", "9", "http.server.request_count", "a-b"] {
            assert_eq!(AppMeter::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(129);
        for bad in ["", "a/b", ".hidden", "a b", "ä", long.as_str()] {
            assert!(AppMeter::new(bad).is_err(), "{bad:?}");
        }
    }
}
