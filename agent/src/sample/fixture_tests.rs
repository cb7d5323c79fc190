//! Laid-out trees: v1, hybrid, unified, and none at all.

use std::fs;
use std::path::{Path, PathBuf};

use tallystick_common::meter::Meter;

use super::{Note, Raw, Roots, Sample, Sampler, SourceReading};
use crate::config::{Config, Selection};

struct Fixture {
    dir: tempfile::TempDir,
    mounts: Vec<String>,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
            mounts: Vec::new(),
        };
        fixture.write(
            "proc/sys/kernel/random/boot_id",
            "99695158-50df-4002-a601-6c703781fb97\n",
        );
        fixture.write("proc/stat", "cpu  100 0 50 999 9 0 10 7 0 0\n");
        fixture.write("proc/loadavg", "0.1 0.2 0.3 2/345 678\n");
        fixture.write(
            "proc/meminfo",
            "MemTotal: 9 kB\nInactive(file):        0 kB\n",
        );
        fixture.write(
            "proc/diskstats",
            " 8 0 sda 4 0 10 0 6 0 20 0 0 0 0\n 8 1 sda1 4 0 10 0 6 0 20 0 0 0 0\n 253 0 dm-0 4 0 10 0 6 0 20 0 0 0 0\n",
        );
        fixture.write("sys/class/block/sda1/partition", "1\n");
        fixture
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Mounts a hierarchy at `cg/NAME`; without options it is the unified one.
    fn mount(&mut self, name: &str, controllers: Option<&str>) {
        let at = self.path(&format!("cg/{name}"));
        fs::create_dir_all(&at).unwrap();
        let (kind, options) = controllers.map_or(("cgroup2", "rw".to_owned()), |controllers| {
            self.write(&format!("cg/{name}/release_agent"), "");
            ("cgroup", format!("rw,{controllers}"))
        });
        self.mounts.push(format!(
            "1 2 0:3 / {} rw - {kind} {kind} {options}\n",
            at.display()
        ));
        self.write("proc/self/mountinfo", &self.mounts.concat());
    }

    fn v1_cgroup(&self, path: &str, cpu_ns: u64) {
        self.write(
            &format!("cg/cpuacct/{path}/cpuacct.usage"),
            &format!("{cpu_ns}\n"),
        );
        self.write(&format!("cg/memory/{path}/memory.usage_in_bytes"), "1000\n");
        self.write(
            &format!("cg/memory/{path}/memory.stat"),
            "inactive_file 1\ntotal_inactive_file 300\n",
        );
    }

    fn v2_cgroup(&self, path: &str, cpu_us: u64) {
        self.write(
            &format!("cg/unified/{path}/cpu.stat"),
            &format!("usage_usec {cpu_us}\nuser_usec 1\n"),
        );
    }

    fn sampler(&self, include: &[&str]) -> Sampler {
        self.sampler_with(&Config {
            cgroups: selection(include),
            ..Config::default()
        })
    }

    fn sampler_with(&self, config: &Config) -> Sampler {
        let roots = Roots {
            proc: self.path("proc"),
            sys: self.path("sys"),
            root: self.path(""),
        };
        Sampler::with_roots(config, &roots).unwrap()
    }
}

fn selection(include: &[&str]) -> Selection {
    Selection {
        include: include.iter().map(|glob| (*glob).to_owned()).collect(),
        exclude: Vec::new(),
    }
}

fn find<'s>(sample: &'s Sample, workload: &str, meter: Meter) -> Option<&'s SourceReading> {
    sample
        .sources
        .iter()
        .find(|source| source.workload.as_str() == workload && source.meter == meter)
}

