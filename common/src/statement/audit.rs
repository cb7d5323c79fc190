//! Checks of the input before anything is computed from it.
//!
//! What would bill wrongly is an error; usage that its registers do not bear out is listed.

use super::{Discrepancy, PlanWindow, RegisterSpan, StatementError, StatementInput, UsageItem};
use crate::meter::Kind;
use crate::period::Period;

pub(super) fn check(input: &StatementInput) -> Result<(), StatementError> {
    check_span("the period", &input.period)?;
    for window in &input.windows {
        check_window(input, window)?;
    }
    check_overlaps(&input.windows)?;
    for item in &input.usage {
        check_usage(input, item)?;
    }
    check_counted_once(&input.usage)
}

fn check_span(what: &str, span: &Period) -> Result<(), StatementError> {
    if span.from < span.to && span.from.is_quarter_hour() && span.to.is_quarter_hour() {
        return Ok(());
    }
    Err(StatementError::Span {
        what: what.to_owned(),
        from: span.from,
        to: span.to,
    })
}

fn check_window(input: &StatementInput, window: &PlanWindow) -> Result<(), StatementError> {
    let plan = &window.plan;
    check_span(
        &format!("the subscription to plan {:?}", plan.name),
        &window.window(),
    )?;
    if plan.currency != input.account.currency {
        return Err(StatementError::Currency {
            plan: plan.name.clone(),
            found: plan.currency,
            expected: input.account.currency,
        });
    }
    plan.check().first().map_or(Ok(()), |problem| {
        Err(StatementError::Plan {
            plan: plan.name.clone(),
            problem: problem.to_string(),
        })
    })
}

fn check_overlaps(windows: &[PlanWindow]) -> Result<(), StatementError> {
    for (index, second) in windows.iter().enumerate() {
        for first in &windows[..index] {
            if first.window().overlap(&second.window()).is_none() {
                continue;
            }
            if let Some(what) = charged_by_both(first, second) {
                return Err(StatementError::DoubleBilling {
                    first: first.plan.name.clone(),
                    second: second.plan.name.clone(),
                    what,
                });
            }
        }
    }
    Ok(())
}

/// What two plans both charge: a meter, or everything when they have one name.
fn charged_by_both(first: &PlanWindow, second: &PlanWindow) -> Option<String> {
    if first.plan.name == second.plan.name {
        return Some("the same prices".to_owned());
    }
    let mut charged = first.plan.prices.iter();
    let both = charged.find(|price| {
        let mut others = second.plan.prices.iter();
        others.any(|other| (other.meter, &other.app_meter) == (price.meter, &price.app_meter))
    })?;
    Some(match &both.app_meter {
        Some(name) => format!("{} {name}", both.meter),
        None => both.meter.to_string(),
    })
}

fn check_usage(input: &StatementInput, item: &UsageItem) -> Result<(), StatementError> {
    if item.workload.is_host() {
        return Err(StatementError::Host(item.workload.clone()));
    }
    let span = item.window();
    if span.from >= span.to {
        let what = format!("usage of {} by {}", item.meter, item.workload);
        return Err(StatementError::Span {
            what,
            from: span.from,
            to: span.to,
        });
    }
    let crossed = input
        .windows
        .iter()
        .map(PlanWindow::window)
        .find(|window| window.overlap(&span).is_some() && !window.covers(&span));
    let outside = (!input.period.covers(&span)).then_some(input.period);
    match outside.or(crossed) {
        None => Ok(()),
        Some(bound) => Err(StatementError::Crosses {
            meter: item.meter,
            workload: item.workload.clone(),
            usage: span,
            bound,
        }),
    }
}

fn check_counted_once(usage: &[UsageItem]) -> Result<(), StatementError> {
    let mut spans: Vec<_> = usage
        .iter()
        .flat_map(|item| &item.registers)
        .map(|span| (span.stream, span.register, span.from, span.to))
        .collect();
    spans.sort_unstable();
    for pair in spans.windows(2) {
        let ((stream, register, _, end), (next_stream, next_register, begin, _)) =
            (pair[0], pair[1]);
        let same = (stream, register) == (next_stream, next_register);
        if same && (begin < end || pair[0] == pair[1]) {
            return Err(StatementError::CountedTwice {
                stream,
                register,
                at: begin,
            });
        }
    }
    Ok(())
}

/// Where an item's quantity is not what its registers counted (I3): without registers, nothing.
pub(super) fn discrepancy(item: &UsageItem) -> Option<Discrepancy> {
    let counted = match item.meter.kind() {
        Kind::Counter | Kind::Integral => counted(&item.registers),
        Kind::Peak => Some(highest(&item.registers, item.quantity)),
    };
    (counted != Some(item.quantity)).then(|| Discrepancy {
        of: item.of(),
        meter: item.meter,
        window: item.window(),
        quantity: item.quantity,
        counted: counted.unwrap_or_default(),
    })
}

/// Sum of closing − opening; none when a register fell or the sum exceeds 128 bits.
fn counted(registers: &[RegisterSpan]) -> Option<u128> {
    registers.iter().try_fold(0_u128, |sum, span| {
        sum.checked_add(span.closing.0.checked_sub(span.opening.0)?)
    })
}

/// The maximum that peak registers allow: a register that rose says exactly which, one that did not
/// only bounds it.
fn highest(registers: &[RegisterSpan], quantity: u128) -> u128 {
    let bound = registers.iter().map(|span| span.closing.0).max();
    let risen = registers.iter().filter(|span| span.closing > span.opening);
    let least = risen.map(|span| span.closing.0).max().unwrap_or(0);
    quantity.clamp(least, bound.unwrap_or(0))
}
