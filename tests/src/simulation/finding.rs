//! What a simulation finds.

use std::fmt;

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The invariant that it breaks, by its number.
    pub invariant: &'static str,
    /// What it is.
    pub detail: String,
}

/// A step that may find something.
pub type Found<T> = Result<T, Finding>;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// An invariant does not hold.
///
/// # Errors
/// Always.
pub fn violated<T>(invariant: &'static str, detail: impl Into<String>) -> Found<T> {
    Err(Finding {
        invariant,
        detail: detail.into(),
    })
}
