//! The control groups that are metered.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tallystick_tests::bench::setting;
use tallystick_tests::cgroup::Cgroup;
use tallystick_tests::process::Process;

use super::PAUSE;

pub(crate) const GROUPS: usize = 100;
/// The files that the agent reads of a control group, where there are such.
const FILES: [&str; 9] = [
    "cpuacct.usage",
    "cpu.stat",
    "memory.usage_in_bytes",
    "memory.current",
    "memory.stat",
    "blkio.throttle.io_service_bytes_recursive",
    "blkio.throttle.io_serviced_recursive",
    "io.stat",
    "pids.current",
];

/// The control groups to be metered, a process in each: with the same name in every v1 hierarchy that
/// counts something, or once in the unified one.
pub(crate) struct Groups {
    groups: Vec<Cgroup>,
    elsewhere: Vec<PathBuf>,
    /// Ended before their groups are removed: fields are dropped in order, so they are taken in `drop`.
    busy: Vec<Process>,
}

impl Groups {
    pub(crate) fn make() -> Option<Self> {
        let mut made = Self {
            groups: Vec::new(),
            elsewhere: Vec::new(),
            busy: Vec::new(),
        };
        for place in 0..GROUPS {
            let group = Cgroup::make(&format!("bench-{place:02}"))?;
            let mut enter = String::new();
            for hierarchy in ["memory", "blkio", "pids"] {
                let path = Path::new("/sys/fs/cgroup")
                    .join(hierarchy)
                    .join(group.name());
                if fs::create_dir(&path).is_ok() {
                    enter += &format!("echo $$ > '{}/cgroup.procs'; ", path.display());
                    made.elsewhere.push(path);
                }
            }
            let wake = format!("{enter} while :; do sleep 5; done");
            let busy = group.spawn(Command::new("sh").args(["-c", &wake]));
            made.busy.push(busy.ok()?);
            made.groups.push(group);
        }
        Some(made)
    }

    pub(crate) fn glob(&self) -> String {
        let name = Cgroup::name_of("bench-*");
        assert!(self.groups.len() == GROUPS);
        name
    }

    /// CPU time of reading, once, what the agent reads of them: each file opened for it, and all of them
    /// kept open. The latter is the least that anyone pays who samples them.
    pub(crate) fn read_cost(&self) -> anyhow::Result<ReadCost> {
        let cpu = self.groups.iter().map(Cgroup::path);
        let folders = cpu.chain(self.elsewhere.iter().map(PathBuf::as_path));
        let files: Vec<PathBuf> = folders
            .flat_map(|folder| FILES.map(|file| folder.join(file)))
            .filter(|path| path.exists())
            .collect();
        let mut kinds = BTreeMap::new();
        for file in &files {
            *kinds.entry(file.file_name()).or_insert(0) += 1;
        }
        println!("baseline reads {kinds:?}");
        let rounds = setting("TALLYSTICK_BENCH_ROUNDS", 200, 2);
        let each = u32::try_from(rounds)?;
        let began = thread_time();
        for _ in 0..rounds {
            for file in &files {
                std::hint::black_box(fs::read(file)?);
            }
        }
        let opening = (thread_time() - began) / each;
        let open: Vec<fs::File> = files.iter().map(fs::File::open).collect::<Result<_, _>>()?;
        let mut buffer = vec![0; 64 << 10];
        let began = thread_time();
        for _ in 0..rounds {
            for file in &open {
                std::hint::black_box(file.read_at(&mut buffer, 0)?);
            }
        }
        let kept_open = (thread_time() - began) / each;
        Ok(ReadCost { opening, kept_open })
    }
}

/// See [`Groups::read_cost`].
pub(crate) struct ReadCost {
    pub(crate) opening: Duration,
    pub(crate) kept_open: Duration,
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.busy.clear();
        for path in &self.elsewhere {
            // A child that was just killed may still be leaving.
            for _ in 0..100 {
                if fs::remove_dir(path).is_ok() || !path.exists() {
                    break;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
