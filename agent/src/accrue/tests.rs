use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap, Quality};
use tallystick_common::segment::{Basis, CloseReason};

use super::world::{NOON, PERIOD, SECOND, World, at, settings};
use super::{Accrual, Settings};

const CPU: Meter = Meter::CPU_TIME;
const MEMORY: Meter = Meter::MEMORY_USAGE;

fn world_with(path: &str) -> World {
    let mut world = World::new();
    world.create(path);
    world
}

#[test]
fn a_first_seen_source_owes_nothing_for_its_past() {
    let mut world = World::new();
    world.burn("none", 70);
    world.tick();
    world.seal();
    assert_eq!(world.billed("host", CPU), 70);
    let opened = world
        .runs
        .iter()
        .find(|(name, run)| name == "host" && run.meter == CPU)
        .unwrap();
    assert_eq!(opened.1.opened, Some(Basis::FirstSeen { raw: 5_000_000 }));
    assert_eq!(
        world.of("host", CPU).next().unwrap().quality,
        Quality::Exact
    );
}

#[test]
fn a_cgroup_born_between_samples_is_billed_from_its_birth() {
    let mut world = world_with("a");
    world.burn("a", 123);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 123);
    let (_, run) = world
        .runs
        .iter()
        .find(|(name, _)| name == "cgroup/a")
        .unwrap();
    assert_eq!(run.opened, Some(Basis::Birth));
    assert_eq!(world.billed("host/other", CPU), 0);
}

#[test]
fn a_cgroup_that_may_be_older_opens_at_the_raw_value_seen() {
    let mut world = World::new();
    world.create("a");
    world.burn("a", 1_000);
    world.cgroups.get_mut("a").unwrap().id = 1;
    world.tick();
    world.burn("a", 11);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 11);
    assert_eq!(
        world.billed("host/other", CPU),
        1_000,
        "what it used before stays where it was"
    );
}

#[test]
fn births_after_incomplete_listings_are_billed_but_not_as_exact() {
    let mut world = World::new();
    world.complete = false;
    world.tick();
    world.create("a");
    world.burn("a", 9);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 9);
    let first = world.of("cgroup/a", CPU).next().unwrap();
    assert_eq!(
        first.quality,
        Quality::Interpolated(Cause::SourceUnreadable)
    );
}

#[test]
fn downtime_of_the_agent_is_one_interpolated_interval_and_memory_is_unmeasured() {
    let mut world = world_with("a");
    world.tick();
    world.seal();
    world.burn("a", 40);
    world.tick(); // lost by the kill, found again by the counter
    world.restart(3600 * SECOND);
    world.burn("a", 60);
    world.sample();
    world.seal();
    let interval = world.of("cgroup/a", CPU).last().unwrap();
    assert_eq!(interval.quantity, 100);
    assert_eq!(interval.quality, Quality::Interpolated(Cause::AgentDown));
    assert_eq!(interval.start, at(NOON + PERIOD));
    assert_eq!(interval.measured, interval.duration());
    let memory = world.of("cgroup/a", MEMORY).last().unwrap();
    assert_eq!(memory.quality, Quality::Unmeasured(Cause::AgentDown));
    assert!(world.gaps.is_empty(), "the host's registers were open");
}

#[test]
fn a_reboot_closes_all_and_what_was_used_since_boot_is_billed() {
    let mut world = world_with("a");
    world.burn("a", 10);
    world.tick();
    world.seal();
    world.reboot(100 * SECOND, 20 * SECOND);
    world.burn("a", 500);
    world.sample();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 510);
    assert_eq!(world.billed("host", CPU), 510);
    let (from, to) = (at(NOON + PERIOD), at(NOON + PERIOD + 100 * SECOND));
    assert_eq!(
        world.gaps,
        [Gap {
            from,
            to,
            cause: Cause::NodeDown
        }]
    );
    let closed = world
        .runs
        .iter()
        .filter(|(_, run)| run.closed == Some(CloseReason::Reboot))
        .count();
    assert_eq!(
        closed, 8,
        "cpu, memory and peak of host and cgroup, and what host/other derives"
    );
}

#[test]
fn a_boot_that_may_be_older_than_the_last_sample_proves_nothing() {
    let mut world = world_with("a");
    world.tick();
    world.seal();
    world.reboot(SECOND, 100 * SECOND);
    world.step_clock(-(50 * SECOND).cast_signed());
    world.burn("a", 500);
    world.sample();
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 0);
}

#[test]
fn a_smaller_value_bills_nothing_until_the_mark_is_passed() {
    let mut world = world_with("a");
    world.burn("a", 100);
    world.tick();
    world.cgroups.get_mut("a").unwrap().cpu = 80;
    world.tick();
    world.cgroups.get_mut("a").unwrap().cpu = 103;
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 103);
}

