//! A block as bytes: packed columns inside a bincode envelope, and back.
//!
//! The decoder accepts exactly what the encoder writes: numbers in their shortest form, runs of equal
//! values as long as they can be, shapes in the order of their first use and each once. So equal
//! content has equal bytes, and a hash of the bytes is a hash of the content.

use std::collections::HashSet;

use bincode::{Decode, Encode};

use super::{Basis, Block, CloseReason, Run, Shape, Span};
use crate::codec::{self, CodecError};
use crate::ids::{RegisterId, WorkloadName};
use crate::meter::Meter;
use crate::packing::{PackingError, Reader, put, put_i64};
use crate::reading::{Cause, Quality, Reading};
use crate::time::{Micros, Timestamp};

/// Most intervals a block may hold; a limit on memory, far above what any agent seals at once.
const MAX_INTERVALS: u32 = 4 << 20;

/// Bytes that are not a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The envelope.
    #[error("block envelope: {0}")]
    Envelope(#[from] CodecError),
    /// A column's numbers.
    #[error("column {column}: {error}")]
    Column {
        /// Which column.
        column: &'static str,
        /// What is wrong.
        error: PackingError,
    },
    /// A column's meaning.
    #[error("column {column}: {why}")]
    Meaning {
        /// Which column.
        column: &'static str,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The name.
    #[error("workload name: {0}")]
    Workload(#[from] crate::ids::IdError),
    /// The labels.
    #[error("labels are not sorted by key, each key once")]
    Labels,
}

#[derive(Encode, Decode)]
struct Envelope {
    workload: String,
    labels: Vec<(String, String)>,
    shapes: Vec<u8>,
    registers: Vec<u8>,
    meters: Vec<u8>,
    lives: Vec<u8>,
    shape_of: Vec<u8>,
    openings: Vec<u8>,
    quantities: Vec<u8>,
}

fn cause_code(cause: Cause) -> u128 {
    Cause::ALL
        .iter()
        .position(|known| *known == cause)
        .map_or(0, |index| index as u128)
}

/// 0 exact; 1 + 2·cause interpolated; 2 + 2·cause unmeasured.
fn quality_code(quality: Quality) -> u128 {
    match quality {
        Quality::Exact => 0,
        Quality::Interpolated(cause) => 1 + 2 * cause_code(cause),
        Quality::Unmeasured(cause) => 2 + 2 * cause_code(cause),
    }
}

fn quality_from(code: u64) -> Option<Quality> {
    let Some(code) = code.checked_sub(1) else {
        return Some(Quality::Exact);
    };
    let cause = *Cause::ALL.get(usize::try_from(code / 2).ok()?)?;
    Some(if code % 2 == 0 {
        Quality::Interpolated(cause)
    } else {
        Quality::Unmeasured(cause)
    })
}

/// 0 neither; opened: + 1 birth, + 2 first seen; closed: + 3 · (place of the reason, from 1).
fn life_code(run: &Run) -> u64 {
    let opened = match run.opened {
        None => 0,
        Some(Basis::Birth) => 1,
        Some(Basis::FirstSeen { .. }) => 2,
    };
    let closed = run
        .closed
        .and_then(|reason| CloseReason::ALL.iter().position(|known| *known == reason));
    opened + 3 * closed.map_or(0, |place| place as u64 + 1)
}

impl Block {
    /// The block's bytes, with times relative to the segment's `from`.
    #[must_use]
    pub fn encode(&self, from: Timestamp) -> Vec<u8> {
        codec::encode(&Envelope {
            workload: self.workload.as_str().to_owned(),
            labels: self.labels.clone(),
            shapes: put_shapes(&self.shapes, from),
            registers: put_registers(&self.runs),
            meters: column(&self.runs, |out, run| {
                put(
                    out,
                    u128::from(run.meter.code()) << 3 | u128::from(run.meter.version()),
                );
            }),
            lives: put_runs_of(self.runs.iter().map(life_code)),
            shape_of: put_runs_of(self.runs.iter().map(|run| u64::from(run.shape))),
            openings: column(&self.runs, |out, run| {
                put(out, run.opening.0);
                if let Some(Basis::FirstSeen { raw }) = run.opened {
                    put(out, raw);
                }
            }),
            quantities: column(&self.quantities, |out, quantity| put(out, *quantity)),
        })
    }

    /// The block that `bytes` spell, in a segment that starts at `from`.
    ///
    /// # Errors
    /// When they are not exactly what [`Self::encode`] writes for some block.
    pub fn decode(bytes: &[u8], from: Timestamp) -> Result<Self, BlockError> {
        let envelope: Envelope = codec::decode(bytes)?;
        if !envelope.labels.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(BlockError::Labels);
        }
        let workload = WorkloadName::new(envelope.workload)?;
        let shapes = read_shapes(&envelope.shapes, from)?;
        let registers = read_registers(&envelope.registers)?;
        let count = registers.len();
        let lives = read_runs_of("lives", &envelope.lives, count)?;
        let shape_of = read_runs_of("shape_of", &envelope.shape_of, count)?;
        check_first_uses(&shape_of, shapes.len())?;
        let runs = read_runs(
            &registers,
            &envelope.meters,
            &lives,
            &shape_of,
            &envelope.openings,
            &shapes,
        )?;
        let intervals = runs.last().map_or(0, |run| {
            run.first_quantity as usize + shapes[run.shape as usize].spans.len()
        });
        let quantities = read_quantities(&envelope.quantities, intervals, &runs, &shapes)?;
        Ok(Self {
            workload,
            labels: envelope.labels,
            shapes,
            runs,
            quantities,
        })
    }
}

fn column<T>(items: &[T], write: impl Fn(&mut Vec<u8>, &T)) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() * 2);
    items.iter().for_each(|item| write(&mut out, item));
    out
}

