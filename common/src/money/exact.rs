//! An exact rational number: what quantities in billing units and unrounded amounts are.
//!
//! Owns checked arithmetic on 256-bit fractions in lowest terms and their text form. Nothing in
//! here rounds except [`Exact::to_minor`] and the cut texts for people; an operation whose exact
//! result does not fit returns `None`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use ethnum::{I256, U256};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::RoundingMode;

/// Most decimals that [`Exact`]'s text has before it is written as a fraction.
const MAX_DECIMALS: u32 = 38;

/// An exact rational number.
///
/// As text, and in JSON, the decimal where it terminates within 38 decimals (`51.2345`), else the
/// fraction in lowest terms (`1/3`). [`fmt::Display`] is that text; [`Exact::cut`] shortens it for
/// people.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exact {
    /// Carries the sign.
    numerator: I256,
    /// Positive, no common factor with the numerator.
    denominator: I256,
}

/// A text that is not an exact number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an exact number: write a decimal such as 0.012, or a fraction such as 1/3")]
pub struct ExactError(String);

impl Exact {
    /// Zero.
    pub const ZERO: Self = Self {
        numerator: I256::ZERO,
        denominator: I256::ONE,
    };

    /// `numerator / denominator`; `None` for a zero denominator or beyond 255 bits.
    #[must_use]
    pub fn ratio(numerator: u128, denominator: u128) -> Option<Self> {
        Self::reduced(I256::from(numerator), I256::from(denominator))
    }

    fn reduced(numerator: I256, denominator: I256) -> Option<Self> {
        if denominator <= I256::ZERO {
            return None;
        }
        let divisor = common_divisor(numerator, denominator)?;
        Some(Self {
            numerator: numerator / divisor,
            denominator: denominator / divisor,
        })
    }

    /// Sum, `None` when it does not fit.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let divisor = common_divisor(self.denominator, other.denominator)?;
        let left = self.numerator.checked_mul(other.denominator / divisor)?;
        let right = other.numerator.checked_mul(self.denominator / divisor)?;
        let denominator = (self.denominator / divisor).checked_mul(other.denominator)?;
        Self::reduced(left.checked_add(right)?, denominator)
    }

    /// Difference, `None` when it does not fit.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        let negated = Self {
            numerator: other.numerator.checked_neg()?,
            ..*other
        };
        self.checked_add(&negated)
    }

    /// Product, `None` when it does not fit.
    #[must_use]
    pub fn checked_mul(&self, other: &Self) -> Option<Self> {
        // Crosswise reduction first, so that only a result that is too large fails.
        let left = common_divisor(self.numerator, other.denominator)?;
        let right = common_divisor(other.numerator, self.denominator)?;
        Some(Self {
            numerator: (self.numerator / left).checked_mul(other.numerator / right)?,
            denominator: (self.denominator / right).checked_mul(other.denominator / left)?,
        })
    }

    /// Quotient by a whole number, `None` for zero or when it does not fit.
    #[must_use]
    pub fn checked_div(&self, divisor: u128) -> Option<Self> {
        self.checked_mul(&Self::ratio(1, divisor)?)
    }

    /// Sum of many, `None` when one of the sums does not fit.
    pub fn sum<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        parts
            .into_iter()
            .try_fold(Self::ZERO, |sum, part| sum.checked_add(part))
    }

    /// Whether it is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.numerator == I256::ZERO
    }

    /// Whether it is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.numerator < I256::ZERO
    }

    /// The text cut (towards zero) after `places` decimals, for pages: `0.333333`. Always exactly
    /// `places` decimals.
    #[must_use]
    pub fn cut(&self, places: u32) -> String {
        let (whole, mut rest) = (self.whole(), self.rest());
        if places == 0 {
            return format!("{}{whole}", self.sign(&whole.to_string()));
        }
        let mut fraction = String::new();
        let denominator = self.denominator.unsigned_abs();
        for _ in 0..places {
            let (digit, left) = next_digit(rest, denominator);
            fraction.push(char::from(b'0' + digit));
            rest = left;
        }
        let sign = self.sign(&format!("{whole}{fraction}"));
        format!("{sign}{whole}.{fraction}")
    }

    /// For people: the decimal, or where it does not end `1/3 (0.333333333333…)`.
    #[must_use]
    pub fn explained(&self) -> String {
        match self.terminating() {
            Some(text) => text,
            None => format!("{self} ({}…)", self.cut(12)),
        }
    }

    /// Nearest whole number of units of `10^-exponent`; `None` beyond `i64`.
    pub(super) fn to_minor(self, exponent: u32, mode: RoundingMode) -> Option<i64> {
        let scaled = self.checked_mul(&Self {
            numerator: I256::from(10).checked_pow(exponent)?,
            denominator: I256::ONE,
        })?;
        let (whole, rest) = (scaled.whole(), scaled.rest());
        let other = scaled.denominator.unsigned_abs() - rest;
        let up = match (rest.cmp(&other), mode) {
            (Ordering::Less, _) => false,
            (Ordering::Greater, _) | (Ordering::Equal, RoundingMode::HalfUp) => true,
            (Ordering::Equal, RoundingMode::HalfEven) => whole & U256::ONE == U256::ONE,
        };
        let minor = I256::try_from(whole)
            .ok()?
            .checked_add(I256::from(u8::from(up)))?;
        i64::try_from(if scaled.is_negative() {
            minor.checked_neg()?
        } else {
            minor
        })
        .ok()
    }

    fn whole(&self) -> U256 {
        self.numerator.unsigned_abs() / self.denominator.unsigned_abs()
    }

    fn rest(&self) -> U256 {
        self.numerator.unsigned_abs() % self.denominator.unsigned_abs()
    }

    /// A minus for what is negative and does not look like zero.
    fn sign(&self, digits: &str) -> &'static str {
        if self.is_negative() && digits.bytes().any(|digit| digit != b'0') {
            "-"
        } else {
            ""
        }
    }

    fn terminating(&self) -> Option<String> {
        if self.denominator == I256::ONE {
            return Some(self.numerator.to_string());
        }
        decimals_of(self.denominator).map(|decimals| self.cut(decimals))
    }
}

