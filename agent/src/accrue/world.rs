//! A node for tests: counters that are known exactly, clocks that can be moved, and a receiver that
//! judges every segment as admission does.

use std::collections::BTreeMap;
use std::sync::Arc;

use tallystick_common::application::AppMeter;
use tallystick_common::chain::StreamState;
use tallystick_common::ids::{BootId, Hash, NodeId, StreamId, WorkloadName};
use tallystick_common::keys::{KeyRing, SecretKey};
use tallystick_common::meter::Meter;
use tallystick_common::reading::{Gap, Interval};
use tallystick_common::seal::{SealedSegment, seal};
use tallystick_common::segment::{HeaderDraft, Previous, Purpose, Run};
use tallystick_common::time::{Micros, Timestamp};

use super::register::Register;
use super::{Accrual, Checkpoint, ReportError, Reported, Settings};
use crate::sample::{
    Identity, LastReading, Moment, Raw, Sample, SourceReading, Walk, WorkloadLabels,
};

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

/// A reading between two samples.
#[derive(Debug, Clone, Copy)]
struct Glimpse {
    cpu: u128,
    memory: u128,
    monotonic: u64,
}

pub(super) struct World {
    boot: u8,
    pub(super) wall: u64,
    monotonic: u64,
    boottime: u64,
    pub(super) cgroups: BTreeMap<String, Cgroup>,
    /// Of each life of a path, the last one since the last sample.
    glimpses: BTreeMap<(String, u64), Glimpse>,
    /// `None` until a new process has taken its first sample.
    sampled_at: Option<u64>,
    /// Index and bytes received of the one network interface, if it has one.
    pub(super) interface: Option<(u64, u128)>,
    pub(super) host_cpu: u128,
    pub(super) host_memory: u128,
    /// CPU time really used: by each cgroup's path over all its lives, and by the host as `host`.
    pub(super) truth: BTreeMap<String, u128>,
    next_id: u64,
    pub(super) complete: bool,
    pub(super) accrual: Accrual,
    /// With what had been dropped by then.
    durable: Option<(Checkpoint, i128)>,
    /// What was outstanding when a boot or a stream ended.
    dropped: i128,
    stream: StreamState,
    /// Everything a receiver knows, in order of arrival.
    pub(super) received: Vec<(String, Run, Interval)>,
    pub(super) runs: Vec<(String, Run)>,
    /// Of every block, by its workload, in order of arrival.
    pub(super) labels: Vec<(String, Vec<(String, String)>)>,
    pub(super) gaps: Vec<Gap>,
}