/// Count, then for each shape: start − from, number of spans, and per span its length, its quality
/// and (unless unmeasured) zigzag(measured − length).
fn put_shapes(shapes: &[Shape], from: Timestamp) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, shapes.len() as u128);
    for shape in shapes {
        put(&mut out, u128::from(shape.start.since(from).0));
        put(&mut out, shape.spans.len() as u128);
        let mut start = shape.start;
        for span in &shape.spans {
            let length = span.end.since(start).0;
            put(&mut out, u128::from(length));
            put(&mut out, quality_code(span.quality));
            if !matches!(span.quality, Quality::Unmeasured(_)) {
                put_i64(
                    &mut out,
                    span.measured
                        .0
                        .cast_signed()
                        .wrapping_sub(length.cast_signed()),
                );
            }
            start = span.end;
        }
    }
    out
}

fn read_shapes(bytes: &[u8], from: Timestamp) -> Result<Vec<Shape>, BlockError> {
    let mut column = Column::new("shapes", bytes);
    let count = column.count()?;
    let mut shapes: Vec<Shape> = Vec::with_capacity(count);
    for _ in 0..count {
        let start = column.later(from)?;
        let spans = column.count()?;
        let mut shape = Shape {
            start,
            spans: Vec::with_capacity(spans),
        };
        for _ in 0..spans {
            let span = read_span(&mut column, shape.end())?;
            shape.spans.push(span);
        }
        shapes.push(shape);
    }
    if shapes.iter().collect::<HashSet<_>>().len() != count {
        return Err(column.wrong("a shape stands twice"));
    }
    column.finish()?;
    Ok(shapes)
}

fn read_span(column: &mut Column<'_>, start: Timestamp) -> Result<Span, BlockError> {
    let end = column.later(start)?;
    if end == start {
        return Err(column.wrong("an interval has no length"));
    }
    let quality = quality_from(column.u64()?).ok_or_else(|| column.wrong("unknown quality"))?;
    let measured = if matches!(quality, Quality::Unmeasured(_)) {
        0
    } else {
        let length = end.since(start).0.cast_signed();
        let measured = length
            .checked_add(column.i64()?)
            .and_then(|us| u64::try_from(us).ok());
        measured.ok_or_else(|| column.wrong("measured time is negative or too long"))?
    };
    Ok(Span {
        end,
        measured: Micros(measured),
        quality,
    })
}

