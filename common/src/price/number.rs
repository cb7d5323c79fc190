//! Decimals in documents: text or whole numbers, never floats, kept digit by digit.

use std::fmt;

use rust_decimal::Decimal;
use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// Canonical text: no needless zeros, no exponent.
pub(super) fn serialize<S: Serializer>(number: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&number.normalize())
}

/// From text with at most 28 decimals, or from a whole number.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
    deserializer.deserialize_any(NumberVisitor)
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Decimal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decimal number in quotes, such as \"0.012\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Decimal, E> {
        Decimal::from_str_exact(text).map_err(|_| {
            E::custom(format_args!(
                "{text:?} is not a decimal number of at most 28 digits: write it like \"0.012\""
            ))
        })
    }

    fn visit_i64<E: Error>(self, whole: i64) -> Result<Decimal, E> {
        Ok(whole.into())
    }

    fn visit_u64<E: Error>(self, whole: u64) -> Result<Decimal, E> {
        Ok(whole.into())
    }

    fn visit_f64<E: Error>(self, float: f64) -> Result<Decimal, E> {
        Err(E::custom(format_args!(
            "{float} is a floating-point number, which is not exact: write it in quotes, \"{float}\""
        )))
    }
}

/// The same for a number that may be missing.
pub(super) mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Decimal;

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(in crate::price) fn serialize<S: Serializer>(
        number: &Option<Decimal>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => super::serialize(number, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::price) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Decimal>, D::Error> {
        #[derive(Deserialize)]
        struct Number(#[serde(with = "super")] Decimal);

        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}
