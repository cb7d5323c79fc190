//! Arbitrary histories of a node against what it really used.
//!
//! Each segment is judged by the receiver's own rules ([`super::world::World::seal`]): links, odometers (I3) and
//! tiling (I5), and conservation (I4) up to what the agent says is outstanding, hold or the test fails there. What is billed is held against the truth here (I7).

use proptest::prelude::*;
use tallystick_common::meter::Meter;
use tallystick_common::reading::Quality;

use super::world::{SECOND, World, app};

const NAMES: [&str; 2] = ["requests", "exports"];
const DAY: i64 = 86_400_000_000;
const PATHS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Op {
    Burn(usize, u32),
    BurnOutside(u32),
    Memory(usize, u32),
    Sample {
        after_ms: u64,
    },
    Seal,
    Kill {
        down_ms: u64,
    },
    Reboot {
        off_ms: u64,
        later_ms: u64,
    },
    Suspend {
        ms: u64,
    },
    StepClock {
        ms: i64,
    },
    Create(usize),
    Remove(usize),
    Fall(usize, u32),
    FallHost(u32),
    Readable(usize, bool),
    Complete(bool),
    Report(usize, u32),
    KillUnsealed {
        down_ms: u64,
    },
    Glimpse(usize),
    /// Its counter has 32 bits only.
    Wrap(usize),
    Receive(u32),
    Replug {
        counter_stays: bool,
    },
    /// By days: the clock was never set, or somebody sets it wrong.
    Leap {
        days: i8,
    },
    DownForWeeks {
        hours: u16,
    },
    NewStream,
}

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    prop_oneof![
        6 => (path.clone(), any::<u32>()).prop_map(|(path, cpu)| Op::Burn(path, cpu)),
        3 => any::<u32>().prop_map(Op::BurnOutside),
        2 => (path.clone(), any::<u32>()).prop_map(|(path, memory)| Op::Memory(path, memory)),
        6 => (9_990u64..10_010).prop_map(|after_ms| Op::Sample { after_ms }),
        2 => (0u64..2_000_000).prop_map(|after_ms| Op::Sample { after_ms }),
        4 => Just(Op::Seal),
        1 => (0u64..5_000_000).prop_map(|down_ms| Op::Kill { down_ms }),
        1 => (0u64..5_000_000, 0u64..100_000)
            .prop_map(|(off_ms, later_ms)| Op::Reboot { off_ms, later_ms }),
        1 => (0u64..5_000_000).prop_map(|ms| Op::Suspend { ms }),
        2 => (-4_000_000i64..4_000_000).prop_map(|ms| Op::StepClock { ms }),
        2 => path.clone().prop_map(Op::Create),
        1 => path.clone().prop_map(Op::Remove),
        1 => (path.clone(), any::<u32>()).prop_map(|(path, by)| Op::Fall(path, by)),
        1 => any::<u32>().prop_map(Op::FallHost),
        2 => (path, any::<bool>()).prop_map(|(path, readable)| Op::Readable(path, readable)),
        1 => any::<bool>().prop_map(Op::Complete),
        3 => (0..2usize, any::<u32>()).prop_map(|(name, count)| Op::Report(name, count)),
        1 => (0u64..5_000_000).prop_map(|down_ms| Op::KillUnsealed { down_ms }),
        4 => (0..PATHS.len()).prop_map(Op::Glimpse),
        1 => (0..PATHS.len()).prop_map(Op::Wrap),
        2 => any::<u32>().prop_map(Op::Receive),
        1 => any::<bool>().prop_map(|counter_stays| Op::Replug { counter_stays }),
        1 => (-40i8..40).prop_map(|days| Op::Leap { days }),
        1 => (0u16..1_500).prop_map(|hours| Op::DownForWeeks { hours }),
        1 => Just(Op::NewStream),
    ]
}

fn apply(world: &mut World, op: &Op) {
    match *op {
        Op::Burn(path, cpu) => world.burn(PATHS[path], u128::from(cpu)),
        Op::BurnOutside(cpu) => world.burn("outside", u128::from(cpu)),
        Op::Memory(path, memory) => {
            if let Some(cgroup) = world.cgroups.get_mut(PATHS[path]) {
                cgroup.memory = u128::from(memory);
            }
        }
        Op::Sample { after_ms } => {
            world.pass(after_ms * 1_000);
            world.sample();
        }
        Op::Seal => world.seal(),
        // Without a checkpoint the agent would begin a second stream.
        Op::Kill { down_ms } => {
            world.seal();
            world.sample();
            world.restart(down_ms * 1_000);
        }
        Op::Reboot { off_ms, later_ms } => {
            world.seal();
            world.reboot(off_ms * 1_000, later_ms * 1_000);
        }
        Op::Suspend { ms } => world.suspend(ms * 1_000),
        Op::StepClock { ms } => world.step_clock(ms * 1_000),
        Op::Create(path) => world.create(PATHS[path]),
        Op::Remove(path) => drop(world.cgroups.remove(PATHS[path])),
        Op::Fall(path, by) => {
            if let Some(cgroup) = world.cgroups.get_mut(PATHS[path]) {
                cgroup.cpu = cgroup.cpu.saturating_sub(u128::from(by));
            }
        }
        Op::FallHost(by) => world.host_cpu = world.host_cpu.saturating_sub(u128::from(by)),
        Op::Readable(path, readable) => {
            if let Some(cgroup) = world.cgroups.get_mut(PATHS[path]) {
                cgroup.readable = readable;
            }
        }
        Op::Complete(complete) => world.complete = complete,
        // Refused only before the first sample after a start.
        Op::Report(name, count) => drop(world.report(NAMES[name], u128::from(count))),
        // What was not sealed since the last report or seal is gone, the kernel's counters are not.
        Op::KillUnsealed { down_ms } => {
            if world.is_durable() {
                world.restart(down_ms * 1_000);
            }
        }
        Op::Glimpse(path) => world.glimpse(PATHS[path]),
        Op::Wrap(path) => {
            if let Some(cgroup) = world.cgroups.get_mut(PATHS[path]) {
                cgroup.cpu %= 1 << 32;
            }
        }
        Op::Receive(bytes) => world.receive(u128::from(bytes)),
        Op::Replug { counter_stays } => world.replug(counter_stays),
        Op::Leap { days } => world.step_clock(i64::from(days) * DAY),
        Op::DownForWeeks { hours } => {
            world.seal();
            world.restart(u64::from(hours) * 3600 * SECOND);
        }
        Op::NewStream => world.new_stream(),
    }
}