/// Count, the first id, then differences.
fn put_registers(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::with_capacity(runs.len() + 8);
    put(&mut out, runs.len() as u128);
    let mut before = 0;
    for run in runs {
        put(&mut out, u128::from(run.register.0 - before));
        before = run.register.0;
    }
    out
}

fn read_registers(bytes: &[u8]) -> Result<Vec<RegisterId>, BlockError> {
    let mut column = Column::new("registers", bytes);
    let count = column.count()?;
    let mut registers: Vec<RegisterId> = Vec::with_capacity(count);
    for index in 0..count {
        let step = column.u64()?;
        if index > 0 && step == 0 {
            return Err(column.wrong("registers do not rise"));
        }
        let before = registers.last().map_or(0, |id| id.0);
        let id = before
            .checked_add(step)
            .ok_or_else(|| column.wrong("a register id is too large"))?;
        registers.push(RegisterId(id));
    }
    column.finish()?;
    Ok(registers)
}

/// Pairs of value and how often it stands in a row.
fn put_runs_of(values: impl Iterator<Item = u64>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut open: Option<(u64, u64)> = None;
    for value in values {
        open = match open {
            Some((same, times)) if same == value => Some((same, times + 1)),
            done => {
                put_pair(&mut out, done);
                Some((value, 1))
            }
        };
    }
    put_pair(&mut out, open);
    out
}

fn put_pair(out: &mut Vec<u8>, pair: Option<(u64, u64)>) {
    if let Some((value, times)) = pair {
        put(out, u128::from(value));
        put(out, u128::from(times));
    }
}

fn read_runs_of(name: &'static str, bytes: &[u8], count: usize) -> Result<Vec<u64>, BlockError> {
    let mut column = Column::new(name, bytes);
    let mut values: Vec<u64> = Vec::with_capacity(count);
    while values.len() < count {
        let value = column.u64()?;
        let times = column.u64()?;
        let room = (count - values.len()) as u64;
        if times == 0 || times > room || values.last() == Some(&value) {
            return Err(column.wrong("a run of equal values is empty, too long or split"));
        }
        let filled = values.len() + usize::try_from(times).unwrap_or(count);
        values.resize(filled, value);
    }
    column.finish()?;
    Ok(values)
}

/// Shapes are numbered in the order of their first use, and each is used.
fn check_first_uses(shape_of: &[u64], shapes: usize) -> Result<(), BlockError> {
    let wrong = |why| BlockError::Meaning {
        column: "shape_of",
        why,
    };
    let mut known = 0;
    for &shape in shape_of {
        if shape > known {
            return Err(wrong("shapes are not in the order of their first use"));
        }
        if shape == known {
            known += 1;
        }
    }
    if known == shapes as u64 {
        Ok(())
    } else {
        Err(wrong("a shape is missing or unused"))
    }
}

fn read_runs(
    registers: &[RegisterId],
    meters: &[u8],
    lives: &[u64],
    shape_of: &[u64],
    openings: &[u8],
    shapes: &[Shape],
) -> Result<Vec<Run>, BlockError> {
    let mut meters = Column::new("meters", meters);
    let mut openings = Column::new("openings", openings);
    let mut runs = Vec::with_capacity(registers.len());
    let mut first_quantity = 0;
    for ((&register, &life), &shape) in registers.iter().zip(lives).zip(shape_of) {
        let meter = read_meter(&mut meters)?;
        let opening = Reading(openings.u128()?);
        let (opened, closed) = read_life(life, &mut openings)?;
        let shape = u32::try_from(shape).map_err(|_| openings.wrong("too many shapes"))?;
        runs.push(Run {
            register,
            meter,
            opened,
            closed,
            opening,
            shape,
            first_quantity,
        });
        first_quantity = u32::try_from(shapes[shape as usize].spans.len())
            .ok()
            .and_then(|spans| first_quantity.checked_add(spans))
            .filter(|count| *count <= MAX_INTERVALS)
            .ok_or_else(|| openings.wrong("too many intervals"))?;
    }
    meters.finish()?;
    openings.finish()?;
    Ok(runs)
}

