//! What graduated and volume prices share: bounds, which tier a quantity reaches, one tier's charge.

use super::RatingError;
use crate::money::Exact;
use crate::price::Tiers;

/// A tier with both its bounds: quantities in `(above, up_to]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) number: usize,
    pub(super) above: Exact,
    pub(super) up_to: Option<Exact>,
    pub(super) price: Exact,
    pub(super) flat: Exact,
}

impl Span {
    /// Whether a quantity ends in this tier or below it.
    pub(super) fn covers(&self, units: &Exact) -> bool {
        self.up_to.is_none_or(|bound| *units <= bound)
    }

    /// `quantity × price + flat`.
    pub(super) fn charge(&self, quantity: &Exact, flat: &Exact) -> Result<Exact, RatingError> {
        quantity
            .checked_mul(&self.price)
            .and_then(|amount| amount.checked_add(flat))
            .ok_or(RatingError::Overflow("a tier's quantity times its price"))
    }

    /// The flat amount that is due when `units` reach this tier: none for no usage at all, unless
    /// the price says so.
    pub(super) fn flat_due(&self, units: &Exact, tiers: &Tiers) -> Exact {
        if units.is_zero() && !tiers.charge_first_flat_at_zero {
            Exact::ZERO
        } else {
            self.flat
        }
    }
}

/// The tiers from the first to the one that `units` reach.
pub(super) fn reached(tiers: &Tiers, units: &Exact) -> Result<Vec<Span>, RatingError> {
    let mut spans = Vec::new();
    let mut above = Exact::ZERO;
    for (number, tier) in (1..).zip(&tiers.tiers) {
        let span = Span {
            number,
            above,
            up_to: tier.up_to.map(Exact::from),
            price: tier.price.into(),
            flat: tier.flat.into(),
        };
        spans.push(span);
        if span.covers(units) {
            return Ok(spans);
        }
        above = span.up_to.unwrap_or(above);
    }
    Err(RatingError::BeyondLastTier(*units))
}
