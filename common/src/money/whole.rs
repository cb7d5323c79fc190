//! Quantities of up to 128 bits in JSON: as text, because many readers of JSON keep 53 bits.
//!
//! For `#[serde(with = "tallystick_common::money::whole")]` on a `u128` or a [`Reading`].

use serde::{Deserialize, Deserializer, Serializer};

use crate::reading::Reading;

/// What is written as a whole number.
pub trait Whole: Copy + From<WholeNumber> {
    /// The number.
    fn number(self) -> u128;
}

/// A number read back from text.
#[derive(Debug, Clone, Copy)]
pub struct WholeNumber(u128);

impl Whole for u128 {
    fn number(self) -> u128 {
        self
    }
}

impl From<WholeNumber> for u128 {
    fn from(number: WholeNumber) -> Self {
        number.0
    }
}

impl Whole for Reading {
    fn number(self) -> u128 {
        self.0
    }
}

impl From<WholeNumber> for Reading {
    fn from(number: WholeNumber) -> Self {
        Self(number.0)
    }
}

/// Decimal digits.
///
/// # Errors
/// The serializer's own.
pub fn serialize<T: Whole, S: Serializer>(number: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&number.number())
}

/// From decimal digits without ornament.
///
/// # Errors
/// When the text is spelled in any other way.
pub fn deserialize<'de, T: Whole, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<u128>()
        .ok()
        .filter(|number| number.to_string() == text)
        .map(|number| WholeNumber(number).into())
        .ok_or_else(|| {
            serde::de::Error::custom(format_args!("{text:?} is not a whole number of 128 bits"))
        })
}
