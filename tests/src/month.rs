//! A host under load, metered for days of simulated time by the agent's own parts: accrual, sealing, journal
//! and sled on a real disk. Only the samples are made up.

use tallystick_agent::accrue;
use tallystick_agent::sample::{Identity, Moment, Raw, Sample, SourceReading};
use tallystick_agent::station::Station;
use tallystick_common::ids::{BootId, Hash, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::time::{Micros, Timestamp};

use crate::draw::Draw;

/// A month.
pub const DAYS: u64 = 30;
/// Seconds of a day.
pub const DAY_S: u64 = 24 * 3600;
/// Seconds between two samples: the default of the configuration.
pub const SAMPLE_S: u64 = 10;
/// Seconds between two seals: the default of the configuration.
pub const SEAL_S: u64 = 60;
/// One segment a minute for a month.
pub const SEGMENTS: u64 = 43_200;
/// With `host` and `host/other` fifty workloads of four meters each.
pub const REGISTERS: usize = 200;
const CGROUPS: usize = 48;
const METERS: [Meter; 4] = [
    Meter::CPU_TIME,
    Meter::DISK_READ,
    Meter::DISK_WRITE,
    Meter::MEMORY_USAGE,
];
const BOOT: BootId = BootId([8; 16]);

/// The host, sample by sample.
#[derive(Debug)]
pub struct Host {
    sample: Sample,
    begin: Timestamp,
    second: u64,
    draw: Draw,
}

impl Host {
    /// One that is first sampled at `begin`.
    #[must_use]
    pub fn new(begin: Timestamp) -> Self {
        let cgroups = (0..CGROUPS).map(|n| format!("cgroup/customer-{n}.slice"));
        let workloads = std::iter::once("host".to_owned()).chain(cgroups);
        let mut sources = Vec::new();
        for (incarnation, name) in workloads.enumerate() {
            for meter in METERS {
                sources.push(SourceReading {
                    workload: WorkloadName::new(name.clone()).unwrap(),
                    meter,
                    identity: Identity {
                        boot: BOOT,
                        domain: "cgroup2".to_owned(),
                        incarnation: incarnation as u64,
                    },
                    raw: raw(meter, 1 << 40),
                });
            }
        }
        let sample = Sample {
            boot: BOOT,
            moment: moment(begin, 0),
            sources,
            last: Vec::new(),
            walks: Vec::new(),
            labels: std::sync::Arc::default(),
            notes: Vec::new(),
        };
        Self {
            sample,
            begin,
            second: 0,
            draw: Draw::seeded("offline"),
        }
    }

    /// Time passes until the next sample; every control group uses something, the host a little more.
    fn pass(&mut self) {
        self.second += SAMPLE_S;
        self.sample.moment = moment(self.begin, self.second);
        let (host, cgroups) = self.sample.sources.split_at_mut(METERS.len());
        let mut sums = [0_u128; METERS.len()];
        for sources in cgroups.chunks_mut(METERS.len()) {
            for (source, sum) in sources.iter_mut().zip(&mut sums) {
                *sum += used(source, u128::from(self.draw.below(4_000_000)));
            }
        }
        for (source, sum) in host.iter_mut().zip(sums) {
            used(source, sum + 1_000);
        }
    }

    /// What the kernel's counter would stand at.
    ///
    /// # Panics
    /// When it has no such counter.
    #[must_use]
    pub fn counter(&self, workload: &str, meter: Meter) -> u128 {
        let mut sources = self.sample.sources.iter();
        let found =
            sources.find(|source| source.workload.as_str() == workload && source.meter == meter);
        match found.unwrap().raw {
            Raw::Counter(raw) => raw,
            ref other => panic!("{other:?}"),
        }
    }
}

fn raw(meter: Meter, value: u128) -> Raw {
    if meter == Meter::MEMORY_USAGE {
        Raw::Level(value)
    } else {
        Raw::Counter(value)
    }
}

/// Adds `amount` to a counter, or makes it the level.
fn used(source: &mut SourceReading, amount: u128) -> u128 {
    match &mut source.raw {
        Raw::Counter(raw) => *raw += amount,
        Raw::Level(level) => *level = amount * 1024,
        Raw::Unreadable(_) => {}
    }
    amount
}

fn moment(begin: Timestamp, second: u64) -> Moment {
    let since_boot = Micros::from_seconds(1_000_000 + second);
    Moment {
        wall: begin.saturating_add(Micros::from_seconds(second)),
        monotonic: since_boot,
        boottime: since_boot,
    }
}

/// Settings of the accrual that go with it.
#[must_use]
pub fn accrual() -> accrue::Settings {
    accrue::Settings {
        sample: Micros::from_seconds(SAMPLE_S),
        register_limit: 10_000,
        config: Hash([1; 32]),
        labels: Vec::new(),
        begins: Timestamp::EPOCH,
    }
}

/// Meters so many days, seals every minute.
///
/// # Panics
/// When a segment cannot be sealed.
pub fn meter(station: &mut Station, host: &mut Host, days: u64) {
    station.observe(&host.sample);
    let mut seed = [0; 32];
    while host.second < days * DAY_S {
        host.pass();
        station.observe(&host.sample);
        if host.second.is_multiple_of(SEAL_S) {
            seed[..8].copy_from_slice(&host.draw.number().to_le_bytes());
            station.seal(seed).unwrap().expect("a minute has passed");
        }
    }
}
