//! The console's pages as text. Pure: figures in, HTML out.
//!
//! Owns how things look. Computes no figure that the API does not give: quantities are only written
//! in larger units (cut, never rounded up), with the exact value beside them.

use askama::Template;
use tallystick_common::meter::Meter;

use crate::overview::{AccountSoFar, NodeToday, Overview};

mod chart;
mod human;
mod table;

use chart::Drawing;
use table::UsageTable;

/// The first page, whole.
///
/// # Errors
/// Never for templates that compile; askama's writer could fail in principle.
pub fn first_page(overview: &Overview) -> askama::Result<String> {
    FirstPage {
        live: Live::of(overview),
    }
    .render()
}

/// The part of the first page that is replaced every second.
///
/// # Errors
/// As [`first_page`].
pub fn first_page_fragment(overview: &Overview) -> askama::Result<String> {
    Live::of(overview).render()
}

/// Where a person gives an API token; `problem` says why the last try failed.
///
/// # Errors
/// As [`first_page`].
pub fn login_page(problem: Option<&str>) -> askama::Result<String> {
    LoginPage { problem }.render()
}

/// A draft or an issued invoice, with the steps of each line.
///
/// # Errors
/// As [`first_page`].
pub fn invoice_page(invoice: &InvoiceView) -> askama::Result<String> {
    InvoicePage { invoice }.render()
}

/// An invoice as its page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceView {
    /// `TS-2026-000001`, or none for a draft.
    pub number: Option<String>,
    /// Who owes.
    pub account: String,
    /// First instant of the period, as text.
    pub period_from: String,
    /// First instant after it, as text.
    pub period_to: String,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// Rounded.
    pub total: String,
    /// Before rounding, cut after six decimals.
    pub unrounded_total: String,
    /// Digest of the document, for issued ones.
    pub digest: Option<String>,
    /// Charges.
    pub lines: Vec<InvoiceLineView>,
    /// Outstanding nodes, gaps, and the rest that a reader must know.
    pub notes: Vec<String>,
    /// What it corrects, carries, and is corrected by.
    pub corrections: CorrectionsView,
}

/// What a document has to do with corrections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CorrectionsView {
    /// What the document is, unless it is an invoice.
    pub kind: Option<String>,
    /// The invoice that it corrects.
    pub corrects: Option<String>,
    /// What the document is over, where that is not the statement's total.
    pub amount: Option<String>,
    /// Why more or less is known.
    pub reasons: Vec<String>,
    /// What was said otherwise, by this document or by those that it carries.
    pub changes: Vec<ChangeView>,
    /// Documents that correct it.
    pub by: Vec<CorrectedBy>,
}

/// A line that was said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeView {
    /// What the customer reads.
    pub title: String,
    /// Now less then.
    pub difference: String,
    /// Then and now, in words; the line first, then its workloads.
    pub said: Vec<String>,
}

/// A document that corrects an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrectedBy {
    /// Its number.
    pub number: String,
    /// What it is.
    pub kind: String,
    /// The difference, with its currency.
    pub total: String,
}

/// A line of an invoice as its page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceLineView {
    /// What the customer reads.
    pub title: String,
    /// Node and workload, where each is rated by itself.
    pub of: Option<String>,
    /// In billing units, with the unit.
    pub quantity: String,
    /// In base units, with the unit: a whole number.
    pub exact: String,
    /// Rounded.
    pub amount: String,
    /// Before rounding.
    pub unrounded: String,
    /// The steps that led to the amount, in words.
    pub steps: Vec<String>,
}

#[derive(Template)]
#[template(path = "first_page.html")]
struct FirstPage<'a> {
    live: Live<'a>,
}

#[derive(Template)]
#[template(path = "live.html")]
struct Live<'a> {
    overview: &'a Overview,
    usage: UsageTable,
    chart: Drawing,
    nodes: Vec<NodeRow<'a>>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    problem: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "invoice.html")]
struct InvoicePage<'a> {
    invoice: &'a InvoiceView,
}

/// A node with its figures in words.
struct NodeRow<'a> {
    node: &'a NodeToday,
    age: String,
    lag: String,
    exact: String,
    interpolated: String,
    unmeasured: String,
    causes: String,
    doubted: String,
    missing: String,
    bar: Bar,
}

/// Coverage in thousandths of the day so far.
struct Bar {
    exact: u64,
    interpolated: u64,
    unmeasured: u64,
}

impl<'a> Live<'a> {
    fn of(overview: &'a Overview) -> Self {
        Self {
            overview,
            usage: UsageTable::of(&overview.usage),
            chart: Drawing::of(&overview.chart),
            nodes: overview
                .nodes
                .iter()
                .map(|node| NodeRow::of(node, overview))
                .collect(),
        }
    }

    /// Whether anything is used that nobody pays for.
    fn unassigned(&self) -> bool {
        self.overview
            .usage
            .iter()
            .any(|usage| usage.account.is_none() && !usage.workload.is_host())
    }

    fn has_lines(account: &AccountSoFar) -> bool {
        !account.lines.is_empty()
    }
}

impl<'a> NodeRow<'a> {
    fn of(node: &'a NodeToday, overview: &Overview) -> Self {
        let coverage = node.coverage;
        let parts = [
            coverage.exact,
            coverage.interpolated,
            coverage.unmeasured,
            coverage.quarantined,
            coverage.missing,
        ];
        let whole = parts.iter().map(|part| part.0).sum::<u64>().max(1);
        let thousandths =
            |part: u64| u64::try_from(u128::from(part) * 1000 / u128::from(whole)).unwrap_or(1000);
        let age = node
            .last_segment
            .as_ref()
            .map(|last| overview.at.since(last.received_at));
        Self {
            node,
            age: age.map_or_else(
                || "never".to_owned(),
                |age| format!("{} ago", human::duration(age.0)),
            ),
            lag: node
                .lag
                .map_or_else(|| "–".to_owned(), |lag| human::duration(lag.0)),
            exact: human::duration(coverage.exact.0),
            interpolated: human::duration(coverage.interpolated.0),
            unmeasured: human::duration(coverage.unmeasured.0),
            causes: node.causes(),
            doubted: human::duration(coverage.quarantined.0),
            missing: human::duration(coverage.missing.0),
            bar: Bar {
                exact: thousandths(coverage.exact.0),
                interpolated: thousandths(coverage.interpolated.0),
                unmeasured: thousandths(coverage.unmeasured.0),
            },
        }
    }
}

/// The meters that stand in the usage table, with their headings.
const COLUMNS: [(Meter, &str); 9] = [
    (Meter::CPU_TIME, "CPU time"),
    (Meter::MEMORY_USAGE, "Memory"),
    (Meter::MEMORY_PEAK, "Peak"),
    (Meter::DISK_READ, "Disk read"),
    (Meter::DISK_WRITE, "Disk write"),
    (Meter::NETWORK_RX, "Received"),
    (Meter::NETWORK_TX, "Sent"),
    (Meter::STORAGE_USED, "Storage"),
    (Meter::UPTIME, "Uptime"),
];

#[cfg(test)]
mod tests;
