//! The volume model: the whole quantity is charged at the price of the tier it reaches.
//!
//! An amount may fall where the quantity rises across a bound. That is the model, not a fault.

use super::RatingError;
use super::step::{Step, Steps};
use super::tiers::reached;
use crate::money::Exact;
use crate::price::Tiers;

pub(super) fn amount(
    tiers: &Tiers,
    units: &Exact,
    steps: &mut impl Steps,
) -> Result<Exact, RatingError> {
    let span = reached(tiers, units)?
        .pop()
        .ok_or(RatingError::BeyondLastTier(*units))?;
    let flat = span.flat_due(units, tiers);
    let amount = span.charge(units, &flat)?;
    steps.record(|| Step::Volume {
        tier: span.number,
        above: span.above,
        up_to: span.up_to,
        quantity: *units,
        price: span.price,
        flat,
        amount,
    });
    Ok(amount)
}
