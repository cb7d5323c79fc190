//! The reconciler's configuration: `reconciler.toml` in the data folder, if there is one, or the file
//! that `--config` names.
//!
//! ```toml
//! seller = "Example Hosting Ltd"           # stands on invoices
//! list_plan = "starter"                    # what usage is worth that is assigned to nobody
//! store = "postgres://tally@db/usage"      # instead of the file in the data folder; a socket's folder, a path
//! [listen]
//! ingest = "0.0.0.0:8621"                  # UDP, and TCP of the same number: agents
//! http = "127.0.0.1:8620"                  # TCP: API and console
//! addresses = ["tally.example.net:8621"]   # how agents reach us; goes into join tokens, told to nodes
//! [certificates]                           # how long they hold: 90s, 30m, 24h, 90d
//! node = "90d"                             # renewed by the node from half of it on
//! server = "3650d"                         # renewed at half of it
//! [closing]                                # periods that have ended while nodes are outstanding
//! policy = "wait"                          # for a person; or "close_with_gaps", after the deadline
//! deadline = "5d"                          # after the period's end
//! [alarms]
//! silent_after = "15m"                     # without a segment, beyond the sealing interval
//! ```
//!
//! Every key may be left out; unknown keys are errors. Flags override the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::authority::Lives;
use crate::store::{BadLocation, Location, Store};

mod rules;

use rules::{AlarmsFile, ClosingFile, Span};
pub use rules::{Closing, ClosingPolicy, Rules};

/// Name of the file in the data folder.
pub const FILE_NAME: &str = "reconciler.toml";

/// Where the data is unless said otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/tallystick/reconciler";

