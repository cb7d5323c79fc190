use tallystick_common::time::SECOND_US;

use super::*;
use crate::billing::testing::world::World;
use crate::ingest::admit;
use crate::ingest::testing::{Draft, at};
use crate::store::testing::ENGINES;

const MINUTE: u64 = 60;

async fn told(world: &World) -> Vec<(u64, Verdict, [String; 6])> {
    let mut tx = world.store.read().await.unwrap();
    let node = nodes::by_id(&mut tx, world.agent.node).await.unwrap();
    let span = Period {
        from: at(0),
        to: at(240 * MINUTE),
    };
    let balances = balances(&mut tx, &node.unwrap(), span).await.unwrap();
    let row = |row: Balance| {
        let figures = [
            row.host,
            row.workloads,
            row.other,
            row.excess,
            row.undivided,
            row.difference,
        ];
        let hour = row.hour.since(at(0)).0 / SECOND_US / 3600;
        (hour, row.verdict, figures)
    };
    balances.into_iter().map(row).collect()
}

/// The node's next segment: what the host, a control group and the rest counted, and the rest's labels.
fn used(world: &World, minutes: u64, counted: [u128; 3], labels: &[(&str, &str)]) -> Draft {
    let mut draft = world.agent.draft(minutes * MINUTE, counted[1]);
    let through = draft.header.covered_through;
    if draft.header.seq == Seq::FIRST {
        let host = draft.opening("host", 2, Meter::CPU_TIME);
        let other = draft.opening("host/other", 3, Meter::CPU_TIME);
        draft.parts.extend([host, other]);
    }
    for (register, quantity) in [(1, counted[1]), (2, counted[0]), (3, counted[2])] {
        let part = draft.part(register);
        *part = part.clone().measured(through, quantity);
    }
    let owned = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    draft.labels = owned.collect();
    draft
}

async fn seals(world: &mut World, minutes: u64, counted: [u128; 3], labels: &[(&str, &str)]) {
    let draft = used(world, minutes, counted, labels);
    assert_eq!(world.seal(&draft).await, admit::Verdict::Accepted);
}

fn figures(of: [i64; 6]) -> [String; 6] {
    of.map(|figure| figure.to_string())
}

#[tokio::test]
async fn what_is_not_settled_is_part_of_the_sum() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        // 30 were used before the host showed them; then they are made good, and 5 wait to be divided.
        seals(&mut world, 40, [100, 130, 0], &[("excess.cpu.time", "30")]).await;
        // This one ends in the second hour.
        seals(&mut world, 40, [60, 20, 5], &[("undivided.cpu.time", "5")]).await;
        seals(&mut world, 30, [45, 30, 20], &[]).await;
        let expected = [
            (0, Verdict::Holds, figures([100, 130, 0, 30, 0, 0])),
            (1, Verdict::Holds, figures([105, 50, 25, -30, 0, 0])),
        ];
        assert_eq!(told(&world).await, expected, "before rollups");
        world.roll_up().await;
        assert_eq!(told(&world).await, expected);
    }
}

#[tokio::test]
async fn a_sum_that_does_not_hold_is_kept_until_it_is_looked_at_again() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        seals(&mut world, 30, [100, 60, 40], &[]).await;
        seals(&mut world, 30, [100, 60, 47], &[]).await;
        let expected = [(0, Verdict::Broken, figures([200, 120, 87, 0, 0, -7]))];
        assert_eq!(told(&world).await, expected);
        let hour = at(0).as_micros() / HOUR_US;
        for _ in 0..2 {
            let broken = keep(&world.store, hour).await.unwrap();
            assert_eq!(broken.len(), 1);
            let mut tx = world.store.read().await.unwrap();
            let counts = imbalances::counts(&mut tx).await.unwrap();
            assert_eq!(counts, [(NodeRow(1), 1)]);
        }
        assert!(keep(&world.store, hour + 1).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_is_quarantined_or_began_anew_cannot_be_told() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        seals(&mut world, 30, [100, 60, 40], &[]).await;
        let mut doubtful = used(&world, 30, [9, 1, 1], &[]);
        doubtful.part(1).opening += 1;
        let verdict = world.seal(&doubtful).await;
        assert!(matches!(verdict, admit::Verdict::Quarantined(_)));
        seals(&mut world, 30, [10, 6, 4], &[]).await;
        let verdicts: Vec<_> = told(&world).await.into_iter().map(|row| row.1).collect();
        assert_eq!(verdicts, [Verdict::Quarantined, Verdict::Holds]);
        // In a new stream nothing is carried.
        world.agent = world.agent.succeeded(3);
        seals(&mut world, 20, [7, 9, 0], &[("excess.cpu.time", "2")]).await;
        let last = told(&world).await.pop().unwrap();
        assert_eq!(last, (1, Verdict::Holds, figures([7, 9, 0, 2, 0, 0])));
        // The host boots in the middle of the hour.
        world.agent.boot = BootId([77; 16]);
        seals(&mut world, 5, [1, 1, 0], &[]).await;
        let last = told(&world).await.pop().unwrap();
        assert_eq!(last.1, Verdict::Restarted);
    }
}

#[test]
fn only_integrals_hide_anything_and_less_than_one_each() {
    assert_eq!(verdict(Meter::CPU_TIME, 1, 9), Verdict::Broken);
    assert_eq!(verdict(Meter::MEMORY_USAGE, -5, 3), Verdict::Holds);
    assert_eq!(verdict(Meter::MEMORY_USAGE, 6, 3), Verdict::Broken);
}

#[test]
fn labels_that_are_no_figures_say_nothing() {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let unsettled = Unsettled::of(&[
        label("excess.cpu.time", "30"),
        label("undivided.disk.read", "-5"),
        label("excess.nothing", "1"),
        label("unit", "web.service"),
    ]);
    assert_eq!(unsettled.at(Meter::CPU_TIME), (30, 0));
    assert_eq!(unsettled.at(Meter::DISK_READ), (0, 0));
}
