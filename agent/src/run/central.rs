//! Central settings: taken up when the reconciler tells them, kept in the data folder, confirmed by version
//! and digest.
//!
//! ```text
//! DATA/central.json   version and document of the settings last told, in force or not
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tallystick_common::wire::{InForce, Settings};

use super::{Agent, RunError};
use crate::config::Config;
use crate::durable;
use crate::identity::Identity;

/// What was told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Central {
    version: u64,
    document: String,
}

impl Central {
    /// What was told before the last stop. A file that cannot be read is told again.
    pub(super) fn load(data: &Path) -> Option<Self> {
        let bytes = match std::fs::read(file(data)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read,
        };
        let told = bytes
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
        told.inspect_err(|error| tracing::warn!(%error, "the central settings are not read"))
            .ok()
    }

    fn store(&self, data: &Path) -> io::Result<()> {
        let json = serde_json::to_vec(self).expect("a number and a text can be written as JSON");
        durable::replace_file(&file(data), &json)
    }
}

fn file(data: &Path) -> PathBuf {
    data.join("central.json")
}

/// What is to be in force: the node's own with the central settings over it; its own alone, and why,
/// where that cannot be run with.
pub(super) fn effective(own: &Config, central: Option<&Central>) -> (Config, Option<String>) {
    let Some(central) = central else {
        return (own.clone(), None);
    };
    match own.with_central(&central.document) {
        Ok(config) => (config, None),
        Err(problem) => (own.clone(), Some(problem)),
    }
}

/// What the reconciler is told of it.
pub(super) fn in_force(
    config: &Config,
    identity: &Identity,
    central: Option<&Central>,
    problem: Option<&String>,
) -> InForce {
    InForce {
        settings: central.map_or(0, |central| central.version),
        digest: config.digest(&identity.signing_key()),
        problem: problem.map(|problem| problem.chars().take(1000).collect()),
    }
}

impl Agent {
    /// Takes up what the reconciler told, unless it is what was told before.
    pub(super) async fn take_settings(&mut self, settings: Settings) -> Result<(), RunError> {
        let Settings { version, document } = settings;
        let told = Central { version, document };
        if self.central.as_ref() == Some(&told) {
            return Ok(());
        }
        tracing::info!(version, "central settings are told");
        if let Err(error) = told.store(&self.data) {
            tracing::warn!(%error, "the central settings are not stored; they will be told again");
        }
        self.central = Some(told);
        // Why it is not in force, if it is not, is in the status and told to the reconciler.
        let _ = self.put_in_force(self.own.clone()).await?;
        self.publish();
        Ok(())
    }

    /// Puts the node's own configuration, with the central settings over it, in force.
    pub(super) async fn put_in_force(
        &mut self,
        own: Config,
    ) -> Result<Result<(), String>, RunError> {
        let (config, mut problem) = effective(&own, self.central.as_ref());
        let adopted = self.adopt(config).await?;
        if adopted.is_ok() {
            self.own = own;
        }
        problem = problem.or_else(|| adopted.clone().err());
        if let Some(problem) = &problem {
            tracing::error!(%problem, "the central settings are not in force");
        }
        let central = self.central.as_ref();
        let now = in_force(&self.config, &self.identity, central, problem.as_ref());
        self.status.central_problem = problem.filter(|_| central.is_some());
        self.status.central_version = now.settings;
        self.in_force.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        Ok(adopted)
    }
}
