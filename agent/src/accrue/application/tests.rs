use tallystick_common::meter::Meter;
use tallystick_common::reading::Quality;
use tallystick_common::segment::Basis;

use super::super::world::{SECOND, World, app, at, settings};
use super::*;

const COUNT: Meter = Meter::APP_COUNT;

fn requests() -> String {
    app("requests").as_str().to_owned()
}

fn qualities(world: &World) -> Vec<(u128, Quality)> {
    let intervals = world.of("app/web/requests", COUNT);
    intervals
        .map(|interval| (interval.quantity, interval.quality))
        .collect()
}

#[test]
fn a_report_opens_at_zero_and_is_exact_in_the_interval_it_came_in() {
    let mut world = World::new();
    world.report("requests", 3).unwrap();
    world.report("requests", 4).unwrap();
    world.tick();
    world.seal();
    world.tick();
    world.seal();
    assert_eq!(
        qualities(&world),
        [(7, Quality::Exact), (0, Quality::Exact)]
    );
    let opened = world.runs.iter().find(|(name, _)| *name == requests());
    assert_eq!(opened.unwrap().1.opened, Some(Basis::Birth));
}

#[test]
fn a_kill_after_the_answer_loses_nothing_and_the_absence_is_unmeasured() {
    let mut world = World::new();
    world.tick();
    world.seal();
    world.pass(2 * SECOND);
    world.report("requests", 9).unwrap();
    world.restart(3_600 * SECOND);
    world.sample();
    world.seal();
    assert_eq!(
        qualities(&world),
        [
            (9, Quality::Interpolated(Cause::AgentDown)),
            (0, Quality::Unmeasured(Cause::AgentDown)),
        ]
    );
    let first = world.of(&requests(), COUNT).next().unwrap();
    assert_eq!(first.duration(), Micros(2 * SECOND), "up to the report");
}

#[test]
fn a_reload_neither_refuses_nor_doubts_what_is_reported() {
    let mut world = World::new();
    world.report("requests", 9).unwrap();
    world.seal();
    world.accrual.reconfigure(settings());
    world.report("requests", 1).unwrap();
    world.tick();
    world.seal();
    assert_eq!(qualities(&world), [(10, Quality::Exact)]);
}

#[test]
fn a_reboot_does_not_end_it() {
    let mut world = World::new();
    world.report("requests", 9).unwrap();
    world.tick();
    world.seal();
    world.reboot(60 * SECOND, 10 * SECOND);
    world.sample();
    world.report("requests", 1).unwrap();
    world.tick();
    world.seal();
    assert_eq!(world.billed(&requests(), COUNT), 10);
    let opened = world
        .runs
        .iter()
        .filter(|(name, run)| *name == requests() && run.opened.is_some());
    assert_eq!(opened.count(), 1);
}

#[test]
fn after_a_day_without_a_report_it_closes_and_the_next_one_opens_anew() {
    let mut world = World::new();
    world.report("requests", 1).unwrap();
    for _ in 0..25 {
        world.pass(3_600 * SECOND);
        world.sample();
        world.seal();
    }
    world.report("requests", 2).unwrap();
    world.tick();
    world.seal();
    assert_eq!(world.billed(&requests(), COUNT), 3);
    let runs = world.runs.iter().filter(|(name, _)| *name == requests());
    let lives: Vec<_> = runs.map(|(_, run)| (run.opened, run.closed)).collect();
    let opened = lives.iter().filter(|(opened, _)| opened.is_some()).count();
    assert_eq!(opened, 2);
    assert!(
        lives
            .iter()
            .any(|(_, closed)| *closed == Some(CloseReason::Vanished))
    );
}

#[test]
fn what_was_not_sealed_goes_into_the_next_stream() {
    let mut world = World::new();
    world.report("requests", 5).unwrap();
    world.tick();
    world.seal();
    world.report("requests", 6).unwrap();
    world.tick();
    world.report("requests", 7).unwrap();
    world.new_stream();
    let refused = world.report("requests", 1).unwrap_err();
    assert_eq!(refused, ReportError::NotYet);
    world.tick();
    world.tick();
    world.seal();
    assert_eq!(world.billed(&requests(), COUNT), 18);
}

#[test]
fn what_cannot_be_held_is_refused_whole() {
    let mut world = World::new();
    let usage = |quantity| {
        Reported::from([
            ((app("exports"), COUNT), 1),
            ((app("requests"), COUNT), quantity),
        ])
    };
    let now = at(world.wall);
    let refused = world.accrual.report(&usage(REPORT_MAX + 1), now);
    assert!(matches!(refused, Err(ReportError::TooMuch { .. })));
    assert_eq!(
        world.accrual.registers().count(),
        World::new().accrual.registers().count()
    );
    world.accrual.report(&usage(REPORT_MAX), now).unwrap();
    assert!(world.accrual.report(&usage(1), now).is_err());
    world.tick();
    world.accrual.report(&usage(1), now).unwrap();
    for name in 0..2_000 {
        if let Err(error) = world.report(&format!("n{name}"), 1) {
            assert_eq!(error, ReportError::Full(500));
            return;
        }
    }
    panic!("the register limit was not reached");
}
