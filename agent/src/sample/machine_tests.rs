//! The machine the tests run on. What it does not permit is skipped, and said.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tallystick_common::keys::SecretKey;
use tallystick_common::meter::Meter;
use tallystick_common::time::{Micros, Timestamp};

use super::mounts::hierarchies;
use super::{Raw, Sample, Sampler};
use crate::accrue::Accrual;
use crate::config::{Config, Selection};

/// A cgroup of our own in the first hierarchy that counts CPU time and lets us.
struct OwnCgroup {
    path: PathBuf,
    name: String,
    usage_file: &'static str,
}

impl OwnCgroup {
    /// `what` keeps the tests' cgroups apart.
    fn create(what: &str) -> Option<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let name = format!("tallystick-test-{}-{what}", std::process::id());
        hierarchies(&mountinfo).iter().find_map(|hierarchy| {
            let v1 = hierarchy.has_v1("cpuacct");
            let path = hierarchy.mount.join(&name);
            let counts = v1 || hierarchy.is_v2();
            (counts && fs::create_dir(&path).is_ok()).then(|| Self {
                path,
                name: name.clone(),
                usage_file: if v1 { "cpuacct.usage" } else { "cpu.stat" },
            })
        })
    }

    /// The kernel's own figure, in microseconds.
    fn usage(&self) -> u128 {
        let text = fs::read_to_string(self.path.join(self.usage_file)).unwrap();
        match self.usage_file {
            "cpuacct.usage" => text.trim().parse::<u128>().unwrap() / 1_000,
            _ => super::parse::keyed(&text, "usage_usec").unwrap(),
        }
    }

    /// A shell in the cgroup that burns some CPU time and ends.
    fn burn(&self) -> Child {
        let procs = self.path.join("cgroup.procs");
        let script = "echo $$ > \"$0\" || exit 9; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        Command::new("sh")
            .args(["-c", script])
            .arg(procs)
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.path).is_err() && self.path.exists() && Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }
}

fn config(include: &str) -> Config {
    let cgroups = Selection {
        include: vec![include.to_owned()],
        exclude: Vec::new(),
    };
    Config {
        cgroups,
        ..Config::default()
    }
}

fn counter(sample: &Sample, workload: &str, meter: Meter) -> Option<u128> {
    sample.sources.iter().find_map(|source| match source.raw {
        Raw::Counter(value) if source.workload.as_str() == workload && source.meter == meter => {
            Some(value)
        }
        _ => None,
    })
}

#[test]
fn this_machine_has_cpu_time_memory_and_uptime() {
    let mut sampler = Sampler::new(&Config::default()).unwrap();
    let sample = sampler.sample();
    assert!(counter(&sample, "host", Meter::CPU_TIME).is_some_and(|used| used > 0));
    assert!(counter(&sample, "host", Meter::UPTIME).is_some_and(|up| up > 0));
    let level = |meter| {
        sample.sources.iter().any(|source| {
            source.workload.is_host()
                && source.meter == meter
                && matches!(source.raw, Raw::Level(bytes) if bytes > 1 << 20)
        })
    };
    assert!(level(Meter::MEMORY_USAGE) && level(Meter::MEMORY_PEAK));
    let mut names: Vec<_> = sample
        .sources
        .iter()
        .map(|s| (s.workload.clone(), s.meter))
        .collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "each register has one source");
}

#[test]
fn the_hosts_working_set_holds_those_of_its_workloads() {
    let mut sampler = Sampler::new(&Config::default()).unwrap();
    let held = |sample: &Sample, host: bool| -> u128 {
        let sources = sample.sources.iter().filter(|source| {
            source.meter == Meter::MEMORY_USAGE && source.workload.is_host() == host
        });
        let levels = sources.map(|source| match source.raw {
            Raw::Level(bytes) => bytes,
            _ => 0,
        });
        levels.sum()
    };
    // Memory given back between the two readings makes single samples differ.
    let holds = (0..50).any(|_| {
        let sample = sampler.sample();
        held(&sample, true) >= held(&sample, false)
    });
    assert!(holds, "of 50 samples not one is additive (I4)");
}

#[test]
fn the_kernels_figure_of_a_cgroup_is_billed_to_the_microsecond() {
    let Some(cgroup) = OwnCgroup::create("billed") else {
        eprintln!("SKIPPED: no cgroup hierarchy that counts CPU time may be written by this user");
        return;
    };
    let config = config(&cgroup.name);
    let mut sampler = Sampler::new(&config).unwrap();
    let mut accrual =
        Accrual::new(config.accrual(&SecretKey::from_seed(&[1; 32]), Timestamp::EPOCH));
    accrual.observe(&sampler.sample());
    let status = cgroup.burn().wait().unwrap();
    assert!(status.success(), "could not enter the cgroup");
    let usage = settled_usage(&cgroup);
    accrual.observe(&sampler.sample());
    assert!(usage > 0);
    let workload = format!("cgroup/{}", cgroup.name);
    let register = accrual
        .registers()
        .find(|register| {
            register.workload.as_str() == workload && register.meter == Meter::CPU_TIME
        })
        .unwrap();
    assert_eq!(register.reading.0, usage);
    assert!(accrual.seal().unwrap().is_some());
}

/// A process is reaped a moment before its last microseconds are counted.
fn settled_usage(cgroup: &OwnCgroup) -> u128 {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !fs::read_to_string(cgroup.path.join("cgroup.procs"))
        .unwrap()
        .is_empty()
    {
        assert!(Instant::now() < deadline, "the process does not end");
        std::thread::yield_now();
    }
    cgroup.usage()
}

#[test]
fn a_new_cgroup_has_a_higher_id_than_all_before_it() {
    let Some(first) = OwnCgroup::create("higher") else {
        eprintln!("SKIPPED: no cgroup hierarchy may be written by this user");
        return;
    };
    let root = first.path.parent().unwrap().to_owned();
    let before = super::walk::walk(&root);
    drop(first);
    let path = Path::new(&root).join(format!("tallystick-test-{}-again", std::process::id()));
    fs::create_dir(&path).unwrap();
    let after = super::walk::walk(&root);
    fs::remove_dir(&path).unwrap();
    assert!(before.incomplete.is_none());
    assert!(
        after.highest > before.highest,
        "{} after {}",
        after.highest,
        before.highest
    );
}

#[test]
fn sampling_fifty_cgroups_keeps_their_files_open() {
    let Some(own) = OwnCgroup::create("fifty") else {
        eprintln!("SKIPPED: no cgroup hierarchy may be written by this user");
        return;
    };
    let children: Vec<PathBuf> = (0..50)
        .map(|index| own.path.join(format!("c{index}")))
        .collect();
    children
        .iter()
        .for_each(|path| fs::create_dir(path).unwrap());
    let mut sampler = Sampler::new(&config(&format!("{}/*", own.name))).unwrap();
    sampler.sample();
    let begun = Instant::now();
    let sample = sampler.sample();
    eprintln!(
        "50 cgroups sampled in {} µs",
        Micros::from(begun.elapsed()).0
    );
    let metered = sample
        .sources
        .iter()
        .filter(|source| source.workload.as_str().starts_with("cgroup/"));
    assert_eq!(
        metered
            .filter(|source| source.meter == Meter::CPU_TIME)
            .count(),
        50
    );
    children
        .iter()
        .for_each(|path| fs::remove_dir(path).unwrap());
}
