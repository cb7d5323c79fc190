//! CloudEvents 1.0 in JSON: structured, batched and binary.
//!
//! `data` is `{"value": 5}`, with `"meter"` (else the event's `type` is the meter's name) and `"unit"`
//! (`count`, `bytes` or `seconds`; `count` without it). `subject` names the workload; without it the usage is
//! the sender's own. (`source`, `id`) is counted once for each workload. `time` is the sender's note.

use data_encoding::BASE64;
use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use tallystick_common::application::AppMeter;

use super::peer::{Caller, Foreign};
use super::quantity::reportable;
use super::{Event, Wrong, key};
use crate::config::Globs;
use crate::config::intake::AppUnit;

/// Most events of a batch.
pub const BATCH_MAX: usize = 10_000;

/// Why an event is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventError {
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error("{0}")]
    Foreign(Foreign),
}

/// An event as it stands on the wire; extensions are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    subject: Option<String>,
    datacontenttype: Option<String>,
    data: Option<Box<RawValue>>,
    data_base64: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Data {
    value: Option<Box<RawValue>>,
    meter: Option<String>,
    #[serde(default)]
    unit: AppUnit,
}

/// One event in structured mode.
pub(super) fn structured(
    body: &[u8],
    caller: &Caller,
    meters: &Globs,
) -> Result<Vec<Event>, EventError> {
    let envelope = json::<Envelope>("the body", body)?;
    Ok(vec![envelope.event("", caller, meters)?])
}

/// Many events. One that is wrong refuses all.
pub(super) fn batch(
    body: &[u8],
    caller: &Caller,
    meters: &Globs,
) -> Result<Vec<Event>, EventError> {
    let envelopes = json::<Vec<Envelope>>("the body", body)?;
    if envelopes.len() > BATCH_MAX {
        let why = format!("more than {BATCH_MAX} events: send them in parts");
        return Err(Wrong::new("the body", why).into());
    }
    let event = |(place, envelope): (usize, Envelope)| {
        envelope.event(&format!("[{place}]."), caller, meters)
    };
    envelopes.into_iter().enumerate().map(event).collect()
}

/// One event whose attributes are in `ce-` headers.
pub(super) fn binary(
    headers: &HeaderMap,
    body: &[u8],
    caller: &Caller,
    meters: &Globs,
) -> Result<Vec<Event>, EventError> {
    let text = |name: &'static str| -> Result<Option<String>, Wrong> {
        let Some(value) = headers.get(name) else {
            return Ok(None);
        };
        percent_decoded(value.as_bytes())
            .map(Some)
            .ok_or_else(|| Wrong::new(name, "it is not percent-encoded UTF-8"))
    };
    let envelope = Envelope {
        specversion: text("ce-specversion")?.unwrap_or_default(),
        id: text("ce-id")?.unwrap_or_default(),
        source: text("ce-source")?.unwrap_or_default(),
        kind: text("ce-type")?.unwrap_or_default(),
        subject: text("ce-subject")?,
        datacontenttype: None,
        data: Some(json("the body", body)?),
        data_base64: None,
    };
    Ok(vec![envelope.event("", caller, meters)?])
}

impl Envelope {
    fn event(self, at: &str, caller: &Caller, meters: &Globs) -> Result<Event, EventError> {
        let wrong = |field: &str, why: String| Wrong::new(format!("{at}{field}"), why);
        if self.specversion != "1.0" {
            return Err(wrong("specversion", "it has to be \"1.0\"".to_owned()).into());
        }
        for (field, text) in [
            ("id", &self.id),
            ("source", &self.source),
            ("type", &self.kind),
        ] {
            if text.is_empty() {
                return Err(wrong(field, "it is missing or empty".to_owned()).into());
            }
        }
        let data = self.data(at)?;
        let value = data
            .value
            .ok_or_else(|| wrong("data.value", "it is missing: how much was used?".to_owned()))?;
        let quantity =
            reportable(bare(value.get())).map_err(|why| wrong("data.value", why.to_string()))?;
        let (field, name) = match data.meter {
            Some(name) => ("data.meter", name),
            None => ("type", self.kind),
        };
        let name = AppMeter::new(name).map_err(|why| wrong(field, why.to_string()))?;
        if !meters.selects(name.as_str()) {
            let why = format!("{name} is not taken here: see intake.meters");
            return Err(wrong(field, why).into());
        }
        let reporter = caller
            .workload(self.subject.as_deref())
            .map_err(EventError::Foreign)?;
        let workload = name
            .workload(reporter)
            .map_err(|why| wrong("subject", why.to_string()))?;
        let meter = data.unit.meter();
        let sender = [reporter, &self.source, &self.id].map(str::as_bytes);
        let said = [
            workload.as_str().as_bytes(),
            &meter.code().to_le_bytes(),
            &quantity.to_le_bytes(),
        ];
        let content = key("content", &said).first_chunk().copied();
        Ok(Event {
            key: key("event", &sender),
            content: u64::from_le_bytes(content.unwrap_or_default()),
            register: (workload, meter),
            quantity,
        })
    }

