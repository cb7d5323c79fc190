//! Billing units: what a price is quoted for, each an exact number of a meter's base units.
//!
//! Decimal prefixes are powers of 1000 (`GB`), binary ones of 1024 (`GiB`). Months are not units,
//! because they differ in length: `GB-30-days` says which month is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::meter::{Meter, Unit};
use crate::money::Exact;

/// A unit in which a price is quoted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BillingUnit(&'static Definition);

#[derive(PartialEq, Eq, Hash)]
struct Definition {
    name: &'static str,
    base: Unit,
    size: u128,
}

/// A name that no billing unit has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no billing unit is called {0:?}; the units are {names}", names = BillingUnit::names(BillingUnit::all()))]
pub struct UnknownUnit(pub String);

const fn unit(name: &'static str, base: Unit, size: u128) -> Definition {
    Definition { name, base, size }
}

const KIB: u128 = 1 << 10;
const MIB: u128 = 1 << 20;
const GIB: u128 = 1 << 30;
const TIB: u128 = 1 << 40;
const KB: u128 = 1000;
const MB: u128 = 1_000_000;
const GB: u128 = 1_000_000_000;
const TB: u128 = 1_000_000_000_000;
const MINUTE: u128 = 60;
const HOUR: u128 = 3600;
const DAY: u128 = 86_400;

const UNITS: &[Definition] = &[
    unit("cpu-second", Unit::Microseconds, 1_000_000),
    unit("cpu-minute", Unit::Microseconds, 1_000_000 * MINUTE),
    unit("cpu-hour", Unit::Microseconds, 1_000_000 * HOUR),
    unit("byte", Unit::Bytes, 1),
    unit("kB", Unit::Bytes, KB),
    unit("MB", Unit::Bytes, MB),
    unit("GB", Unit::Bytes, GB),
    unit("TB", Unit::Bytes, TB),
    unit("KiB", Unit::Bytes, KIB),
    unit("MiB", Unit::Bytes, MIB),
    unit("GiB", Unit::Bytes, GIB),
    unit("TiB", Unit::Bytes, TIB),
    unit("byte-second", Unit::ByteSeconds, 1),
    unit("MB-hour", Unit::ByteSeconds, MB * HOUR),
    unit("GB-hour", Unit::ByteSeconds, GB * HOUR),
    unit("GB-day", Unit::ByteSeconds, GB * DAY),
    unit("GB-30-days", Unit::ByteSeconds, GB * DAY * 30),
    unit("TB-hour", Unit::ByteSeconds, TB * HOUR),
    unit("MiB-hour", Unit::ByteSeconds, MIB * HOUR),
    unit("GiB-hour", Unit::ByteSeconds, GIB * HOUR),
    unit("GiB-day", Unit::ByteSeconds, GIB * DAY),
    unit("GiB-30-days", Unit::ByteSeconds, GIB * DAY * 30),
    unit("TiB-hour", Unit::ByteSeconds, TIB * HOUR),
    unit("operation", Unit::Operations, 1),
    unit("thousand-operations", Unit::Operations, KB),
    unit("million-operations", Unit::Operations, MB),
    unit("second", Unit::Seconds, 1),
    unit("minute", Unit::Seconds, MINUTE),
    unit("hour", Unit::Seconds, HOUR),
    unit("day", Unit::Seconds, DAY),
    unit("one", Unit::Count, 1),
    unit("thousand", Unit::Count, KB),
    unit("million", Unit::Count, MB),
    unit("process-second", Unit::ProcessSeconds, 1),
    unit("process-hour", Unit::ProcessSeconds, HOUR),
];

impl BillingUnit {
    /// Every unit.
    pub fn all() -> impl Iterator<Item = Self> {
        UNITS.iter().map(Self)
    }

    /// The units in which a meter can be priced.
    pub fn for_meter(meter: Meter) -> impl Iterator<Item = Self> {
        Self::all().filter(move |unit| unit.fits(meter))
    }

    /// Whether the meter counts what this unit is made of.
    #[must_use]
    pub fn fits(self, meter: Meter) -> bool {
        self.0.base == meter.unit()
    }

    /// The word for it in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// The base unit it is made of.
    #[must_use]
    pub const fn base(self) -> Unit {
        self.0.base
    }

    /// How many base units it has; never zero.
    #[must_use]
    pub const fn size(self) -> u128 {
        self.0.size
    }

    /// A quantity of base units in this unit, exactly.
    ///
    /// # Panics
    /// Never: the size of a unit is not zero and 128 bits fit.
    #[must_use]
    pub fn convert(self, quantity: u128) -> Exact {
        Exact::ratio(quantity, self.0.size).expect("the size of a unit is not zero")
    }

    /// Names of units, for messages.
    #[must_use]
    pub fn names(units: impl Iterator<Item = Self>) -> String {
        units.map(Self::name).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for BillingUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for BillingUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BillingUnit {
    type Err = UnknownUnit;

    fn from_str(name: &str) -> Result<Self, UnknownUnit> {
        Self::all()
            .find(|unit| unit.name() == name)
            .ok_or_else(|| UnknownUnit(name.to_owned()))
    }
}

impl Serialize for BillingUnit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for BillingUnit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_exact() {
        for (name, quantity, converted) in [
            ("cpu-hour", 5_400_000_000, "1.5"),
            ("GiB-hour", 3600 << 30, "1"),
            ("GB-hour", 3600 << 20, "0.001048576"),
            ("GiB", 1, "0.000000000931322574615478515625"),
            ("million-operations", 907_666, "0.907666"),
            ("cpu-hour", 1, "1/3600000000"),
        ] {
            let unit: BillingUnit = name.parse().unwrap();
            assert_eq!(
                unit.convert(quantity).to_string(),
                converted,
                "{quantity} in {name}"
            );
        }
    }

    #[test]
    fn every_meter_can_be_priced_and_names_are_unique() {
        for meter in Meter::ALL {
            assert!(BillingUnit::for_meter(*meter).count() > 0, "{meter}");
        }
        for unit in BillingUnit::all() {
            assert_eq!(unit.name().parse(), Ok(unit));
            assert!(unit.size() > 0);
        }
    }
}
