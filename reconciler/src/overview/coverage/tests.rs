use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap};
use tallystick_common::statement::Note;
use tallystick_common::time::{HOUR_US, SECOND_US, Timestamp};

use super::*;
use crate::billing::testing::world::World;
use crate::ingest::admit::Verdict;
use crate::ingest::testing::{at, exact, interpolated};
use crate::overview::{NamedGap, NodeToday, figures::node_today};
use crate::store::nodes;
use crate::store::testing::ENGINES;

const MINUTE: u64 = 60;

fn seconds(coverage: Coverage) -> [u64; 5] {
    [
        coverage.exact,
        coverage.interpolated,
        coverage.unmeasured,
        coverage.quarantined,
        coverage.missing,
    ]
    .map(|part| part.0 / SECOND_US)
}

async fn today(world: &World, now: Timestamp) -> NodeToday {
    let mut tx = world.store.read().await.unwrap();
    let node = nodes::by_id(&mut tx, world.agent.node).await.unwrap();
    node_today(&mut tx, node.unwrap(), now)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn only_time_that_nobody_spoke_of_is_missing() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(10 * MINUTE, 1).await;
        let mut absent = world.agent.draft(20 * MINUTE, 1);
        let (from, to) = (absent.header.from, absent.header.covered_through);
        absent.part(0).intervals = interpolated(from, to, 1200);
        assert_eq!(world.seal(&absent).await, Verdict::Accepted);
        let mut doubtful = world.agent.draft(3 * MINUTE, 1);
        doubtful.part(1).opening += 1;
        assert!(matches!(
            world.seal(&doubtful).await,
            Verdict::Quarantined(_)
        ));
        // The node is down for five minutes; its new stream names that.
        world.agent = world.agent.succeeded(3);
        let mut booted = world.agent.draft(12 * MINUTE, 1);
        let (from, to) = (booted.header.from, booted.header.covered_through);
        let up = at(38 * MINUTE);
        booted.header.gaps = vec![Gap {
            from,
            to: up,
            cause: Cause::NodeDown,
        }];
        for part in &mut booted.parts {
            part.start = up;
            part.intervals = exact(up, to, 1);
        }
        assert_eq!(world.seal(&booted).await, Verdict::Accepted);
        let now = at(50 * MINUTE);
        for rolled in [false, true] {
            if rolled {
                world.roll_up().await;
            }
            let today = today(&world, now).await;
            let minutes = seconds(today.coverage).map(|part| part / MINUTE);
            assert_eq!(minutes, [10 + 7, 20, 5, 3, 5]);
            assert_eq!(
                today.gaps,
                [NamedGap {
                    from,
                    to: up,
                    cause: Cause::NodeDown
                }]
            );
            assert_eq!(today.causes(), "node down");
            let statement = world.draft("acme", "2026-11-22T13:00:00Z").await.statement;
            let named = |note: &&Note| {
                matches!(
                    note,
                    Note::Gap {
                        cause: Cause::NodeDown,
                        ..
                    }
                )
            };
            assert_eq!(
                statement.notes.iter().filter(named).count(),
                1,
                "a bill names it too"
            );
            assert_eq!(today.lag, Some(now.since(to)));
        }
    }
}

#[tokio::test]
async fn a_segment_ahead_of_the_clock_hides_no_lag() {
    for engine in ENGINES {
        let mut world = World::at(engine, || at(100)).await;
        world.next(60, 1).await;
        let ahead = world.agent.draft(24 * 3600, 1);
        assert!(matches!(world.seal(&ahead).await, Verdict::Quarantined(_)));
        let today = today(&world, at(100)).await;
        assert_eq!(today.lag, Some(Micros(40 * SECOND_US)));
        assert_eq!(seconds(today.coverage), [60, 0, 0, 40, 0]);
    }
}

fn hours(from: u64, to: u64) -> Period {
    let at = |hour| Timestamp::from_micros(hour * HOUR_US).unwrap();
    Period {
        from: at(from),
        to: at(to),
    }
}

fn row(workload: &str, meter: Meter, exact: u64) -> UsageRow {
    let node = tallystick_common::ids::NodeId([1; 16]);
    let workload = workload.parse().unwrap();
    UsageRow {
        exact: Micros(exact * HOUR_US),
        ..UsageRow::none(node, String::new(), workload, meter)
    }
}

#[test]
fn time_that_two_name_is_counted_once_and_never_beyond_the_span() {
    let length = Micros(10 * HOUR_US);
    let rows = [row("host", Meter::UPTIME, 4)];
    let of = |gaps: &[Period], doubted: &[Period]| {
        let coverage = of(rows.first(), gaps.to_vec(), doubted.to_vec(), length);
        seconds(coverage).map(|part| part / 3600)
    };
    assert_eq!(of(&[], &[]), [4, 0, 0, 0, 6]);
    assert_eq!(
        of(&[hours(5, 8), hours(4, 6), hours(4, 5)], &[]),
        [4, 0, 4, 0, 2]
    );
    assert_eq!(of(&[hours(4, 6)], &[hours(0, 9)]), [4, 0, 2, 4, 0]);
    assert_eq!(of(&[hours(0, 10)], &[]), [4, 0, 6, 0, 0]);
}

#[test]
fn the_host_speaks_by_the_meter_that_knows_most() {
    let rows = [
        row("cgroup/a", Meter::CPU_TIME, 9),
        row("host", Meter::CPU_TIME, 3),
        row("host", Meter::UPTIME, 4),
        row("host", Meter::MEMORY_USAGE, 4),
    ];
    assert_eq!(control(rows.iter()).unwrap().meter, Meter::MEMORY_USAGE);
    assert_eq!(control(rows[..2].iter()).unwrap().meter, Meter::CPU_TIME);
    assert!(control(rows[..1].iter()).is_none());
}
