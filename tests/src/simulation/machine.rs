//! Simulated machines: kernels whose counters rise.

use tallystick_common::ids::{BootId, NodeId};

use super::model::Truth;
use super::model::meter::{HOST, LEVEL, OTHER, Reading, Readings};

/// Names of the control groups.
pub const GROUPS: [&str; 2] = ["cgroup/a", "cgroup/b"];

/// Microseconds of a step.
pub const STEP: u64 = 300_000_000;

#[derive(Debug, Clone, Copy)]
struct Group {
    incarnation: u64,
    cpu: u128,
    level: u128,
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    node: NodeId,
    boot: BootId,
    booted_at: u64,
    host: u128,
    groups: [Group; 2],
    highest: u64,
}

impl Machine {
    /// Boots one at an instant; `boot` tells boots apart.
    #[must_use]
    pub fn new(node: NodeId, boot: u64, now: u64) -> Self {
        let mut id = [0xb0; 16];
        id[..8].copy_from_slice(&boot.to_be_bytes());
        let group = |incarnation| Group {
            incarnation,
            cpu: 0,
            level: 1_000_000,
        };
        Self {
            node,
            boot: BootId(id),
            booted_at: now,
            host: 0,
            groups: [group(1), group(2)],
            highest: 2,
        }
    }

    /// Boots again.
    pub fn reboot(&mut self, boot: u64, now: u64) {
        *self = Self::new(self.node, boot, now);
    }

    /// Ends the second group and makes it again.
    pub fn restart_group(&mut self) {
        self.highest += 1;
        self.groups[1] = Group {
            incarnation: self.highest,
            cpu: 0,
            level: 2_000_000,
        };
    }

    /// Works for a step. Nothing divides evenly.
    pub fn work(&mut self, load: u8, truth: &mut Truth) {
        let load = u128::from(load);
        let [first, second] = [load * 1_000_003, load * 777_779 + 11];
        let own = 3_333_331 + load;
        let mut used =
            |item, quantity| *truth.used.entry((self.node, item)).or_default() += quantity;
        for (group, (name, cpu)) in self
            .groups
            .iter_mut()
            .zip(GROUPS.into_iter().zip([first, second]))
        {
            group.cpu += cpu;
            used((name, "cpu.time"), cpu);
            used((name, LEVEL), group.level * u128::from(STEP) / 1_000_000);
            group.level = 1_000_000 * (1 + load);
        }
        used(OTHER, own);
        used(HOST, first + second + own);
        self.host += first + second + own;
    }

    /// Everything it shows.
    #[must_use]
    pub fn read(&self, now: u64) -> Readings {
        let mut all = vec![Reading {
            item: HOST,
            incarnation: 0,
            value: self.host,
        }];
        for (group, name) in self.groups.iter().zip(GROUPS) {
            let reading = |meter, value| Reading {
                item: (name, meter),
                incarnation: group.incarnation,
                value,
            };
            all.push(reading("cpu.time", group.cpu));
            all.push(reading(LEVEL, group.level));
        }
        Readings {
            at: now,
            boot: self.boot,
            booted_at: self.booted_at,
            all,
        }
    }

    /// The highest number of a group.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest
    }
}
