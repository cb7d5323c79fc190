//! The graduated model: tiers fill one after the other, each part is charged at its tier's price.

use super::RatingError;
use super::step::{Step, Steps};
use super::tiers::{Span, reached};
use crate::money::Exact;
use crate::price::Tiers;

pub(super) fn amount(
    tiers: &Tiers,
    units: &Exact,
    steps: &mut impl Steps,
) -> Result<Exact, RatingError> {
    let spans = reached(tiers, units)?;
    let mut sum = Exact::ZERO;
    for span in &spans {
        let amount = charge(span, tiers, units, steps)?;
        sum = sum
            .checked_add(&amount)
            .ok_or(RatingError::Overflow("the sum of the tiers"))?;
    }
    if spans.len() > 1 {
        steps.record(|| Step::Sum { amount: sum });
    }
    Ok(sum)
}

fn charge(
    span: &Span,
    tiers: &Tiers,
    units: &Exact,
    steps: &mut impl Steps,
) -> Result<Exact, RatingError> {
    let top = span.up_to.filter(|bound| bound < units).unwrap_or(*units);
    let quantity = top
        .checked_sub(&span.above)
        .ok_or(RatingError::Overflow("a tier's part of the quantity"))?;
    let flat = span.flat_due(units, tiers);
    let amount = span.charge(&quantity, &flat)?;
    steps.record(|| Step::Tier {
        tier: span.number,
        above: span.above,
        up_to: span.up_to,
        quantity,
        price: span.price,
        flat,
        amount,
    });
    Ok(amount)
}
