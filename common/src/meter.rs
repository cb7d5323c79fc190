//! The meters: what is measured, in which unit, and how readings of it behave.
//!
//! Owns the closed table of built-in meters with their wire codes. Codes and units are part of the
//! sealed bytes: a code is never reused, a changed meaning is a new version or a new code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a register of the meter moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Counts events or bytes; the register only rises.
    Counter,
    /// A level added up over measured time; the register only rises.
    Integral,
    /// The period's value is the maximum of its intervals; the register is the maximum so far.
    Peak,
}

/// The base unit of a meter: quantities and readings are whole numbers of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Microseconds (of CPU time).
    Microseconds,
    /// Bytes.
    Bytes,
    /// Bytes held, times seconds held.
    ByteSeconds,
    /// Operations.
    Operations,
    /// Seconds.
    Seconds,
    /// Whatever the application counts.
    Count,
    /// Processes that exist, times seconds they exist.
    ProcessSeconds,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Microseconds => "µs",
            Self::Bytes => "B",
            Self::ByteSeconds => "B·s",
            Self::Operations => "operations",
            Self::Seconds => "s",
            Self::Count => "counted",
            Self::ProcessSeconds => "process·s",
        })
    }
}

/// One row of the table of meters.
#[derive(Debug, PartialEq, Eq)]
pub struct Definition {
    /// Code on the wire and in sealed bytes.
    pub code: u16,
    /// Name in documents, API and pages.
    pub name: &'static str,
    /// Base unit.
    pub unit: Unit,
    /// How its registers move.
    pub kind: Kind,
    /// Version of the meaning.
    pub version: u8,
    /// Whether host total = metered workloads + `host/other` (I4).
    pub additive: bool,
}

macro_rules! meters {
    ($($(#[$doc:meta])* $constant:ident = $code:literal $name:literal $unit:ident $kind:ident additive=$additive:literal;)*) => {
        impl Meter {
            $($(#[$doc])* pub const $constant: Self = Self(&Definition {
                code: $code,
                name: $name,
                unit: Unit::$unit,
                kind: Kind::$kind,
                version: 1,
                additive: $additive,
            });)*

            /// Every meter, by rising code.
            pub const ALL: &'static [Self] = &[$(Self::$constant),*];
        }
    };
}

meters! {
    /// CPU time used, user and system.
    CPU_TIME = 1 "cpu.time" Microseconds Counter additive=true;
    /// Working set held over time (usage less inactive file pages).
    MEMORY_USAGE = 2 "memory.usage" ByteSeconds Integral additive=true;
    /// Largest memory use.
    MEMORY_PEAK = 3 "memory.peak" Bytes Peak additive=false;
    /// Bytes read from block devices.
    DISK_READ = 4 "disk.read" Bytes Counter additive=true;
    /// Bytes written to block devices.
    DISK_WRITE = 5 "disk.write" Bytes Counter additive=true;
    /// Read operations on block devices.
    DISK_READ_OPS = 6 "disk.read_ops" Operations Counter additive=true;
    /// Write operations on block devices.
    DISK_WRITE_OPS = 7 "disk.write_ops" Operations Counter additive=true;
    /// Bytes used on a file system, held over time.
    STORAGE_USED = 8 "storage.used" ByteSeconds Integral additive=false;
    /// Bytes received by a network interface.
    NETWORK_RX = 9 "network.rx" Bytes Counter additive=false;
    /// Bytes sent by a network interface.
    NETWORK_TX = 10 "network.tx" Bytes Counter additive=false;
    /// Time the node was up.
    UPTIME = 11 "uptime" Seconds Counter additive=false;
    /// Time in which a processor had work and the hypervisor ran somebody else. Of the host alone; nobody's usage.
    CPU_STEAL = 12 "cpu.steal" Microseconds Counter additive=false;
    /// Processes held over time: tasks as the kernel counts them, threads among them.
    PROCESS_COUNT = 13 "process.count" ProcessSeconds Integral additive=true;
    /// What an application counts; the name of it is the last part of the workload's.
    APP_COUNT = 14 "app.count" Count Counter additive=false;
    /// Bytes that an application counts.
    APP_BYTES = 15 "app.bytes" Bytes Counter additive=false;
    /// Seconds that an application counts.
    APP_SECONDS = 16 "app.seconds" Seconds Counter additive=false;
}

/// A meter of the table. Copying it copies a reference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Meter(&'static Definition);

/// A name or code that no meter of this version has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no meter is called {0:?}; the meters are {names}", names = Meter::names())]
pub struct UnknownMeter(pub String);

impl Meter {
    /// By wire code.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        let index = usize::from(code).checked_sub(1)?;
        Self::ALL
            .get(index)
            .copied()
            .filter(|meter| meter.code() == code)
    }

    /// Code on the wire, in sealed bytes and in stores.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0.code
    }

    /// Name in documents, API and pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// Base unit of its quantities and readings.
    #[must_use]
    pub const fn unit(self) -> Unit {
        self.0.unit
    }

    /// How its registers move.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.0.kind
    }

    /// Version of its meaning.
    #[must_use]
    pub const fn version(self) -> u8 {
        self.0.version
    }

    /// Whether it obeys I4: host total = metered workloads + `host/other`.
    #[must_use]
    pub const fn is_additive(self) -> bool {
        self.0.additive
    }

    fn names() -> String {
        Self::ALL
            .iter()
            .map(|meter| meter.name())
            .collect::<Vec<_>>()
            .join(", ")
    }
}

impl PartialOrd for Meter {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Meter {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.code().cmp(&other.code())
    }
}

impl std::hash::Hash for Meter {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.code().hash(state);
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Meter {
    type Err = UnknownMeter;

    fn from_str(name: &str) -> Result<Self, UnknownMeter> {
        Self::ALL
            .iter()
            .copied()
            .find(|meter| meter.name() == name)
            .ok_or_else(|| UnknownMeter(name.to_owned()))
    }
}

impl Serialize for Meter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Meter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_name_finds_its_meter() {
        for meter in Meter::ALL {
            assert_eq!(Meter::from_code(meter.code()), Some(*meter));
            assert_eq!(meter.name().parse(), Ok(*meter));
        }
        assert_eq!(Meter::from_code(0), None);
        assert_eq!(Meter::from_code(999), None);
        assert!(
            "cpu"
                .parse::<Meter>()
                .unwrap_err()
                .to_string()
                .contains("cpu.time")
        );
    }
}
