//! Whole numbers, out of the ways in which others write numbers. No float is ever computed with.

use crate::accrue::application::REPORT_MAX;

/// Why a number cannot be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWhole {
    /// It is no number.
    #[error("it is not a number")]
    NotANumber,
    /// Usage only rises.
    #[error("it is negative: usage only rises")]
    Negative,
    /// It has a part below one.
    #[error("it is not a whole number: count in a smaller unit")]
    Fraction,
    /// Too large to be a count.
    #[error("it is larger than 2^127")]
    TooLarge,
    /// Too large to be reported at once.
    #[error("it is more than {REPORT_MAX}: report it in parts")]
    TooMuch,
}

/// The most digits a number may be written with.
const MAX_DIGITS: i64 = 39;

/// The whole number that a decimal text spells, with fraction and exponent where their value is whole.
pub(super) fn whole(text: &str) -> Result<u128, NotWhole> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    match unsigned(text) {
        Ok(0) | Err(NotWhole::NotANumber) => unsigned(text),
        _ if negative => Err(NotWhole::Negative),
        value => value,
    }
}

/// As [`whole`], within what may be reported at once.
pub(super) fn reportable(text: &str) -> Result<u128, NotWhole> {
    whole(text).and_then(|value| {
        if value <= REPORT_MAX {
            Ok(value)
        } else {
            Err(NotWhole::TooMuch)
        }
    })
}

fn unsigned(text: &str) -> Result<u128, NotWhole> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
            let exponent: i64 = exponent.parse().map_err(|_| NotWhole::NotANumber)?;
            (mantissa, exponent)
        }
        None => (text, 0),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{before}{after}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotWhole::NotANumber);
    }
    let significant = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - significant.len()).unwrap_or(i64::MAX);
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    let after = i64::try_from(after.len()).unwrap_or(i64::MAX);
    scaled(
        significant,
        exponent.saturating_add(zeros).saturating_sub(after),
    )
}

/// `digits` times ten to the power of `exponent`; the digits do not end in zero.
fn scaled(digits: &str, exponent: i64) -> Result<u128, NotWhole> {
    if exponent < 0 {
        return Err(NotWhole::Fraction);
    }
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if exponent.saturating_add(length) > MAX_DIGITS {
        return Err(NotWhole::TooLarge);
    }
    let value: u128 = digits.parse().map_err(|_| NotWhole::TooLarge)?;
    u32::try_from(exponent)
        .ok()
        .and_then(|exponent| 10u128.checked_pow(exponent))
        .and_then(|power| value.checked_mul(power))
        .filter(|value| *value < 1 << 127)
        .ok_or(NotWhole::TooLarge)
}

/// The whole number that the 64 bits of an IEEE 754 double stand for.
pub(super) fn whole_double(bits: u64) -> Result<u128, NotWhole> {
    const MANTISSA_BITS: u64 = 52;
    let (exponent, fraction) = (
        (bits >> MANTISSA_BITS) & 0x7ff,
        bits & ((1 << MANTISSA_BITS) - 1),
    );
    if bits << 1 == 0 {
        return Ok(0);
    }
    if exponent == 0x7ff {
        return Err(NotWhole::NotANumber);
    }
    if bits >> 63 == 1 {
        return Err(NotWhole::Negative);
    }
    if exponent == 0 {
        return Err(NotWhole::Fraction);
    }
    let mantissa = u128::from(fraction | (1 << MANTISSA_BITS));
    let bias = 1_023 + MANTISSA_BITS;
    if let Some(up) = exponent.checked_sub(bias) {
        return if up + MANTISSA_BITS < 127 {
            Ok(mantissa << up)
        } else {
            Err(NotWhole::TooLarge)
        };
    }
    let down = bias - exponent;
    if down > MANTISSA_BITS || mantissa & ((1 << down) - 1) != 0 {
        return Err(NotWhole::Fraction);
    }
    Ok(mantissa >> down)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_numbers_from_zero_on_count() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("5.0", 5),
            ("1.5e3", 1_500),
            ("1.8446744073709552e+19", 18_446_744_073_709_552_000),
            ("120e-1", 12),
            ("0.000", 0),
            ("0e99999999", 0),
            ("170141183460469231731687303715884105727", (1 << 127) - 1),
        ] {
            assert_eq!(whole(text), Ok(value), "{text}");
        }
        for (text, why) in [
            ("", NotWhole::NotANumber),
            ("five", NotWhole::NotANumber),
            ("NaN", NotWhole::NotANumber),
            ("+Inf", NotWhole::NotANumber),
            ("1_000", NotWhole::NotANumber),
            ("0x10", NotWhole::NotANumber),
            ("--1", NotWhole::NotANumber),
            ("-1", NotWhole::Negative),
            ("-0.5", NotWhole::Negative),
            ("-1e99", NotWhole::Negative),
            ("0.5", NotWhole::Fraction),
            ("1e-1", NotWhole::Fraction),
            ("1e39", NotWhole::TooLarge),
            ("1e9999999999999999999", NotWhole::NotANumber),
            ("1e999999999999", NotWhole::TooLarge),
            (
                "170141183460469231731687303715884105728",
                NotWhole::TooLarge,
            ),
        ] {
            assert_eq!(whole(text), Err(why), "{text}");
        }
        assert_eq!(reportable("10000000000001"), Err(NotWhole::TooMuch));
    }

    proptest! {
        #[test]
        fn a_double_is_taken_exactly_or_not_at_all(bits: u64) {
            let double = f64::from_bits(bits);
            // To the last of the digits that a double can have, what the standard library prints is exact.
            prop_assert_eq!(whole_double(bits), whole(&format!("{double:.1074}")));
        }

        #[test]
        fn a_whole_double_is_its_number(value in 0u64..1 << 53) {
            #[expect(clippy::cast_precision_loss, reason = "below 2^53 nothing is lost")]
            let bits = (value as f64).to_bits();
            prop_assert_eq!(whole_double(bits), Ok(u128::from(value)));
        }
    }
}
