//! Doors to what applications and scrape targets say, and to the ledger on disk, for tests that feed them
//! anything. The caller may report for anybody, every meter is taken.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use tallystick_common::time::Timestamp;

use super::ledger::Limits;
use super::otlp::{self, Metric};
use super::peer::Caller;
use super::{event, exposition, log, quantity};
use crate::config::{Globs, Scrape, Selection};

const NOW: Timestamp = Timestamp::EPOCH;
const LIMITS: Limits = Limits {
    events: 100,
    series: 100,
};

fn all() -> Option<Globs> {
    let selection = Selection {
        include: vec!["**".to_owned()],
        exclude: Vec::new(),
    };
    selection.compile().ok()
}

/// Events that a body in structured or batched mode reports; none when it is refused.
#[must_use]
pub fn events(body: &[u8], batched: bool) -> Option<usize> {
    let read = if batched {
        event::batch
    } else {
        event::structured
    };
    read(body, &Caller::trusted(), &all()?)
        .ok()
        .map(|events| events.len())
}

/// The same for an event whose attributes are in headers.
#[must_use]
pub fn binary_event(headers: &[(&str, &[u8])], body: &[u8]) -> Option<usize> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        map.insert(name, HeaderValue::from_bytes(value).ok()?);
    }
    event::binary(&map, body, &Caller::trusted(), &all()?)
        .ok()
        .map(|events| events.len())
}

/// Points that an OTLP export in JSON or Protobuf reports, and those refused; none when it is no export.
#[must_use]
pub fn otlp(body: &[u8], json: bool) -> Option<(usize, usize)> {
    let metrics: Vec<Metric> = if json {
        otlp::read_json(body).ok()?
    } else {
        otlp::read_protobuf(body).ok()?
    };
    let sorted = otlp::sort(&metrics, &Caller::trusted(), &all()?);
    let _ = sorted.refused.message();
    Some((sorted.counts.len(), sorted.refused.points))
}

/// Counters found in what a target said.
#[must_use]
pub fn exposition(text: &str, scrape: &Scrape) -> usize {
    exposition::read(text, scrape, NOW).counts.len()
}

/// A record of the ledger's log around any body, with the checksum that belongs to it.
#[must_use]
pub fn framed(body: &[u8]) -> Vec<u8> {
    log::framed(body)
}

/// The last batch in a log.
#[must_use]
pub fn replayed(bytes: &[u8], counted: Option<u64>) -> u64 {
    let (mut ledger, last) = log::replay(bytes, counted, LIMITS, NOW);
    ledger.expire(NOW);
    last
}

/// The whole number that a text spells.
#[must_use]
pub fn whole(text: &str) -> Option<u128> {
    quantity::whole(text).ok()
}
