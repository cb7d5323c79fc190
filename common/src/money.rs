//! Money: currencies, amounts in minor units, and where rounding happens.
//!
//! Owns ISO 4217 exponents, whole amounts ([`Money`]) and the two rounding modes. Exact, unrounded
//! amounts are [`Exact`]. Does not convert between currencies: amounts of two currencies never add.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub mod exact;
pub mod whole;

pub use exact::Exact;

/// An ISO 4217 currency that has minor units.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(iso_currency::Currency);

/// What went wrong with an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// No such code, or one without minor units (gold, test codes).
    #[error(
        "{0:?} is not a currency to bill in: give an ISO 4217 code in capitals, for example EUR"
    )]
    UnknownCurrency(String),
    /// A text that is not an amount of the currency.
    #[error(
        "{text:?} is not an amount of {currency}: write it with {decimals} decimals and a point"
    )]
    NotAnAmount {
        /// What was given.
        text: String,
        /// The currency it should be in.
        currency: Currency,
        /// How many decimals the currency has.
        decimals: u32,
    },
    /// A text that is not `AMOUNT CODE`.
    #[error("{0:?} is not money: write the amount and the currency's code, for example 12.34 EUR")]
    NotMoney(String),
    /// Two currencies met in one sum.
    #[error("cannot add {right} to {left}: amounts of different currencies do not mix")]
    MixedCurrencies {
        /// Currency of the left side.
        left: Currency,
        /// Currency of the right side.
        right: Currency,
    },
    /// More than 2^63 − 1 minor units.
    #[error("an amount in {0} is beyond what can be billed, 2^63 - 1 minor units")]
    TooLarge(Currency),
}

impl Currency {
    /// By its three-letter code.
    ///
    /// # Errors
    /// When the code is unknown or the currency has no minor units.
    pub fn new(code: &str) -> Result<Self, MoneyError> {
        iso_currency::Currency::from_code(code)
            .filter(|currency| currency.exponent().is_some() && currency.code() == code)
            .map(Self)
            .ok_or_else(|| MoneyError::UnknownCurrency(code.to_owned()))
    }

    /// The three-letter code.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Decimals of the minor unit: 2 for EUR, 0 for JPY, 3 for KWD.
    #[must_use]
    pub fn exponent(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Self::new(code)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A whole number of minor units of one currency. May be negative.
///
/// In JSON `{"amount": "12.34", "currency": "EUR"}`; as text `12.34 EUR`. Amounts of different
/// currencies are not ordered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

impl Money {
    /// `minor` minor units (cents).
    #[must_use]
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Nothing, in a currency.
    #[must_use]
    pub const fn zero(currency: Currency) -> Self {
        Self::new(0, currency)
    }

    /// From the amount as text with exactly the currency's decimals: `12.34`.
    ///
    /// # Errors
    /// When the text is spelled in any other way or is too large.
    pub fn parse(amount: &str, currency: Currency) -> Result<Self, MoneyError> {
        minor_of(amount, currency.exponent())
            .map(|minor| Self::new(minor, currency))
            .ok_or_else(|| MoneyError::NotAnAmount {
                text: amount.to_owned(),
                currency,
                decimals: currency.exponent(),
            })
    }

    /// Minor units.
    #[must_use]
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    #[must_use]
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// The amount without the code, with the currency's decimals: `12.34`.
    #[must_use]
    pub fn amount(self) -> String {
        let decimals = self.currency.exponent() as usize;
        let digits = format!(
            "{:0>width$}",
            self.minor.unsigned_abs(),
            width = decimals + 1
        );
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        let sign = if self.minor < 0 { "-" } else { "" };
        let point = if decimals == 0 { "" } else { "." };
        format!("{sign}{whole}{point}{fraction}")
    }

    /// Sum of two amounts of one currency.
    ///
    /// # Errors
    /// When the currencies differ or the sum is too large.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_add)
    }

    /// Difference of two amounts of one currency.
    ///
    /// # Errors
    /// When the currencies differ or the difference is too large.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_sub)
    }

    fn combine(
        self,
        other: Self,
        operation: fn(i64, i64) -> Option<i64>,
    ) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::MixedCurrencies {
                left: self.currency,
                right: other.currency,
            });
        }
        operation(self.minor, other.minor)
            .map(|minor| Self::new(minor, self.currency))
            .ok_or(MoneyError::TooLarge(self.currency))
    }
}

