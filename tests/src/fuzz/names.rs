//! Patterns, and every small text that has a grammar.

use std::fmt::Display;
use std::str::FromStr;

use tallystick_common::application::AppMeter;
use tallystick_common::ids::{NodeId, WorkloadName};
use tallystick_common::keys::PublicKey;
use tallystick_common::meter::Meter;
use tallystick_common::money::{Currency, Money};
use tallystick_common::pattern::{Pattern, selects_workload};
use tallystick_common::period::{Month, Zone};
use tallystick_common::price::BillingUnit;
use tallystick_common::time::Timestamp;

use super::{Input, Output, Target};

pub(super) const NAMES: Target = Target {
    name: "names",
    max_bytes: 512,
    run,
    seeds,
    words: &[
        "*",
        "?",
        "host",
        "host/other",
        "cgroup/",
        "2026-10",
        "T00:00:00Z",
        "EUR",
        "Europe/Berlin",
        "GiB-hour",
    ],
};

/// Two patterns and a name; or one text through every grammar.
fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    if input.byte() % 2 == 0 {
        let (left, right) = (input.text(), input.text());
        patterns(&left, &right, &String::from_utf8_lossy(input.0));
    } else {
        grammars(&String::from_utf8_lossy(input.0));
    }
}

fn patterns(left: &str, right: &str, name: &str) {
    let (Ok(left), Ok(right)) = (Pattern::new("left", left), Pattern::new("right", right)) else {
        return;
    };
    let meet = left.intersects(&right);
    assert_eq!(meet, right.intersects(&left), "meeting is mutual");
    assert!(left.intersects(&left), "a pattern meets itself");
    if left.matches(name) && right.matches(name) {
        assert!(meet, "both mean {name:?}");
    }
    let _ = selects_workload(&left, name);
}

fn grammars(text: &str) {
    again::<AppMeter>(text);
    again::<WorkloadName>(text);
    again::<NodeId>(text);
    again::<PublicKey>(text);
    again::<Meter>(text);
    again::<Currency>(text);
    again::<Money>(text);
    again::<Month>(text);
    again::<Zone>(text);
    again::<BillingUnit>(text);
    again::<Timestamp>(text);
}

/// What is read from a text is read the same from what it is written as.
fn again<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        let same = written.parse::<T>().is_ok_and(|again| again == value);
        assert!(
            same,
            "{text:?} is written {written:?}, which is something else"
        );
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        ("cgroup/*/a?c", "cgroup/x*", "cgroup/x/abc"),
        ("host/*", "*other", "host/other"),
        ("*a*b*c*", "?*?*?", "xaybzc"),
    ]
    .iter()
    .map(|(left, right, name)| {
        let out = Output::default()
            .byte(0)
            .piece(left.as_bytes())
            .piece(right.as_bytes());
        out.bytes(name.as_bytes()).0
    })
    .collect();
    let key = "ab".repeat(32);
    let node = NodeId([0xa1; 16]).to_string();
    for text in [
        "jobs",
        "cgroup/system.slice/a.service",
        &node,
        &key,
        "cpu.time",
        "EUR",
        "12.34 EUR",
        "EUR 12.34",
        "2026-10",
        "Europe/Berlin",
        "UTC",
        "GiB-hour",
        "2026-11-22T12:00:00Z",
        "2026-11-22T12:00:00.000001+01:00",
        "2026-11-22",
    ] {
        seeds.push(Output::default().byte(1).bytes(text.as_bytes()).0);
    }
    seeds
}