#[test]
fn a_counter_below_half_its_mark_has_begun_anew() {
    let mut world = world_with("a");
    world.burn("a", 100);
    world.tick();
    world.cgroups.get_mut("a").unwrap().cpu = 49;
    world.tick();
    world.burn("a", 5);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 105);
    assert!(
        world
            .runs
            .iter()
            .any(|(_, run)| run.closed == Some(CloseReason::Reset))
    );
    let reopened = Some(Basis::FirstSeen { raw: 49 });
    assert!(world.runs.iter().any(|(_, run)| run.opened == reopened));
}

#[test]
fn a_cgroup_made_again_under_its_name_is_another_register() {
    let mut world = world_with("a");
    world.burn("a", 100);
    world.tick();
    world.create("a");
    world.burn("a", 200);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 300);
    let registers = world
        .runs
        .iter()
        .filter(|(name, run)| name == "cgroup/a" && run.meter == CPU);
    assert_eq!(registers.count(), 2);
}

#[test]
fn a_source_that_cannot_be_read_is_unmeasured_and_caught_up_as_interpolated() {
    let mut world = world_with("a");
    world.tick();
    world.cgroups.get_mut("a").unwrap().readable = false;
    world.burn("a", 30);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 0);
    assert_eq!(
        world.billed("host/other", CPU),
        0,
        "it may be the workload's"
    );
    let last = world.of("cgroup/a", CPU).last().unwrap();
    assert_eq!(last.quality, Quality::Unmeasured(Cause::SourceUnreadable));
    world.cgroups.get_mut("a").unwrap().readable = true;
    world.tick();
    world.seal();
    let last = world.of("cgroup/a", CPU).last().unwrap();
    assert_eq!(
        (last.quantity, last.quality),
        (30, Quality::Interpolated(Cause::SourceUnreadable))
    );
    assert_eq!(last.measured.0, 2 * PERIOD, "it was counted all the while");
    assert_eq!(world.billed("host/other", CPU), 0);
}

#[test]
fn a_level_counts_from_its_sample_to_the_next() {
    let mut world = world_with("a");
    world.tick();
    world.cgroups.get_mut("a").unwrap().memory = 1_000;
    world.tick();
    world.cgroups.get_mut("a").unwrap().memory = 3;
    world.pass(333_333);
    world.sample();
    world.pass(333_333);
    world.sample();
    world.seal();
    let whole = (1u128 << 20) * 10 * 1_000_000 + 1_000 * 333_333 + 3 * 333_333;
    assert_eq!(world.billed("cgroup/a", MEMORY), whole / 1_000_000);
    let peak = world
        .of("cgroup/a", Meter::MEMORY_PEAK)
        .map(|i| i.quantity)
        .max();
    assert_eq!(peak, Some(1 << 20));
}

#[test]
fn remainders_of_integrals_are_carried_over_seals() {
    let mut world = world_with("a");
    world.cgroups.get_mut("a").unwrap().memory = 1;
    world.sample();
    for _ in 0..30 {
        world.pass(333_333);
        world.sample();
        world.seal();
    }
    assert_eq!(world.billed("cgroup/a", MEMORY), 30 * 333_333 / 1_000_000);
}

#[test]
fn exact_intervals_are_cut_at_quarter_hours_and_merged_within() {
    let mut world = world_with("a");
    world.pass(900 * SECOND - 3 * PERIOD + SECOND);
    world.sample();
    world.seal();
    for _ in 0..4 {
        world.burn("a", 100);
        world.tick();
    }
    world.seal();
    let parts: Vec<_> = world.of("cgroup/a", CPU).skip(1).collect();
    let quarter = at(NOON + 900 * SECOND);
    assert_eq!(
        (parts.len(), parts[0].end, parts[1].start),
        (2, quarter, quarter)
    );
    assert_eq!((parts[0].quantity, parts[1].quantity), (290, 110));
    assert!(parts.iter().all(|part| part.quality == Quality::Exact));
    assert_eq!(parts[0].measured.0 + parts[1].measured.0, 4 * PERIOD);
}

