//! Which names are metered: globs that include, globs that exclude.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

/// Included and not excluded. `*` and `?` stay within one level of a path, `**` spans levels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// At least one of these must match.
    pub include: Vec<String>,
    /// None of these may match.
    pub exclude: Vec<String>,
}

/// A text that is not a glob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{glob:?} is not a glob: {why}")]
pub struct GlobError {
    /// The text.
    pub glob: String,
    /// What is wrong with it.
    pub why: String,
}

/// A selection ready to match.
#[derive(Debug, Clone)]
pub struct Globs {
    include: GlobSet,
    exclude: GlobSet,
    /// What may stand around something included; `None` when that may be anything.
    around: Option<GlobSet>,
}

impl Selection {
    pub(super) fn new(include: &[&str], exclude: &[&str]) -> Self {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
        Self {
            include: owned(include),
            exclude: owned(exclude),
        }
    }

    /// Makes it ready to match.
    ///
    /// # Errors
    /// Names the glob that is none.
    pub fn compile(&self) -> Result<Globs, GlobError> {
        Ok(Globs {
            include: set(&self.include)?,
            exclude: set(&self.exclude)?,
            around: around(&self.include),
        })
    }
}

impl Globs {
    /// Whether `path` is metered.
    #[must_use]
    pub fn selects(&self, path: &str) -> bool {
        self.include.is_match(path) && !self.exclude.is_match(path)
    }

    /// Whether something inside `path` may be included; the empty path is around everything.
    #[must_use]
    pub fn may_select_inside(&self, path: &str) -> bool {
        path.is_empty()
            || self
                .around
                .as_ref()
                .is_none_or(|around| around.is_match(path))
    }
}

/// The parts of globs up to each of their slashes, where slashes tell their levels apart.
fn around(include: &[String]) -> Option<GlobSet> {
    let mut folders = Vec::new();
    for text in include {
        if text.contains("**") || text.contains(['{', '[', '\\']) {
            return None;
        }
        folders.extend(
            text.match_indices('/')
                .map(|(end, _)| text[..end].to_owned()),
        );
    }
    set(&folders).ok()
}

/// One glob, in the dialect of the configuration.
pub(super) fn glob(text: &str) -> Result<Glob, GlobError> {
    let wrong = |why: String| GlobError {
        glob: text.to_owned(),
        why,
    };
    if text.starts_with('/') {
        return Err(wrong("paths have no leading slash here".to_owned()));
    }
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .map_err(|error| wrong(error.kind().to_string()))
}

fn set(globs: &[String]) -> Result<GlobSet, GlobError> {
    let mut builder = GlobSetBuilder::new();
    for text in globs {
        builder.add(glob(text)?);
    }
    builder.build().map_err(|error| GlobError {
        glob: globs.join(", "),
        why: error.kind().to_string(),
    })
}
