//! What the agent counts of itself, in the Prometheus text format.
//!
//! Owns names and help texts. Figures about usage are not among them: those are in sealed segments.

use std::fmt;

use tallystick_common::ids::{NodeId, Seq};
use tallystick_common::time::Timestamp;

/// Counted since the process began, and how things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// The node.
    pub node: NodeId,
    /// Samples taken.
    pub samples: u64,
    /// Time they took together.
    pub sample_micros: u64,
    /// Seals that the disk did not take.
    pub seal_failures: u64,
    /// Connections made.
    pub connections: u64,
    /// Attempts that failed, and connections that broke.
    pub disconnections: u64,
    /// Receipts verified and stored.
    pub receipts: u64,
    /// Certificates renewed.
    pub renewals: u64,
    /// Reloads done.
    pub reloads: u64,
    /// Reloads refused.
    pub reloads_refused: u64,
    /// Whether there is a connection.
    pub connected: bool,
    /// Open registers.
    pub registers: u64,
    /// The next segment's number.
    pub next_seq: Seq,
    /// Segments without a receipt.
    pub unreceipted: u64,
    /// Bytes of the buffer on disk.
    pub buffer_bytes: u64,
    /// Whether sled is out of order.
    pub journal_alone: bool,
    /// Up to when sealed segments account for time.
    pub covered_through: Option<Timestamp>,
}

impl Figures {
    /// Of a process that has just begun.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            samples: 0,
            sample_micros: 0,
            seal_failures: 0,
            connections: 0,
            disconnections: 0,
            receipts: 0,
            renewals: 0,
            reloads: 0,
            reloads_refused: 0,
            connected: false,
            registers: 0,
            next_seq: Seq::FIRST,
            unreceipted: 0,
            buffer_bytes: 0,
            journal_alone: false,
            covered_through: None,
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = "tallystick_agent_info";
        writeln!(f, "# HELP {name} Node and version.\n# TYPE {name} gauge")?;
        writeln!(
            f,
            "{name}{{node=\"{}\",version=\"{}\"}} 1",
            self.node,
            env!("CARGO_PKG_VERSION")
        )?;
        let counters = [
            ("samples", "Samples taken.", self.samples),
            (
                "sample_microseconds",
                "Time that samples took.",
                self.sample_micros,
            ),
            (
                "segments_sealed",
                "Segments of this stream.",
                self.next_seq.0,
            ),
            (
                "seal_failures",
                "Seals that the disk did not take; the segment is kept.",
                self.seal_failures,
            ),
            (
                "connections",
                "Connections to the reconciler made.",
                self.connections,
            ),
            (
                "disconnections",
                "Attempts that failed and connections that broke.",
                self.disconnections,
            ),
            ("receipts", "Receipts verified and stored.", self.receipts),
            ("renewals", "Certificates renewed.", self.renewals),
            ("reloads", "Reloads done.", self.reloads),
            ("reloads_refused", "Reloads refused.", self.reloads_refused),
        ];
        for (name, help, value) in counters {
            family(f, &format!("{name}_total"), "counter", help, value)?;
        }
        let gauges = [
            (
                "connected",
                "Whether there is a connection.",
                u64::from(self.connected),
            ),
            ("registers", "Open registers.", self.registers),
            (
                "unreceipted_segments",
                "Sealed segments without a receipt.",
                self.unreceipted,
            ),
            ("buffer_bytes", "Buffer on disk.", self.buffer_bytes),
            (
                "journal_alone",
                "Whether sled is out of order.",
                u64::from(self.journal_alone),
            ),
        ];
        for (name, help, value) in gauges {
            family(f, name, "gauge", help, value)?;
        }
        if let Some(covered) = self.covered_through {
            let help = "Up to when sealed segments account for time, in seconds since 1970.";
            let seconds = covered.as_micros() / 1_000_000;
            family(f, "covered_through_seconds", "gauge", help, seconds)?;
        }
        Ok(())
    }
}

fn family(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    kind: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let name = format!("tallystick_agent_{name}");
    writeln!(
        f,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    )
}
