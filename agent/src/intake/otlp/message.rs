//! An export request in Protocol Buffers (opentelemetry-proto `metrics/v1`, field numbers as there).

use super::super::protobuf::{NotAMessage, Value, fields};
use super::super::quantity::{NotWhole, whole_double};
use super::{Attributes, DataPoint, Kind, Metric};

/// Every metric of `ExportMetricsServiceRequest`.
pub(in crate::intake) fn read(body: &[u8]) -> Result<Vec<Metric>, NotAMessage> {
    let mut metrics = Vec::new();
    for field in fields(body) {
        if let (1, value) = field? {
            resource_metrics(value.bytes()?, &mut metrics)?;
        }
    }
    Ok(metrics)
}

fn resource_metrics(message: &[u8], metrics: &mut Vec<Metric>) -> Result<(), NotAMessage> {
    let (mut resource, mut scopes) = (Attributes::new(), Vec::new());
    for field in fields(message) {
        match field? {
            (1, value) => resource = attributes(value.bytes()?, 1)?,
            (2, value) => scopes.push(value.bytes()?),
            _ => {}
        }
    }
    for scope in scopes {
        scope_metrics(scope, &resource, metrics)?;
    }
    Ok(())
}

fn scope_metrics(
    message: &[u8],
    resource: &Attributes,
    metrics: &mut Vec<Metric>,
) -> Result<(), NotAMessage> {
    let (mut scope, mut own) = (String::new(), Vec::new());
    for field in fields(message) {
        match field? {
            (1, value) => scope = first_text(value.bytes()?)?,
            (2, value) => own.push(metric(value.bytes()?)?),
            _ => {}
        }
    }
    metrics.extend(own.into_iter().map(|metric| Metric {
        resource: resource.clone(),
        scope: scope.clone(),
        ..metric
    }));
    Ok(())
}

fn first_text(message: &[u8]) -> Result<String, NotAMessage> {
    for field in fields(message) {
        if let (1, value) = field? {
            return value.text().map(str::to_owned);
        }
    }
    Ok(String::new())
}

fn metric(message: &[u8]) -> Result<Metric, NotAMessage> {
    let mut metric = Metric::default();
    for field in fields(message) {
        match field? {
            (1, value) => value.text()?.clone_into(&mut metric.name),
            (3, value) => value.text()?.clone_into(&mut metric.unit),
            (5, value) => metric.kind = Kind::Other("gauge", points(value)?),
            (7, value) => metric.kind = sum(value.bytes()?)?,
            (9 | 10, value) => metric.kind = Kind::Other("histogram", points(value)?),
            (11, value) => metric.kind = Kind::Other("summary", points(value)?),
            _ => {}
        }
    }
    Ok(metric)
}

fn points(message: Value<'_>) -> Result<usize, NotAMessage> {
    let mut points = 0;
    for field in fields(message.bytes()?) {
        points += usize::from(field?.0 == 1);
    }
    Ok(points)
}

fn sum(message: &[u8]) -> Result<Kind, NotAMessage> {
    let (mut temporality, mut monotonic, mut points) = (0, false, Vec::new());
    for field in fields(message) {
        match field? {
            (1, value) => points.push(data_point(value.bytes()?)?),
            (2, value) => temporality = value.number()?,
            (3, value) => monotonic = value.number()? != 0,
            _ => {}
        }
    }
    Ok(Kind::Sum {
        temporality,
        monotonic,
        points,
    })
}

fn data_point(message: &[u8]) -> Result<DataPoint, NotAMessage> {
    let mut point = DataPoint {
        attributes: attributes(message, 7)?,
        ..DataPoint::default()
    };
    for field in fields(message) {
        match field? {
            (2, value) => point.start_ns = value.fixed()?,
            (3, value) => point.time_ns = value.fixed()?,
            (4, value) => point.value = Some(whole_double(value.fixed()?)),
            (6, value) => {
                let signed = value.fixed()?.cast_signed();
                point.value = Some(u128::try_from(signed).map_err(|_| NotWhole::Negative));
            }
            (8, value) => point.flags = value.number()?,
            _ => {}
        }
    }
    Ok(point)
}

/// The `KeyValue`s that a message has under `number`.
fn attributes(message: &[u8], number: u64) -> Result<Attributes, NotAMessage> {
    let mut attributes = Attributes::new();
    for field in fields(message) {
        let (found, value) = field?;
        if found == number {
            attributes.push(key_value(value.bytes()?)?);
        }
    }
    Ok(attributes)
}

fn key_value(message: &[u8]) -> Result<(String, String), NotAMessage> {
    let (mut key, mut spelled) = (String::new(), String::new());
    for field in fields(message) {
        match field? {
            (1, value) => value.text()?.clone_into(&mut key),
            (2, value) => spelled = any_value(value.bytes()?)?,
            _ => {}
        }
    }
    Ok((key, spelled))
}

/// A text as it is, anything else by its bytes: it only has to differ where the value differs.
fn any_value(message: &[u8]) -> Result<String, NotAMessage> {
    if let Some(Ok((1, value))) = fields(message).next() {
        return Ok(format!("text:{}", value.text()?));
    }
    Ok(format!("bytes:{}", data_encoding::HEXLOWER.encode(message)))
}
