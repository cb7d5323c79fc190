//! Which sources were certainly born after the last sample.
//!
//! In a domain whose incarnation numbers only rise, a number above the highest that a complete
//! listing saw in this boot belongs to something born after that listing. After a boot that is
//! certainly later than the last sample, everything was.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use tallystick_common::ids::BootId;
use tallystick_common::reading::Cause;
use tallystick_common::time::Timestamp;

use super::step::Step;
use crate::sample::{Identity, Walk};

/// The highest incarnation numbers seen, by domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Births {
    highest: BTreeMap<String, Highest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct Highest {
    boot: BootId,
    number: u64,
    /// Agent time of the last complete listing.
    at: Timestamp,
}

impl Births {
    /// Remembers what a sample listed.
    pub(super) fn note(&mut self, walks: &[Walk], boot: BootId, at: Timestamp) {
        for walk in walks.iter().filter(|walk| walk.complete) {
            let before = self
                .highest
                .get(&walk.domain)
                .map_or(0, |known| known.number);
            let number = before.max(walk.highest);
            self.highest
                .insert(walk.domain.clone(), Highest { boot, number, at });
        }
    }

    /// Numbers begin anew with a boot.
    pub(super) fn forget(&mut self) {
        self.highest.clear();
    }

    /// Whether this source was born after the last sample.
    pub(super) fn proves(&self, identity: &Identity, step: &Step) -> bool {
        step.booted
            || self.highest.get(&identity.domain).is_some_and(|known| {
                known.boot == identity.boot && identity.incarnation > known.number
            })
    }

    /// Why it is not known when in the step it was born: listings before were incomplete, so that
    /// it may have been there for longer.
    pub(super) fn doubt(&self, identity: &Identity, step: &Step) -> Option<Cause> {
        let listed = self.highest.get(&identity.domain)?.at;
        (!step.booted && listed < step.from).then_some(Cause::SourceUnreadable)
    }
}
