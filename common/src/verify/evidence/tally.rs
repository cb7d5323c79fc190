//! The node's own half held against the file: readings of each day, and receipts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::node::Node;
use super::stream::Stream;
use super::{Difference, Step};
use crate::ids::{Hash, RegisterId, Seq, StreamId};
use crate::odometer::{self, reading_at};
use crate::time::Timestamp;

/// What `tallystick-agent tally --json` tells.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Tally {
    days: Vec<Day>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Day {
    day: String,
    stream: StreamId,
    receipt: Option<DayReceipt>,
    registers: Vec<Row>,
    closed: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct DayReceipt {
    seq: Seq,
    hash: Hash,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Row {
    register: RegisterId,
    workload: String,
    meter: String,
    reading: String,
    through: Timestamp,
}

/// A text that is no tally.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a tally: {0}; `tallystick-agent tally --json` tells one")]
pub struct TallyError(String);

impl Tally {
    /// Reads what the agent tells.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_json(text: &str) -> Result<Self, TallyError> {
        serde_json::from_str(text).map_err(|error| TallyError(error.to_string()))
    }
}

/// How much of a tally was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) readings: usize,
    pub(super) receipts: usize,
}

/// Compares what both halves have.
pub(super) fn check(tally: &Tally, nodes: &[Node]) -> Result<Told, Difference> {
    let mut told = Told::default();
    let streams: BTreeMap<StreamId, &Stream> = nodes
        .iter()
        .flat_map(|node| &node.streams)
        .map(|stream| (stream.id, stream))
        .collect();
    for day in &tally.days {
        let Some(stream) = streams.get(&day.stream) else {
            continue;
        };
        let differs = |why: String| Difference::new(Step::Tally, &day.day, why);
        if let Some(receipt) = &day.receipt {
            told.receipts += usize::from(check_receipt(receipt, stream).map_err(differs)?);
        }
        for row in day.registers.iter().chain(&day.closed) {
            told.readings += usize::from(check_row(row, stream).map_err(differs)?);
        }
    }
    Ok(told)
}

fn check_receipt(receipt: &DayReceipt, stream: &Stream) -> Result<bool, String> {
    match stream.link(receipt.seq) {
        None => Ok(false),
        Some(link) if link.hash == receipt.hash => Ok(true),
        Some(link) => Err(format!(
            "the node holds a receipt for segment {} with hash {}; in the file it has {}",
            receipt.seq, receipt.hash, link.hash
        )),
    }
}

/// Whether there is anything to compare; a reading between two that are shown lies between them.
fn check_row(row: &Row, stream: &Stream) -> Result<bool, String> {
    let found: u128 = row
        .reading
        .parse()
        .map_err(|_| format!("its reading of register {} is no number", row.register))?;
    let (mut least, mut most) = (None, None);
    let blocks = stream.shown.values().flatten();
    let runs = blocks.flat_map(|block| block.runs().iter().map(move |run| (block, run)));
    for (block, run) in runs.filter(|(_, run)| run.register == row.register) {
        if block.workload.as_str() != row.workload || run.meter.name() != row.meter {
            return Err(format!(
                "its register {} is {} of {}; in the file it is {} of {}",
                row.register, row.meter, row.workload, run.meter, block.workload
            ));
        }
        let shape = block.shape(run);
        if shape.start <= row.through && row.through <= shape.end() {
            let exact = reading_at(block, run, row.through).0;
            (least, most) = (Some(exact), Some(exact));
            break;
        }
        if shape.end() < row.through {
            least = odometer::closing(block, run).map(|reading| reading.0);
        } else if most.is_none() {
            most = Some(run.opening.0);
        }
    }
    if least.is_some_and(|least| found < least) || most.is_some_and(|most| found > most) {
        return Err(format!(
            "its register {} of {} stood at {found} at {}; the file has {} to {}",
            row.register,
            row.workload,
            row.through,
            least.map_or_else(|| "?".to_owned(), |least| least.to_string()),
            most.map_or_else(|| "?".to_owned(), |most| most.to_string()),
        ));
    }
    Ok(least.is_some() && most.is_some())
}
