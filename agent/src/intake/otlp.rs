//! OTLP metrics: which of an application's data points are usage.
//!
//! Cumulative monotonic sums are: what a series rose by since its last point is added to the register of its
//! metric. The workload is the resource's attribute `tallystick.workload`, else the sender's own; points
//! that differ in attributes are series of their own and add to one register. Gauges, histograms,
//! summaries, sums that may fall and delta temporality are refused, each with its reason: a delta that is
//! sent again after a lost answer cannot be told from a new one. A point that is refused does not refuse
//! the others.
//!
//! The unit `By` counts as bytes, `s` as seconds, any other as a count of whatever it is.

use tallystick_common::application::AppMeter;
use tallystick_common::time::Timestamp;

use super::peer::Caller;
use super::quantity::NotWhole;
use super::series::Point;
use super::{Count, key};
use crate::config::Globs;
use crate::config::intake::AppUnit;

mod json;
mod message;

pub(super) use json::read as read_json;
pub(super) use message::read as read_protobuf;

/// The resource attribute that names the workload.
const WORKLOAD: &str = "tallystick.workload";
/// Cumulative, as numbered by the protocol.
const CUMULATIVE: u64 = 2;
const DELTA: u64 = 1;
/// Flag of a point that only says that nothing is known.
const NO_RECORDED_VALUE: u64 = 1;

/// Attributes by name; values in a spelling of their type.
type Attributes = Vec<(String, String)>;

/// One metric as it came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metric {
    resource: Attributes,
    scope: String,
    name: String,
    unit: String,
    kind: Kind,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Kind {
    Sum {
        temporality: u64,
        monotonic: bool,
        points: Vec<DataPoint>,
    },
    /// Of another kind, with so many points.
    Other(&'static str, usize),
    #[default]
    Empty,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct DataPoint {
    attributes: Attributes,
    start_ns: u64,
    time_ns: u64,
    value: Option<Result<u128, NotWhole>>,
    flags: u64,
}

/// What of an export is usage, and what was refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sorted {
    pub(super) counts: Vec<Count>,
    pub(super) refused: Refused,
}

/// Points that are not counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) points: usize,
    /// The first few reasons, each with its metric.
    reasons: Vec<String>,
}

impl Refused {
    const REASONS_MAX: usize = 8;

    pub(super) fn add(&mut self, points: usize, metric: &str, why: &str) {
        if points == 0 {
            return;
        }
        self.points += points;
        let reason = format!("{metric}: {why}");
        if self.reasons.len() < Self::REASONS_MAX && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Why, for people.
    pub(super) fn message(&self) -> String {
        self.reasons.join("; ")
    }
}

/// Sorts what came from `caller`.
pub(super) fn sort(metrics: &[Metric], caller: &Caller, meters: &Globs) -> Sorted {
    let mut sorted = Sorted::default();
    for metric in metrics {
        match countable(metric, caller, meters) {
            Ok((name, reporter, points)) => {
                for point in points {
                    sorted.point(metric, &name, reporter, point);
                }
            }
            Err((points, why)) => sorted.refused.add(points, &metric.name, &why),
        }
    }
    sorted
}

type Countable<'a> = (AppMeter, &'a str, &'a [DataPoint]);

fn countable<'a>(
    metric: &'a Metric,
    caller: &'a Caller,
    meters: &Globs,
) -> Result<Countable<'a>, (usize, String)> {
    let points = match &metric.kind {
        Kind::Empty => return Err((0, String::new())),
        Kind::Other(kind, points) => {
            let why = format!("a {kind} is no count: only cumulative monotonic sums are usage");
            return Err((*points, why));
        }
        Kind::Sum { points, .. } => points,
    };
    let refuse = |why: &str| (points.len(), why.to_owned());
    match metric.kind {
        Kind::Sum {
            temporality: DELTA, ..
        } => Err(refuse(
            "delta temporality is refused, for a repeated delta cannot be told from a new one: set OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative",
        )),
        Kind::Sum { temporality, .. } if temporality != CUMULATIVE => {
            Err(refuse("its temporality is not given"))
        }
        Kind::Sum {
            monotonic: false, ..
        } => Err(refuse(
            "the sum may fall, so it is a level and no count: use a monotonic counter",
        )),
        _ => Ok(()),
    }?;
    let name = AppMeter::new(metric.name.clone()).map_err(|why| refuse(&why.to_string()))?;
    if !meters.selects(name.as_str()) {
        return Err(refuse("it is not taken here: see intake.meters"));
    }
    let wanted = metric.resource.iter().find(|(name, _)| name == WORKLOAD);
    let wanted = wanted.map(|(_, value)| value.trim_start_matches("text:"));
    let reporter = caller
        .workload(wanted)
        .map_err(|why| refuse(&why.to_string()))?;
    Ok((name, reporter, points))
}

impl Sorted {
    fn point(&mut self, metric: &Metric, name: &AppMeter, reporter: &str, point: &DataPoint) {
        // Not a point that is refused: it says itself that it says nothing.
        if point.flags & NO_RECORDED_VALUE != 0 {
            return;
        }
        match count(metric, name, reporter, point) {
            Ok(count) => self.counts.push(count),
            Err(why) => self.refused.add(1, &metric.name, &why),
        }
    }
}

fn count(
    metric: &Metric,
    name: &AppMeter,
    reporter: &str,
    point: &DataPoint,
) -> Result<Count, String> {
    let value = match &point.value {
        Some(Ok(value)) => *value,
        Some(Err(why)) => return Err(format!("value: {why}")),
        None => return Err("value: it is missing".to_owned()),
    };
    let instant = |ns: u64| Timestamp::from_micros(ns / 1_000).filter(|_| ns > 0);
    let time = instant(point.time_ns).ok_or("time_unix_nano: it is missing")?;
    let unit = match metric.unit.as_str() {
        "By" => AppUnit::Bytes,
        "s" => AppUnit::Seconds,
        _ => AppUnit::Count,
    };
    let workload = name.workload(reporter).map_err(|why| why.to_string())?;
    let resource = spelled(&metric.resource);
    let attributes = spelled(&point.attributes);
    let series = [
        reporter,
        &resource,
        &metric.scope,
        &metric.name,
        &metric.unit,
        &attributes,
    ];
    Ok(Count {
        key: key("otlp", &series.map(str::as_bytes)),
        point: Point {
            start: instant(point.start_ns),
            time,
            value,
        },
        register: (workload, unit.meter()),
    })
}

/// Attributes in one spelling, whatever their order.
fn spelled(attributes: &Attributes) -> String {
    let mut parts: Vec<String> = attributes
        .iter()
        .map(|(name, value)| format!("{name:?}={value:?}"))
        .collect();
    parts.sort();
    parts.join(",")
}

#[cfg(test)]
mod tests;