fn value(sample: &Sample, workload: &str, meter: Meter) -> Option<u128> {
    match find(sample, workload, meter)?.raw {
        Raw::Counter(value) | Raw::Level(value) => Some(value),
        Raw::Unreadable(_) => None,
    }
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

fn v1() -> Fixture {
    let mut fixture = Fixture::new();
    for controller in ["cpuacct", "memory", "blkio"] {
        fixture.mount(controller, Some(controller));
    }
    fixture.write("cg/cpuacct/cpuacct.usage", "9000999\n");
    fixture
}

#[test]
fn v1_controllers_are_joined_by_path() {
    let fixture = v1();
    fixture.v1_cgroup("a", 5_000_999);
    let disk =
        "8:0 Read 70\n8:0 Write 30\n8:0 Total 100\n253:0 Read 70\n253:0 Write 1\nTotal 171\n";
    for path in ["", "a/"] {
        for file in ["io_service_bytes_recursive", "io_serviced_recursive"] {
            fixture.write(&format!("cg/blkio/{path}blkio.throttle.{file}"), disk);
        }
    }
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(value(&sample, "host", Meter::CPU_TIME), Some(9_000));
    assert_eq!(value(&sample, "cgroup/a", Meter::CPU_TIME), Some(5_000));
    assert_eq!(value(&sample, "cgroup/a", Meter::MEMORY_USAGE), Some(700));
    assert_eq!(value(&sample, "cgroup/a", Meter::MEMORY_PEAK), Some(700));
    assert_eq!(value(&sample, "cgroup/a", Meter::DISK_READ), Some(70));
    assert_eq!(value(&sample, "cgroup/a", Meter::DISK_WRITE_OPS), Some(30));
    assert_eq!(
        value(&sample, "host", Meter::DISK_READ),
        Some(70),
        "dm-0 is not counted again"
    );
    let source = find(&sample, "cgroup/a", Meter::CPU_TIME).unwrap();
    assert_eq!(source.identity.domain, "cgroup1/cpuacct");
    assert_eq!(
        source.identity.incarnation,
        inode(&fixture.path("cg/cpuacct/a"))
    );
    let walk = sample
        .walks
        .iter()
        .find(|walk| walk.domain == "cgroup1/cpuacct")
        .unwrap();
    assert!(walk.complete && walk.highest >= source.identity.incarnation);
}

#[test]
fn disk_files_that_count_nothing_are_no_source() {
    let fixture = v1();
    fixture.v1_cgroup("a", 1);
    for path in ["", "a/"] {
        for file in ["io_service_bytes_recursive", "io_serviced_recursive"] {
            fixture.write(
                &format!("cg/blkio/{path}blkio.throttle.{file}"),
                "Total 0\n",
            );
        }
    }
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(
        find(&sample, "cgroup/a", Meter::DISK_READ),
        None,
        "no register, not zero"
    );
    assert_eq!(
        value(&sample, "host", Meter::DISK_READ),
        Some(10 * 512),
        "from diskstats, sda alone"
    );
    assert_eq!(value(&sample, "host", Meter::DISK_WRITE_OPS), Some(6));
}

#[test]
fn in_a_hybrid_layout_v1_counts_where_the_cgroup_is_there() {
    let mut fixture = v1();
    fixture.mount("unified", None);
    fixture.v1_cgroup("both", 7_000);
    fixture.v2_cgroup("both", 8_000);
    fixture.v2_cgroup("only2", 9);
    let mut sampler = fixture.sampler(&["*"]);
    let sample = sampler.sample();
    assert_eq!(value(&sample, "cgroup/both", Meter::CPU_TIME), Some(7));
    assert_eq!(value(&sample, "cgroup/only2", Meter::CPU_TIME), Some(9));
    assert_eq!(find(&sample, "cgroup/only2", Meter::MEMORY_USAGE), None);
    // Its source is kept when the path appears in v1 later.
    fixture.v1_cgroup("only2", 1);
    let source = |sample: &Sample| {
        find(sample, "cgroup/only2", Meter::CPU_TIME)
            .unwrap()
            .identity
            .clone()
    };
    assert_eq!(source(&sampler.sample()), source(&sample));
}

#[test]
fn the_unified_hierarchy_gives_all_meters_its_cgroups_have() {
    let mut fixture = Fixture::new();
    fixture.mount("unified", None);
    fixture.v2_cgroup("", 123);
    fixture.v2_cgroup("a", 77);
    fixture.write("cg/unified/a/memory.current", "500\n");
    fixture.write("cg/unified/a/memory.stat", "anon 5\ninactive_file 100\n");
    fixture.write(
        "cg/unified/a/io.stat",
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    );
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(value(&sample, "host", Meter::CPU_TIME), Some(123));
    assert_eq!(value(&sample, "cgroup/a", Meter::CPU_TIME), Some(77));
    assert_eq!(value(&sample, "cgroup/a", Meter::MEMORY_USAGE), Some(400));
    assert_eq!(value(&sample, "cgroup/a", Meter::DISK_WRITE), Some(2));
    assert_eq!(value(&sample, "cgroup/a", Meter::DISK_READ_OPS), Some(3));
}

#[test]
fn a_namespace_is_not_the_host() {
    let mut fixture = Fixture::new();
    fixture.mount("unified", None);
    fixture.v2_cgroup("", 123);
    fixture.write("cg/unified/cgroup.events", "populated 1\n");
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(
        value(&sample, "host", Meter::CPU_TIME),
        Some(160 * 10_000),
        "from /proc/stat"
    );
}

#[test]
fn a_host_without_cgroups_is_metered_as_a_whole() {
    let fixture = Fixture::new();
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(value(&sample, "host", Meter::CPU_TIME), Some(160 * 10_000));
    for meter in [Meter::MEMORY_USAGE, Meter::DISK_READ, Meter::UPTIME] {
        assert!(
            value(&sample, "host", meter).is_some_and(|value| value > 0),
            "{meter}"
        );
    }
    assert!(
        !sample
            .sources
            .iter()
            .any(|source| source.workload.as_str().starts_with("cgroup/"))
    );
}

#[test]
fn a_cgroup_inside_a_metered_one_is_reported_and_not_metered() {
    let fixture = v1();
    fixture.v1_cgroup("a", 1);
    fixture.v1_cgroup("a/b", 1);
    fixture.v1_cgroup("c/b", 1);
    let sample = fixture.sampler(&["a", "*/b"]).sample();
    assert!(find(&sample, "cgroup/a", Meter::CPU_TIME).is_some());
    assert!(find(&sample, "cgroup/c/b", Meter::CPU_TIME).is_some());
    assert_eq!(find(&sample, "cgroup/a/b", Meter::CPU_TIME), None);
    let note = Note::Nested {
        inner: "a/b".to_owned(),
        outer: "a".to_owned(),
    };
    assert_eq!(sample.notes, [note]);
}

#[test]
fn a_cgroup_made_again_is_another_incarnation() {
    let fixture = v1();
    fixture.v1_cgroup("a", 5_000);
    let mut sampler = fixture.sampler(&["*"]);
    let first = sampler.sample();
    // Kept aside, so that the file system cannot give the new one the same inode.
    fs::rename(fixture.path("cg/cpuacct/a"), fixture.path("aside")).unwrap();
    let gone = sampler.sample();
    assert_eq!(find(&gone, "cgroup/a", Meter::CPU_TIME), None);
    assert!(
        find(&gone, "cgroup/a", Meter::MEMORY_USAGE).is_some(),
        "its memory lives on"
    );
    fixture.v1_cgroup("a", 8_000);
    let again = sampler.sample();
    assert_eq!(value(&again, "cgroup/a", Meter::CPU_TIME), Some(8));
    let identity = |sample: &Sample| {
        find(sample, "cgroup/a", Meter::CPU_TIME)
            .unwrap()
            .identity
            .clone()
    };
    assert_ne!(identity(&first), identity(&again));
}

#[test]
fn what_cannot_be_read_says_why_and_is_not_zero() {
    let fixture = v1();
    fixture.v1_cgroup("a", 5_000);
    let mut sampler = fixture.sampler(&["*"]);
    sampler.sample();
    fixture.write("cg/cpuacct/a/cpuacct.usage", "garbage\n");
    fs::remove_file(fixture.path("proc/diskstats")).unwrap();
    let sample = sampler.sample();
    let Raw::Unreadable(why) = &find(&sample, "cgroup/a", Meter::CPU_TIME).unwrap().raw else {
        panic!("read garbage");
    };
    assert!(why.contains("cpuacct.usage") && why.contains("/a"), "{why}");
    assert!(matches!(
        find(&sample, "host", Meter::DISK_READ).unwrap().raw,
        Raw::Unreadable(_)
    ));
}

#[test]
fn interfaces_are_known_by_their_index() {
    let fixture = Fixture::new();
    for (name, index) in [("eth0", 2), ("lo", 1)] {
        fixture.write(
            &format!("sys/class/net/{name}/ifindex"),
            &format!("{index}\n"),
        );
        fixture.write(&format!("sys/class/net/{name}/statistics/rx_bytes"), "11\n");
        fixture.write(&format!("sys/class/net/{name}/statistics/tx_bytes"), "22\n");
    }
    fixture.write("sys/class/net/bonding_masters", "bond0\n");
    let sample = fixture.sampler(&[]).sample();
    assert_eq!(
        value(&sample, "interface/eth0", Meter::NETWORK_RX),
        Some(11)
    );
    assert_eq!(
        value(&sample, "interface/eth0", Meter::NETWORK_TX),
        Some(22)
    );
    assert_eq!(
        find(&sample, "interface/eth0", Meter::NETWORK_RX)
            .unwrap()
            .identity
            .incarnation,
        2
    );
    assert_eq!(
        find(&sample, "interface/lo", Meter::NETWORK_RX),
        None,
        "excluded by default"
    );
}

#[test]
fn hierarchies_that_a_sandbox_hides_are_none() {
    let fixture = v1();
    fs::remove_dir_all(fixture.path("cg")).unwrap();
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(
        value(&sample, "host", Meter::CPU_TIME),
        Some(1_600_000),
        "from /proc/stat"
    );
    assert_eq!((sample.walks, sample.notes), (vec![], vec![]));
}

#[test]
fn a_container_is_called_what_its_runtime_calls_it_once_that_is_written() {
    let id = "3c2d9c1e7b8f4a5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
    let fixture = v1();
    fixture.v1_cgroup(&format!("docker/{id}"), 1);
    let mut sampler = fixture.sampler(&["docker/*"]);
    let labels = |sample: &Sample| -> Vec<String> {
        let (workload, labels) = sample.labels.iter().next().unwrap();
        assert_eq!(workload.as_str(), format!("cgroup/docker/{id}"));
        let text = |(key, value): &(String, String)| format!("{key}={value}");
        labels.iter().map(text).collect()
    };
    let first = sampler.sample();
    assert_eq!(
        labels(&first),
        ["kind=docker".to_owned(), format!("container.id={id}")]
    );
    fixture.write(
        &format!("var/lib/docker/containers/{id}/config.v2.json"),
        r#"{"Name": "/web"}"#,
    );
    let second = sampler.sample();
    assert_eq!(labels(&second)[2..], ["container.name=web"]);
    let third = sampler.sample();
    assert!(
        std::sync::Arc::ptr_eq(&second.labels, &third.labels),
        "said again only when something changes"
    );
}

#[test]
fn tasks_and_stolen_time_have_meters_of_their_own() {
    let mut fixture = v1();
    fixture.mount("pids", Some("pids"));
    fixture.v1_cgroup("a", 1);
    fixture.write("cg/pids/a/pids.current", "12\n");
    let sample = fixture.sampler(&["*"]).sample();
    assert_eq!(value(&sample, "cgroup/a", Meter::PROCESS_COUNT), Some(12));
    assert_eq!(value(&sample, "host", Meter::PROCESS_COUNT), Some(345));
    assert_eq!(value(&sample, "host", Meter::CPU_STEAL), Some(7 * 10_000));
    assert_eq!(
        value(&sample, "host", Meter::CPU_TIME),
        Some(9_000),
        "stolen time is not in it"
    );
}

#[test]
fn a_disk_is_a_workload_where_selected_and_its_loss_is_not_a_smaller_counter() {
    let fixture = Fixture::new();
    let line = |name: &str, minor: u32, sectors: u32| {
        format!(" 8 {minor} {name} 4 0 {sectors} 0 6 0 20 0 0 0 0\n")
    };
    let both = line("sda", 0, 10) + &line("sdb", 16, 100);
    fixture.write("proc/diskstats", &both);
    fixture.write("sys/class/block/sda/diskseq", "3\n");
    fixture.write("sys/class/block/sdb/diskseq", "9\n");
    let mut sampler = fixture.sampler_with(&Config {
        disks: selection(&["sdb"]),
        ..Config::default()
    });
    let identity = |sample: &Sample, workload: &str| {
        find(sample, workload, Meter::DISK_READ)
            .unwrap()
            .identity
            .clone()
    };
    let first = sampler.sample();
    assert_eq!(value(&first, "disk/sdb", Meter::DISK_READ), Some(100 * 512));
    assert_eq!(find(&first, "disk/sda", Meter::DISK_READ), None);
    assert_eq!(value(&first, "host", Meter::DISK_READ), Some(110 * 512));
    let second = sampler.sample();
    assert_eq!(identity(&first, "host"), identity(&second, "host"));
    // Unplugged, and another one in its place.
    fixture.write("sys/class/block/sdb/diskseq", "10\n");
    let replaced = line("sda", 0, 10) + &line("sdb", 16, 70);
    fixture.write("proc/diskstats", &replaced);
    let third = sampler.sample();
    assert_ne!(identity(&second, "disk/sdb"), identity(&third, "disk/sdb"));
    assert_ne!(identity(&second, "host"), identity(&third, "host"));
    fs::remove_file(fixture.path("proc/diskstats")).unwrap();
    let unread = sampler.sample();
    assert_eq!(identity(&unread, "host"), identity(&third, "host"));
    assert!(matches!(
        find(&unread, "disk/sdb", Meter::DISK_READ).unwrap().raw,
        Raw::Unreadable(_)
    ));
}

#[test]
fn a_group_that_comes_to_lie_in_a_metered_one_is_named_with_it_and_the_remedy() {
    let fixture = v1();
    fixture.v1_cgroup("a", 1);
    let mut sampler = fixture.sampler(&["a", "*/b"]);
    assert_eq!(sampler.sample().notes, []);
    fixture.v1_cgroup("a/b", 1);
    let sample = sampler.sample();
    assert!(find(&sample, "cgroup/a", Meter::CPU_TIME).is_some());
    assert_eq!(find(&sample, "cgroup/a/b", Meter::CPU_TIME), None);
    let said = sample.notes[0].to_string();
    for part in ["cgroup a/b ", "lies in a,", "cgroups.exclude"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
