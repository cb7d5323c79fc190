//! Texts of kernel files into whole numbers.
//!
//! Owns the formats of `/proc/stat`, `/proc/meminfo`, `/proc/loadavg`, `/proc/diskstats` and the cgroup
//! files, v1 and v2. Every function is pure; `None` means "not of this form", never zero.

use std::collections::BTreeSet;

/// Microseconds in a tick of `/proc/stat`: `USER_HZ` is 100 in the kernel's interface to programs
/// on every architecture this runs on, whatever the kernel's own tick is.
const TICK_US: u128 = 10_000;
/// Bytes in a sector of `/proc/diskstats`, whatever the device's own sector is.
const SECTOR_BYTES: u128 = 512;

/// Bytes and operations of block devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DiskUse {
    pub(super) read_bytes: u128,
    pub(super) write_bytes: u128,
    pub(super) read_operations: u128,
    pub(super) write_operations: u128,
}

/// One line of `/proc/diskstats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device<'t> {
    /// `major:minor`, as cgroup files name it.
    pub(super) number: String,
    pub(super) name: &'t str,
    pub(super) usage: DiskUse,
}

/// One number, as in `cpuacct.usage` or `memory.current`.
pub(super) fn number(text: &str) -> Option<u128> {
    text.trim().parse().ok()
}

/// The value of `key` in lines `key value`, as in `cpu.stat` and `memory.stat`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u128> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').and_then(number))
}

/// Bytes of `key` in `/proc/meminfo`, whose lines are `key:   value kB`.
pub(super) fn meminfo(text: &str, key: &str) -> Option<u128> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    number(value.trim().strip_suffix(" kB")?)?.checked_mul(1024)
}

/// CPU time in microseconds from `/proc/stat`: user, nice, system, irq and softirq. Guest time is
/// in user already; idle, iowait and steal are not usage.
pub(super) fn proc_stat_cpu(text: &str) -> Option<u128> {
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = proc_stat_ticks(text)?[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) * TICK_US)
}

/// Stolen time in microseconds from `/proc/stat`: waited for a real processor while runnable.
pub(super) fn proc_stat_steal(text: &str) -> Option<u128> {
    proc_stat_ticks(text)?.get(7).map(|steal| steal * TICK_US)
}

fn proc_stat_ticks(text: &str) -> Option<Vec<u128>> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = line.split_ascii_whitespace();
    // The kernel counts in 64 bits: sums of them fit.
    let number = |field: &str| field.parse::<u64>().ok().map(u128::from);
    Some(fields.map_while(number).collect())
}

/// How many tasks exist, from `/proc/loadavg`: `LOAD LOAD LOAD RUNNING/EXISTING LAST`.
pub(super) fn tasks(text: &str) -> Option<u128> {
    let (_running, existing) = text.split_ascii_whitespace().nth(3)?.split_once('/')?;
    number(existing)
}

/// The lines of `/proc/diskstats`.
pub(super) fn diskstats(text: &str) -> impl Iterator<Item = Device<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let count = |index: usize| fields.get(index)?.parse::<u64>().ok().map(u128::from);
        Some(Device {
            number: format!("{}:{}", fields.first()?, fields.get(1)?),
            name: fields.get(2)?,
            usage: DiskUse {
                read_operations: count(3)?,
                read_bytes: count(5)?.checked_mul(SECTOR_BYTES)?,
                write_operations: count(7)?,
                write_bytes: count(9)?.checked_mul(SECTOR_BYTES)?,
            },
        })
    })
}

/// (read, write) of the devices in `counted` from a v1 `blkio.throttle.*_recursive` file.
pub(super) fn blkio(text: &str, counted: &BTreeSet<String>) -> Option<(u128, u128)> {
    let (mut read, mut write) = (0u128, 0u128);
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(device), Some(operation), Some(value)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue; // the closing line `Total N`
        };
        if !counted.contains(device) {
            continue;
        }
        match operation {
            "Read" => read = read.checked_add(value.parse().ok()?)?,
            "Write" => write = write.checked_add(value.parse().ok()?)?,
            _ => {}
        }
    }
    Some((read, write))
}