pub(super) fn settings() -> Settings {
    Settings {
        sample: Micros(PERIOD),
        begins: Timestamp::EPOCH,
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
            glimpses: BTreeMap::new(),
            sampled_at: Some(hour),
            interface: None,
            dropped: 0,
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
            labels: Vec::new(),
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
        let checkpoint = bincode::decode_from_slice(&bytes, config).unwrap().0;
        self.durable = Some((checkpoint, self.dropped));
    }

    /// A reading out of turn, as when the kernel says that the group has become empty.
    pub(super) fn glimpse(&mut self, path: &str) {
        let cgroup = self.cgroups.get(path).filter(|cgroup| cgroup.readable);
        if let Some(cgroup) = cgroup.filter(|_| self.sampled_at.is_some()) {
            let glimpse = Glimpse {
                cpu: cgroup.cpu,
                memory: cgroup.memory,
                monotonic: self.monotonic,
            };
            self.glimpses.insert((path.to_owned(), cgroup.id), glimpse);
        }
    }

    pub(super) fn receive(&mut self, bytes: u128) {
        let Some(interface) = &mut self.interface else {
            return;
        };
        interface.1 += bytes;
        *self.truth.entry("interface".to_owned()).or_default() += bytes;
    }

    /// The interface is plugged out and in again; drivers may keep its counter or not.
    pub(super) fn replug(&mut self, counter_stays: bool) {
        self.interface = self
            .interface
            .map(|(index, bytes)| (index + 1, if counter_stays { bytes } else { 0 }));
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
        let clock = self.accrual.clock.as_ref();
        if clock.is_some_and(|clock| clock.boot != sample.boot) {
            // What waits for its interval goes on to wait.
            self.dropped += self.outstanding(std::iter::empty());
        }
        self.accrual.observe(&sample);
        self.glimpses.clear();
        self.sampled_at = Some(self.monotonic);
    }

    fn last(&self) -> Vec<LastReading> {
        let gone = |((path, id), glimpse): (&(String, u64), &Glimpse)| {
            let there = self.cgroups.get(path).is_some_and(|now| now.id == *id);
            let sources = [
                (Meter::CPU_TIME, Raw::Counter(glimpse.cpu)),
                (Meter::MEMORY_USAGE, Raw::Level(glimpse.memory)),
                (Meter::MEMORY_PEAK, Raw::Level(glimpse.memory)),
            ];
            let last = sources.map(|(meter, raw)| LastReading {
                source: SourceReading {
                    workload: WorkloadName::new(format!("cgroup/{path}")).unwrap(),
                    meter,
                    identity: Identity {
                        boot: BootId([self.boot; 16]),
                        domain: DOMAIN.to_owned(),
                        incarnation: *id,
                    },
                    raw,
                },
                since_sample: Micros(glimpse.monotonic - self.sampled_at.unwrap()),
            });
            last.into_iter().filter(move |_| !there)
        };
        self.glimpses.iter().flat_map(gone).collect()
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
        sources.extend(self.interface.map(|(index, bytes)| SourceReading {
            workload: WorkloadName::new("interface/eth0").unwrap(),
            meter: Meter::NETWORK_RX,
            identity: identity("interface", index),
            raw: Raw::Counter(bytes),
        }));
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
            last: self.last(),
            walks: vec![Walk {
                domain: DOMAIN.to_owned(),
                highest,
                complete: self.complete,
            }],
            labels: self.labels(),
            notes: Vec::new(),
        }
    }

    /// Every cgroup says its path.
    fn labels(&self) -> Arc<WorkloadLabels> {
        let own = |path: &String| {
            let workload = WorkloadName::new(format!("cgroup/{path}")).unwrap();
            let labels = [("path", path.as_str()), ("rack", "not its to say")];
            let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
            (workload, labels.into_iter().map(owned).collect())
        };
        Arc::new(self.cgroups.keys().map(own).collect())
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
            let name = block.workload.as_str().to_owned();
            self.labels.push((name, block.labels.clone()));
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
        let (beyond_host, said) = self.conservation();
        assert_eq!(beyond_host, said, "workloads and the rest, less the host");
    }

    /// CPU time of workloads beyond the host's, less the host's that is not divided yet.
    fn outstanding<'r>(&self, registers: impl Iterator<Item = &'r Register>) -> i128 {
        let labels = self.accrual.others.labels(registers);
        let of = |key: &str| {
            let found = labels.iter().find(|(known, _)| known == key);
            found.map_or(0, |(_, value)| value.parse::<i128>().unwrap())
        };
        of("excess.cpu.time") - of("undivided.cpu.time")
    }

    /// What workloads and the rest were billed beyond the host, and what the agent says of it.
    pub(super) fn conservation(&self) -> (i128, i128) {
        let (mut divided, mut host) = (0, 0);
        for (name, run, interval) in &self.received {
            if run.meter == Meter::CPU_TIME {
                let sum = if name == "host" {
                    &mut host
                } else {
                    &mut divided
                };
                *sum += interval.quantity.cast_signed();
            }
        }
        let outstanding = self.outstanding(self.accrual.registers.values());
        (divided - host, self.dropped + outstanding)
    }

    /// The stream is over, and another begins: what was not sealed is gone, but for what was reported.
    pub(super) fn new_stream(&mut self) {
        self.dropped = self.conservation().0;
        self.accrual.carry_reported([]);
        self.accrual.begin_stream();
        self.save();
        let StreamId([first, ..]) = self.stream.stream;
        self.stream = StreamState::new(StreamId([first.wrapping_add(1); 16]));
    }

    /// Whether a killed agent would find something to go on from.
    pub(super) fn is_durable(&self) -> bool {
        self.durable.is_some()
    }

    /// The agent is killed; what it had not sealed is gone. It comes back after `down`.
    pub(super) fn restart(&mut self, down: u64) {
        self.pass(down);
        self.glimpses.clear();
        self.sampled_at = None;
        self.accrual = match self.durable.clone() {
            Some((checkpoint, dropped)) => {
                self.dropped = dropped;
                Accrual::restore(settings(), checkpoint).unwrap()
            }
            None => Accrual::new(settings()),
        };
    }

    /// The node goes down for `off`, and its agent comes back `later` than its kernel.
    pub(super) fn reboot(&mut self, off: u64, later: u64) {
        self.restart(off);
        self.replug(false);
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