/// Decimals of `1 / denominator`, `None` when it does not terminate within [`MAX_DECIMALS`].
fn decimals_of(denominator: I256) -> Option<u32> {
    let mut rest = denominator;
    let mut count = |prime: i8| {
        let mut times = 0;
        while rest % I256::from(prime) == I256::ZERO {
            rest /= I256::from(prime);
            times += 1;
        }
        times
    };
    let decimals = count(2).max(count(5));
    (rest == I256::ONE && decimals <= MAX_DECIMALS).then_some(decimals)
}

/// Next decimal of `rest / denominator` and what is left after it. By addition, because ten times
/// the rest may not fit.
fn next_digit(rest: U256, denominator: U256) -> (u8, U256) {
    let (mut digit, mut sum) = (0, U256::ZERO);
    for _ in 0..10 {
        // Both are below the denominator, which is below 2^255.
        sum += rest;
        if sum >= denominator {
            sum -= denominator;
            digit += 1;
        }
    }
    (digit, sum)
}

/// Greatest common divisor, positive; `None` only where it is 2^255.
fn common_divisor(left: I256, right: I256) -> Option<I256> {
    let (mut a, mut b) = (left.unsigned_abs(), right.unsigned_abs());
    while b != U256::ZERO {
        if let (Ok(narrow_a), Ok(narrow_b)) = (u128::try_from(a), u128::try_from(b)) {
            return Some(I256::from(narrow_divisor(narrow_a, narrow_b)));
        }
        (a, b) = (b, a % b);
    }
    I256::try_from(a.max(U256::ONE)).ok()
}

fn narrow_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl From<u128> for Exact {
    fn from(whole: u128) -> Self {
        Self {
            numerator: I256::from(whole),
            denominator: I256::ONE,
        }
    }
}

impl From<Decimal> for Exact {
    fn from(decimal: Decimal) -> Self {
        let scale = decimal.scale().min(Decimal::MAX_SCALE);
        Self::reduced(
            I256::from(decimal.mantissa()),
            I256::from(10_u128.pow(scale)),
        )
        .expect("a decimal has 96 bits over at most 10^28")
    }
}

impl Ord for Exact {
    /// Exact for all values: compares continued fractions, so nothing overflows.
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (*self, *other);
        loop {
            let whole = |x: &Self| x.numerator.div_euclid(x.denominator);
            let order = whole(&a).cmp(&whole(&b));
            if order != Ordering::Equal {
                return order;
            }
            let rest = |x: &Self| x.numerator.rem_euclid(x.denominator);
            let (left, right) = (rest(&a), rest(&b));
            if left == I256::ZERO || right == I256::ZERO {
                return left.cmp(&right);
            }
            // left/da < right/db exactly when db/right < da/left.
            (a, b) = (
                Self {
                    numerator: b.denominator,
                    denominator: right,
                },
                Self {
                    numerator: a.denominator,
                    denominator: left,
                },
            );
        }
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.terminating() {
            Some(text) => f.write_str(&text),
            None => write!(f, "{}/{}", self.numerator, self.denominator),
        }
    }
}

impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Exact {
    type Err = ExactError;

    fn from_str(text: &str) -> Result<Self, ExactError> {
        let parsed = match text.split_once('/') {
            Some((numerator, denominator)) => whole_number(numerator)
                .zip(whole_number(denominator).filter(|_| !denominator.starts_with('-'))),
            None => decimal_parts(text),
        };
        parsed
            .and_then(|(numerator, denominator)| Self::reduced(numerator, denominator))
            .ok_or_else(|| ExactError(text.to_owned()))
    }
}

fn whole_number(text: &str) -> Option<I256> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    plain.then(|| I256::from_str_radix(text, 10).ok())?
}

/// Digits without the point, over a power of ten.
fn decimal_parts(text: &str) -> Option<(I256, I256)> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (text, ""),
    };
    if whole.is_empty() || whole == "-" || fraction.starts_with('-') {
        return None;
    }
    let decimals = u32::try_from(fraction.len()).ok()?;
    let numerator = whole_number(&format!("{whole}{fraction}"))?;
    Some((numerator, I256::from(10).checked_pow(decimals)?))
}

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(text: &str) -> Exact {
        text.parse().unwrap()
    }

    #[test]
    fn text_is_a_decimal_or_a_fraction() {
        for (given, text, explained) in [
            ("51.23450", "51.2345", "51.2345"),
            ("2/6", "1/3", "1/3 (0.333333333333…)"),
            ("-2/3", "-2/3", "-2/3 (-0.666666666666…)"),
            ("7/8", "0.875", "0.875"),
            ("-0.0", "0", "0"),
            ("-1/8", "-0.125", "-0.125"),
        ] {
            assert_eq!(exact(given).to_string(), text);
            assert_eq!(exact(given).explained(), explained);
        }
        for bad in [
            "", "-", ".5", "1.", "1/0", "1/-2", "1e3", "+1", "1.-5", "1 / 2", "--1",
        ] {
            assert!(bad.parse::<Exact>().is_err(), "{bad}");
        }
        assert_eq!(exact("-0.0000009").cut(6), "0.000000");
        assert_eq!(exact("12.3456789").cut(6), "12.345678");
        assert_eq!(exact("-7/2").cut(0), "-3");
    }

    #[test]
    fn the_widest_values_do_not_panic() {
        let largest = Exact::from(u128::MAX)
            .checked_mul(&Exact::from(u128::MAX / 2))
            .unwrap();
        assert_eq!(largest.checked_mul(&Exact::from(3)), None);
        assert_eq!(largest.checked_add(&largest), None);
        let smallest = Exact::ratio(1, u128::MAX).unwrap();
        assert_eq!(smallest.checked_mul(&smallest), None);
        assert!(smallest < largest);
        assert_eq!(smallest.cut(2), "0.00");
        assert_eq!(
            Decimal::MAX.to_string(),
            Exact::from(Decimal::MAX).to_string()
        );
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_integers(
            a in -1_000_000i64..1_000_000, b in 1u32..10_000,
            c in -1_000_000i64..1_000_000, d in 1u32..10_000,
        ) {
            let (x, y) = (exact(&format!("{a}/{b}")), exact(&format!("{c}/{d}")));
            let (a, b, c, d) = (i128::from(a), i128::from(b), i128::from(c), i128::from(d));
            prop_assert_eq!(x.checked_add(&y), format!("{}/{}", a * d + c * b, b * d).parse().ok());
            prop_assert_eq!(x.checked_sub(&y), format!("{}/{}", a * d - c * b, b * d).parse().ok());
            prop_assert_eq!(x.checked_mul(&y), format!("{}/{}", a * c, b * d).parse().ok());
            prop_assert_eq!(x.cmp(&y), (a * d).cmp(&(c * b)));
        }

        #[test]
        fn text_comes_back(mantissa in any::<i64>(), scale in 0u32..28, divisor in 1u128..1_000_000) {
            let number = Exact::from(Decimal::new(mantissa, scale)).checked_div(divisor).unwrap();
            prop_assert_eq!(number.to_string().parse(), Ok(number));
        }

        #[test]
        fn rounding_is_within_half_a_unit(n in -1_000_000_000i64..1_000_000_000, d in 1i64..100_000) {
            let number = exact(&format!("{n}/{d}"));
            for mode in [RoundingMode::HalfUp, RoundingMode::HalfEven] {
                let minor = i128::from(number.to_minor(2, mode).unwrap());
                let (n, d) = (i128::from(n) * 100, i128::from(d));
                prop_assert!(2 * (n - minor * d).abs() <= d);
                if 2 * (n - minor * d).abs() == d {
                    match mode {
                        RoundingMode::HalfUp => prop_assert!((minor * d).abs() > n.abs()),
                        RoundingMode::HalfEven => prop_assert_eq!(minor % 2, 0),
                    }
                }
            }
        }
    }
}