#[test]
fn agent_time_stands_still_while_the_wall_clock_is_behind() {
    let mut world = world_with("a");
    world.tick();
    world.seal();
    world.step_clock(-(25 * SECOND).cast_signed());
    for _ in 0..2 {
        world.burn("a", 7);
        world.tick();
        world.seal();
    }
    assert_eq!(world.billed("cgroup/a", CPU), 0);
    world.burn("a", 7);
    world.tick();
    world.seal();
    let last = world.of("cgroup/a", CPU).last().unwrap();
    assert_eq!(
        (last.quantity, last.quality),
        (21, Quality::Interpolated(Cause::ClockStep))
    );
    assert_eq!(
        (last.start, last.end),
        (at(NOON + PERIOD), at(NOON + PERIOD + 5 * SECOND))
    );
    assert_eq!(last.measured.0, 3 * PERIOD);
    assert_eq!(world.billed("cgroup/a", MEMORY), (1 << 20) * 30);
}

#[test]
fn a_source_that_vanishes_while_time_stands_still_is_still_billed() {
    let mut world = world_with("a");
    world.tick();
    world.seal();
    world.step_clock(-(25 * SECOND).cast_signed());
    world.burn("a", 7);
    world.tick();
    world.cgroups.clear();
    world.tick();
    world.seal();
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 7);
    assert!(
        world
            .runs
            .iter()
            .any(|(name, run)| name == "cgroup/a" && run.closed.is_some())
    );
}

#[test]
fn a_forward_step_of_the_clock_bills_no_memory_for_it() {
    let mut world = world_with("a");
    world.tick();
    world.step_clock((7200 * SECOND).cast_signed());
    world.burn("a", 5);
    world.tick();
    world.seal();
    let last = world.of("cgroup/a", MEMORY).last().unwrap();
    assert_eq!(last.quality, Quality::Interpolated(Cause::ClockStep));
    assert_eq!((last.quantity, last.measured.0), ((1 << 20) * 10, PERIOD));
    assert_eq!(last.duration().0, 7200 * SECOND + PERIOD);
    assert_eq!(world.billed("cgroup/a", CPU), 5);
}

#[test]
fn suspended_time_is_unmeasured() {
    let mut world = world_with("a");
    world.tick();
    world.suspend(3600 * SECOND);
    world.burn("a", 5);
    world.tick();
    world.seal();
    let last = world.of("cgroup/a", MEMORY).last().unwrap();
    assert_eq!(last.quality, Quality::Unmeasured(Cause::Suspended));
    assert_eq!(last.duration().0, 3600 * SECOND);
    assert_eq!(world.billed("cgroup/a", MEMORY), (1 << 20) * 10);
    assert_eq!(world.billed("cgroup/a", CPU), 5);
}

#[test]
fn starved_sampling_is_not_exact() {
    let mut world = world_with("a");
    world.tick();
    world.cgroups.get_mut("a").unwrap().memory = 10;
    world.pass(3 * PERIOD);
    world.sample();
    world.seal();
    let last = world.of("cgroup/a", MEMORY).last().unwrap();
    assert_eq!(
        (last.quantity, last.quality),
        (300, Quality::Interpolated(Cause::AgentDown))
    );
    world.pass(11 * PERIOD);
    world.sample();
    world.seal();
    let last = world.of("cgroup/a", MEMORY).last().unwrap();
    assert_eq!(last.quality, Quality::Unmeasured(Cause::AgentDown));
}

#[test]
fn host_is_workloads_plus_other_and_a_deficit_is_carried() {
    let mut world = world_with("a");
    world.tick();
    world.burn("a", 100);
    world.burn("none", 50);
    world.tick();
    world.seal();
    assert_eq!(world.billed("host/other", CPU), 50);
    world.burn("a", 100);
    world.host_cpu -= 30; // the host was read earlier than the cgroup
    world.tick();
    world.host_cpu += 30;
    world.burn("none", 10);
    world.tick();
    world.seal();
    assert_eq!(world.billed("host/other", CPU), 60);
    assert_eq!(world.billed("host", CPU), 260);
}

#[test]
fn a_checkpoint_with_unsealed_intervals_loses_none() {
    let mut world = world_with("a");
    world.burn("a", 8);
    world.tick();
    let checkpoint = world.accrual.checkpoint();
    world.accrual = Accrual::restore(settings(), checkpoint.clone()).unwrap();
    assert_eq!(world.accrual.checkpoint(), checkpoint);
    world.burn("a", 8);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 16);
}

#[test]
fn a_reload_deselects_what_it_leaves_out_and_measures_the_rest_on_without_a_break() {
    let mut world = world_with("a");
    world.tick();
    world.seal();
    let config = tallystick_common::ids::Hash([1; 32]);
    world.accrual.reconfigure(Settings {
        config,
        ..settings()
    });
    world.cgroups.clear();
    world.host_cpu += 7;
    world.tick();
    world.seal();
    let reasons: Vec<_> = world
        .runs
        .iter()
        .filter_map(|(_, run)| run.closed)
        .collect();
    assert!(reasons.contains(&CloseReason::Deselected), "{reasons:?}");
    assert!(!reasons.contains(&CloseReason::Vanished), "{reasons:?}");
    assert_eq!(world.billed("host", CPU), 7);
}

