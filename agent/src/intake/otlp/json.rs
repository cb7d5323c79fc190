//! An export request in JSON (OTLP's JSON mapping of Protocol Buffers).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::quantity::{NotWhole, whole};
use super::{Attributes, DataPoint, Kind, Metric};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Export {
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceMetrics {
    resource: Resource,
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Resource {
    attributes: Vec<KeyValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScopeMetrics {
    scope: Scope,
    metrics: Vec<OneMetric>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Scope {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OneMetric {
    name: String,
    unit: String,
    sum: Option<Sum>,
    gauge: Option<Points>,
    histogram: Option<Points>,
    exponential_histogram: Option<Points>,
    summary: Option<Points>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Points {
    data_points: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Sum {
    data_points: Vec<NumberPoint>,
    aggregation_temporality: Option<Temporality>,
    is_monotonic: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Temporality {
    Number(u64),
    Name(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NumberPoint {
    attributes: Vec<KeyValue>,
    start_time_unix_nano: Option<Box<RawValue>>,
    time_unix_nano: Option<Box<RawValue>>,
    as_int: Option<Box<RawValue>>,
    as_double: Option<Box<RawValue>>,
    flags: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KeyValue {
    key: String,
    value: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AnyText {
    string_value: Option<String>,
}

/// Every metric of an export.
pub(in crate::intake) fn read(body: &[u8]) -> Result<Vec<Metric>, serde_json::Error> {
    let export: Export = serde_json::from_slice(body)?;
    let mut metrics = Vec::new();
    for part in export.resource_metrics {
        let resource = attributes(&part.resource.attributes);
        for scope in part.scope_metrics {
            let own = scope.metrics.into_iter().map(|metric| Metric {
                resource: resource.clone(),
                scope: scope.scope.name.clone(),
                kind: kind(&metric),
                name: metric.name,
                unit: metric.unit,
            });
            metrics.extend(own);
        }
    }
    Ok(metrics)
}

fn kind(metric: &OneMetric) -> Kind {
    let others = [
        ("gauge", &metric.gauge),
        ("histogram", &metric.histogram),
        ("histogram", &metric.exponential_histogram),
        ("summary", &metric.summary),
    ];
    if let Some(sum) = &metric.sum {
        return Kind::Sum {
            temporality: match &sum.aggregation_temporality {
                Some(Temporality::Number(number)) => *number,
                Some(Temporality::Name(name)) if name.ends_with("_CUMULATIVE") => super::CUMULATIVE,
                Some(Temporality::Name(name)) if name.ends_with("_DELTA") => super::DELTA,
                _ => 0,
            },
            monotonic: sum.is_monotonic,
            points: sum.data_points.iter().map(data_point).collect(),
        };
    }
    let mut others = others.into_iter();
    others
        .find_map(|(kind, points)| Some(Kind::Other(kind, points.as_ref()?.data_points.len())))
        .unwrap_or_default()
}

fn data_point(point: &NumberPoint) -> DataPoint {
    let ns = |raw: &Option<Box<RawValue>>| {
        let number = raw.as_ref().and_then(|raw| number(raw).ok());
        number.and_then(|ns| u64::try_from(ns).ok()).unwrap_or(0)
    };
    let value = point.as_int.as_ref().or(point.as_double.as_ref());
    DataPoint {
        attributes: attributes(&point.attributes),
        start_ns: ns(&point.start_time_unix_nano),
        time_ns: ns(&point.time_unix_nano),
        value: value.map(|raw| number(raw)),
        flags: point.flags,
    }
}

/// 64-bit numbers are written as text, or as numbers.
fn number(raw: &RawValue) -> Result<u128, NotWhole> {
    whole(raw.get().trim_matches('"'))
}

fn attributes(pairs: &[KeyValue]) -> Attributes {
    pairs
        .iter()
        .map(|pair| {
            let raw = pair.value.as_ref().map_or("null", |raw| raw.get());
            let text = serde_json::from_str::<AnyText>(raw)
                .ok()
                .and_then(|any| any.string_value);
            let value = match text {
                Some(text) => format!("text:{text}"),
                None => format!("json:{raw}"),
            };
            (pair.key.clone(), value)
        })
        .collect()
}
