//! Selectors: patterns on names, and whether two of them can mean the same name.
//!
//! `*` stands for any run of characters, slashes included; `?` for one character; everything else
//! for itself. This small grammar is on purpose: for it, "could both match one name?" has an exact
//! answer, so an overlap of two accounts is refused when a rule is made and not found on a bill.

use std::fmt;

use crate::ids::WorkloadName;
use serde::{Deserialize, Serialize};

/// Longest pattern in bytes.
pub const MAX_BYTES: usize = 512;

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not usable: {why}")]
pub struct PatternError {
    /// Which selector.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// The rule it breaks.
    pub why: &'static str,
}

/// A pattern on a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// Checks the grammar. `what` names the selector in the error.
    ///
    /// # Errors
    /// When empty, too long or with control characters.
    pub fn new(what: &'static str, text: &str) -> Result<Self, PatternError> {
        let why = if text.is_empty() {
            "it is empty; write * for everything"
        } else if text.len() > MAX_BYTES {
            "it is longer than 512 bytes"
        } else if text.chars().any(char::is_control) {
            "it has control characters"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(PatternError {
            what,
            value: text.to_owned(),
            why,
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern stands for this very name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        matches_chars(&pattern, &name)
    }

    /// Whether some name exists that both patterns stand for.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        let left: Vec<char> = self.0.chars().collect();
        let right: Vec<char> = other.0.chars().collect();
        intersect(&left, &right)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a workload selector stands for a workload. `host` is never assigned; `host/other` only
/// by a selector that says so, by beginning with `host/`.
#[must_use]
pub fn selects_workload(selector: &Pattern, workload: &str) -> bool {
    if workload == WorkloadName::HOST {
        return false;
    }
    if workload == WorkloadName::HOST_OTHER && !selector.as_str().starts_with("host/") {
        return false;
    }
    selector.matches(workload)
}

/// Iterative wildcard match with one backtracking point: linear in practice, never exponential.
fn matches_chars(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, seen)) => {
                    star = Some((at, seen + 1));
                    p = at + 1;
                    n = seen + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Dynamic programme over both patterns: `reach[j]` says whether `left[..i]` and `right[..j]` can
/// have produced the same text.
fn intersect(left: &[char], right: &[char]) -> bool {
    let mut reach = vec![false; right.len() + 1];
    reach[0] = true;
    for j in 0..right.len() {
        reach[j + 1] = reach[j] && right[j] == '*';
    }
    for l in left {
        let mut next = vec![false; right.len() + 1];
        next[0] = reach[0] && *l == '*';
        for j in 0..right.len() {
            let r = right[j];
            let both = reach[j] && (*l == r || *l == '?' || r == '?');
            let left_star = *l == '*' && (reach[j + 1] || next[j]);
            let right_star = r == '*' && (next[j] || reach[j + 1]);
            next[j + 1] = both || left_star || right_star;
        }
        reach = next;
    }
    reach[right.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new("selector", text).unwrap()
    }

    #[test]
    fn a_star_crosses_slashes() {
        assert!(pattern("cgroup/*").matches("cgroup/system.slice/ssh.service"));
        assert!(pattern("*").matches(""));
        assert!(pattern("web-?").matches("web-1"));
        assert!(!pattern("web-?").matches("web-10"));
        assert!(!pattern("cgroup/*.service").matches("cgroup/x.scope"));
    }

    #[test]
    fn host_is_never_selected_and_its_rest_only_by_name() {
        for text in ["*", "host", "h*", "host*", "ho?t"] {
            assert!(!selects_workload(&pattern(text), "host"), "{text}");
            assert!(!selects_workload(&pattern(text), "host/other"), "{text}");
        }
        assert!(selects_workload(&pattern("host/other"), "host/other"));
        assert!(selects_workload(&pattern("host/*"), "host/other"));
    }

    #[test]
    fn patterns_that_share_a_name_intersect() {
        for (left, right) in [
            ("*", "a"),
            ("a*c", "abc"),
            ("a*", "*b"),
            ("?b", "a?"),
            ("*", "*"),
        ] {
            assert!(pattern(left).intersects(&pattern(right)), "{left} {right}");
        }
        for (left, right) in [("a*", "b*"), ("?", "ab"), ("*x", "*y"), ("web-?", "web-10")] {
            assert!(!pattern(left).intersects(&pattern(right)), "{left} {right}");
        }
    }

    proptest! {
        #[test]
        fn two_patterns_that_match_one_name_intersect(
            left in "[ab*?]{1,6}", right in "[ab*?]{1,6}", name in "[ab]{0,6}",
        ) {
            let (left, right) = (pattern(&left), pattern(&right));
            if left.matches(&name) && right.matches(&name) {
                prop_assert!(left.intersects(&right), "{name}");
            }
        }

        #[test]
        fn intersecting_patterns_have_a_name_in_common(left in "[ab*?]{1,4}", right in "[ab*?]{1,4}") {
            let (left, right) = (pattern(&left), pattern(&right));
            let mut names = vec![String::new()];
            for _ in 0..8 {
                let longer: Vec<String> = names
                    .iter()
                    .flat_map(|name| ["a", "b"].map(|c| format!("{name}{c}")))
                    .collect();
                names.extend(longer);
                names.dedup();
                names.sort();
                names.dedup();
            }
            let common = names.iter().any(|name| left.matches(name) && right.matches(name));
            prop_assert_eq!(left.intersects(&right), common);
        }
    }
}
