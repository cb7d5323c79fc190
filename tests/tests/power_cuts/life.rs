//! What a machine said in one life, from its boot to its cut.

use std::cell::Cell;
use std::time::UNIX_EPOCH;

/// What the machine printed at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) used: u128,
    pub(crate) at: u64,
    pub(crate) sealed: u64,
    pub(crate) receipted: Option<u64>,
}

/// One life of the machine.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) how: String,
    pub(crate) away: bool,
    pub(crate) boot: String,
    pub(crate) seen: Vec<Seen>,
    /// When it ended, by the machine's own clock.
    pub(crate) cut_at: u64,
    /// Whether that was before a seal had come to its end.
    pub(crate) sealing: bool,
    /// Whether it found again what the life before had written and not synced.
    pub(crate) found_unsynced: bool,
}

impl Life {
    pub(crate) fn of(said: &str, how: String, cut_at: u64) -> Self {
        // Enrolled, and no agent runs: whatever the cut before it left.
        assert_eq!(after(said, "STATUS ").as_deref(), Some("6"), "{said}");
        Self {
            how,
            away: false,
            sealing: false,
            boot: after(said, "BOOT ").unwrap(),
            seen: said.lines().filter_map(seen).collect(),
            cut_at,
            found_unsynced: after(said, "UNSYNCED ").unwrap() != "0",
        }
    }
}

/// The machine's clock as told by this host's: it is behind by the least that a line was old when read.
#[derive(Debug, Default)]
pub(crate) struct Clock(Cell<Option<(u64, u64)>>);

impl Clock {
    pub(crate) fn look(&self, said: &str) {
        let Some(last) = said.lines().rev().find_map(seen) else {
            return;
        };
        let behind = now_us().saturating_sub(last.at);
        match self.0.get() {
            Some((at, _)) if at == last.at => {}
            Some((_, least)) => self.0.set(Some((last.at, least.min(behind)))),
            None => self.0.set(Some((last.at, behind))),
        }
    }

    pub(crate) fn now(&self) -> u64 {
        now_us().saturating_sub(self.0.get().map_or(0, |(_, behind)| behind))
    }
}

fn now_us() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap()
}

/// `SEEN used time sealed receipted`, whole.
pub(crate) fn seen(line: &str) -> Option<Seen> {
    let mut words = line.strip_prefix("SEEN ")?.split(' ');
    let used = words.next()?.parse().ok()?;
    let at = words.next()?.parse().ok()?;
    let sealed = words.next()?.parse().ok()?;
    let receipted = words.next()?.parse().ok();
    Some(Seen {
        used,
        at,
        sealed,
        receipted,
    })
}

/// The rest of the first whole line that begins so.
pub(crate) fn after(said: &str, key: &str) -> Option<String> {
    let whole = said.rsplit_once('\n')?.0;
    let found = whole.lines().find_map(|line| line.strip_prefix(key));
    found.map(|rest| rest.trim().to_owned())
}
