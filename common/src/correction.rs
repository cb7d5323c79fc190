//! Corrections: what a period costs by what is known now, less what was said of it before.
//!
//! Owns how two statements of one account and period are compared, line by line, and the part of a document
//! that says so. Pure: both statements are computed elsewhere, at the period's own prices. What was said before
//! is the latest document of the period, earlier corrections included, so the amounts of all its documents add
//! up to the newest statement's total, in whatever order and however late usage arrived.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Hash, NodeId, Seq, StreamId, WorkloadName};
use crate::meter::{Meter, Unit};
use crate::money::{Exact, Money, MoneyError, whole};
use crate::period::Period;
use crate::price::BillingUnit;
use crate::statement::{Detail, Line, RegisterSpan, Statement, WorkloadRef};
use crate::time::Timestamp;

/// How a line of an earlier document differs from what is known now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectionLine {
    /// The line's id, in both statements.
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
    /// Whose usage it is, where each workload is rated by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadRef>,
    /// As said before, in the base unit.
    #[serde(with = "whole")]
    pub quantity_then: u128,
    /// As known now.
    #[serde(with = "whole")]
    pub quantity_now: u128,
    /// As said before.
    pub amount_then: Money,
    /// As known now.
    pub amount_now: Money,
    /// Now less then.
    pub difference: Money,
    /// The same of the exact amounts.
    pub unrounded_difference: Exact,
    /// Workloads whose part differs.
    pub details: Vec<DetailChange>,
}

/// How one workload's part of a line differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetailChange {
    /// Whose.
    pub of: WorkloadRef,
    /// As said before, in the base unit.
    #[serde(with = "whole")]
    pub quantity_then: u128,
    /// As known now.
    #[serde(with = "whole")]
    pub quantity_now: u128,
    /// Spans of registers that counted it then, and are not the same now.
    pub registers_then: Vec<RegisterSpan>,
    /// Spans of registers that count it now, and were not the same then.
    pub registers_now: Vec<RegisterSpan>,
}

/// How two statements differ. Without lines they charge the same for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    /// In the order of the newer statement, then those that it has no more.
    pub lines: Vec<CorrectionLine>,
    /// The lines' differences added: the newer total less the older one.
    pub total: Money,
    /// The same of the exact amounts.
    pub unrounded_total: Exact,
}

/// What a correction is as a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionKind {
    /// Less is owed than was said.
    CreditNote,
    /// As much or more is owed, by this document.
    CorrectionInvoice,
    /// As much or more is owed; the account's next invoice carries the lines and demands the amount.
    NextInvoice,
}

/// A document by number and digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Its number.
    pub number: String,
    /// BLAKE3 of its bytes.
    pub digest: Hash,
}

/// Why more or less is known now than then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reason {
    /// Segments with time in the period came after the cut.
    Late {
        /// Whose.
        node: NodeId,
        /// Its name.
        node_name: String,
        /// The stream.
        stream: StreamId,
        /// The first of them.
        first: Seq,
        /// The last of them.
        last: Seq,
        /// How many of them have time in the period.
        segments: u64,
    },
    /// Segments that were held are counted now.
    Accepted {
        /// Whose.
        node: NodeId,
        /// Its name.
        node_name: String,
        /// The stream.
        stream: StreamId,
        /// Which.
        segments: Vec<Seq>,
    },
    /// Segments that were counted are held now.
    Withdrawn {
        /// Whose.
        node: NodeId,
        /// Its name.
        node_name: String,
        /// The stream.
        stream: StreamId,
        /// Which.
        segments: Vec<Seq>,
    },
    /// It was decided anew whose usage is.
    Reassigned {
        /// The account's own assignments that were made since, by number.
        own: Vec<i64>,
        /// How many of others were made since that are effective in the period.
        others: u64,
    },
}

/// The part of a document that makes it a correction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// What it is.
    pub kind: CorrectionKind,
    /// The invoice that it corrects.
    pub invoice: Named,
    /// What spoke last of the period: that invoice, or a correction of it.
    pub base: Named,
    /// When the invoice was issued: subscriptions and plans are those that were agreed by then.
    pub agreed_at: Timestamp,
    /// Why.
    pub reasons: Vec<Reason>,
    /// How the document's statement differs from the base's.
    pub differences: Differences,
}

/// A correction that an invoice carries: its lines, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The correction.
    pub correction: Named,
    /// Number of the invoice that it corrects.
    pub invoice: String,
    /// For which time.
    pub period: Period,
    /// What differs.
    pub lines: Vec<CorrectionLine>,
    /// The lines' differences added.
    pub total: Money,
}

/// Why two statements cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorrectionError {
    /// They are of different things.
    #[error(
        "the statements are of two {0}s: only those of one account, currency and period differ by a correction"
    )]
    Unlike(&'static str),
    /// A statement has a line twice.
    #[error("line {0} is in one statement twice")]
    Twice(String),
    /// A statement's total is not that of its lines.
    #[error(
        "the lines' differences add up to {lines}, the totals differ by {totals}: a statement does not add up"
    )]
    Sum {
        /// By the lines.
        lines: Money,
        /// By the totals.
        totals: Money,
    },
    /// An amount is too large.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// Exact amounts have too many digits.
    #[error("the exact difference of line {0} has too many digits")]
    Exact(String),
}

impl CorrectionKind {
    /// Whether a correction of that total may be of this kind.
    #[must_use]
    pub fn fits(self, total: Money) -> bool {
        (self == Self::CreditNote) == (total.minor() < 0)
    }
}

