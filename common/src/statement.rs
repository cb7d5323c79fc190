//! A statement: what an account owes for a period, line by line, computed from its usage.
//!
//! Owns what goes into and what comes out of that computation, its canonical JSON and its digest.
//! Pure: assignments are already applied, usage is already cut at the bounds of period and
//! subscription windows, and what is missing is passed in as notes. A draft is a statement that
//! nobody has issued yet; numbers, taxes and payments are not in here.
//!
//! The same input, in any order, gives byte-identical JSON (I9).

use serde::{Deserialize, Serialize};

use crate::ids::{Hash, NodeId, RegisterId, StreamId, WorkloadName};
use crate::meter::{Meter, Unit};
use crate::money::{Currency, Exact, Money, RoundingMode, whole};
use crate::period::{Period, Zone};
use crate::price::{BillingUnit, Plan, Scope};
use crate::rating::Step;
use crate::reading::{Cause, Reading};
use crate::time::{Micros, Timestamp};

mod audit;
mod compute;
mod error;

pub use compute::draft;
pub use error::StatementError;

/// Who owes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRef {
    /// The account's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The currency it is billed in.
    pub currency: Currency,
    /// The zone of its periods.
    pub zone: Zone,
}

/// A plan and the time in which an account subscribes to it.
///
/// Each window is rated by itself: tiers, flat amounts and allowances start anew with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanWindow {
    /// The document.
    pub plan: Plan,
    /// From when, on a quarter-hour. May lie before the statement's period.
    pub from: Timestamp,
    /// Until when, on a quarter-hour. May lie after the statement's period.
    pub to: Timestamp,
}

/// What one register counted within an item of usage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterSpan {
    /// The stream it is in.
    pub stream: StreamId,
    /// The register.
    pub register: RegisterId,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Its reading at `from`.
    #[serde(with = "whole")]
    pub opening: Reading,
    /// Its reading at `to`.
    #[serde(with = "whole")]
    pub closing: Reading,
}

/// Usage of one meter by one workload in a span of time that lies within one window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageItem {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// The workload; never `host`.
    pub workload: WorkloadName,
    /// What was measured.
    pub meter: Meter,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// In the meter's base unit; for a peak the maximum.
    pub quantity: u128,
    /// The registers that counted it.
    pub registers: Vec<RegisterSpan>,
    /// Time really measured, added over the registers.
    pub measured: Micros,
    /// Time whose quantity is known but not its spread.
    pub interpolated: Micros,
    /// Time without a value; not billed.
    pub unmeasured: Micros,
}

/// What a reader of the statement must know beside its lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "snake_case", deny_unknown_fields)]
pub enum Note {
    /// A node has not accounted for the whole period yet.
    Outstanding {
        /// The node.
        node: NodeId,
        /// Its name.
        node_name: String,
        /// Until when its time is accounted for; none when nothing has come.
        covered_through: Option<Timestamp>,
    },
    /// Nothing was measured on a node.
    Gap {
        /// The node.
        node: NodeId,
        /// Its name.
        node_name: String,
        /// From when.
        from: Timestamp,
        /// Until when.
        to: Timestamp,
        /// Why.
        cause: Cause,
    },
    /// Anything else.
    Remark {
        /// In words.
        text: String,
    },
}

/// All that a statement is computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementInput {
    /// Who owes.
    pub account: AccountRef,
    /// Who sells, as it should stand on the document.
    pub seller: String,
    /// Who buys, as it should stand on the document.
    pub buyer: String,
    /// For which time.
    pub period: Period,
    /// What the account subscribes to.
    pub windows: Vec<PlanWindow>,
    /// What it used.
    pub usage: Vec<UsageItem>,
    /// What else is to be said.
    pub notes: Vec<Note>,
    /// How lines are rounded.
    pub rounding: RoundingMode,
}

/// What an account owes for a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The version of the rules that computed it.
    pub rating_version: u32,
    /// Who owes.
    pub account: AccountRef,
    /// Who sells.
    pub seller: String,
    /// Who buys.
    pub buyer: String,
    /// For which time.
    pub period: Period,
    /// The currency of all amounts.
    pub currency: Currency,
    /// The plans used, by beginning.
    pub plans: Vec<PlanUse>,
    /// By window, then in the order of the plan, then by node and workload.
    pub lines: Vec<Line>,
    /// Usage that no line charges.
    pub unpriced: Vec<Unpriced>,
    /// The exact amounts added.
    pub unrounded_total: Exact,
    /// The lines' rounded amounts added.
    pub total: Money,
    /// What else is to be said.
    pub notes: Vec<Note>,
    /// Usage that the registers do not bear out (I3). Must be empty before a statement is issued.
    pub discrepancies: Vec<Discrepancy>,
}

