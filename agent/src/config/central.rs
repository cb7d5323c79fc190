//! What the reconciler sets of a node's configuration: periods and selections, nothing that could move its
//! data or where it connects.

use serde::Deserialize;

use super::{Config, Selection};

/// The keys that can be set centrally; each replaces the node's own as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Central {
    sample_seconds: Option<u64>,
    seal_seconds: Option<u64>,
    cgroups: Option<Selection>,
    interfaces: Option<Selection>,
    filesystems: Option<Selection>,
}

/// The node's own configuration with central settings over it, checked as a whole.
pub(super) fn overlaid(own: &Config, document: &str) -> Result<Config, String> {
    let central: Central = toml::from_str(document).map_err(|error| {
        let message = error.message();
        format!("the central settings cannot be read: {message}")
    })?;
    let mut config = own.clone();
    let Central {
        sample_seconds,
        seal_seconds,
        cgroups,
        interfaces,
        filesystems,
    } = central;
    config.sample_seconds = sample_seconds.unwrap_or(config.sample_seconds);
    config.seal_seconds = seal_seconds.unwrap_or(config.seal_seconds);
    config.cgroups = cgroups.unwrap_or(config.cgroups);
    config.interfaces = interfaces.unwrap_or(config.interfaces);
    config.filesystems = filesystems.unwrap_or(config.filesystems);
    let problems: Vec<String> = config.check().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn central_settings_replace_what_they_name_and_nothing_else() {
        let own = Config {
            sample_seconds: 5,
            ..Config::default()
        };
        let document = "seal_seconds = 300\n[cgroups]\ninclude = [\"system.slice/*\"]\n";
        let config = own.with_central(document).unwrap();
        assert_eq!((config.sample_seconds, config.seal_seconds), (5, 300));
        assert_eq!(config.cgroups.include, ["system.slice/*"]);
        assert_eq!(config.interfaces, own.interfaces);
        assert_eq!(own.with_central("").unwrap(), own);
    }

    #[test]
    fn what_a_node_cannot_run_with_or_must_not_be_told_is_refused() {
        let own = Config::default();
        for (document, named) in [
            ("seal_seconds = 7", "seal_seconds"),
            ("data = \"/tmp\"", "data"),
            ("addresses = [\"x:1\"]", "addresses"),
            ("sample_seconds = ", "cannot be read"),
        ] {
            let error = own.with_central(document).unwrap_err();
            assert!(error.contains(named), "{document}: {error}");
        }
    }
}
