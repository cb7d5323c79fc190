//! Statements and issued invoices as their page shows them.

use tallystick_common::correction::CorrectionLine;
use tallystick_common::statement::{Discrepancy, Line, Note, Statement};

use super::pages::{ChangeView, CorrectedBy, CorrectionsView, InvoiceLineView, InvoiceView};
use crate::billing::document::{AcceptedGaps, InvoiceDocument};
use crate::store::StoreError;
use crate::store::billing::InvoiceRow;
use crate::store::corrections::CorrectionRow;

pub(crate) mod correction;

use correction::{carried_told, detail_told, kind_told, line_title, line_told, reason_told};

/// A draft.
pub(crate) fn of_statement(statement: &Statement) -> InvoiceView {
    InvoiceView {
        number: None,
        account: statement.account.name.clone(),
        period_from: statement.period.from.to_string(),
        period_to: statement.period.to.to_string(),
        currency: statement.currency.code().to_owned(),
        total: statement.total.amount(),
        unrounded_total: statement.unrounded_total.cut(6),
        digest: None,
        lines: statement.lines.iter().map(line).collect(),
        notes: statement
            .notes
            .iter()
            .map(note)
            .chain(statement.discrepancies.iter().map(discrepancy))
            .collect(),
        corrections: CorrectionsView::default(),
    }
}

/// An issued invoice or correction, from its frozen document, and what corrects it.
pub(super) fn of_invoice(
    row: &InvoiceRow,
    corrected_by: &[CorrectionRow],
) -> Result<InvoiceView, StoreError> {
    let document: InvoiceDocument = serde_json::from_str(&row.document)
        .map_err(|error| StoreError::damaged("invoices.document", error))?;
    let mut view = of_statement(&document.statement);
    view.number = Some(document.number.clone());
    view.digest = Some(row.digest.clone());
    view.notes
        .extend(document.accepted_gaps.as_ref().map(accepted));
    view.corrections = corrections(&document);
    view.corrections.by = corrected_by.iter().map(by).collect();
    Ok(view)
}

fn corrections(document: &InvoiceDocument) -> CorrectionsView {
    let of = document.correction.as_ref();
    let own = of.map(|of| of.differences.lines.as_slice());
    let carried = document.carried.iter();
    let lines = own
        .into_iter()
        .chain(carried.clone().map(|carried| carried.lines.as_slice()));
    let reasons = of.into_iter().flat_map(|of| &of.reasons).map(reason_told);
    let amount = document.amount();
    CorrectionsView {
        kind: of.map(|of| kind_told(of.kind).to_owned()),
        corrects: of.map(|of| of.invoice.number.clone()),
        amount: (amount != document.statement.total).then(|| amount.to_string()),
        reasons: reasons.chain(carried.map(carried_told)).collect(),
        changes: lines.flatten().map(change).collect(),
        by: Vec::new(),
    }
}

fn change(line: &CorrectionLine) -> ChangeView {
    let details = line.details.iter().map(detail_told);
    ChangeView {
        title: line_title(line),
        difference: line.difference.to_string(),
        said: std::iter::once(line_told(line)).chain(details).collect(),
    }
}

fn by(row: &CorrectionRow) -> CorrectedBy {
    CorrectedBy {
        number: row.issued.number.clone(),
        kind: kind_told(row.kind).to_owned(),
        total: row.issued.total.to_string(),
    }
}

fn accepted(gaps: &AcceptedGaps) -> String {
    format!("closed with gaps by {}: {}", gaps.by, gaps.reason)
}

fn line(line: &Line) -> InvoiceLineView {
    InvoiceLineView {
        title: line.title.clone(),
        of: line
            .workload
            .as_ref()
            .map(|of| format!("{} on {}", of.workload, of.node_name)),
        quantity: format!("{} {}", line.units.cut(6), line.per.name()),
        exact: format!("{} {}", line.quantity, line.base_unit),
        amount: line.amount.amount(),
        unrounded: line.unrounded.cut(6),
        steps: line.steps.iter().map(ToString::to_string).collect(),
    }
}

/// A discrepancy of a statement in words.
pub(crate) fn discrepancy(wrong: &Discrepancy) -> String {
    format!(
        "Discrepancy: {} of {} on {}, {}: {} to be billed, {} counted by its registers",
        wrong.meter,
        wrong.of.workload,
        wrong.of.node_name,
        wrong.window,
        wrong.quantity,
        wrong.counted
    )
}

/// A note of a statement in words.
pub(crate) fn note(note: &Note) -> String {
    match note {
        Note::Outstanding {
            node_name,
            covered_through: Some(at),
            ..
        } => {
            format!("{node_name} has accounted for its time until {at} only")
        }
        Note::Outstanding {
            node_name,
            covered_through: None,
            ..
        } => {
            format!("{node_name} has sent nothing yet")
        }
        Note::Gap {
            node_name,
            from,
            to,
            cause,
            ..
        } => {
            format!("nothing was measured on {node_name} from {from} to {to}: {cause}")
        }
        Note::Remark { text } => text.clone(),
    }
}
