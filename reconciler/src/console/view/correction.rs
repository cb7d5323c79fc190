//! Corrections in words, for the console and the command line.

use tallystick_common::correction::{
    Carried, Correction, CorrectionKind, CorrectionLine, DetailChange, Reason,
};

/// What a correction is.
pub(crate) fn kind_told(kind: CorrectionKind) -> &'static str {
    match kind {
        CorrectionKind::CreditNote => "credit note",
        CorrectionKind::CorrectionInvoice => "correction invoice",
        CorrectionKind::NextInvoice => "correction for the next invoice",
    }
}

/// Why more or less is known.
pub(crate) fn reason_told(reason: &Reason) -> String {
    match reason {
        Reason::Late {
            node_name,
            stream,
            first,
            last,
            segments,
            ..
        } => format!(
            "{node_name} sent segments {first} to {last} of stream {stream} later ({segments} with time in the period)"
        ),
        Reason::Accepted {
            node_name,
            stream,
            segments,
            ..
        } => format!(
            "segments of {node_name} that were held are counted: {} of stream {stream}",
            list(segments)
        ),
        Reason::Withdrawn {
            node_name,
            stream,
            segments,
            ..
        } => format!(
            "segments of {node_name} that were counted are held: {} of stream {stream}",
            list(segments)
        ),
        Reason::Reassigned { own, others } => format!(
            "assignments were made: {}, and {others} of others",
            match own.as_slice() {
                [] => "none of the account".to_owned(),
                own => format!("of the account {}", list(own)),
            }
        ),
    }
}

fn list<T: std::fmt::Display>(of: &[T]) -> String {
    let words: Vec<String> = of.iter().map(T::to_string).collect();
    words.join(", ")
}

/// What a line is about.
pub(crate) fn line_title(line: &CorrectionLine) -> String {
    match &line.workload {
        Some(of) => format!("{} · {} on {}", line.title, of.workload, of.node_name),
        None => line.title.clone(),
    }
}

/// What was said and what is known, of the whole line.
pub(crate) fn line_told(line: &CorrectionLine) -> String {
    let unit = line.base_unit;
    format!(
        "{} {unit} were {}, {} {unit} are {}",
        line.quantity_then, line.amount_then, line.quantity_now, line.amount_now
    )
}

/// The same of a workload's part, with the registers that counted it.
pub(crate) fn detail_told(detail: &DetailChange) -> String {
    let registers = |spans: &[tallystick_common::statement::RegisterSpan]| {
        let of = spans.iter().map(|span| {
            format!(
                "register {}: {} at {}, {} at {}",
                span.register, span.opening, span.from, span.closing, span.to
            )
        });
        of.collect::<Vec<_>>().join(", ")
    };
    let mut text = format!(
        "{} on {}: {} before, {} now",
        detail.of.workload, detail.of.node_name, detail.quantity_then, detail.quantity_now
    );
    for (when, spans) in [
        ("before", &detail.registers_then),
        ("now", &detail.registers_now),
    ] {
        if !spans.is_empty() {
            text.push_str(&format!("; {when} by {}", registers(spans)));
        }
    }
    text
}

/// Lines of a correction as text.
pub(crate) fn lines_told(lines: &[CorrectionLine]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&format!("{}  {}\n", line_title(line), line.difference));
        text.push_str(&format!("    {}\n", line_told(line)));
        for detail in &line.details {
            text.push_str(&format!("    {}\n", detail_told(detail)));
        }
    }
    text
}

/// A correction as text: what it corrects, why, by how much.
pub(crate) fn told(correction: &Correction) -> String {
    let Correction {
        kind,
        invoice,
        base,
        reasons,
        differences,
        ..
    } = correction;
    if differences.is_none() {
        return format!("Nothing differs from {}\n", base.number);
    }
    let mut text = format!("{} of {}", kind_told(*kind), invoice.number);
    if base != invoice {
        text.push_str(&format!(", after {}", base.number));
    }
    text.push('\n');
    for reason in reasons {
        text.push_str(&format!("    because {}\n", reason_told(reason)));
    }
    text.push_str(&format!("\n{}", lines_told(&differences.lines)));
    text.push_str(&format!("Difference  {}\n", differences.total));
    text
}

/// A correction that an invoice carries.
pub(crate) fn carried_told(carried: &Carried) -> String {
    format!(
        "Carried from {}, correction of {} for {}: {}",
        carried.correction.number, carried.invoice, carried.period, carried.total
    )
}
