//! Segments of any size for tests and benchmarks, made by the product's own sealing.

use tallystick_common::ids::{BootId, Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::keys::{KeyRing, SecretKey};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Interval, Quality, Reading};
use tallystick_common::seal::{self, SealedSegment};
use tallystick_common::segment::{Basis, Block, HeaderDraft, Previous, Purpose, RunDraft};
use tallystick_common::time::{Micros, SECOND_US, Timestamp};

/// Meters that stand on every workload of a fixture, in turn.
const METERS: [Meter; 10] = [
    Meter::CPU_TIME,
    Meter::MEMORY_USAGE,
    Meter::MEMORY_PEAK,
    Meter::DISK_READ,
    Meter::DISK_WRITE,
    Meter::DISK_READ_OPS,
    Meter::DISK_WRITE_OPS,
    Meter::NETWORK_RX,
    Meter::NETWORK_TX,
    Meter::STORAGE_USED,
];

/// How large the segments of a [`Chain`] are.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Workloads, one block each.
    pub workloads: usize,
    /// Registers of each workload, at most ten.
    pub meters: usize,
    /// Intervals of each register in one segment.
    pub steps: usize,
}

impl Size {
    /// Intervals in one segment.
    #[must_use]
    pub fn intervals(self) -> usize {
        self.workloads * self.meters * self.steps
    }

    /// Registers in one segment.
    #[must_use]
    pub fn registers(self) -> usize {
        self.workloads * self.meters
    }
}

/// A stream of segments that admission accepts, as one agent under steady load would seal them.
#[derive(Debug)]
pub struct Chain {
    /// The node.
    pub node: NodeId,
    /// Its stream.
    pub stream: StreamId,
    /// What it signs with.
    pub key: SecretKey,
    size: Size,
    seal_us: u64,
    next: Seq,
    head: Option<Hash>,
    through: Timestamp,
    readings: Vec<u128>,
    draw: u64,
}

impl Chain {
    /// A stream of `node` that begins at `from` and seals every `seal_seconds`.
    #[must_use]
    pub fn new(node: NodeId, from: Timestamp, seal_seconds: u64, size: Size) -> Self {
        let seed = *tallystick_common::codec::encode(&node)
            .first_chunk()
            .unwrap_or(&[7; 8]);
        let mut key_seed = [0x5a; 32];
        key_seed[..16].copy_from_slice(node.as_bytes());
        Self {
            node,
            stream: StreamId(node.0),
            key: SecretKey::from_seed(&key_seed),
            size,
            seal_us: seal_seconds * SECOND_US,
            next: Seq::FIRST,
            head: None,
            through: from,
            readings: vec![0; size.registers()],
            draw: u64::from_le_bytes(seed) | 1,
        }
    }

    /// The ring that verifies it.
    #[must_use]
    pub fn ring(&self) -> KeyRing {
        KeyRing::new(self.node, self.key.public())
    }

    /// Sum of what each register has counted so far, by register.
    #[must_use]
    pub fn readings(&self) -> &[u128] {
        &self.readings
    }

    /// What usage of it comes to so far, by workload and meter.
    pub fn totals(&self) -> impl Iterator<Item = ((NodeId, WorkloadName, Meter), u128)> + '_ {
        let meters = self.size.meters;
        self.readings
            .iter()
            .enumerate()
            .map(move |(register, reading)| {
                let (workload, meter) = (register / meters, METERS[register % meters]);
                ((self.node, workload_name(workload), meter), *reading)
            })
    }

    /// Up to when the segments sealed so far account for time.
    #[must_use]
    pub fn covered_through(&self) -> Timestamp {
        self.through
    }

    /// From here on it measures something else: another branch of the same stream.
    pub fn diverge(&mut self) {
        self.draw = self.draw.wrapping_add(2);
    }

    /// Seals the next segment.
    ///
    /// # Panics
    /// When the size is one that no segment has; fixtures are written for sizes that work.
    pub fn seal_next(&mut self) -> SealedSegment {
        let from = self.through;
        let covered_through = from.saturating_add(Micros(self.seal_us));
        let blocks = (0..self.size.workloads)
            .map(|workload| self.block(workload, from))
            .collect();
        let draft = HeaderDraft {
            node: self.node,
            stream: self.stream,
            seq: self.next,
            previous: self
                .head
                .map_or(Previous::Opens { after: None }, Previous::Follows),
            from,
            covered_through,
            boot: BootId(self.node.0),
            config: Hash([1; 32]),
            purpose: Purpose::Readings,
            gaps: Vec::new(),
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.draw().to_le_bytes());
        let sealed =
            seal::seal(draft, blocks, seed, &self.key).expect("a fixture's segment is sound");
        self.next = self.next.next();
        self.head = Some(sealed.hash());
        self.through = covered_through;
        sealed
    }

    fn block(&mut self, workload: usize, from: Timestamp) -> Block {
        let mut block = Block::new(workload_name(workload), Vec::new());
        let step_us = self.seal_us / self.size.steps as u64;
        for (place, &meter) in METERS.iter().take(self.size.meters).enumerate() {
            let register = workload * self.size.meters + place;
            let opening = Reading(self.readings[register]);
            let mut start = from;
            let intervals: Vec<Interval> = (0..self.size.steps)
                .map(|_| {
                    let end = start.saturating_add(Micros(step_us));
                    let quantity = u128::from(self.draw() % 10_000_000);
                    let measured = Micros(step_us);
                    let interval = Interval {
                        start,
                        end,
                        quantity,
                        quality: Quality::Exact,
                        measured,
                    };
                    start = end;
                    interval
                })
                .collect();
            let opened = (self.next == Seq::FIRST).then_some(Basis::FirstSeen { raw: 1 });
            let run = RunDraft {
                register: RegisterId(register as u64),
                meter,
                opened,
                closed: None,
                opening,
                start: from,
                intervals: &intervals,
            };
            block.push(&run).expect("registers rise and intervals tile");
            self.readings[register] = intervals
                .iter()
                .try_fold(opening, |reading, interval| {
                    reading.advance(meter.kind(), interval.quantity)
                })
                .expect("128 bits hold it")
                .0;
        }
        block
    }

    /// xorshift64: repeatable, and plenty for quantities that should not compress.
    fn draw(&mut self) -> u64 {
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        self.draw
    }
}

fn workload_name(workload: usize) -> WorkloadName {
    match workload {
        0 => WorkloadName::host(),
        _ => WorkloadName::new(format!("cgroup/customer-{workload:04}.slice"))
            .expect("the name is one"),
    }
}