/// Minor units of a text with exactly `decimals` decimals and no other ornament.
fn minor_of(amount: &str, decimals: u32) -> Option<i64> {
    let (negative, digits) = match amount.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, amount),
    };
    let (whole, fraction) = match decimals {
        0 => (digits, ""),
        _ => digits.split_once('.')?,
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = !whole.is_empty() && (whole == "0" || !whole.starts_with('0'));
    if !canonical
        || fraction.len() != decimals as usize
        || !is_number(whole)
        || !is_number(fraction)
    {
        return None;
    }
    let minor: i128 = format!("{whole}{fraction}").parse().ok()?;
    match (negative, minor) {
        (true, 0) => None,
        (true, _) => i64::try_from(-minor).ok(),
        (false, _) => i64::try_from(minor).ok(),
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.amount(), self.currency))
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Money {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (amount, code) = text
            .split_once(' ')
            .ok_or_else(|| MoneyError::NotMoney(text.to_owned()))?;
        Self::parse(amount, Currency::new(code)?)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyText {
    amount: String,
    currency: Currency,
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        MoneyText {
            amount: self.amount(),
            currency: self.currency,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = MoneyText::deserialize(deserializer)?;
        Self::parse(&text.amount, text.currency).map_err(serde::de::Error::custom)
    }
}

/// What happens to an amount exactly or nearly half way between two minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundingMode {
    /// To the nearest; a half goes away from zero (1.005 → 1.01, −1.005 → −1.01).
    #[default]
    HalfUp,
    /// To the nearest; a half goes to the even neighbour.
    HalfEven,
}

impl fmt::Display for RoundingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HalfUp => "half up",
            Self::HalfEven => "half even",
        })
    }
}

impl RoundingMode {
    /// The one place where an exact amount becomes money.
    ///
    /// # Errors
    /// When the amount is beyond `i64` minor units.
    pub fn round(self, amount: &Exact, currency: Currency) -> Result<Money, MoneyError> {
        amount
            .to_minor(currency.exponent(), self)
            .map(|minor| Money::new(minor, currency))
            .ok_or(MoneyError::TooLarge(currency))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn currency(code: &str) -> Currency {
        Currency::new(code).unwrap()
    }

    #[test]
    fn exponents_follow_iso_4217() {
        for (code, exponent, text) in [
            ("EUR", 2, "-12.05 EUR"),
            ("JPY", 0, "-1205 JPY"),
            ("KWD", 3, "-1.205 KWD"),
        ] {
            assert_eq!(currency(code).exponent(), exponent);
            assert_eq!(Money::new(-1205, currency(code)).to_string(), text);
        }
        for none in ["eur", "XAU", "EURO", ""] {
            assert!(Currency::new(none).is_err(), "{none}");
        }
    }

    #[test]
    fn currencies_do_not_mix() {
        let (euro, yen) = (
            Money::new(1, currency("EUR")),
            Money::new(1, currency("JPY")),
        );
        assert!(matches!(
            euro.checked_add(yen),
            Err(MoneyError::MixedCurrencies { .. })
        ));
        assert_eq!(
            Money::new(i64::MAX, currency("EUR")).checked_add(euro),
            Err(MoneyError::TooLarge(currency("EUR")))
        );
    }

    #[test]
    fn an_amount_has_one_spelling() {
        for bad in [
            "12.3", "12.345", "12", "012.34", "+1.00", "-0.00", ".50", "1,00", "1e2", "",
        ] {
            assert!(Money::parse(bad, currency("EUR")).is_err(), "{bad}");
        }
        assert_eq!(
            Money::parse("0.05", currency("EUR")),
            Ok(Money::new(5, currency("EUR")))
        );
    }

    #[test]
    fn halves_go_away_from_zero_or_to_even() {
        let round = |text: &str, mode: RoundingMode| {
            mode.round(&text.parse().unwrap(), currency("EUR"))
                .unwrap()
                .amount()
        };
        for (exact, half_up, half_even) in [
            ("1.005", "1.01", "1.00"),
            ("1.015", "1.02", "1.02"),
            ("-1.005", "-1.01", "-1.00"),
            ("-1622.835", "-1622.84", "-1622.84"),
            ("0.00499999999999999999999999999", "0.00", "0.00"),
            ("1/3", "0.33", "0.33"),
            ("-2/3", "-0.67", "-0.67"),
        ] {
            assert_eq!(round(exact, RoundingMode::HalfUp), half_up);
            assert_eq!(round(exact, RoundingMode::HalfEven), half_even);
        }
    }

    proptest! {
        #[test]
        fn text_and_json_come_back(minor: i64, code in prop::sample::select(vec!["EUR", "JPY", "KWD", "CLF"])) {
            let money = Money::new(minor, currency(code));
            prop_assert_eq!(money.to_string().parse(), Ok(money));
            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        }
    }
}
