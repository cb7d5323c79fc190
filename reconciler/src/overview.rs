//! Every figure of the console's first page, computed at the moment of asking.
//!
//! Owns the one type that `GET /v1/overview` gives as JSON and the first page draws. Computes nothing of
//! its own: usage, coverage and drafts come from the modules that own them.

pub mod conservation;
pub mod coverage;
pub mod figures;
pub mod silence;

pub use figures::overview;

use std::collections::BTreeSet;

use serde::Serialize;
use tallystick_common::ids::{NodeId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::{Meter, Unit};
use tallystick_common::money::Money;
use tallystick_common::reading::Cause;
use tallystick_common::time::{Micros, Timestamp};
use utoipa::ToSchema;

/// Everything on the first page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Overview {
    /// When it was computed.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// First instant of today (UTC), from which usage and coverage are counted.
    #[schema(value_type = String, format = DateTime)]
    pub today: Timestamp,
    /// What was used today, by node, workload and meter.
    pub usage: Vec<UsageToday>,
    /// CPU time of the last minutes.
    pub chart: Chart,
    /// What it costs so far, by account.
    pub accounts: Vec<AccountSoFar>,
    /// Nodes, by name.
    pub nodes: Vec<NodeToday>,
    /// Whether all that was received is accounted for.
    pub leakage: LeakageNow,
    /// Today's usage of nobody, at list price; null where no list price is set.
    #[schema(value_type = Option<crate::api::schema::Money>)]
    pub unassigned_value: Option<Money>,
}

/// How the leakage account stands, as its hours were last tallied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LeakageNow {
    /// When one of them was; null before the first.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub tallied_at: Option<Timestamp>,
    /// Differences that are not zero, over hours and meters.
    pub differing: u64,
    /// Of which hour the first of them is.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Option<Timestamp>,
}

/// What a workload used today of one meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UsageToday {
    /// The node's id.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The workload. `host` is the control reading of the whole node and is never billed.
    #[schema(value_type = String)]
    pub workload: WorkloadName,
    /// The account it is assigned to now; none for the control reading and for what nobody pays.
    pub account: Option<String>,
    /// What is measured.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// The meter's base unit.
    #[schema(value_type = String)]
    pub unit: Unit,
    /// In the base unit, a whole number (for a peak, the maximum).
    pub quantity: String,
    /// Of today, known in sum only; microseconds added over registers.
    #[schema(value_type = u64)]
    pub interpolated: Micros,
    /// Of today, without a value; microseconds added over registers.
    #[schema(value_type = u64)]
    pub unmeasured: Micros,
}

/// A meter over the last minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Chart {
    /// What is drawn.
    #[schema(value_type = String)]
    pub meter: Meter,
    /// First instant.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// Width of a point in microseconds.
    #[schema(value_type = u64)]
    pub step: Micros,
    /// One for each workload but `host`.
    pub series: Vec<Series>,
}

/// One workload's points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Series {
    /// The node's name.
    pub node_name: String,
    /// The workload.
    #[schema(value_type = String)]
    pub workload: WorkloadName,
    /// Quantity in each step in the base unit; null where nothing is known (yet).
    pub points: Vec<Option<u64>>,
}

/// What an account owes so far in the current period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AccountSoFar {
    /// Its id.
    pub account: String,
    /// Its name.
    pub name: String,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// First instant of the period.
    #[schema(value_type = String, format = DateTime)]
    pub period_from: Timestamp,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime)]
    pub period_to: Timestamp,
    /// Sum of the rounded lines: the invoice's total if it were written now.
    pub total: String,
    /// The same before rounding, cut after six decimals.
    pub unrounded_total: String,
    /// Line by line.
    pub lines: Vec<LineSoFar>,
}

/// One line of a draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineSoFar {
    /// What the customer reads.
    pub title: String,
    /// Whose usage it is, where each workload is rated by itself.
    #[schema(value_type = Option<String>)]
    pub workload: Option<WorkloadName>,
    /// In billing units.
    pub quantity: String,
    /// The billing unit.
    pub unit: String,
    /// Rounded.
    pub amount: String,
    /// Before rounding, cut after six decimals.
    pub unrounded: String,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NodeToday {
    /// Its id.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `active`, `banned` or `retired`.
    pub state: String,
    /// Since when it is silent: active, and without a segment for longer than it may be.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub silent_since: Option<Timestamp>,
    /// The last segment admitted.
    pub last_segment: Option<LastSegment>,
    /// Today's time, by how well it is accounted for.
    pub coverage: Coverage,
    /// Today's gaps that the node names: time in which nothing of it was measured.
    pub gaps: Vec<NamedGap>,
    /// Now − the instant up to which the node's time is accounted for, in microseconds; none before the
    /// first segment. A segment ahead of the server's clock does not count.
    #[schema(value_type = Option<u64>)]
    pub lag: Option<Micros>,
    /// What it sent and was refused, ever.
    pub refused: u64,
    /// Segments stored but not counted, ever.
    pub quarantined: u64,
    /// Hours and meters in which its total is not what its workloads come to, ever.
    pub unbalanced: u64,
}

/// A node's last segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LastSegment {
    /// Its stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// Its number.
    #[schema(value_type = u64)]
    pub seq: Seq,
    /// When it was committed.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// Up to when it accounts for time.
    #[schema(value_type = String, format = DateTime)]
    pub covered_through: Timestamp,
}

/// Time in which nothing was measured on a node, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct NamedGap {
    /// First instant.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// `agent_down`, `node_down`, `suspended`, `source_unreadable`, `clock_step`, `lost_before_seal`,
    /// `new_stream` or `thinned`.
    #[schema(value_type = String)]
    pub cause: Cause,
}

/// Microseconds of a span of time, by how well they are accounted for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Coverage {
    /// Measured.
    #[schema(value_type = u64)]
    pub exact: Micros,
    /// Known in sum only.
    #[schema(value_type = u64)]
    pub interpolated: Micros,
    /// Accounted for as not measured: by the host's register, or by a named gap.
    #[schema(value_type = u64)]
    pub unmeasured: Micros,
    /// Sealed and kept, but not counted until a person decides.
    #[schema(value_type = u64)]
    pub quarantined: Micros,
    /// Time that nobody spoke of.
    #[schema(value_type = u64)]
    pub missing: Micros,
}

impl NodeToday {
    /// Why its gaps are, each cause once, in words.
    #[must_use]
    pub fn causes(&self) -> String {
        let causes: BTreeSet<Cause> = self.gaps.iter().map(|gap| gap.cause).collect();
        let words: Vec<String> = causes.iter().map(ToString::to_string).collect();
        words.join(", ")
    }
}