#[test]
fn another_configuration_deselects() {
    let mut world = world_with("a");
    world.tick();
    world.seal();
    let config = tallystick_common::ids::Hash([1; 32]);
    let checkpoint = world.accrual.checkpoint();
    world.accrual = Accrual::restore(
        Settings {
            config,
            ..settings()
        },
        checkpoint,
    )
    .unwrap();
    world.cgroups.clear();
    world.tick();
    world.seal();
    assert!(
        world
            .runs
            .iter()
            .any(|(_, run)| run.closed == Some(CloseReason::Deselected))
    );
}

#[test]
fn a_new_stream_opens_at_what_is_there_and_names_the_gap() {
    let mut world = World::new();
    world.burn("none", 10);
    world.tick();
    let _old = world.accrual.seal().unwrap().unwrap();
    world.tick();
    world.accrual.begin_stream();
    world.burn("none", 10);
    world.tick();
    world.burn("none", 3);
    world.tick();
    world.seal();
    assert_eq!(world.billed("host", CPU), 3);
    let (from, to) = (at(NOON + PERIOD), at(NOON + 3 * PERIOD));
    assert_eq!(
        world.gaps,
        [Gap {
            from,
            to,
            cause: Cause::NewStream
        }]
    );
    assert_eq!(world.runs[0].1.register.0, 0);
}

#[test]
fn the_register_limit_leaves_usage_with_the_rest_of_the_host() {
    let mut world = World::new();
    world.accrual = Accrual::new(Settings {
        register_limit: 6,
        ..settings()
    });
    world.create("a");
    world.create("b");
    world.sample();
    world.burn("b", 10);
    world.tick();
    world.seal();
    assert_eq!(world.accrual.refused(), 10);
    assert_eq!(world.billed("host", CPU), 10);
    assert_eq!(world.billed("host/other", CPU), 10);
}

#[test]
fn labels_of_a_workload_travel_in_its_block_also_the_last_time() {
    let mut world = world_with("a");
    world.tick();
    world.cgroups.clear();
    world.tick();
    world.seal();
    let owned = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let of = |world: &World, name: &str| {
        let mut labels = world.labels.iter().filter(|(of, _)| of == name);
        labels.next().unwrap().1.clone()
    };
    assert_eq!(of(&world, "host"), [owned("rack", "b7")]);
    let both = [owned("path", "a"), owned("rack", "b7")];
    assert_eq!(
        of(&world, "cgroup/a"),
        both,
        "the operator's word on the rack stands"
    );
}

#[test]
fn no_time_makes_no_draft() {
    let mut world = World::new();
    assert_eq!(world.accrual.seal(), Ok(None));
    world.tick();
    assert!(world.accrual.seal().unwrap().is_some());
    assert_eq!(world.accrual.seal(), Ok(None));
    assert_eq!(Accrual::new(settings()).seal(), Ok(None));
}

#[test]
fn a_counter_of_32_bits_that_wraps_bills_nothing_for_it_and_is_reported() {
    let mut world = world_with("a");
    world.burn("a", u128::from(u32::MAX) - 10);
    world.tick();
    world.burn("a", 50);
    world.cgroups.get_mut("a").unwrap().cpu %= 1 << 32;
    world.tick();
    world.burn("a", 7);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), u128::from(u32::MAX) - 10 + 7);
    assert_eq!((world.accrual.resets(), world.accrual.slips()), (1, 0));
    let closed = |(name, run): &(String, tallystick_common::segment::Run)| {
        name == "cgroup/a" && run.closed == Some(CloseReason::Reset)
    };
    assert!(world.runs.iter().any(closed), "the register says so too");
}

#[test]
fn a_counter_that_slips_is_reported() {
    let mut world = world_with("a");
    world.burn("a", 100);
    world.tick();
    world.cgroups.get_mut("a").unwrap().cpu -= 1;
    world.tick();
    assert_eq!((world.accrual.resets(), world.accrual.slips()), (0, 1));
}

