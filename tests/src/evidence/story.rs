//! A node that seals what a test tells it to.

use tallystick_common::ids::{BootId, Hash, NodeId, RegisterId, Seq, StreamId, WorkloadName};
use tallystick_common::keys::{PublicKey, SecretKey};
use tallystick_common::meter::{Kind, Meter};
use tallystick_common::reading::{Cause, Gap, Interval, Quality, Reading};
use tallystick_common::seal::{self, SealedSegment};
use tallystick_common::segment::{
    Basis, Block, CloseReason, HeaderDraft, Previous, Purpose, RunDraft, StreamPosition,
};
use tallystick_common::time::{HOUR_US, Micros, QUARTER_HOUR_US, Timestamp};

use super::at;

#[derive(Debug)]
struct Register {
    id: u64,
    workload: String,
    meter: Meter,
    reading: u128,
    opened: bool,
    closing: bool,
}

/// A node with one stream at a time.
#[derive(Debug)]
pub struct Teller {
    /// Its id.
    pub node: NodeId,
    /// The key it enrolled with.
    pub enrolled: PublicKey,
    key: SecretKey,
    stream: StreamId,
    next: Seq,
    head: Option<Hash>,
    after: Option<StreamPosition>,
    through: Timestamp,
    purpose: Purpose,
    registers: Vec<Register>,
    next_register: u64,
    draw: u64,
}

impl Teller {
    /// A node told by a small number, whose stream begins then.
    #[must_use]
    pub fn new(number: u8, from: Timestamp) -> Self {
        let key = SecretKey::from_seed(&[number; 32]);
        Self {
            node: NodeId([number; 16]),
            enrolled: key.public(),
            key,
            stream: StreamId([number; 16]),
            next: Seq::FIRST,
            head: None,
            after: None,
            through: from,
            purpose: Purpose::Readings,
            registers: Vec::new(),
            next_register: 0,
            draw: u64::from(number) | 0x1000,
        }
    }

    /// Opens registers of these meters in the next segment.
    pub fn open(&mut self, workload: &str, meters: &[Meter]) {
        for meter in meters {
            self.registers.push(Register {
                id: self.next_register,
                workload: workload.to_owned(),
                meter: *meter,
                reading: 0,
                opened: true,
                closing: false,
            });
            self.next_register += 1;
        }
    }

    /// Closes all registers of a workload in the next segment.
    pub fn close(&mut self, workload: &str) {
        let of = self.registers.iter_mut();
        of.filter(|register| register.workload == workload)
            .for_each(|register| register.closing = true);
    }

    /// From the segment after the next on another key signs.
    ///
    /// # Panics
    /// Never.
    pub fn rotate(&mut self, seed: u8) -> SealedSegment {
        let key = SecretKey::from_seed(&[seed; 32]);
        self.purpose = Purpose::RotateKey(key.public().0);
        let sealed = self.seal(HOUR_US / 4);
        self.purpose = Purpose::Readings;
        self.key = key;
        sealed
    }

    /// What is sealed next does not go on where it stood: it is quarantined.
    pub fn jump(&mut self) {
        if let Some(register) = self.registers.first_mut() {
            register.reading += 1000;
        }
    }

    /// The stream is over; another one takes its place, after a time in which nothing was measured.
    pub fn begin_again(&mut self, stream: u8, silence_us: u64) -> Gap {
        if let Some(hash) = self.head.take() {
            self.after = Some(StreamPosition {
                stream: self.stream,
                seq: Seq(self.next.0 - 1),
                hash,
            });
        }
        self.stream = StreamId([stream; 16]);
        self.next = Seq::FIRST;
        let seed = SecretKey::from_seed(&[self.node.0[0]; 32]);
        self.key = seed;
        for register in &mut self.registers {
            register.reading = 0;
            register.opened = true;
        }
        let to = self.through.saturating_add(Micros(silence_us));
        Gap {
            from: self.through,
            to,
            cause: Cause::NewStream,
        }
    }

    /// Seals segments of that length up to an instant.
    pub fn seal_until(&mut self, step_us: u64, to: Timestamp) -> Vec<SealedSegment> {
        let mut sealed = Vec::new();
        while self.through < to {
            let left = to.since(self.through).0;
            sealed.push(self.seal(step_us.min(left)));
        }
        sealed
    }

    /// Seals the next segment.
    pub fn seal(&mut self, length_us: u64) -> SealedSegment {
        self.seal_after(length_us, None)
    }

