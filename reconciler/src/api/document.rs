//! A draft as JSON.

use serde::Serialize;
use tallystick_common::statement::Statement;
use tallystick_common::time::Timestamp;

use crate::billing::document::{CutPosition, Digests};
use crate::billing::{Draft, Outstanding};

/// A draft: what an invoice would say if it were issued now.
#[derive(Debug, Clone, Serialize)]
pub struct DraftDocument {
    /// When it was computed.
    pub at: Timestamp,
    /// Lines, steps and totals.
    pub statement: Statement,
    /// The unrounded total cut after six decimals, for people.
    pub unrounded_total_cut: String,
    /// Nodes whose time is awaited.
    pub outstanding: Vec<Outstanding>,
    /// Banned or retired nodes that will not account for the rest.
    pub missing: Vec<Outstanding>,
    /// Up to where each stream was counted.
    pub cut: Vec<CutPosition>,
    /// What decided the amounts.
    pub digests: Digests,
}

impl DraftDocument {
    /// A draft computed at `at`.
    #[must_use]
    pub fn new(draft: Draft, at: Timestamp) -> Self {
        Self {
            at,
            unrounded_total_cut: draft.statement.unrounded_total.cut(6),
            statement: draft.statement,
            outstanding: draft.outstanding,
            missing: draft.missing,
            cut: draft.cut,
            digests: draft.digests,
        }
    }
}
