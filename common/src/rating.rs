//! Rating: from a quantity and a price to an amount, with the steps that led there.
//!
//! Owns conversion to billing units, allowances, the price models (one file each) and the line's
//! one rounding. Knows no account, period or workload: what is rated together is decided in
//! [`crate::statement`]. Everything is exact until [`Step::Round`]; what does not fit 256 bits is an
//! error, never a wrong number.

use crate::money::{Currency, Exact, Money, RoundingMode};
use crate::price::{Model, Price};

mod graduated;
mod per_unit;
pub mod step;
mod tiers;
mod volume;

pub use step::Step;
use step::Steps;

/// The version of every rule in this module. An invoice cites it; a rule that changes an amount
/// gets a new number, and the old rule stays.
pub const RATING_VERSION: u32 = 1;

/// In which money an amount is due, and how it is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The currency of price and amount.
    pub currency: Currency,
    /// How the line is rounded.
    pub rounding: RoundingMode,
}

impl From<Currency> for Terms {
    fn from(currency: Currency) -> Self {
        Self {
            currency,
            rounding: RoundingMode::default(),
        }
    }
}

/// What a quantity costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rated {
    /// The exact amount.
    pub unrounded: Exact,
    /// The amount due.
    pub amount: Money,
    /// How it came about, in order.
    pub steps: Vec<Step>,
}

/// Why a quantity cannot be rated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RatingError {
    /// An exact intermediate result has more than 255 bits.
    #[error("{0} has too many digits to be computed exactly: shorten the price's decimals")]
    Overflow(&'static str),
    /// The amount is beyond what money can hold.
    #[error(transparent)]
    Money(#[from] crate::money::MoneyError),
    /// Less than nothing was used.
    #[error("the quantity {0} is negative: usage only rises")]
    NegativeQuantity(Exact),
    /// Tiers that end below the quantity, or none.
    #[error("no tier covers the quantity {0}: leave out up_to in the last tier")]
    BeyondLastTier(Exact),
}

/// The amount of `quantity` base units at a price, with steps.
///
/// # Errors
/// When exact arithmetic overflows or the price has no tier for the quantity.
pub fn rate(price: &Price, quantity: u128, terms: Terms) -> Result<Rated, RatingError> {
    let mut steps = Vec::new();
    let (unrounded, amount) = run(price, quantity, terms, &mut steps)?;
    Ok(Rated {
        unrounded,
        amount,
        steps,
    })
}

/// The same amount without recording steps.
///
/// # Errors
/// As [`rate`].
pub fn rate_amount(
    price: &Price,
    quantity: u128,
    terms: Terms,
) -> Result<(Exact, Money), RatingError> {
    run(price, quantity, terms, &mut step::Unrecorded)
}

/// The amount of a quantity that is already in billing units.
///
/// # Errors
/// As [`rate`]; also for a negative quantity.
pub fn rate_units(model: &Model, units: &Exact, terms: Terms) -> Result<Rated, RatingError> {
    if units.is_negative() {
        return Err(RatingError::NegativeQuantity(*units));
    }
    let mut steps = Vec::new();
    let unrounded = apply(model, units, &mut steps)?;
    let amount = round(&unrounded, terms, &mut steps)?;
    Ok(Rated {
        unrounded,
        amount,
        steps,
    })
}

fn run(
    price: &Price,
    quantity: u128,
    terms: Terms,
    steps: &mut impl Steps,
) -> Result<(Exact, Money), RatingError> {
    let units = price.per.convert(quantity);
    steps.record(|| Step::convert(price, quantity, units));
    let units = take_allowance(price, units, steps)?;
    let unrounded = apply(&price.model, &units, steps)?;
    let amount = round(&unrounded, terms, steps)?;
    Ok((unrounded, amount))
}

fn take_allowance(
    price: &Price,
    units: Exact,
    steps: &mut impl Steps,
) -> Result<Exact, RatingError> {
    let free = Exact::from(price.free);
    if free.is_zero() {
        return Ok(units);
    }
    let left = match units.checked_sub(&free) {
        Some(left) if left.is_negative() => Exact::ZERO,
        Some(left) => left,
        None => return Err(RatingError::Overflow("the quantity less the allowance")),
    };
    steps.record(|| Step::Allowance {
        quantity: units,
        free,
        left,
    });
    Ok(left)
}

fn apply(model: &Model, units: &Exact, steps: &mut impl Steps) -> Result<Exact, RatingError> {
    match model {
        Model::PerUnit { price } => per_unit::amount(*price, units, steps),
        Model::Graduated(tiers) => graduated::amount(tiers, units, steps),
        Model::Volume(tiers) => volume::amount(tiers, units, steps),
    }
}

fn round(unrounded: &Exact, terms: Terms, steps: &mut impl Steps) -> Result<Money, RatingError> {
    let amount = terms.rounding.round(unrounded, terms.currency)?;
    steps.record(|| Step::Round {
        unrounded: *unrounded,
        mode: terms.rounding,
        amount,
    });
    Ok(amount)
}

#[cfg(test)]
mod tests;
