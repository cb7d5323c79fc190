//! The steps of rating one line: data for machines, a sentence each for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::meter::Meter;
use crate::money::{Exact, Money, RoundingMode};
use crate::price::{BillingUnit, Price};

/// One step from a quantity to an amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Base units of the meter became billing units: `quantity / size = units`.
    Convert {
        /// The meter.
        meter: Meter,
        /// In the meter's base unit.
        #[serde(with = "crate::money::whole")]
        quantity: u128,
        /// The billing unit.
        per: BillingUnit,
        /// Base units in one billing unit.
        #[serde(with = "crate::money::whole")]
        size: u128,
        /// In billing units.
        units: Exact,
    },
    /// The allowance came off first: `max(quantity − free, 0) = left`.
    Allowance {
        /// Before.
        quantity: Exact,
        /// The allowance.
        free: Exact,
        /// After.
        left: Exact,
    },
    /// `quantity × price = amount`.
    PerUnit {
        /// In billing units.
        quantity: Exact,
        /// Price of one.
        price: Exact,
        /// Exact amount.
        amount: Exact,
    },
    /// The part of the quantity in one tier of a graduated price: `quantity × price + flat = amount`.
    Tier {
        /// Number of the tier, from 1.
        tier: usize,
        /// The tier begins above this quantity.
        above: Exact,
        /// The tier ends with this quantity; none for the last.
        up_to: Option<Exact>,
        /// The part in this tier, in billing units.
        quantity: Exact,
        /// Price of one.
        price: Exact,
        /// Charged once for reaching the tier.
        flat: Exact,
        /// Exact amount.
        amount: Exact,
    },
    /// The whole quantity at the price of the tier it reaches: `quantity × price + flat = amount`.
    Volume {
        /// Number of the tier, from 1.
        tier: usize,
        /// The tier begins above this quantity.
        above: Exact,
        /// The tier ends with this quantity; none for the last.
        up_to: Option<Exact>,
        /// The whole quantity, in billing units.
        quantity: Exact,
        /// Price of one.
        price: Exact,
        /// Charged once for the tier.
        flat: Exact,
        /// Exact amount.
        amount: Exact,
    },
    /// The tiers' amounts added.
    Sum {
        /// Exact amount.
        amount: Exact,
    },
    /// Rounding to the currency's minor unit: the only rounding of the line.
    Round {
        /// Exact amount.
        unrounded: Exact,
        /// How halves are treated.
        mode: RoundingMode,
        /// Amount due.
        amount: Money,
    },
}

impl Step {
    pub(super) fn convert(price: &Price, quantity: u128, units: Exact) -> Self {
        Self::Convert {
            meter: price.meter,
            quantity,
            per: price.per,
            size: price.per.size(),
            units,
        }
    }
}

/// A tier's part in words: `tier 2 (above 10 up to 20)`.
struct Range<'a>(usize, &'a Exact, Option<&'a Exact>);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tier, above, up_to) = self;
        write!(f, "tier {tier} (above {above}")?;
        match up_to {
            Some(bound) => write!(f, " up to {bound})"),
            None => f.write_str(")"),
        }
    }
}

/// `× price + flat = amount`, without a flat amount of zero.
struct Product<'a>(&'a Exact, &'a Exact, &'a Exact, &'a Exact);

impl fmt::Display for Product<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(quantity, price, flat, amount) = self;
        write!(f, "{} × {price}", quantity.explained())?;
        if !flat.is_zero() {
            write!(f, " + {flat}")?;
        }
        write!(f, " = {}", amount.explained())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Convert {
                meter,
                quantity,
                per,
                size,
                units,
            } => write!(
                f,
                "{meter}: {quantity} {base} / {size} {base} per {per} = {} {per}",
                units.explained(),
                base = meter.unit()
            ),
            Self::Allowance {
                quantity,
                free,
                left,
            } => write!(
                f,
                "allowance: {} less {free} free leaves {}",
                quantity.explained(),
                left.explained()
            ),
            Self::PerUnit {
                quantity,
                price,
                amount,
            } => Product(quantity, price, &Exact::ZERO, amount).fmt(f),
            Self::Tier {
                tier,
                above,
                up_to,
                quantity,
                price,
                flat,
                amount,
            } => {
                write!(f, "{}: ", Range(*tier, above, up_to.as_ref()))?;
                Product(quantity, price, flat, amount).fmt(f)
            }
            Self::Volume {
                tier,
                above,
                up_to,
                quantity,
                price,
                flat,
                amount,
            } => {
                write!(f, "all in {}: ", Range(*tier, above, up_to.as_ref()))?;
                Product(quantity, price, flat, amount).fmt(f)
            }
            Self::Sum { amount } => write!(f, "sum of the tiers = {}", amount.explained()),
            Self::Round {
                unrounded,
                mode,
                amount,
            } => {
                write!(f, "rounded {mode}: {} → {amount}", unrounded.explained())
            }
        }
    }
}

/// Where steps go: into a list, or nowhere.
pub(super) trait Steps {
    /// Keeps the step; `make` is only called when it is kept.
    fn record(&mut self, make: impl FnOnce() -> Step);
}

impl Steps for Vec<Step> {
    fn record(&mut self, make: impl FnOnce() -> Step) {
        self.push(make());
    }
}

/// Keeps nothing.
pub(super) struct Unrecorded;

impl Steps for Unrecorded {
    fn record(&mut self, _make: impl FnOnce() -> Step) {}
}
