use proptest::prelude::*;
use tallystick_common::reading::{Cause, Gap};
use tallystick_common::time::{HOUR_US, Micros};

use super::*;
use crate::billing::testing::world::{TO_DECEMBER, World};
use crate::ingest::admit::Verdict;
use crate::ingest::testing::{at, interpolated};
use crate::store::sql;
use crate::store::testing::{ENGINES, engine};

const HOUR: u64 = 3600;

async fn reported(world: &World, now: Timestamp) -> Leakage {
    let mut tx = world.store.read().await.unwrap();
    report(&mut tx, 48, now).await.unwrap()
}

/// Follows until nothing is to be done: the hours that were tallied, and how many did not add up.
async fn caught_up(world: &World, now: Timestamp) -> (u64, usize) {
    let (mut hours, mut differing) = (0, 0);
    while let Some(done) = follow(&world.store, now).await.unwrap() {
        hours += 1;
        differing += usize::from(!done.differing.is_empty());
    }
    (hours, differing)
}

fn cpu(leakage: &Leakage) -> [&str; 5] {
    let cpu = leakage.meters.iter();
    let cpu = cpu
        .filter(|row| row.meter == Meter::CPU_TIME)
        .collect::<Vec<_>>();
    let [cpu] = cpu.as_slice() else {
        panic!("{leakage:?}")
    };
    [
        &cpu.received,
        &cpu.billed,
        &cpu.unbilled,
        &cpu.quarantined,
        &cpu.difference,
    ]
}

/// An hour and a half counted, half an hour quarantined, half an hour counted.
async fn used(engine: crate::store::testing::Engine) -> World {
    let mut world = World::new(engine).await;
    world.next(HOUR, 1000).await;
    let mut absent = world.agent.draft(HOUR / 2, 0);
    let (from, to) = (absent.header.from, absent.header.covered_through);
    absent.part(1).intervals = interpolated(from, to, 501);
    assert_eq!(world.seal(&absent).await, Verdict::Accepted);
    let mut doubtful = world.agent.draft(HOUR / 2, 70);
    doubtful.part(1).opening += 9;
    assert!(matches!(
        world.seal(&doubtful).await,
        Verdict::Quarantined(_)
    ));
    world.next(HOUR / 2, 3).await;
    world
}

#[tokio::test]
async fn what_was_received_is_billed_unbilled_or_quarantined() {
    for engine in ENGINES {
        let mut world = used(engine).await;
        let now = at(3 * HOUR);
        let expected = ["1574", "0", "1504", "70", "0"];
        let before = reported(&world, now).await;
        assert_eq!(cpu(&before), expected, "before anything was tallied");
        world.roll_up().await;
        assert_eq!(caught_up(&world, now).await, (3, 0));
        let after = reported(&world, now).await;
        assert_eq!((cpu(&after), after.hours_due), (expected, 0));
        assert!(after.adds_up());
        let names: Vec<&str> = after.meters.iter().map(|row| row.meter.name()).collect();
        assert_eq!(
            names,
            ["cpu.time"],
            "the host's uptime is a control reading"
        );
        // Two hundred more in an hour that was tallied, and in one that was not.
        world.next(HOUR, 200).await;
        let half_past = at(3 * HOUR + HOUR / 2);
        assert_eq!(cpu(&reported(&world, half_past).await)[0], "1774");
        world.roll_up().await;
        assert_eq!(caught_up(&world, at(4 * HOUR)).await, (2, 0));
        let after = reported(&world, at(4 * HOUR)).await;
        assert_eq!(cpu(&after), ["1774", "0", "1704", "70", "0"]);
    }
}

#[tokio::test]
async fn a_row_that_nobody_measured_is_a_difference() {
    for engine in ENGINES {
        let world = used(engine).await;
        world.roll_up().await;
        let now = at(3 * HOUR);
        caught_up(&world, now).await;
        // The first quarter-hour of the first hour of CPU time.
        world
            .sql("UPDATE rollups SET quantity0 = quantity0 + 5 WHERE meter = 1 AND hour = (SELECT MIN(hour) FROM rollups)")
            .await;
        assert_eq!(caught_up(&world, now).await, (0, 0), "believed for a day");
        let later = at(30 * HOUR);
        assert_eq!(caught_up(&world, later).await, (3, 1));
        let leakage = reported(&world, later).await;
        assert_eq!(cpu(&leakage), ["1574", "0", "1509", "70", "-5"]);
        assert!(!leakage.adds_up());
        let differing = &leakage.differing;
        assert_eq!(differing.len(), 1);
        assert_eq!(
            (differing[0].from, differing[0].difference.as_str()),
            (at(0), "-5")
        );
        crate::rollup::rebuild(&world.store, "test", later)
            .await
            .unwrap();
        assert_eq!(caught_up(&world, at(60 * HOUR)).await, (3, 0));
        assert!(reported(&world, at(60 * HOUR)).await.adds_up());
    }
}