#[test]
fn a_leap_of_days_and_back_again_bills_each_microsecond_once() {
    let days = (40 * 86_400 * SECOND).cast_signed();
    let mut world = world_with("a");
    world.tick();
    world.seal();
    world.step_clock(days);
    world.burn("a", 5);
    world.tick();
    world.seal();
    world.step_clock(-days);
    for _ in 0..3 {
        world.burn("a", 7);
        world.tick();
        world.seal();
    }
    assert_eq!(world.billed("cgroup/a", CPU), 5, "agent time stands still");
    world.pass(days.unsigned_abs());
    world.burn("a", 11);
    world.sample();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 5 + 3 * 7 + 11);
    let last = world.of("cgroup/a", CPU).last().unwrap();
    assert_eq!(last.quality, Quality::Interpolated(Cause::ClockStep));
}

#[test]
fn weeks_of_downtime_are_one_interval_that_is_split_by_the_hour_without_loss() {
    use tallystick_common::time::share_until;
    let weeks = 4 * 7 * 86_400 * SECOND;
    let mut world = world_with("a");
    world.tick();
    world.seal();
    world.restart(weeks + 1_234_567);
    world.burn("a", 1_000_003);
    world.sample();
    world.seal();
    let last = world.of("cgroup/a", CPU).last().unwrap();
    assert_eq!(last.quality, Quality::Interpolated(Cause::AgentDown));
    assert_eq!(last.duration().0, weeks + 1_234_567);
    let hours = (0..=last.duration().0 / (3600 * SECOND) + 1)
        .map(|hour| at(last.start.as_micros() + hour * 3600 * SECOND).min(last.end));
    let shares: Vec<u128> = hours
        .map(|until| share_until(last.quantity, last.start, last.end, until))
        .collect();
    let sum: u128 = shares.windows(2).map(|pair| pair[1] - pair[0]).sum();
    assert_eq!(sum, 1_000_003);
}

#[test]
fn the_last_reading_of_a_group_is_billed_and_its_memory_only_up_to_then() {
    let mut world = world_with("a");
    world.tick();
    world.burn("a", 100);
    world.pass(4 * SECOND);
    world.glimpse("a");
    world.cgroups.clear();
    world.pass(6 * SECOND);
    world.sample();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 100);
    assert_eq!(world.billed("host/other", CPU), 0);
    assert_eq!(world.billed("cgroup/a", MEMORY), (1 << 20) * 4);
    let last = world.of("cgroup/a", MEMORY).last().unwrap();
    assert_eq!(last.end, at(NOON + PERIOD + 4 * SECOND));
    let closed = world
        .runs
        .iter()
        .filter(|(name, run)| name == "cgroup/a" && run.closed == Some(CloseReason::Vanished));
    assert_eq!(closed.count(), 3, "cpu, memory and its peak");
}

#[test]
fn groups_that_came_and_went_between_two_samples_are_billed() {
    let mut world = World::new();
    for cpu in [30, 40] {
        world.create("a");
        world.burn("a", cpu);
        world.glimpse("a");
        world.cgroups.clear();
    }
    world.create("a");
    world.burn("a", 50);
    world.tick();
    world.seal();
    assert_eq!(world.billed("cgroup/a", CPU), 120);
    assert_eq!(world.billed("host/other", CPU), 0);
    let lives = world
        .runs
        .iter()
        .filter(|(name, run)| name == "cgroup/a" && run.meter == CPU);
    assert_eq!(lives.count(), 3, "each life has its register");
}

#[test]
fn what_workloads_used_beyond_the_host_stands_on_the_rest() {
    let mut world = world_with("a");
    world.tick();
    world.burn("a", 100);
    world.host_cpu -= 30; // the host was read earlier than the cgroup
    world.tick();
    world.seal();
    let label = |world: &World, key: &str| {
        let of = world
            .labels
            .iter()
            .rev()
            .find(|(name, _)| name == "host/other");
        let labels = &of.unwrap().1;
        let found = labels.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.clone())
    };
    assert_eq!(label(&world, "excess.cpu.time").as_deref(), Some("30"));
    assert_eq!(world.conservation(), (30, 30));
    world.host_cpu += 30;
    world.burn("none", 10);
    world.tick();
    world.seal();
    assert_eq!(label(&world, "excess.cpu.time"), None, "made good");
    assert_eq!(world.conservation(), (0, 0));
    world.cgroups.get_mut("a").unwrap().readable = false;
    world.burn("none", 5);
    world.tick();
    world.seal();
    assert_eq!(label(&world, "undivided.cpu.time").as_deref(), Some("5"));
    assert_eq!(world.conservation(), (-5, -5));
}

#[test]
fn a_new_stream_takes_no_group_for_newborn() {
    let mut world = World::new();
    world.new_stream();
    world.create("a");
    world.burn("a", 9);
    world.tick();
    world.burn("a", 4);
    world.tick();
    world.seal();
    assert_eq!(
        world.billed("cgroup/a", CPU),
        4,
        "what it used before may be billed already"
    );
}
