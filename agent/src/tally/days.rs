//! The tally read back: day by day, for people and as JSON.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use tallystick_common::ids::{Hash, RegisterId, Seq, StreamId};
use tallystick_common::meter::Meter;
use tallystick_common::time::Timestamp;

use super::record::{self, Record, Row};
use super::{TallyError, date, failed, file};

/// One register as the tally has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegisterReading {
    /// Its number in the stream.
    pub register: RegisterId,
    /// Whose.
    pub workload: String,
    /// What it measures; its code where this version does not know it.
    pub meter: String,
    /// The meter's base unit.
    pub unit: String,
    /// Where it stood; a decimal text.
    pub reading: String,
    /// Up to when.
    pub through: Timestamp,
}

/// What is kept of one receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayReceipt {
    /// The last segment it is for.
    pub seq: Seq,
    /// That segment's hash.
    pub hash: Hash,
    /// Up to when that segment accounts for time.
    pub covered_through: Timestamp,
    /// When it was given, by the reconciler's clock; `None` when no known key signed it.
    pub given_at: Option<Timestamp>,
    /// The signed receipt, in hexadecimal.
    pub signed: String,
}

/// One UTC day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Day {
    /// `2026-11-22`.
    pub day: String,
    /// The stream that its readings are of.
    pub stream: StreamId,
    /// Up to when the readings are: the day's end, or the first seal after it.
    pub through: Timestamp,
    /// The receipt that covers it; `None` while none came.
    pub receipt: Option<DayReceipt>,
    /// Open registers at `through`.
    pub registers: Vec<RegisterReading>,
    /// Registers that were closed since the day before, as they stood then.
    pub closed: Vec<RegisterReading>,
}

/// The whole tally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Days {
    /// Since when it is kept; `None` when nothing was sealed yet.
    pub since: Option<Timestamp>,
    /// Bytes that are no records: damage.
    pub damaged_bytes: u64,
    /// Every day that is over, by date.
    pub days: Vec<Day>,
}

impl Days {
    /// Reads the tally in `data` and changes nothing. `given_at` tells when a signed receipt was given.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(
        data: &Path,
        given_at: impl Fn(&[u8]) -> Option<Timestamp>,
    ) -> Result<Self, TallyError> {
        let path = file(data);
        let found = record::read_file(&path).map_err(failed("read", &path))?;
        let mut days = Self {
            since: None,
            damaged_bytes: found.damaged_bytes,
            days: Vec::new(),
        };
        let mut closed = Vec::new();
        for record in found.records {
            match record {
                Record::Begun(begun) => days.since = days.since.or(Some(begun.at)),
                Record::Closed(part) => {
                    closed.extend(part.rows.into_iter().map(RegisterReading::from));
                }
                Record::Day(day) => days.days.push(Day {
                    day: date(day.day),
                    stream: day.stream,
                    through: day.through,
                    receipt: None,
                    registers: day.rows.into_iter().map(RegisterReading::from).collect(),
                    closed: std::mem::take(&mut closed),
                }),
                Record::Receipt(receipt) => days.cover(&DayReceipt {
                    seq: receipt.seq,
                    hash: receipt.hash,
                    covered_through: receipt.covered_through,
                    given_at: given_at(&receipt.bytes),
                    signed: data_encoding::HEXLOWER.encode(&receipt.bytes),
                }),
            }
        }
        Ok(days)
    }

    fn cover(&mut self, receipt: &DayReceipt) {
        let open = self.days.iter_mut().rev();
        for day in open.take_while(|day| day.receipt.is_none()) {
            if day.through <= receipt.covered_through {
                day.receipt = Some(receipt.clone());
            }
        }
    }

    /// Only the day of this date.
    #[must_use]
    pub fn only(self, date: &str) -> Self {
        let mut days = self.days;
        days.retain(|day| day.day == date);
        Self { days, ..self }
    }
}

impl From<Row> for RegisterReading {
    fn from(row: Row) -> Self {
        let meter = Meter::from_code(row.meter);
        Self {
            register: row.register,
            workload: row.workload,
            meter: meter.map_or_else(|| row.meter.to_string(), |meter| meter.name().to_owned()),
            unit: meter.map_or_else(String::new, |meter| meter.unit().to_string()),
            reading: row.reading.to_string(),
            through: row.through,
        }
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.since {
            Some(since) => writeln!(f, "kept since  {since}")?,
            None => writeln!(f, "kept since  nothing was sealed yet")?,
        }
        if self.damaged_bytes > 0 {
            writeln!(f, "damaged     {} bytes are no records", self.damaged_bytes)?;
        }
        if let [day] = &self.days[..] {
            return write_day(f, day);
        }
        if !self.days.is_empty() {
            writeln!(
                f,
                "\n{:10}  {:>9}  {:>6}  receipt",
                "day", "registers", "closed"
            )?;
        }
        for day in &self.days {
            let (open, closed) = (day.registers.len(), day.closed.len());
            writeln!(f, "{}  {open:>9}  {closed:>6}  {}", day.day, Receipt(day))?;
        }
        Ok(())
    }
}

fn write_day(f: &mut fmt::Formatter<'_>, day: &Day) -> fmt::Result {
    writeln!(f, "day         {}, read at {}", day.day, day.through)?;
    writeln!(f, "stream      {}", day.stream)?;
    writeln!(f, "receipt     {}", Receipt(day))?;
    for (title, rows) in [("open", &day.registers), ("closed in it", &day.closed)] {
        if rows.is_empty() {
            continue;
        }
        let width = rows.iter().map(|row| row.workload.len()).max().unwrap_or(0);
        writeln!(f, "\n{title}")?;
        for row in rows {
            let RegisterReading {
                workload,
                meter,
                reading,
                unit,
                ..
            } = row;
            writeln!(f, "{workload:width$}  {meter:15}  {reading:>24} {unit}")?;
        }
    }
    Ok(())
}

struct Receipt<'a>(&'a Day);

impl fmt::Display for Receipt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.receipt {
            None => f.write_str("none yet"),
            Some(receipt) => match receipt.given_at {
                Some(at) => write!(f, "segment {}, given {at}", receipt.seq),
                None => write!(f, "segment {}, signed by no known key", receipt.seq),
            },
        }
    }
}
