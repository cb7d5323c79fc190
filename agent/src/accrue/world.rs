//! A node for tests: counters that are known exactly, clocks that can be moved, and a receiver that
//! judges every segment as admission does.

use std::collections::BTreeMap;

use tallystick_common::application::AppMeter;
use tallystick_common::chain::StreamState;
use tallystick_common::ids::{BootId, Hash, NodeId, StreamId, WorkloadName};
use tallystick_common::keys::{KeyRing, SecretKey};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Gap, Interval};
use tallystick_common::seal::{SealedSegment, seal};
use tallystick_common::segment::{HeaderDraft, Previous, Purpose, Run};
use tallystick_common::time::{Micros, Timestamp};

use super::{Accrual, Checkpoint, ReportError, Reported, Settings};
use crate::sample::{Identity, Moment, Raw, Sample, SourceReading, Walk};

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const PERIOD: u64 = 10 * SECOND;
/// Noon, on the grid of quarter-hours.
pub(super) const NOON: u64 = 1_795_348_800 * SECOND;
const DOMAIN: &str = "cgroup1/cpuacct";

pub(super) struct Cgroup {
    pub(super) id: u64,
    pub(super) cpu: u128,
    pub(super) memory: u128,
    pub(super) readable: bool,
}

pub(super) struct World {
    boot: u8,
    pub(super) wall: u64,
    monotonic: u64,
    boottime: u64,
    pub(super) cgroups: BTreeMap<String, Cgroup>,
    pub(super) host_cpu: u128,
    pub(super) host_memory: u128,
    /// CPU time really used: by each cgroup's path over all its lives, and by the host as `host`.
    pub(super) truth: BTreeMap<String, u128>,
    next_id: u64,
    pub(super) complete: bool,
    pub(super) accrual: Accrual,
    durable: Option<Checkpoint>,
    stream: StreamState,
    /// Everything a receiver knows, in order of arrival.
    pub(super) received: Vec<(String, Run, Interval)>,
    pub(super) runs: Vec<(String, Run)>,
    pub(super) gaps: Vec<Gap>,
}

pub(super) fn settings() -> Settings {
    Settings {
        sample: Micros(PERIOD),
        register_limit: 1_000,
        config: Hash::ZERO,
        labels: vec![("rack".to_owned(), "b7".to_owned())],
    }
}

pub(super) fn app(name: &str) -> WorkloadName {
    AppMeter::new(name).unwrap().workload("web").unwrap()
}

pub(super) fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(micros).unwrap()
}

impl World {
    /// A node that booted an hour ago, sampled once.
    pub(super) fn new() -> Self {
        let hour = 3600 * SECOND;
        let mut world = Self {
            boot: 1,
            wall: NOON,
            monotonic: hour,
            boottime: hour,
            cgroups: BTreeMap::new(),
            host_cpu: 5_000_000,
            host_memory: 1 << 30,
            truth: BTreeMap::new(),
            next_id: 100,
            complete: true,
            accrual: Accrual::new(settings()),
            durable: None,
            stream: StreamState::new(StreamId([7; 16])),
            received: Vec::new(),
            runs: Vec::new(),
            gaps: Vec::new(),
        };
        world.sample();
        world
    }

    pub(super) fn create(&mut self, path: &str) {
        let id = self.next_id;
        self.next_id += 3;
        let cgroup = Cgroup {
            id,
            cpu: 0,
            memory: 1 << 20,
            readable: true,
        };
        self.cgroups.insert(path.to_owned(), cgroup);
    }

    /// The cgroup (if it is there) uses CPU time; the host with it.
    pub(super) fn burn(&mut self, path: &str, cpu: u128) {
        if let Some(cgroup) = self.cgroups.get_mut(path) {
            cgroup.cpu += cpu;
            *self.truth.entry(path.to_owned()).or_default() += cpu;
        }
        self.host_cpu += cpu;
        *self.truth.entry("host".to_owned()).or_default() += cpu;
    }

    /// An application reports, and is answered when that is durable.
    pub(super) fn report(&mut self, name: &str, quantity: u128) -> Result<(), ReportError> {
        let usage = Reported::from([((app(name), Meter::APP_COUNT), quantity)]);
        self.accrual.report(&usage, at(self.wall))?;
        *self.truth.entry(app(name).as_str().to_owned()).or_default() += quantity;
        self.save();
        Ok(())
    }

    /// The checkpoint of a real agent goes through its bytes too.
    fn save(&mut self) {
        let config = bincode::config::standard();
        let bytes = bincode::encode_to_vec(self.accrual.checkpoint(), config).unwrap();
        self.durable = Some(bincode::decode_from_slice(&bytes, config).unwrap().0);
    }

    /// Time passes on all clocks.
    pub(super) fn pass(&mut self, micros: u64) {
        self.wall += micros;
        self.monotonic += micros;
        self.boottime += micros;
    }

    pub(super) fn suspend(&mut self, micros: u64) {
        self.wall += micros;
        self.boottime += micros;
    }

    pub(super) fn step_clock(&mut self, by: i64) {
        self.wall = self.wall.saturating_add_signed(by);
    }

    /// One sample period, then a sample.
    pub(super) fn tick(&mut self) {
        self.pass(PERIOD);
        self.sample();
    }

