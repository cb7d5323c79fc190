//! What an installation decides by rule: when periods close, when a node counts as silent, what usage is
//! worth that is nobody's.

use serde::Deserialize;
use tallystick_common::time::{Micros, SECOND_US};

use super::life_seconds;

/// The rules of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The plan whose newest version prices usage that is assigned to nobody.
    pub list_plan: Option<String>,
    /// When periods close that nodes are outstanding of.
    pub closing: Closing,
    /// How long a node may say nothing beyond its sealing interval before it counts as silent.
    pub silent_after: Micros,
}

/// What happens to a period that has ended while nodes are outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// How long after its end it may be closed with gaps.
    pub deadline: Micros,
    /// Who closes it then.
    pub policy: ClosingPolicy,
}

/// Who closes a period with gaps after the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosingPolicy {
    /// A person, or nobody.
    #[default]
    Wait,
    /// The rule.
    CloseWithGaps,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            list_plan: None,
            closing: Closing {
                deadline: Micros(5 * 24 * 3600 * SECOND_US),
                policy: ClosingPolicy::Wait,
            },
            silent_after: Micros(15 * 60 * SECOND_US),
        }
    }
}

/// A time written as 90s, 30m, 24h or 7d.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Span(pub(super) u64);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        life_seconds(&text).map(Self)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClosingFile {
    deadline: Option<Span>,
    policy: Option<ClosingPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlarmsFile {
    silent_after: Option<Span>,
}

impl Rules {
    pub(super) fn from_file(
        list_plan: Option<String>,
        closing: &ClosingFile,
        alarms: &AlarmsFile,
    ) -> Self {
        let usual = Self::default();
        let time =
            |span: Option<Span>, usual| span.map_or(usual, |span| Micros::from_seconds(span.0));
        Self {
            list_plan,
            closing: Closing {
                deadline: time(closing.deadline, usual.closing.deadline),
                policy: closing.policy.unwrap_or_default(),
            },
            silent_after: time(alarms.silent_after, usual.silent_after),
        }
    }
}