    fn data(&self, at: &str) -> Result<Data, Wrong> {
        let field = format!("{at}data");
        let kind = self
            .datacontenttype
            .as_deref()
            .unwrap_or("application/json");
        if !is_json(kind) {
            let why = format!("{kind:?} is not JSON");
            return Err(Wrong::new(format!("{at}datacontenttype"), why));
        }
        match (&self.data, &self.data_base64) {
            (Some(data), None) => json(&field, data.get().as_bytes()),
            (None, Some(text)) => {
                let bytes = BASE64
                    .decode(text.as_bytes())
                    .map_err(|error| Wrong::new(format!("{field}_base64"), error.to_string()))?;
                json(&format!("{field}_base64"), &bytes)
            }
            _ => Err(Wrong::new(field, "one of data and data_base64 is needed")),
        }
    }
}

/// Whether a media type is of JSON.
pub(super) fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or(kind).trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

fn json<'a, T: Deserialize<'a>>(field: &str, bytes: &'a [u8]) -> Result<T, Wrong> {
    serde_json::from_slice(bytes).map_err(|error| Wrong::new(field, error.to_string()))
}

/// A number may be written as text, for those whose numbers are floats.
fn bare(value: &str) -> &str {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .unwrap_or(value)
}

fn percent_decoded(bytes: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            out.push(*byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tallystick_common::meter::Meter;

    use super::*;
    use crate::config::Selection;

    fn globs() -> Globs {
        Selection {
            include: vec!["*".to_owned()],
            exclude: vec!["secret*".to_owned()],
        }
        .compile()
        .unwrap()
    }

    fn good() -> Value {
        json!({
            "specversion": "1.0", "id": "1", "source": "/shop", "type": "requests", "subject": "web",
            "time": "2026-11-24T12:00:00Z", "someextension": 7, "data": { "value": 5, "path": "/" },
        })
    }

    fn read(event: &Value) -> Result<Event, String> {
        let body = serde_json::to_vec(event).unwrap();
        structured(&body, &Caller::trusted(), &globs())
            .map(|mut events| events.remove(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_event_says_whose_what_and_how_much() {
        let event = read(&good()).unwrap();
        assert_eq!(event.register.0.as_str(), "app/web/requests");
        assert_eq!((event.register.1, event.quantity), (Meter::APP_COUNT, 5));
        let mut other = good();
        other["data"] = json!({ "meter": "sent", "unit": "bytes", "value": "7" });
        let other = read(&other).unwrap();
        assert_eq!(other.register.0.as_str(), "app/web/sent");
        assert_eq!((other.register.1, other.quantity), (Meter::APP_BYTES, 7));
        assert_eq!(other.key, event.key, "one source and id is one event");
        assert_ne!(other.content, event.content);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (field, value, says) in [
            ("/specversion", json!("0.3"), "specversion: it has to be"),
            ("/id", json!(""), "id: it is missing"),
            ("/type", json!("a b"), "type: \"a b\" is not the name"),
            ("/type", json!("secret"), "intake.meters"),
            ("/subject", json!("/web"), "subject: "),
            ("/data/value", json!(-1), "data.value: it is negative"),
            (
                "/data/value",
                json!(0.5),
                "data.value: it is not a whole number",
            ),
            (
                "/data/value",
                json!("NaN"),
                "data.value: it is not a number",
            ),
            ("/data/value", json!(1e30), "data.value: it is more than"),
            ("/data/value", Value::Null, "data.value: it is missing"),
            ("/data/value", json!([1]), "data.value: it is not a number"),
            ("/data", json!("text"), "data: "),
        ] {
            let mut event = good();
            *event.pointer_mut(field).unwrap() = value;
            let error = read(&event).unwrap_err();
            assert!(error.contains(says), "{field}: {error}");
        }
        let mut event = good();
        event["datacontenttype"] = json!("application/xml");
        assert!(read(&event).unwrap_err().starts_with("datacontenttype"));
        let mut events = json!([good(), good()]);
        events[1]["data"]["value"] = json!(-1);
        let body = serde_json::to_vec(&events).unwrap();
        let error = batch(&body, &Caller::trusted(), &globs()).unwrap_err();
        assert!(error.to_string().starts_with("[1].data.value"), "{error}");
    }

    #[test]
    fn binary_mode_and_base64_say_the_same() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "1"),
            ("ce-source", "/sh%6Fp"),
            ("ce-type", "requests"),
            ("ce-subject", "web"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let events = binary(&headers, br#"{"value":5}"#, &Caller::trusted(), &globs()).unwrap();
        assert_eq!(events, [read(&good()).unwrap()]);
        headers.insert("ce-source", "%zz".parse().unwrap());
        assert!(binary(&headers, b"{}", &Caller::trusted(), &globs()).is_err());
        let mut event = good();
        event["data_base64"] = json!(BASE64.encode(br#"{"value":5}"#));
        assert!(read(&event).is_err(), "both");
        event.as_object_mut().unwrap().remove("data");
        assert_eq!(read(&event), read(&good()));
    }
}
