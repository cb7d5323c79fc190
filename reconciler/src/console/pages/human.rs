//! Quantities in larger units, cut after a few digits and never rounded up.

use tallystick_common::meter::Unit;
use tallystick_common::time::SECOND_US;

const GIB: u128 = 1 << 30;
const MIB: u128 = 1 << 20;
const KIB: u128 = 1 << 10;

/// A quantity of a meter's base unit.
pub(super) fn quantity(value: u128, unit: Unit) -> String {
    match unit {
        Unit::Microseconds => seconds(value),
        Unit::Seconds => duration(
            u64::try_from(value)
                .unwrap_or(u64::MAX)
                .saturating_mul(SECOND_US),
        ),
        Unit::Bytes => bytes(value),
        Unit::ByteSeconds => byte_seconds(value),
        Unit::Operations | Unit::Count => grouped(value),
        Unit::ProcessSeconds => format!("{} process·s", grouped(value)),
    }
}

/// Microseconds as seconds, or hours and minutes with seconds.
fn seconds(value: u128) -> String {
    let whole = value / u128::from(SECOND_US);
    let milli = value / 1000 % 1000;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}.{milli:03} s"),
        (0, _) => format!("{minutes} m {rest:02}.{milli:03} s"),
        _ => format!("{hours} h {minutes:02} m {rest:02} s"),
    }
}

/// Microseconds of a length of time, to two units.
pub(super) fn duration(us: u64) -> String {
    let whole = us / SECOND_US;
    match whole {
        0 => format!("{} ms", us / 1000),
        1..60 => format!("{whole}.{} s", us / 100_000 % 10),
        60..3600 => format!("{} m {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} m", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

fn bytes(value: u128) -> String {
    match value {
        0..KIB => format!("{value} B"),
        KIB..MIB => scaled(value, KIB, "KiB"),
        MIB..GIB => scaled(value, MIB, "MiB"),
        _ => scaled(value, GIB, "GiB"),
    }
}

fn byte_seconds(value: u128) -> String {
    if value >= GIB * 36 {
        scaled(value, GIB * 3600, "GiB·h")
    } else {
        scaled(value, MIB * 3600, "MiB·h")
    }
}

fn scaled(value: u128, unit: u128, name: &str) -> String {
    let hundredths = (value % unit) * 100 / unit;
    format!("{}.{hundredths:02} {name}", grouped(value / unit))
}

/// Thousands apart by a narrow space.
fn grouped(value: u128) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_cut_not_rounded() {
        assert_eq!(quantity(1_999_999, Unit::Microseconds), "1.999 s");
        assert_eq!(quantity(3_723_000_000, Unit::Microseconds), "1 h 02 m 03 s");
        assert_eq!(quantity(1_048_575, Unit::Bytes), "1\u{202f}023.99 KiB");
        assert_eq!(
            quantity(GIB * 3600 * 3 / 2, Unit::ByteSeconds),
            "1.50 GiB·h"
        );
        assert_eq!(
            quantity(1_234_567, Unit::Operations),
            "1\u{202f}234\u{202f}567"
        );
        assert_eq!(quantity(90_061, Unit::Seconds), "1 d 01 h");
        assert_eq!(duration(59_960_000), "59.9 s");
    }
}