/// A plan as used by a statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanUse {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Digest of the document.
    pub digest: Hash,
    /// The part of the period in which it applied.
    pub window: Period,
}

/// One charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Unique and stable within the period: `PLAN/PRICE`, then `/NODE/WORKLOAD` where each workload
    /// is rated by itself, then `@INSTANT` where the window begins within the period.
    pub id: String,
    /// Name of the plan.
    pub plan: String,
    /// Id of the price.
    pub price: String,
    /// What the customer reads.
    pub title: String,
    /// The part of the period that is charged.
    pub window: Period,
    /// What was measured.
    pub meter: Meter,
    /// The meter's base unit.
    pub base_unit: Unit,
    /// The billing unit.
    pub per: BillingUnit,
    /// What was rated together.
    pub scope: Scope,
    /// Whose usage it is, where each workload is rated by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// In the base unit.
    #[serde(with = "whole")]
    pub quantity: u128,
    /// In the billing unit.
    pub units: Exact,
    /// The exact amount.
    pub unrounded: Exact,
    /// The amount due.
    pub amount: Money,
    /// Time whose quantity is known but not its spread, over all details.
    pub interpolated: Micros,
    /// Time without a value, over all details; not billed.
    pub unmeasured: Micros,
    /// How the amount came about.
    pub steps: Vec<Step>,
    /// Whose usage it is.
    pub details: Vec<Detail>,
}

/// A workload of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRef {
    /// Name of the node.
    pub node_name: String,
    /// The node.
    pub node: NodeId,
    /// The workload.
    pub workload: WorkloadName,
}

/// One workload's part of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// Whose.
    pub of: WorkloadRef,
    /// From the first to the last usage.
    pub window: Period,
    /// In the base unit.
    #[serde(with = "whole")]
    pub quantity: u128,
    /// Time really measured.
    pub measured: Micros,
    /// Time whose quantity is known but not its spread.
    pub interpolated: Micros,
    /// Time without a value; not billed.
    pub unmeasured: Micros,
    /// The registers that counted it.
    pub registers: Vec<RegisterSpan>,
}

/// Usage that no line charges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpriced {
    /// Why.
    pub reason: UnpricedReason,
    /// What was measured.
    pub meter: Meter,
    /// Whose, when and how much.
    pub detail: Detail,
}

/// Why usage is not charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnpricedReason {
    /// No subscription covers its time.
    NoSubscription,
    /// The plan has no price for its meter.
    NoPrice,
}

/// Usage that differs from what its registers counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discrepancy {
    /// Whose.
    pub of: WorkloadRef,
    /// What was measured.
    pub meter: Meter,
    /// When.
    pub window: Period,
    /// What was to be billed.
    #[serde(with = "whole")]
    pub quantity: u128,
    /// What the registers counted.
    #[serde(with = "whole")]
    pub counted: u128,
}

impl Statement {
    /// The canonical JSON: keys in the order of this documentation, no white space, amounts and
    /// quantities as text.
    ///
    /// # Panics
    /// Never: a statement has nothing that JSON cannot hold.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a statement has text keys and no floats")
    }

    /// Reads canonical JSON back.
    ///
    /// # Errors
    /// When the text is not a statement, or not in the canonical spelling.
    pub fn from_json(json: &str) -> Result<Self, StatementError> {
        let statement: Self = serde_json::from_str(json)
            .map_err(|error| StatementError::NotAStatement(error.to_string()))?;
        if statement.to_json() == json {
            Ok(statement)
        } else {
            Err(StatementError::NotAStatement(
                "it is not in the canonical spelling".to_owned(),
            ))
        }
    }

    /// BLAKE3 of the canonical JSON.
    #[must_use]
    pub fn digest(&self) -> Hash {
        Hash(*blake3::hash(self.to_json().as_bytes()).as_bytes())
    }
}

impl UsageItem {
    /// Its span of time.
    #[must_use]
    pub fn window(&self) -> Period {
        Period {
            from: self.from,
            to: self.to,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn of(&self) -> WorkloadRef {
        WorkloadRef {
            node_name: self.node_name.clone(),
            node: self.node,
            workload: self.workload.clone(),
        }
    }
}

impl PlanWindow {
    /// Its span of time.
    #[must_use]
    pub fn window(&self) -> Period {
        Period {
            from: self.from,
            to: self.to,
        }
    }
}

#[cfg(test)]
mod tests;
