//! The three clocks of a sample, and the boot they belong to.

use std::path::Path;

use rustix::time::{ClockId, Timespec, clock_gettime};
use tallystick_common::ids::BootId;
use tallystick_common::time::{Micros, Timestamp};

use super::SampleError;
use super::source::Moment;

/// Reads all three clocks.
#[must_use]
pub fn moment() -> Moment {
    Moment {
        wall: Timestamp::EPOCH.saturating_add(micros(clock_gettime(ClockId::Realtime))),
        monotonic: micros(clock_gettime(ClockId::Monotonic)),
        boottime: micros(clock_gettime(ClockId::Boottime)),
    }
}

/// Reads `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// When it cannot be read or is not a UUID.
pub(super) fn boot_id(proc: &Path) -> Result<BootId, SampleError> {
    let path = proc.join("sys/kernel/random/boot_id");
    let text = std::fs::read_to_string(&path).map_err(|source| SampleError::Unreadable {
        path: path.clone(),
        source,
    })?;
    text.trim()
        .replace('-', "")
        .parse()
        .map_err(|_| SampleError::BootId { path, text })
}

fn micros(time: Timespec) -> Micros {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Micros(
        seconds
            .saturating_mul(1_000_000)
            .saturating_add(nanoseconds / 1_000),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree_about_their_order() {
        let moment = moment();
        assert!(moment.wall > Timestamp::from_seconds(1_600_000_000).unwrap());
        assert!(moment.boottime >= moment.monotonic);
        assert!(boot_id(Path::new("/proc")).unwrap() != BootId::ZERO);
    }
}