#[tokio::test]
async fn what_comes_after_its_invoice_is_unbilled() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER, 7000).await;
        world.roll_up().await;
        world.issue().await.unwrap();
        let now = at(TO_DECEMBER + 10);
        let told = ["7000", "7000", "0", "0", "0"];
        assert_eq!(cpu(&reported(&world, now).await), told);
        caught_up(&world, now).await;
        assert_eq!(cpu(&reported(&world, now).await), told, "read and noted");
        // A stream beside that one, whose node was cut off for all of November, is heard of.
        let kept = world.agent.beside(5, 3600);
        let node = std::mem::replace(&mut world.agent, kept);
        let mut late = world.agent.draft(600, 40);
        late.part(1).workload = "cgroup/late";
        late.parts.retain(|part| part.register == 1);
        late.header.gaps = vec![Gap {
            from: late.header.from,
            to: late.header.covered_through,
            cause: Cause::SourceUnreadable,
        }];
        assert_eq!(world.seal(&late).await, Verdict::Accepted);
        world.agent = node;
        let told = ["7040", "7000", "40", "0", "0"];
        assert_eq!(cpu(&reported(&world, now).await), told);
        world.roll_up().await;
        caught_up(&world, now).await;
        assert_eq!(cpu(&reported(&world, now).await), told);
    }
}

#[tokio::test]
async fn a_claim_about_the_far_future_marks_no_hours() {
    for engine in ENGINES {
        let mut world = World::at(engine, || at(100)).await;
        world.next(60, 1).await;
        let ahead = world.agent.draft(100_000 * HOUR, 1);
        assert!(matches!(world.seal(&ahead).await, Verdict::Quarantined(_)));
        assert_eq!(caught_up(&world, at(HOUR)).await, (1, 0));
        let mut tx = world.store.read().await.unwrap();
        let hours: i64 = sql::query_scalar("SELECT COUNT(*) FROM leakage_hours")
            .fetch_one(&mut tx)
            .await
            .unwrap();
        assert_eq!(hours, 2, "the present one and the next");
    }
}

#[test]
fn a_difference_has_its_sign() {
    let tally = |received, counted| Tally {
        received,
        counted,
        quarantined: 3,
        written_off: 4,
    };
    assert_eq!(tally(10, 3).difference(), 0);
    assert_eq!(tally(10, 4).difference(), -1);
    assert_eq!(tally(11, 3).difference(), 1);
    assert_eq!(tally(u128::MAX, 0).difference(), i128::MAX);
    assert_eq!(tally(0, u128::MAX).difference(), -i128::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever is sealed in whatever order of kinds: it adds up; and a cell that is changed by any amount
    /// is a difference of that amount.
    #[test]
    fn it_adds_up_until_somebody_changes_a_row(
        engine in engine(),
        steps in prop::collection::vec((0_u8..3, 1_u64..90, 0_u128..1000), 1..8),
        more in 1_i64..1000,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut world = World::new(engine).await;
            for (kind, minutes, quantity) in steps {
                let mut draft = world.agent.draft(minutes * 60, quantity);
                let (from, to) = (draft.header.from, draft.header.covered_through);
                match kind {
                    1 => draft.part(1).intervals = interpolated(from, to, quantity),
                    2 => draft.part(1).opening += 1,
                    _ => {}
                }
                world.seal(&draft).await;
            }
            let now = at(100 * HOUR);
            assert!(reported(&world, now).await.adds_up());
            world.roll_up().await;
            assert_eq!(caught_up(&world, now).await.1, 0);
            let mut tx = world.store.write().await.unwrap();
            let changed = sql::query(
                "UPDATE rollups SET quantity0 = quantity0 + $1 WHERE meter = 1 \
                 AND hour = (SELECT MIN(hour) FROM rollups) AND exact0 + interpolated0 > 0",
            )
            .bind(more)
            .execute(&mut tx)
            .await
            .unwrap();
            tx.commit().await.unwrap();
            let later = now.saturating_add(Micros(25 * HOUR_US));
            let wrong = usize::from(changed.rows_affected() > 0);
            assert_eq!(caught_up(&world, later).await.1, wrong);
            let leakage = reported(&world, later).await;
            assert_eq!(leakage.adds_up(), wrong == 0);
            if wrong > 0 {
                assert_eq!(cpu(&leakage)[4], format!("-{more}"));
            }
        });
    }
}

mod decided;
