//! The two halves of the stick held against each other: what an agent was seen to seal and to hold receipts
//! for, and what the reconciler's store and API say afterwards.
//!
//! Everything here panics where they do not match, naming the invariant.

use std::collections::BTreeMap;

use serde_json::Value;
use tallystick_agent::identity::Identity;
use tallystick_common::ids::{Hash, Seq};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::seal::SealedSegment;
use tallystick_common::time::Timestamp;
use tallystick_common::verify::{Report, Verifier};
use tallystick_reconciler::store::{Store, streams};

use crate::sides::Sides;

/// Sums by workload and meter: of counters and integrals; for peaks the maximum.
pub type Sums = BTreeMap<(String, String), u128>;

/// Adds one value to its sum.
pub fn add(sums: &mut Sums, workload: &str, meter: Meter, value: u128) {
    let sum = sums
        .entry((workload.to_owned(), meter.name().to_owned()))
        .or_default();
    *sum = match meter.kind() {
        Kind::Peak => (*sum).max(value),
        _ => *sum + value,
    };
}

/// The text under `key`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is a text in {value}"))
}

/// The number written as text under `key`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn number(value: &Value, key: &str) -> u128 {
    let number = text(value, key).parse();
    number.unwrap_or_else(|_| panic!("{key} is a number in {value}"))
}

/// Every segment in the store, counted, of one stream.
///
/// # Panics
/// When there is another stream, a segment is not counted, or the store cannot be read.
#[must_use]
pub fn stored(sides: &Sides) -> Vec<SealedSegment> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let path = sides.reconciler_data().join(Store::FILE_NAME);
        let store = Store::open(&path).await.expect("a store");
        let mut tx = store.read().await.expect("a snapshot");
        let found = streams::all(&mut tx).await.expect("streams");
        let [stream] = found.as_slice() else {
            panic!("one stream: {found:?}")
        };
        let segments = streams::segments_from(&mut tx, stream.row, Seq::FIRST, u32::MAX);
        let mut parsed = Vec::new();
        for segment in segments.await.expect("segments") {
            assert!(segment.counted, "segment {} is not counted", segment.seq);
            parsed.push(SealedSegment::parse(segment.bytes).expect("a segment"));
        }
        drop(tx);
        store.close().await;
        parsed
    })
}

/// What these segments say, checked from the first to the last with the node's own key.
///
/// # Panics
/// When one does not verify or does not follow.
#[must_use]
pub fn replayed(identity: &Identity, segments: &[SealedSegment]) -> Report {
    let mut verifier = Verifier::new(identity.key_ring(), None);
    for segment in segments {
        let followed = verifier.segment(segment.bytes().to_vec());
        followed.unwrap_or_else(|error| panic!("I6: {error}"));
    }
    verifier.report().expect("segments")
}

/// Closing − opening of all registers in it.
///
/// # Panics
/// When a register does not begin at 0.
#[must_use]
pub fn measured(report: &Report) -> Sums {
    let mut sums = Sums::new();
    for register in &report.registers {
        assert_eq!(register.opening, 0, "an odometer begins at 0: {register:?}");
        let workload = register.workload.as_str();
        add(&mut sums, workload, register.meter, register.closing);
    }
    sums
}

/// What `GET /v1/usage` gives.
///
/// # Errors
/// When the API does not answer.
///
/// # Panics
/// When a row is not one.
pub fn billed(sides: &Sides, from: Timestamp) -> anyhow::Result<Sums> {
    let mut sums = Sums::new();
    for row in sides.api()?.all(&format!("/v1/usage?from={from}"))? {
        let meter = text(&row, "meter").parse().expect("a meter");
        let quantity = number(&row, "quantity");
        add(&mut sums, text(&row, "workload"), meter, quantity);
    }
    Ok(sums)
}

/// No segment twice, none missing, each from where the one before ended.
///
/// # Panics
/// When it is not so.
pub fn holds_i1(segments: &[Value], next: Seq) {
    assert_eq!(segments.len() as u64, next.0, "I1: as many as were sealed");
    for (place, segment) in segments.iter().enumerate() {
        assert_eq!(segment["seq"], place as u64, "I1");
        assert_eq!(segment["stream"], segments[0]["stream"], "I1: one stream");
        assert_eq!(segment["verdict"], "counted", "{segment}");
    }
    for pair in segments.windows(2) {
        assert_eq!(pair[1]["covered_from"], pair[0]["covered_through"], "I5");
    }
}

/// What there was a receipt for, at any time, is in the store as it was receipted.
///
/// # Panics
/// When it is not so.
pub fn holds_i2(segments: &[Value], receipts: &BTreeMap<Seq, Hash>) {
    assert!(!receipts.is_empty());
    for (through, hash) in receipts {
        let kept = segments.get(usize::try_from(through.0).unwrap_or(usize::MAX));
        let kept = kept.unwrap_or_else(|| panic!("I2: segment {through} is lost"));
        assert_eq!(
            text(kept, "hash"),
            hash.to_string(),
            "I2: segment {through}"
        );
    }
}