    /// The same, with registers from the end of `gap` on only.
    ///
    /// # Panics
    /// When the story cannot be sealed: it is written so that it can.
    pub fn seal_after(&mut self, length_us: u64, gap: Option<Gap>) -> SealedSegment {
        let from = self.through;
        let start = gap.map_or(from, |gap| gap.to);
        let through = start.saturating_add(Micros(length_us));
        let blocks = self.blocks(start, through);
        let draft = HeaderDraft {
            node: self.node,
            stream: self.stream,
            seq: self.next,
            previous: match self.head {
                Some(head) => Previous::Follows(head),
                None => Previous::Opens { after: self.after },
            },
            from,
            covered_through: through,
            boot: BootId(self.node.0),
            config: Hash([1; 32]),
            purpose: self.purpose,
            gaps: gap.into_iter().collect(),
        };
        let mut seed = [self.node.0[0]; 32];
        seed[..8].copy_from_slice(&self.number().to_le_bytes());
        let sealed = seal::seal(draft, blocks, seed, &self.key).expect("the story is sound");
        self.next = self.next.next();
        self.head = Some(sealed.hash());
        self.through = through;
        sealed
    }

    fn blocks(&mut self, start: Timestamp, through: Timestamp) -> Vec<Block> {
        let mut names: Vec<String> = self.registers.iter().map(|r| r.workload.clone()).collect();
        names.sort();
        names.dedup();
        let mut blocks = Vec::new();
        let mut registers = std::mem::take(&mut self.registers);
        for name in names {
            let workload = WorkloadName::new(name.as_str()).expect("a name");
            let labels = vec![("customer".to_owned(), name.clone())];
            let mut block = Block::new(workload, labels);
            for register in registers.iter_mut().filter(|r| r.workload == name) {
                self.run(&mut block, register, start, through);
            }
            blocks.push(block);
        }
        registers.retain(|register| !register.closing);
        self.registers = registers;
        blocks
    }

    fn run(
        &mut self,
        block: &mut Block,
        register: &mut Register,
        start: Timestamp,
        end: Timestamp,
    ) {
        let intervals = self.intervals(register.meter, start, end);
        let draft = RunDraft {
            register: RegisterId(register.id),
            meter: register.meter,
            opened: register.opened.then_some(Basis::FirstSeen { raw: 9 }),
            closed: register.closing.then_some(CloseReason::Vanished),
            opening: Reading(register.reading),
            start,
            intervals: &intervals,
        };
        block.push(&draft).expect("registers rise and tile");
        let closing = intervals
            .iter()
            .try_fold(draft.opening, |reading, interval| {
                reading.advance(register.meter.kind(), interval.quantity)
            });
        register.reading = closing.expect("128 bits hold it").0;
        register.opened = false;
    }

    fn intervals(&mut self, meter: Meter, from: Timestamp, to: Timestamp) -> Vec<Interval> {
        let mut start = from;
        let mut intervals = Vec::new();
        while start < to {
            let end = start.next_multiple(QUARTER_HOUR_US).min(to);
            let quantity = match meter.kind() {
                Kind::Counter => self.number() % 500_000_000,
                Kind::Integral => self.number() % 900_000_000_000,
                Kind::Peak => self.number() % 800_000_000,
            };
            intervals.push(Interval {
                start,
                end,
                quantity: u128::from(quantity),
                quality: Quality::Exact,
                measured: end.since(start),
            });
            start = end;
        }
        intervals
    }

    /// xorshift64: repeatable.
    fn number(&mut self) -> u64 {
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        self.draw
    }
}

/// What a month may bring: keys that rotate before it and in it, a register that goes and one that comes, a
/// quarantined segment, a stream that ends and another that begins after a gap, a workload that changes
/// hands, and somebody else's beside it.
#[must_use]
pub fn october() -> (Teller, Vec<SealedSegment>) {
    let step = 12 * HOUR_US;
    let meters = [Meter::CPU_TIME, Meter::MEMORY_USAGE, Meter::MEMORY_PEAK];
    let mut teller = Teller::new(5, at("2026-09-29T21:00:00Z"));
    teller.open("host", &meters[..2]);
    teller.open("cgroup/acme.slice", &meters);
    teller.open("cgroup/rival.slice", &meters);
    teller.open("cgroup/moving", &meters[..1]);
    let mut sealed = teller.seal_until(step, at("2026-09-30T09:00:00Z"));
    sealed.push(teller.rotate(6));
    sealed.extend(teller.seal_until(step, at("2026-10-04T13:20:00Z")));
    teller.open("cgroup/acme-batch", &meters);
    sealed.extend(teller.seal_until(step, at("2026-10-07T10:00:00Z")));
    teller.close("cgroup/acme-batch");
    sealed.push(teller.seal(HOUR_US));
    sealed.extend(teller.seal_until(step, at("2026-10-12T00:00:00Z")));
    teller.jump();
    sealed.push(teller.seal(HOUR_US));
    sealed.extend(teller.seal_until(step, at("2026-10-15T00:00:00Z")));
    sealed.push(teller.rotate(7));
    sealed.extend(teller.seal_until(step, at("2026-10-22T00:00:00Z")));
    let gap = teller.begin_again(9, 3 * HOUR_US);
    sealed.push(teller.seal_after(step, Some(gap)));
    sealed.extend(teller.seal_until(step, at("2026-11-01T05:00:00Z")));
    (teller, sealed)
}