    pub(super) fn sample(&mut self) {
        let sample = self.read();
        self.accrual.observe(&sample);
    }

    pub(super) fn read(&self) -> Sample {
        let boot = BootId([self.boot; 16]);
        let mut sources = Vec::new();
        let identity = |domain: &str, incarnation| Identity {
            boot,
            domain: domain.to_owned(),
            incarnation,
        };
        let mut push = |name: &str, identity: &Identity, cpu: Raw, memory: Raw| {
            let workload = WorkloadName::new(name).unwrap();
            for (meter, raw) in [
                (Meter::CPU_TIME, cpu),
                (Meter::MEMORY_USAGE, memory.clone()),
                (Meter::MEMORY_PEAK, memory),
            ] {
                let (workload, identity) = (workload.clone(), identity.clone());
                sources.push(SourceReading {
                    workload,
                    meter,
                    identity,
                    raw,
                });
            }
        };
        for (path, cgroup) in &self.cgroups {
            let unread = || Raw::Unreadable("as told".to_owned());
            let cpu = if cgroup.readable {
                Raw::Counter(cgroup.cpu)
            } else {
                unread()
            };
            let memory = if cgroup.readable {
                Raw::Level(cgroup.memory)
            } else {
                unread()
            };
            push(
                &format!("cgroup/{path}"),
                &identity(DOMAIN, cgroup.id),
                cpu,
                memory,
            );
        }
        let host = identity("host", 0);
        push(
            "host",
            &host,
            Raw::Counter(self.host_cpu),
            Raw::Level(self.host_memory),
        );
        let highest = self
            .cgroups
            .values()
            .map(|cgroup| cgroup.id)
            .max()
            .unwrap_or(1);
        Sample {
            boot,
            moment: Moment {
                wall: at(self.wall),
                monotonic: Micros(self.monotonic),
                boottime: Micros(self.boottime),
            },
            sources,
            walks: vec![Walk {
                domain: DOMAIN.to_owned(),
                highest,
                complete: self.complete,
            }],
            notes: Vec::new(),
        }
    }

    /// Seals what there is, and has it judged by the rules of admission.
    pub(super) fn seal(&mut self) {
        let draft = self.accrual.seal().unwrap();
        self.save();
        let Some(draft) = draft else { return };
        let node = NodeId([1; 16]);
        let key = SecretKey::from_seed(&[2; 32]);
        let header = HeaderDraft {
            node,
            stream: self.stream.stream,
            seq: self.stream.next,
            previous: self
                .stream
                .head
                .map_or(Previous::Opens { after: None }, Previous::Follows),
            from: draft.from,
            covered_through: draft.covered_through,
            boot: draft.boot,
            config: draft.config,
            purpose: Purpose::Readings,
            gaps: draft.gaps,
        };
        let sealed = seal(header, draft.blocks, [3; 32], &key).unwrap();
        let sealed = SealedSegment::parse(sealed.bytes().to_vec()).unwrap();
        let verified = sealed.verify(&KeyRing::new(node, key.public())).unwrap();
        self.stream.check(&verified).unwrap();
        self.stream.advance(&verified);
        self.gaps.extend(&verified.header().gaps);
        for block in verified.blocks() {
            for run in block.runs() {
                let name = block.workload.as_str().to_owned();
                self.runs.push((name.clone(), *run));
                self.received.extend(
                    block
                        .intervals(run)
                        .map(|interval| (name.clone(), *run, interval)),
                );
            }
        }
    }

    /// Whether a killed agent would find something to go on from.
    pub(super) fn is_durable(&self) -> bool {
        self.durable.is_some()
    }

    /// The stream is over and another begins.
    pub(super) fn begin_stream(&mut self, stream: StreamId) {
        self.accrual.begin_stream();
        self.stream = StreamState::new(stream);
        self.save();
        self.accrual = Accrual::restore(settings(), self.durable.clone().unwrap()).unwrap();
    }

    /// The agent is killed; what it had not sealed is gone. It comes back after `down`.
    pub(super) fn restart(&mut self, down: u64) {
        self.pass(down);
        self.accrual = match self.durable.clone() {
            Some(checkpoint) => Accrual::restore(settings(), checkpoint).unwrap(),
            None => Accrual::new(settings()),
        };
    }

    /// The node goes down for `off`, and its agent comes back `later` than its kernel.
    pub(super) fn reboot(&mut self, off: u64, later: u64) {
        self.restart(off);
        self.boot = self.boot.wrapping_add(1);
        self.wall += later;
        (self.monotonic, self.boottime) = (later, later);
        self.host_cpu = 0;
        self.next_id = 50;
        let paths: Vec<String> = std::mem::take(&mut self.cgroups).into_keys().collect();
        paths.iter().for_each(|path| self.create(path));
    }

    pub(super) fn billed(&self, workload: &str, meter: Meter) -> u128 {
        self.of(workload, meter)
            .map(|interval| interval.quantity)
            .sum()
    }

    pub(super) fn of(&self, workload: &str, meter: Meter) -> impl Iterator<Item = Interval> {
        self.received
            .iter()
            .filter(move |(name, run, _)| name == workload && run.meter == meter)
            .map(|(_, _, interval)| *interval)
    }
}
