use serde_json::{Value, json};
use tallystick_common::meter::Meter;

use super::super::protobuf::{put_bytes, put_fixed, put_number};
use super::*;
use crate::config::Selection;

const START: u64 = 1_795_348_800_000_000_000;

fn globs() -> Globs {
    Selection {
        include: vec!["*".to_owned()],
        exclude: vec!["secret*".to_owned()],
    }
    .compile()
    .unwrap()
}

fn point(value: &Value) -> Value {
    json!({
        "attributes": [{ "key": "route", "value": { "stringValue": "/" } }],
        "startTimeUnixNano": START.to_string(), "timeUnixNano": (START + 1_000).to_string(),
        "asInt": value,
    })
}

fn metric(name: &str, kind: &Value) -> Value {
    let mut metric = kind.clone();
    metric["name"] = json!(name);
    metric
}

fn sum(value: &Value) -> Value {
    json!({ "sum": { "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [point(value)] } })
}

fn sorted(metrics: &[Value]) -> Sorted {
    let workload = json!({ "key": "tallystick.workload", "value": { "stringValue": "web" } });
    let body = json!({ "resourceMetrics": [{
        "resource": { "attributes": [workload] },
        "scopeMetrics": [{ "scope": { "name": "s" }, "metrics": metrics }],
    }] });
    let metrics = read_json(&serde_json::to_vec(&body).unwrap()).unwrap();
    sort(&metrics, &Caller::trusted(), &globs())
}

#[test]
fn only_cumulative_monotonic_sums_of_whole_numbers_are_usage() {
    let mut delta = sum(&json!("5"));
    delta["sum"]["aggregationTemporality"] = json!("AGGREGATION_TEMPORALITY_DELTA");
    let mut level = sum(&json!("5"));
    level["sum"]["isMonotonic"] = json!(false);
    let mut double = sum(&json!(null));
    double["sum"]["dataPoints"][0]["asDouble"] = json!(2.5);
    let mut silent = sum(&json!(null));
    silent["sum"]["dataPoints"][0]["flags"] = json!(1);
    let gauge = json!({ "gauge": { "dataPoints": [point(&json!(1)), point(&json!(2))] } });
    let histogram = json!({ "histogram": { "dataPoints": [{}] } });
    let found = sorted(&[
        metric("good", &sum(&json!("5"))),
        metric("delta", &delta),
        metric("level", &level),
        metric("fraction", &double),
        metric("negative", &sum(&json!("-5"))),
        metric("silent", &silent),
        metric("gauge", &gauge),
        metric("histogram", &histogram),
        metric("secret", &sum(&json!("5"))),
        metric("not/ours", &sum(&json!("5"))),
        metric("empty", &json!({})),
    ]);
    assert_eq!(found.counts.len(), 1);
    let count = &found.counts[0];
    assert_eq!(count.register.0.as_str(), "app/web/good");
    assert_eq!(count.register.1, Meter::APP_COUNT);
    assert_eq!(count.point.value, 5);
    assert_eq!(count.point.start.unwrap().as_micros(), START / 1_000);
    assert_eq!(found.refused.points, 9);
    let said = found.refused.message();
    for says in [
        "delta: delta temporality is refused",
        "level: the sum may fall",
        "fraction: value: it is not a whole number",
        "negative: value: it is negative",
        "gauge: a gauge is no count",
        "histogram: a histogram is no count",
        "secret: it is not taken here",
        "not/ours: \"not/ours\" is not the name",
    ] {
        assert!(said.contains(says), "{says} in {said}");
    }
}

#[test]
fn a_series_is_told_by_its_attributes_in_any_order() {
    let one = sorted(&[metric("a", &sum(&json!(1)))]).counts.remove(0);
    let mut other = sum(&json!(1));
    other["sum"]["dataPoints"][0]["attributes"][0]["value"]["stringValue"] = json!("/other");
    let other = sorted(&[metric("a", &other)]).counts.remove(0);
    assert_eq!(one.register, other.register);
    assert_ne!(one.key, other.key);
    let pairs = |order: [&str; 2]| {
        let pairs = order.map(|name| (name.to_owned(), "text:1".to_owned()));
        spelled(&pairs.to_vec())
    };
    assert_eq!(pairs(["a", "b"]), pairs(["b", "a"]));
}

fn message(parts: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, bytes) in parts {
        put_bytes(&mut out, *field, bytes);
    }
    out
}

#[test]
fn both_encodings_say_the_same() {
    let text = |text: &str| message(&[(1, text.as_bytes().to_vec())]);
    let pair = |key: &str, value: &str| message(&[(1, key.into()), (2, text(value))]);
    let mut point = message(&[(7, pair("route", "/"))]);
    put_fixed(&mut point, 2, START);
    put_fixed(&mut point, 3, START + 1_000);
    put_fixed(&mut point, 6, 5);
    let mut sum_message = message(&[(1, point)]);
    put_number(&mut sum_message, 2, 2);
    put_number(&mut sum_message, 3, 1);
    let metric_message = message(&[(1, b"good".to_vec()), (3, b"By".to_vec()), (7, sum_message)]);
    let scope = message(&[(1, text("s")), (2, metric_message)]);
    let resource = message(&[(1, pair("tallystick.workload", "web"))]);
    let body = message(&[(1, message(&[(1, resource), (2, scope)]))]);
    let metrics = read_protobuf(&body).unwrap();
    let found = sort(&metrics, &Caller::trusted(), &globs());

    let mut same = sum(&json!("5"));
    same["unit"] = json!("By");
    assert_eq!(found, sorted(&[metric("good", &same)]));
    assert_eq!(found.counts[0].register.1, Meter::APP_BYTES);
    for length in 0..body.len() {
        // Cut anywhere it is refused, or has lost whole fields only; it never panics.
        let _ = read_protobuf(&body[..length]);
    }
}
