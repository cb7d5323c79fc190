//! The reference ledger: what is true, said as simply as it can be.
//!
//! Shares nothing with the product but ids. Time is microseconds, quarter-hours are numbered, quantities
//! are whole. It hears what the simulated machines used, what was sealed and what arrived, never what the
//! product thinks of it.

pub mod decision;
pub mod ledger;
pub mod meter;
pub mod tariff;

use std::collections::BTreeMap;
use std::rc::Rc;

use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};

/// Microseconds of a quarter-hour.
pub const QUARTER: u64 = 900_000_000;

/// What is measured of what: workload and meter by name.
pub type Item = (&'static str, &'static str);

/// Usage by quarter-hour.
pub type Usage = BTreeMap<(Item, u64), u128>;

/// What one sealed segment says, and what it should.
#[derive(Debug)]
pub struct Content {
    /// Whose.
    pub node: NodeId,
    /// In which stream.
    pub stream: StreamId,
    /// Its number.
    pub seq: Seq,
    /// Its hash.
    pub hash: Hash,
    /// The hash it names as its predecessor's; none for a first one.
    pub previous: Option<Hash>,
    /// The time it accounts for.
    pub time: (u64, u64),
    /// What was used in it, by what the machine knows.
    pub used: Usage,
    /// When what was measured.
    pub measured: Vec<(Item, (u64, u64))>,
    /// The node says nothing after it.
    pub last: bool,
    /// Something in it is wrong, and must not count.
    pub spoiled: bool,
}

/// What machines used, whoever saw it. Never goes back.
#[derive(Debug, Default)]
pub struct Truth {
    /// By node, added over its machines.
    pub used: BTreeMap<(NodeId, Item), u128>,
    /// Everything ever sealed.
    pub sealed: BTreeMap<(StreamId, Seq, Hash), Rc<Content>>,
}

/// The part of a quantity that lies before `at`, when all of it is spread evenly from `from` to `to`, cut
/// down to whole units.
fn before(quantity: u128, from: u64, to: u64, at: u64) -> u128 {
    if at >= to {
        return quantity;
    }
    quantity * u128::from(at.saturating_sub(from)) / u128::from(to - from)
}

/// Adds a quantity to the quarter-hours over which it is spread.
fn spread(usage: &mut Usage, item: Item, quantity: u128, from: u64, to: u64) {
    let (mut at, mut done) = (from, 0);
    while at < to {
        let end = ((at / QUARTER + 1) * QUARTER).min(to);
        let through = before(quantity, from, to, end);
        *usage.entry((item, at / QUARTER)).or_default() += through - done;
        (at, done) = (end, through);
    }
}
