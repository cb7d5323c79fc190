//! Reads and merges the files.

use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Config;

/// A configuration that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder.
    #[error("could not read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What stands in a file.
    #[error("{path} is not a configuration: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where in it, and what is wrong.
        message: String,
    },
}

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    with_extras(path, read(path)?)
}

pub(super) fn load_if_there(path: &Path) -> Result<Config, ConfigError> {
    match read(path) {
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            with_extras(path, Table::new())
        }
        read => with_extras(path, read?),
    }
}

fn with_extras(path: &Path, mut merged: Table) -> Result<Config, ConfigError> {
    for extra in extras(path)? {
        merge(&mut merged, read(&extra)?);
    }
    Value::Table(merged)
        .try_into()
        .map_err(|error: toml::de::Error| parse_error(path, &error))
}

/// One file, checked by itself so that a mistake is named with its place.
fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str::<Config>(&text).map_err(|error| parse_error(path, &error))?;
    toml::from_str(&text).map_err(|error| parse_error(path, &error))
}

fn parse_error(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Parse {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    }
}

fn extras(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = path.parent().unwrap_or(Path::new("")).join("conf.d");
    let wrong = |source| ConfigError::Read {
        path: folder.clone(),
        source,
    };
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(wrong)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(wrong)?.path();
        if file
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}