/// How the reconciler runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of the authority, and of the store unless that is elsewhere.
    pub data: PathBuf,
    /// Where the store is.
    pub store: Location,
    /// UDP address for agents, and TCP of the same number.
    pub ingest: SocketAddr,
    /// TCP address of API and console.
    pub http: SocketAddr,
    /// `host:port` at which agents reach the ingest address.
    pub addresses: Vec<String>,
    /// Who sells, as it stands on invoices.
    pub seller: String,
    /// How long certificates hold.
    pub lives: Lives,
    /// What is decided by rule.
    pub rules: Rules,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there but cannot be read.
    #[error("read configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The file is not as it should be.
    #[error("read configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: Box<toml::de::Error>,
    },
    /// The store's location is not one.
    #[error("read configuration {path}: {source}")]
    Store {
        /// The file, or what else says it.
        path: PathBuf,
        /// What is wrong.
        source: BadLocation,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seller: Option<String>,
    store: Option<String>,
    #[serde(default)]
    listen: Listen,
    #[serde(default)]
    certificates: Certificates,
    list_plan: Option<String>,
    #[serde(default)]
    closing: ClosingFile,
    #[serde(default)]
    alarms: AlarmsFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificates {
    node: Option<Span>,
    server: Option<Span>,
}

/// Seconds in a time written as 90s, 30m, 24h or 7d.
///
/// # Errors
/// Says how to write it.
pub fn life_seconds(text: &str) -> Result<u64, String> {
    let wrong = || "write a number from 1 on and s, m, h or d, such as 24h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    Ok(number.saturating_mul(seconds))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listen {
    ingest: Option<SocketAddr>,
    http: Option<SocketAddr>,
    #[serde(default)]
    addresses: Vec<String>,
}

impl Config {
    /// All defaults, for a data folder.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self::from_file(data, File::default(), default_store(data))
    }

    /// What the data folder's file says, defaults for the rest.
    ///
    /// # Errors
    /// When the file cannot be read, or has unknown keys or unusable values.
    pub fn load(data: &Path) -> Result<Self, ConfigError> {
        let path = data.join(FILE_NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(data, path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::of(data)),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// What a file says that need not be in the data folder but must be there, defaults for the rest.
    ///
    /// # Errors
    /// When the file cannot be read, or has unknown keys or unusable values.
    pub fn load_file(data: &Path, path: &Path) -> Result<Self, ConfigError> {
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(data, path, &text),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// A file that names the addresses at which agents reach us and leaves the rest out.
    #[must_use]
    pub fn file_of(addresses: &[String]) -> String {
        let list = toml::Value::from(addresses.to_vec());
        format!("[listen]\naddresses = {list}\n")
    }

    fn parse(data: &Path, path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let file: File = match toml::from_str(text) {
            Ok(file) => file,
            Err(mut source) => {
                // The line at fault is told, but not the one that may hold a password.
                if source.to_string().contains("://") {
                    source.set_input(None);
                }
                let source = Box::new(source);
                return Err(ConfigError::Parse { path, source });
            }
        };
        let store = match &file.store {
            None => default_store(data),
            Some(text) => {
                Location::parse(text, data).map_err(|source| ConfigError::Store { path, source })?
            }
        };
        Ok(Self::from_file(data, file, store))
    }

    fn from_file(data: &Path, file: File, store: Location) -> Self {
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let usual = Lives::default();
        let of = |life: Option<Span>, usual| life.map_or(usual, |life| life.0);
        Self {
            data: data.to_owned(),
            store,
            rules: Rules::from_file(file.list_plan, &file.closing, &file.alarms),
            ingest: file.listen.ingest.unwrap_or_else(|| any(8621)),
            http: file.listen.http.unwrap_or_else(|| local(8620)),
            addresses: file.listen.addresses,
            seller: file.seller.unwrap_or_else(|| "Tallystick".to_owned()),
            lives: Lives {
                node_seconds: of(file.certificates.node, usual.node_seconds),
                server_seconds: of(file.certificates.server, usual.server_seconds),
            },
        }
    }
}

fn default_store(data: &Path) -> Location {
    Location::File(data.join(Store::FILE_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_leaves_out_is_the_default() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            Config::load(folder.path()).unwrap(),
            Config::of(folder.path())
        );
        let text = "seller = \"S\"\n[listen]\nhttp = \"127.0.0.1:1\"\n";
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        let config = Config::load(folder.path()).unwrap();
        assert_eq!((config.seller.as_str(), config.http.port()), ("S", 1));
        assert_eq!(config.ingest, Config::of(folder.path()).ingest);
        assert_eq!(config.store, Config::of(folder.path()).store);
    }

    #[test]
    fn a_store_elsewhere_is_taken_and_its_password_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE_NAME);
        std::fs::write(&file, "store = \"postgres://tally:hunter2@db/usage\"\n").unwrap();
        let config = Config::load(folder.path()).unwrap();
        assert_eq!(config.store.to_string(), "postgres://tally@db:5432/usage");
        assert!(!format!("{config:?}").contains("hunter2"));
        std::fs::write(&file, "store = \"mysql://tally:hunter2@db/usage\"\n").unwrap();
        let error = Config::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("neither a path"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_file_of_addresses_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("elsewhere.toml");
        let addresses = vec!["a.example:8621".to_owned(), "[::1]:8621".to_owned()];
        std::fs::write(&path, Config::file_of(&addresses)).unwrap();
        let config = Config::load_file(folder.path(), &path).unwrap();
        assert_eq!(config.addresses, addresses);
        let absent = folder.path().join("absent.toml");
        assert!(Config::load_file(folder.path(), &absent).is_err());
    }

    #[test]
    fn rules_are_read_and_their_defaults_wait_for_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let usual = Config::of(folder.path()).rules;
        assert_eq!(usual, Rules::default());
        assert_eq!(usual.closing.policy, ClosingPolicy::Wait);
        let text = "list_plan = \"starter\"\n[closing]\npolicy = \"close_with_gaps\"\ndeadline = \"36h\"\n\
                    [alarms]\nsilent_after = \"90s\"\n";
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        let rules = Config::load(folder.path()).unwrap().rules;
        assert_eq!(rules.list_plan.as_deref(), Some("starter"));
        assert_eq!(rules.closing.policy, ClosingPolicy::CloseWithGaps);
        assert_eq!(rules.closing.deadline.0, 36 * 3_600_000_000);
        assert_eq!(rules.silent_after.0, 90_000_000);
        let text = "[closing]\npolicy = \"never\"\n";
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        let error = Config::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("close_with_gaps"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "[listen]\nport = 1\n").unwrap();
        let error = Config::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("unknown field `port`"), "{error}");
    }
}