/// Two more samples well past any clock step, so that everything that waits is billed.
fn finish(world: &mut World) {
    let behind = world.accrual.accounted_through().unwrap().as_micros();
    world.pass(behind.saturating_sub(world.wall) + 20_000 * SECOND);
    world.sample();
    world.tick();
    world.seal();
}

fn truth(world: &World, of: &str) -> u128 {
    world.truth.get(of).copied().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_billed_that_was_not_used(ops in proptest::collection::vec(op(), 0..60)) {
        let mut world = World::new();
        world.interface = Some((2, 1_000));
        world.tick();
        ops.iter().for_each(|op| apply(&mut world, op));
        finish(&mut world);
        let mut divided = world.billed("host/other", Meter::CPU_TIME);
        for path in PATHS {
            let billed = world.billed(&format!("cgroup/{path}"), Meter::CPU_TIME);
            prop_assert!(billed <= truth(&world, path), "{path}: {billed}");
            divided += billed;
        }
        prop_assert!(world.billed("host", Meter::CPU_TIME) <= truth(&world, "host"));
        let received = world.billed("interface/eth0", Meter::NETWORK_RX);
        prop_assert!(received <= truth(&world, "interface"), "interface: {received}");
        let (_, said) = world.conservation();
        let most = truth(&world, "host").cast_signed() + said.max(0);
        prop_assert!(divided.cast_signed() <= most, "workloads and the rest: {}", divided);
        for (name, run, interval) in &world.received {
            if run.meter == Meter::MEMORY_USAGE && name.starts_with("cgroup/") {
                let most = u128::from(u32::MAX) * u128::from(interval.measured.0) / 1_000_000 + 1;
                prop_assert!(interval.quantity <= most, "{name}: {interval:?}");
            }
        }
    }

    #[test]
    fn what_applications_report_is_billed_once_whatever_happens(
        ops in proptest::collection::vec(op(), 0..60),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| apply(&mut world, op));
        finish(&mut world);
        for name in NAMES {
            let workload = app(name);
            let billed = world.billed(workload.as_str(), Meter::APP_COUNT);
            prop_assert_eq!(billed, truth(&world, workload.as_str()));
        }
    }

    #[test]
    fn groups_that_are_seen_off_are_billed_to_the_last_unit(
        lives in proptest::collection::vec((0usize..3, 0u32..1_000_000, 0u8..4), 1..100),
    ) {
        let mut world = World::new();
        for (path, cpu, then) in lives {
            world.create(PATHS[path]);
            world.burn(PATHS[path], u128::from(cpu));
            if then > 0 {
                world.tick();
            }
            world.burn(PATHS[path], u128::from(cpu));
            world.pass(SECOND);
            world.glimpse(PATHS[path]);
            world.cgroups.remove(PATHS[path]);
            match then {
                1 => world.seal(),
                2 => world.tick(),
                _ => {}
            }
        }
        world.tick();
        world.seal();
        for path in PATHS {
            let billed = world.billed(&format!("cgroup/{path}"), Meter::CPU_TIME);
            prop_assert_eq!(billed, truth(&world, path), "{}", path);
        }
        prop_assert_eq!(world.billed("host/other", Meter::CPU_TIME), 0);
    }

    #[test]
    fn a_quiet_life_is_billed_to_the_last_unit(
        steps in proptest::collection::vec((0u32..1_000_000, 0u32..1_000_000, 0u8..8), 1..200),
    ) {
        let mut world = World::new();
        world.create("a");
        for (cpu, outside, then) in steps {
            world.burn("a", u128::from(cpu));
            world.burn("outside", u128::from(outside));
            world.tick();
            match then {
                0 => world.seal(),
                1 => {
                    world.seal();
                    world.restart(SECOND);
                }
                _ => {}
            }
        }
        world.tick();
        world.seal();
        let (host, a) = (truth(&world, "host"), truth(&world, "a"));
        prop_assert_eq!(world.billed("host", Meter::CPU_TIME), host);
        prop_assert_eq!(world.billed("cgroup/a", Meter::CPU_TIME), a);
        prop_assert_eq!(world.billed("host/other", Meter::CPU_TIME), host - a);
        let known = |quality| !matches!(quality, Quality::Unmeasured(_));
        prop_assert!(world.of("cgroup/a", Meter::CPU_TIME).all(|interval| known(interval.quality)));
    }
}