/// Usage of the devices in `counted` from a v2 `io.stat`.
pub(super) fn io_stat(text: &str, counted: &BTreeSet<String>) -> Option<DiskUse> {
    let mut sum = DiskUse::default();
    for line in text.lines() {
        let Some((device, pairs)) = line.split_once(' ') else {
            continue;
        };
        if !counted.contains(device) {
            continue;
        }
        for (key, value) in pairs
            .split_ascii_whitespace()
            .filter_map(|pair| pair.split_once('='))
        {
            let part = match key {
                "rbytes" => &mut sum.read_bytes,
                "wbytes" => &mut sum.write_bytes,
                "rios" => &mut sum.read_operations,
                "wios" => &mut sum.write_operations,
                _ => continue,
            };
            *part = part.checked_add(value.parse().ok()?)?;
        }
    }
    Some(sum)
}

/// Whether a line of a v1 or v2 disk file is about one of `counted`.
pub(super) fn names_a_device(text: &str, counted: &BTreeSet<String>) -> bool {
    text.lines()
        .filter_map(|line| line.split_ascii_whitespace().next())
        .any(|device| counted.contains(device))
}

impl std::ops::AddAssign for DiskUse {
    fn add_assign(&mut self, other: Self) {
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.read_operations += other.read_operations;
        self.write_operations += other.write_operations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn meminfo_is_read_by_the_whole_key() {
        let text =
            "MemTotal:  100 kB\nInactive:   7 kB\nInactive(file):     5 kB\nHugePages_Total:  3\n";
        assert_eq!(meminfo(text, "Inactive(file)"), Some(5 * 1024));
        assert_eq!(meminfo(text, "Inactive"), Some(7 * 1024));
        assert_eq!(meminfo(text, "HugePages_Total"), None, "no bytes");
        assert_eq!(meminfo("", "Inactive"), None);
    }

    #[test]
    fn guest_steal_and_waiting_are_not_cpu_time() {
        let text = "cpu  100 10 20 9999 8888 3 4 7777 60 6\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(proc_stat_cpu(text), Some((100 + 10 + 20 + 3 + 4) * 10_000));
        assert_eq!(proc_stat_steal(text), Some(7777 * 10_000));
        assert_eq!(proc_stat_cpu("cpu  1 2\n"), None);
        assert_eq!(proc_stat_steal("cpu  1 2 3 4 5 6 7\n"), None, "not zero");
        assert_eq!(proc_stat_cpu(""), None);
    }

    #[test]
    fn numbers_that_no_kernel_counts_to_are_not_added_up() {
        let most = u128::MAX;
        assert_eq!(proc_stat_cpu(&format!("cpu  {most} 1 1 1 1 1 1\n")), None);
        let line = format!("8 0 sda {most} 0 {most} 0 1 0 1 0 0 0 0\n");
        assert_eq!(diskstats(&line).count(), 0);
    }

    #[test]
    fn the_tasks_that_exist_stand_behind_those_that_run() {
        assert_eq!(tasks("10.21 7.92 5.39 3/412 90210\n"), Some(412));
        assert_eq!(tasks("10.21 7.92 5.39\n"), None);
    }

    #[test]
    fn a_key_is_matched_whole() {
        let text = "total_inactive_file 7\ninactive_file 5\ninactive_filex 9\n";
        assert_eq!(keyed(text, "inactive_file"), Some(5));
        assert_eq!(keyed(text, "inactive"), None);
    }

    #[test]
    fn disk_files_are_summed_over_counted_devices_only() {
        let v1 = "8:0 Read 100\n8:0 Write 50\n8:0 Sync 1\n8:0 Total 150\n253:0 Read 100\n8:16 Read 1\nTotal 251\n";
        assert_eq!(blkio(v1, &devices(&["8:0", "8:16"])), Some((101, 50)));
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:0 rbytes=9\n";
        let sum = io_stat(v2, &devices(&["8:0"])).unwrap();
        assert_eq!((sum.read_bytes, sum.write_bytes), (1, 2));
        assert_eq!((sum.read_operations, sum.write_operations), (3, 4));
        assert_eq!(
            io_stat("8:0 rbytes=x\n", &devices(&["8:0"])),
            None,
            "garbage is not zero"
        );
    }

    #[test]
    fn a_line_of_diskstats_is_512_byte_sectors() {
        let text = " 254       0 vda 10 5 3 9398 20 25524 4 13294 0 4936 23934 0 0 0 0 0 0\n";
        let device = diskstats(text).next().unwrap();
        assert_eq!((device.number.as_str(), device.name), ("254:0", "vda"));
        assert_eq!(
            (device.usage.read_bytes, device.usage.write_bytes),
            (1536, 2048)
        );
        assert_eq!(
            (device.usage.read_operations, device.usage.write_operations),
            (10, 20)
        );
    }
}