impl Differences {
    /// Whether there is nothing to correct.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.lines.is_empty()
    }
}

/// What `now` says otherwise than `then`. Times beside quantities are not charged, and not compared.
///
/// # Errors
/// When the statements are not of one account, currency and period, or do not add up.
pub fn differences(then: &Statement, now: &Statement) -> Result<Differences, CorrectionError> {
    check_alike(then, now)?;
    let before = by_id(then)?;
    let after = by_id(now)?;
    let mut lines = Vec::new();
    for line in &now.lines {
        let before = before.get(line.id.as_str()).copied();
        lines.extend(changed(before, Some(line), now)?);
    }
    let gone = then.lines.iter();
    for line in gone.filter(|line| !after.contains_key(line.id.as_str())) {
        lines.extend(changed(Some(line), None, now)?);
    }
    let total = sum(&lines, now)?;
    let totals = now.total.checked_sub(then.total)?;
    if total != totals {
        let lines = total;
        return Err(CorrectionError::Sum { lines, totals });
    }
    let unrounded = Exact::sum(lines.iter().map(|line| &line.unrounded_difference));
    Ok(Differences {
        unrounded_total: unrounded.ok_or_else(|| CorrectionError::Exact("total".to_owned()))?,
        lines,
        total,
    })
}

fn check_alike(then: &Statement, now: &Statement) -> Result<(), CorrectionError> {
    for (what, alike) in [
        ("account", then.account.id == now.account.id),
        ("currency", then.currency == now.currency),
        ("period", then.period == now.period),
    ] {
        if !alike {
            return Err(CorrectionError::Unlike(what));
        }
    }
    Ok(())
}

fn by_id(statement: &Statement) -> Result<BTreeMap<&str, &Line>, CorrectionError> {
    let mut lines = BTreeMap::new();
    for line in &statement.lines {
        if lines.insert(line.id.as_str(), line).is_some() {
            return Err(CorrectionError::Twice(line.id.clone()));
        }
    }
    Ok(lines)
}

fn sum(lines: &[CorrectionLine], of: &Statement) -> Result<Money, CorrectionError> {
    let differences = lines.iter().map(|line| line.difference);
    let mut sum = Money::zero(of.currency);
    for difference in differences {
        sum = sum.checked_add(difference)?;
    }
    Ok(sum)
}

/// The line's difference, unless it charges the same for the same. A line that is not there charges nothing.
fn changed(
    then: Option<&Line>,
    now: Option<&Line>,
    of: &Statement,
) -> Result<Option<CorrectionLine>, CorrectionError> {
    let Some(line) = now.or(then) else {
        return Ok(None);
    };
    let details = changed_details(then, now);
    let quantity = |line: Option<&Line>| line.map_or(0, |line| line.quantity);
    let amount = |line: Option<&Line>| line.map_or(Money::zero(of.currency), |line| line.amount);
    let exact = |line: Option<&Line>| line.map_or(Exact::ZERO, |line| line.unrounded);
    let unrounded_difference = exact(now)
        .checked_sub(&exact(then))
        .ok_or_else(|| CorrectionError::Exact(line.id.clone()))?;
    let difference = amount(now).checked_sub(amount(then))?;
    let same = quantity(now) == quantity(then)
        && difference.is_zero()
        && unrounded_difference.is_zero()
        && details.is_empty();
    if same {
        return Ok(None);
    }
    Ok(Some(CorrectionLine {
        id: line.id.clone(),
        plan: line.plan.clone(),
        price: line.price.clone(),
        title: line.title.clone(),
        window: line.window,
        meter: line.meter,
        base_unit: line.base_unit,
        per: line.per,
        workload: line.workload.clone(),
        quantity_then: quantity(then),
        quantity_now: quantity(now),
        amount_then: amount(then),
        amount_now: amount(now),
        difference,
        unrounded_difference,
        details,
    }))
}

type Parts<'a> = BTreeMap<(NodeId, &'a WorkloadName), &'a Detail>;

fn parts(line: Option<&Line>) -> Parts<'_> {
    let details = line.into_iter().flat_map(|line| &line.details);
    let key = |detail: &Detail| detail.of.node;
    details
        .map(|detail| ((key(detail), &detail.of.workload), detail))
        .collect()
}

fn changed_details(then: Option<&Line>, now: Option<&Line>) -> Vec<DetailChange> {
    let (then, now) = (parts(then), parts(now));
    let keys: BTreeSet<_> = then.keys().chain(now.keys()).collect();
    let changes = keys.into_iter().filter_map(|key| {
        let (then, now) = (then.get(key).copied(), now.get(key).copied());
        detail_change(then, now)
    });
    changes.collect()
}

fn detail_change(then: Option<&Detail>, now: Option<&Detail>) -> Option<DetailChange> {
    let quantity = |detail: Option<&Detail>| detail.map_or(0, |detail| detail.quantity);
    if quantity(then) == quantity(now) {
        return None;
    }
    Some(DetailChange {
        of: now.or(then)?.of.clone(),
        quantity_then: quantity(then),
        quantity_now: quantity(now),
        registers_then: only_in(then, now),
        registers_now: only_in(now, then),
    })
}

fn only_in(one: Option<&Detail>, other: Option<&Detail>) -> Vec<RegisterSpan> {
    let spans = |detail: Option<&Detail>| -> Vec<RegisterSpan> {
        detail.map_or_else(Vec::new, |detail| detail.registers.clone())
    };
    let others = spans(other);
    let mut own = spans(one);
    own.retain(|span| !others.contains(span));
    own
}

#[cfg(test)]
mod tests;
