//! The shapes of drafts and invoices for the OpenAPI document.
//!
//! The types themselves belong to `tallystick_common`, which knows no HTTP. These mirror them; a
//! test reads real documents into them, so that a field that is missing here fails.

#![expect(
    missing_docs,
    reason = "fields are documented where the types are defined"
)]

use serde::Deserialize;
use utoipa::ToSchema;

/// A whole number of minor units of one currency.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Money {
    #[schema(example = "12.34")]
    pub amount: String,
    #[schema(example = "EUR")]
    pub currency: String,
}

/// `[from, to)`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Period {
    #[schema(format = DateTime)]
    pub from: String,
    #[schema(format = DateTime)]
    pub to: String,
}

/// Who owes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountRef {
    pub id: String,
    pub name: String,
    pub currency: String,
    pub zone: String,
}

/// A plan as used by a statement.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanUse {
    pub name: String,
    pub title: String,
    pub digest: String,
    pub window: Period,
}

/// A workload of a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRef {
    pub node_name: String,
    pub node: String,
    pub workload: String,
}

/// What one register counted: closing − opening, whole numbers as text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterSpan {
    pub stream: String,
    pub register: u64,
    #[schema(format = DateTime)]
    pub from: String,
    #[schema(format = DateTime)]
    pub to: String,
    pub opening: String,
    pub closing: String,
}

/// One workload's part of a line. Times in microseconds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    pub of: WorkloadRef,
    pub window: Period,
    pub quantity: String,
    pub measured: u64,
    pub interpolated: u64,
    pub unmeasured: u64,
    pub registers: Vec<RegisterSpan>,
}

/// One charge. `quantity` in base units, `units` in billing units, both exact.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub id: String,
    pub plan: String,
    pub price: String,
    pub title: String,
    pub window: Period,
    pub meter: String,
    pub base_unit: String,
    pub per: String,
    pub scope: String,
    pub workload: Option<WorkloadRef>,
    pub quantity: String,
    pub units: String,
    pub unrounded: String,
    pub amount: Money,
    pub interpolated: u64,
    pub unmeasured: u64,
    /// Each with its kind in `step`: convert, allowance, per_unit, tier, volume, sum, round.
    pub steps: Vec<serde_json::Value>,
    pub details: Vec<Detail>,
}

/// Usage that no line charges.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Unpriced {
    pub reason: String,
    pub meter: String,
    pub detail: Detail,
}

/// Usage that differs from what its registers counted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Discrepancy {
    pub of: WorkloadRef,
    pub meter: String,
    pub window: Period,
    pub quantity: String,
    pub counted: String,
}

/// What an account owes for a period.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    pub rating_version: u32,
    pub account: AccountRef,
    pub seller: String,
    pub buyer: String,
    pub period: Period,
    pub currency: String,
    pub plans: Vec<PlanUse>,
    pub lines: Vec<Line>,
    pub unpriced: Vec<Unpriced>,
    /// Exact: a decimal, or a fraction such as 1/3.
    pub unrounded_total: String,
    pub total: Money,
    /// Each with its kind in `note`: outstanding, gap, remark.
    pub notes: Vec<serde_json::Value>,
    pub discrepancies: Vec<Discrepancy>,
}

/// A node that has not accounted for the whole period.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Outstanding {
    pub node: String,
    pub node_name: String,
    pub state: String,
    #[schema(format = DateTime)]
    pub covered_through: Option<String>,
}

/// Up to where one stream was counted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CutPosition {
    pub node: String,
    pub stream: String,
    pub seq: u64,
    pub hash: String,
    #[schema(format = DateTime)]
    pub covered_through: String,
    /// Segments since the period's beginning that are held and not counted; left out when there is none.
    #[serde(default)]
    pub quarantined: Vec<u64>,
    /// Decisions of persons on segments since then; left out when there is none.
    #[serde(default)]
    pub decisions: Vec<CutDecision>,
}

/// A decision that a statement was made by.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CutDecision {
    pub number: u64,
    /// `accept`, `reject`, `keep_admitted`, `keep_other` or `revoke`.
    pub kind: String,
    pub first: u64,
    /// Left out when it is about everything from the first on.
    pub last: Option<u64>,
    #[schema(format = DateTime)]
    pub decided_at: String,
}

/// BLAKE3 digests of what decided the amounts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    pub account: String,
    pub assignments: String,
    pub subscriptions: String,
    pub plans: Vec<String>,
    pub statement: String,
}

/// The period was closed although nodes were outstanding.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptedGaps {
    pub reason: String,
    pub by: String,
    pub outstanding: Vec<Outstanding>,
}

/// A draft: what an invoice would say if it were issued now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    #[schema(format = DateTime)]
    pub at: String,
    pub statement: Statement,
    pub unrounded_total_cut: String,
    pub outstanding: Vec<Outstanding>,
    pub missing: Vec<Outstanding>,
    pub cut: Vec<CutPosition>,
    pub digests: Digests,
}

/// An issued invoice, or a correction of one, whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    pub document_version: u32,
    #[schema(example = "TS-2026-000001")]
    pub number: String,
    #[schema(format = DateTime)]
    pub issued_at: String,
    pub issued_by: String,
    pub rating_version: u32,
    pub tz_database: String,
    pub statement: Statement,
    pub cut: Vec<CutPosition>,
    pub digests: Digests,
    pub accepted_gaps: Option<AcceptedGaps>,
    pub correction: Option<Correction>,
    /// Corrections of earlier periods that it demands beside its statement; left out when there is none.
    #[serde(default)]
    pub carried: Vec<Carried>,
    /// The statement's total and theirs.
    pub due: Option<Money>,
}

/// How one workload's part of a line differs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailChange {
    pub of: WorkloadRef,
    pub quantity_then: String,
    pub quantity_now: String,
    pub registers_then: Vec<RegisterSpan>,
    pub registers_now: Vec<RegisterSpan>,
}

/// How a line of an earlier document differs from what is known now.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CorrectionLine {
    pub id: String,
    pub plan: String,
    pub price: String,
    pub title: String,
    pub window: Period,
    pub meter: String,
    pub base_unit: String,
    pub per: String,
    pub workload: Option<WorkloadRef>,
    pub quantity_then: String,
    pub quantity_now: String,
    pub amount_then: Money,
    pub amount_now: Money,
    pub difference: Money,
    pub unrounded_difference: String,
    pub details: Vec<DetailChange>,
}

/// How two statements of a period differ.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    pub lines: Vec<CorrectionLine>,
    pub total: Money,
    pub unrounded_total: String,
}

/// What a correction is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionKind {
    CreditNote,
    CorrectionInvoice,
    NextInvoice,
}

/// A document by number and digest.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub number: String,
    pub digest: String,
}

/// The part of a document that makes it a correction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    pub kind: CorrectionKind,
    pub invoice: Named,
    pub base: Named,
    #[schema(format = DateTime)]
    pub agreed_at: String,
    /// Each with its kind in `reason`: late, accepted, withdrawn, reassigned.
    pub reasons: Vec<serde_json::Value>,
    pub differences: Differences,
}

/// A correction that an invoice carries.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    pub correction: Named,
    pub invoice: String,
    pub period: Period,
    pub lines: Vec<CorrectionLine>,
    pub total: Money,
}

/// What correcting a period now would say.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CorrectionDraft {
    #[schema(format = DateTime)]
    pub at: String,
    pub correction: Correction,
    pub statement: Statement,
    pub outstanding: Vec<Outstanding>,
    pub cut: Vec<CutPosition>,
}
