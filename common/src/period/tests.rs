//! Stories and properties of billing periods.

use proptest::prelude::*;

use super::*;
use crate::time::{HOUR_US, Micros, QUARTER_HOUR_US};

fn calendar(zone: &str, anchor_day: u8) -> Calendar {
    Calendar::new(Zone::new(zone).unwrap(), anchor_day).unwrap()
}

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn starts(zone: &str, anchor_day: u8, months: &[&str]) -> Vec<String> {
    let calendar = calendar(zone, anchor_day);
    months
        .iter()
        .map(|text| calendar.period(month(text)).unwrap().from.to_string())
        .collect()
}

#[test]
fn short_months_are_clamped_from_the_anchor_itself() {
    assert_eq!(
        starts(
            "UTC",
            31,
            &["2027-01", "2027-02", "2027-03", "2027-04", "2028-02"]
        ),
        [
            "2027-01-31T00:00:00Z",
            "2027-02-28T00:00:00Z",
            "2027-03-31T00:00:00Z",
            "2027-04-30T00:00:00Z",
            "2028-02-29T00:00:00Z",
        ]
    );
}

#[test]
fn a_month_begins_at_local_midnight() {
    assert_eq!(
        starts("Europe/Berlin", 1, &["2026-03", "2026-04", "2026-11"]),
        [
            "2026-02-28T23:00:00Z",
            "2026-03-31T22:00:00Z",
            "2026-10-31T23:00:00Z"
        ]
    );
    assert_eq!(
        starts("Asia/Kolkata", 1, &["2026-11"]),
        ["2026-10-31T18:30:00Z"]
    );
    assert_eq!(
        starts("Asia/Kathmandu", 1, &["2026-11"]),
        ["2026-10-31T18:15:00Z"]
    );
}

#[test]
fn a_skipped_midnight_begins_after_the_gap_and_a_double_one_at_the_first() {
    // São Paulo: 2015-10-18 00:00 became 01:00.
    assert_eq!(
        starts("America/Sao_Paulo", 18, &["2015-10"]),
        ["2015-10-18T03:00:00Z"]
    );
    // Samoa skipped the whole of 2011-12-30.
    assert_eq!(
        starts("Pacific/Apia", 30, &["2011-12"]),
        ["2011-12-30T10:00:00Z"]
    );
    // Havana: 2026-11-01 01:00 went back to 00:00.
    assert_eq!(
        starts("America/Havana", 1, &["2026-11"]),
        ["2026-11-01T04:00:00Z"]
    );
}

#[test]
fn an_instant_on_the_bound_belongs_to_the_new_period() {
    let calendar = calendar("America/New_York", 1);
    let bound = at("2026-11-01T04:00:00Z");
    assert_eq!(calendar.containing(bound).unwrap().0, month("2026-11"));
    assert_eq!(
        calendar
            .containing(bound.saturating_sub(Micros(1)))
            .unwrap()
            .0,
        month("2026-10")
    );
}

#[test]
fn historic_offsets_off_the_quarter_hour_are_refused() {
    // Liberia kept −0:44:30 until 1972.
    let error = calendar("Africa/Monrovia", 1)
        .period(month("1971-05"))
        .unwrap_err();
    assert!(error.to_string().contains("quarter-hour"), "{error}");
    assert!(
        calendar("Africa/Monrovia", 1)
            .period(month("1972-05"))
            .is_ok()
    );
}

#[test]
fn nonsense_is_refused_with_the_remedy() {
    assert!(
        Zone::new("Europe/Atlantis")
            .unwrap_err()
            .to_string()
            .contains("Europe/Berlin")
    );
    assert!(Calendar::new(Zone::utc(), 0).is_err() && Calendar::new(Zone::utc(), 32).is_err());
    for bad in [
        "2026-13", "2026-00", "26-11", "2026-1", "2026/11", "+026-11", "",
    ] {
        assert!(bad.parse::<Month>().is_err(), "{bad}");
    }
    assert_eq!(month("2026-11").to_string(), "2026-11");
    assert!(calendar("UTC", 1).period(month("1969-12")).is_err());
    assert!(calendar("UTC", 1).period(month("9999-12")).is_err());
    assert!(calendar("UTC", 15).containing(Timestamp::EPOCH).is_err());
    assert!(calendar("UTC", 1).containing(Timestamp::MAX).is_err());
    assert!(calendar("UTC", 1).containing(Timestamp::EPOCH).is_ok());
}

fn any_zone() -> impl Strategy<Value = String> {
    let names: Vec<String> = TimeZoneDatabase::bundled()
        .available()
        .map(|name| name.to_string())
        .collect();
    prop::sample::select(names)
}

#[test]
fn every_zone_of_the_database_has_a_name_that_comes_back() {
    let mut count = 0;
    for name in TimeZoneDatabase::bundled().available() {
        let zone = Zone::new(name.as_str()).unwrap();
        assert_eq!(Zone::new(zone.name()).unwrap(), zone);
        count += 1;
    }
    assert!(count > 400, "{count} zones");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // From 2000 on: some zones had offsets between quarter-hours before, and no periods then.
    #[test]
    fn periods_tile_time_and_hold_their_instants(
        zone in any_zone(), anchor in 1u8..=31, hours in 8_766u64 * 30..8_766 * 130, micros in 0..HOUR_US,
    ) {
        let calendar = calendar(&zone, anchor);
        let instant = Timestamp::from_micros(hours * HOUR_US + micros).unwrap();
        let (month, period) = calendar.containing(instant).unwrap();
        prop_assert!(period.contains(instant));
        prop_assert!(period.from.is_quarter_hour() && period.to.is_quarter_hour());
        let next = calendar.period(month.next().unwrap()).unwrap();
        prop_assert_eq!(period.to, next.from);
        prop_assert_eq!(calendar.containing(period.from).unwrap(), (month, period));
        let last = period.to.saturating_sub(Micros(1));
        prop_assert_eq!(calendar.containing(last).unwrap(), (month, period));
        let days = (period.to.as_micros() - period.from.as_micros()) / QUARTER_HOUR_US / 96;
        prop_assert!((26..=32).contains(&days), "{} days", days);
    }
}
