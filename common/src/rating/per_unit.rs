//! The per-unit model: quantity times price.

use rust_decimal::Decimal;

use super::RatingError;
use super::step::{Step, Steps};
use crate::money::Exact;

pub(super) fn amount(
    price: Decimal,
    units: &Exact,
    steps: &mut impl Steps,
) -> Result<Exact, RatingError> {
    let price = Exact::from(price);
    let amount = units
        .checked_mul(&price)
        .ok_or(RatingError::Overflow("the quantity times the price"))?;
    steps.record(|| Step::PerUnit {
        quantity: *units,
        price,
        amount,
    });
    Ok(amount)
}