fn read_meter(column: &mut Column<'_>) -> Result<Meter, BlockError> {
    let word = column.u64()?;
    u16::try_from(word >> 3)
        .ok()
        .and_then(Meter::from_code)
        .filter(|meter| u64::from(meter.version()) == word & 7)
        .ok_or_else(|| column.wrong("unknown meter or version of one"))
}

fn read_life(
    life: u64,
    openings: &mut Column<'_>,
) -> Result<(Option<Basis>, Option<CloseReason>), BlockError> {
    let unknown = BlockError::Meaning {
        column: "lives",
        why: "unknown code",
    };
    let opened = match life % 3 {
        0 => None,
        1 => Some(Basis::Birth),
        _ => Some(Basis::FirstSeen {
            raw: openings.u128()?,
        }),
    };
    let closed = match usize::try_from(life / 3)
        .ok()
        .filter(|place| *place <= CloseReason::ALL.len())
    {
        None => return Err(unknown),
        Some(0) => None,
        Some(place) => Some(CloseReason::ALL[place - 1]),
    };
    Ok((opened, closed))
}

fn read_quantities(
    bytes: &[u8],
    count: usize,
    runs: &[Run],
    shapes: &[Shape],
) -> Result<Vec<u128>, BlockError> {
    let mut column = Column::new("quantities", bytes);
    if count > column.reader.remaining() {
        return Err(column.wrong("fewer quantities than intervals"));
    }
    let mut quantities = Vec::with_capacity(count);
    for run in runs {
        for span in &shapes[run.shape as usize].spans {
            let quantity = column.u128()?;
            if quantity != 0 && matches!(span.quality, Quality::Unmeasured(_)) {
                return Err(column.wrong("an unmeasured interval has a quantity"));
            }
            quantities.push(quantity);
        }
    }
    column.finish()?;
    Ok(quantities)
}

/// A reader that knows the name of what it reads.
struct Column<'a> {
    name: &'static str,
    reader: Reader<'a>,
}

impl<'a> Column<'a> {
    fn new(name: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            name,
            reader: Reader::new(bytes),
        }
    }

    fn wrong(&self, why: &'static str) -> BlockError {
        BlockError::Meaning {
            column: self.name,
            why,
        }
    }

    fn named(&self, error: PackingError) -> BlockError {
        BlockError::Column {
            column: self.name,
            error,
        }
    }

    fn u64(&mut self) -> Result<u64, BlockError> {
        self.reader.u64().map_err(|error| self.named(error))
    }

    fn u128(&mut self) -> Result<u128, BlockError> {
        self.reader.u128().map_err(|error| self.named(error))
    }

    fn i64(&mut self) -> Result<i64, BlockError> {
        self.reader.i64().map_err(|error| self.named(error))
    }

    /// A number of things that follow in this column, each at least one byte long.
    fn count(&mut self) -> Result<usize, BlockError> {
        let count = self.u64()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.reader.remaining())
            .ok_or_else(|| self.wrong("a count exceeds what follows"))
    }

    /// An instant as its distance from `earlier`.
    fn later(&mut self, earlier: Timestamp) -> Result<Timestamp, BlockError> {
        let distance = self.u64()?;
        earlier
            .as_micros()
            .checked_add(distance)
            .and_then(Timestamp::from_micros)
            .ok_or_else(|| self.wrong("an instant is past the year 9999"))
    }

    fn finish(self) -> Result<(), BlockError> {
        let name = self.name;
        self.reader.finish().map_err(|error| BlockError::Column {
            column: name,
            error,
        })
    }
}
