//! What is read between two samples, so that groups that are gone at the next one are billed all the same.
//!
//! A *glimpse* is a reading of one group out of turn: when it is made, when the kernel says that its last
//! process has left it (v2, and v1 groups that have a twin in the unified hierarchy), and, while it is
//! young, at ages that double. The last glimpse of a source that the next sample does not have any more is
//! its last reading. So what escapes of a group that nobody announces (v1 alone) is about the later half of its
//! life while it is younger than a period (all of it below the first look), and its last period when it is older.

use std::collections::{BTreeMap, HashMap};

use tallystick_common::ids::WorkloadName;
use tallystick_common::meter::Meter;
use tallystick_common::time::Micros;

use crate::sample::source::{Identity, LastReading, Raw, SourceReading};

/// Age at which a group is looked at for the first time after it was made.
const FIRST_LOOK: Micros = Micros(10_000);

/// Glimpses since the last sample, and which groups are due for another.
#[derive(Debug, Default)]
pub(super) struct Between {
    glimpses: BTreeMap<Source, (Raw, Micros)>,
    young: Vec<Young>,
    /// When the last sample was taken, on the monotonic clock.
    sampled_at: Micros,
}

type Source = (WorkloadName, Meter, Identity);

#[derive(Debug)]
struct Young {
    path: String,
    born: Micros,
    due: Micros,
}

impl Between {
    /// A group was made now.
    pub(super) fn meet(&mut self, path: &str, now: Micros) {
        if self.young.iter().any(|young| young.path == path) {
            return;
        }
        self.young.push(Young {
            path: path.to_owned(),
            born: now,
            due: Micros(now.0.saturating_add(FIRST_LOOK.0)),
        });
    }

    /// When a group is due for a glimpse.
    pub(super) fn due(&self) -> Option<Micros> {
        self.young.iter().map(|young| young.due).min()
    }

    /// The groups that are due. Each is due again at twice its age, until that is beyond `period`.
    pub(super) fn take_due(&mut self, now: Micros, period: Micros) -> Vec<String> {
        let mut due = Vec::new();
        for young in self.young.iter_mut().filter(|young| young.due <= now) {
            due.push(young.path.clone());
            let age = now.0.saturating_sub(young.born.0);
            young.due = Micros(now.0.saturating_add(age));
        }
        self.young
            .retain(|young| young.due.0.saturating_sub(young.born.0) < period.0.saturating_mul(2));
        due
    }

    /// Those of which nothing is there any more are not young any more.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.young.retain(|young| !is_gone(&young.path));
    }

    /// Keeps what a glimpse read; what could not be read changes nothing.
    pub(super) fn keep(&mut self, sources: Vec<SourceReading>, now: Micros) {
        for source in sources {
            if !matches!(source.raw, Raw::Unreadable(_)) {
                let key = (source.workload, source.meter, source.identity);
                self.glimpses.insert(key, (source.raw, now));
            }
        }
    }

    /// The last readings of what `sample`, taken at `now`, does not have any more. What it has but could
    /// not read may have gone meanwhile: that is for the next sample to say.
    pub(super) fn settle(&mut self, sample: &[SourceReading], now: Micros) -> Vec<LastReading> {
        let before = std::mem::replace(&mut self.sampled_at, now);
        if self.glimpses.is_empty() {
            return Vec::new();
        }
        let there: HashMap<(&WorkloadName, Meter, &Identity), bool> = sample
            .iter()
            .map(|source| {
                let read = !matches!(source.raw, Raw::Unreadable(_));
                ((&source.workload, source.meter, &source.identity), read)
            })
            .collect();
        let mut last = Vec::new();
        for (source, (raw, at)) in std::mem::take(&mut self.glimpses) {
            match there.get(&(&source.0, source.1, &source.2)) {
                Some(true) => {}
                Some(false) => drop(self.glimpses.insert(source, (raw, at))),
                None => last.push(reading(source, raw, Micros(at.0.saturating_sub(before.0)))),
            }
        }
        last
    }
}

fn reading(source: Source, raw: Raw, since_sample: Micros) -> LastReading {
    let (workload, meter, identity) = source;
    let source = SourceReading {
        workload,
        meter,
        identity,
        raw,
    };
    LastReading {
        source,
        since_sample,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(raw: Raw) -> SourceReading {
        SourceReading {
            workload: WorkloadName::new("cgroup/a").unwrap(),
            meter: Meter::CPU_TIME,
            identity: Identity {
                boot: tallystick_common::ids::BootId::ZERO,
                domain: "cgroup2".to_owned(),
                incarnation: 7,
            },
            raw,
        }
    }

    fn counter(value: u128) -> SourceReading {
        source(Raw::Counter(value))
    }

    #[test]
    fn a_young_group_is_looked_at_at_ages_that_double_up_to_a_period() {
        let period = Micros::from_seconds(10);
        let mut between = Between::default();
        between.meet("a", Micros(0));
        between.meet("a", Micros(5));
        let mut ages = Vec::new();
        while let Some(due) = between.due() {
            assert_eq!(between.take_due(due, period), ["a"]);
            ages.push(due.0 / 1_000);
        }
        assert_eq!(
            ages,
            [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240]
        );
        assert_eq!(between.take_due(Micros(u64::MAX), period), [""; 0]);
        between.meet("b", Micros(0));
        between.forget(|path| path == "b");
        assert_eq!(between.due(), None);
    }

    #[test]
    fn the_last_glimpse_of_what_is_gone_is_its_last_reading() {
        let mut between = Between::default();
        assert_eq!(between.settle(&[], Micros(100)), []);
        between.keep(vec![counter(5)], Micros(110));
        between.keep(vec![counter(8)], Micros(120));
        let gone = Raw::Unreadable("gone".to_owned());
        between.keep(vec![source(gone.clone())], Micros(130));
        assert_eq!(between.settle(&[source(gone)], Micros(200)), []);
        let last = between.settle(&[], Micros(300));
        assert_eq!(last.len(), 1, "kept until a sample says that it is gone");
        assert_eq!(last[0].source.raw, Raw::Counter(8));
        assert_eq!(
            last[0].since_sample,
            Micros(0),
            "read before the sample before"
        );
        between.keep(vec![counter(9)], Micros(310));
        assert_eq!(between.settle(&[counter(9)], Micros(400)), []);
        assert_eq!(
            between.settle(&[], Micros(500)),
            [],
            "it was in a sample since"
        );
    }
}
