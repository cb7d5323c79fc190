use tallystick_common::meter::Meter;
use tallystick_common::reading::{Cause, Gap};
use tallystick_common::statement::Note;
use tallystick_common::time::{HOUR_US, SECOND_US, Timestamp};

use super::*;
use crate::billing::testing::world::World;
use crate::catalog::Pattern;
use crate::config::Rules;
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
    node_today(&mut tx, node.unwrap(), &Rules::default(), now)
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

async fn asked(world: &World, ask: &Ask, now: Timestamp) -> Vec<CoverageRow> {
    let mut tx = world.store.read().await.unwrap();
    report(&mut tx, ask, now).await.unwrap()
}

fn minutes(row: &CoverageRow) -> [u64; 5] {
    seconds(row.coverage).map(|part| part / MINUTE)
}

type Told = (Class, u64, u64, String, Vec<(u8, u64)>);

/// Class, minutes, why, and the segments (stream, seq) of a row's reasons.
fn told(row: &CoverageRow) -> Vec<Told> {
    let minute = |instant: Timestamp| instant.since(at(0)).0 / (MINUTE * SECOND_US);
    row.reasons
        .iter()
        .map(|reason| {
            let links = reason.segments.iter();
            let links = links.map(|link| (link.stream.0[0], link.seq.0)).collect();
            let (from, to) = (minute(reason.from), minute(reason.to));
            (reason.class, from, to, reason.why.clone(), links)
        })
        .collect()
}

/// Ten minutes exact, twenty interpolated in two segments, three quarantined, five named, seven exact; then,
/// after ten minutes of silence, five more in a new stream.
async fn eventful(world: &mut World) {
    world.next(10 * MINUTE, 1).await;
    for _ in 0..2 {
        let mut absent = world.agent.draft(10 * MINUTE, 1);
        let (from, to) = (absent.header.from, absent.header.covered_through);
        absent.part(1).intervals = interpolated(from, to, 600);
        assert_eq!(world.seal(&absent).await, Verdict::Accepted);
    }
    let mut doubtful = world.agent.draft(3 * MINUTE, 1);
    doubtful.part(1).opening += 1;
    assert!(matches!(
        world.seal(&doubtful).await,
        Verdict::Quarantined(_)
    ));
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
    world.agent = world.agent.beside(4, 55 * MINUTE);
    world.next(5 * MINUTE, 1).await;
}

#[tokio::test]
async fn what_is_not_exact_says_why_and_which_segments_say_so() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        eventful(&mut world).await;
        let span = Period {
            from: at(0),
            to: at(75 * MINUTE),
        };
        let ask = Ask {
            span,
            node: None,
            account: Some("acme".parse().unwrap()),
            workload: None,
        };
        for rolled in [false, true] {
            if rolled {
                world.roll_up().await;
            }
            let rows = asked(&world, &ask, at(70 * MINUTE)).await;
            let [node, unit] = rows.as_slice() else {
                panic!("{rows:?}")
            };
            assert_eq!(node.workload, None);
            assert_eq!(minutes(node), [42, 0, 5, 3, 20]);
            let expected = [
                (
                    Class::Quarantined,
                    30,
                    33,
                    "odometer".to_owned(),
                    vec![(2, 3)],
                ),
                (
                    Class::Unmeasured,
                    33,
                    38,
                    "node_down".to_owned(),
                    vec![(3, 0)],
                ),
                (
                    Class::Missing,
                    45,
                    55,
                    "unspoken".to_owned(),
                    vec![(3, 0), (4, 0)],
                ),
                (Class::Missing, 60, 70, "unspoken".to_owned(), vec![(4, 0)]),
            ];
            assert_eq!(told(node), expected);
            assert_eq!(unit.workload.as_ref().unwrap().as_str(), "cgroup/web");
            assert_eq!(minutes(unit), [22, 20, 0, 3, 20]);
            let links = vec![(2, 1), (2, 2)];
            let expected = [(Class::Interpolated, 10, 30, "agent_down".to_owned(), links)];
            assert_eq!(told(unit), expected);
            assert_eq!(unit.reasons[0].meters, [Meter::CPU_TIME]);
        }
    }
}

#[tokio::test]
async fn a_workload_that_changed_hands_is_each_accounts_for_its_time() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        eventful(&mut world).await;
        let new = crate::catalog::change::NewAccount {
            id: "other",
            name: "Other",
            currency: "EUR",
            time_zone: "UTC",
            anchor_day: 1,
        };
        let now = at(0);
        crate::catalog::change::create_account(&world.store, &new, "test", now)
            .await
            .unwrap();
        let from = at(15 * MINUTE);
        crate::billing::testing::assign(&world.store, "other", "cgroup/*", from)
            .await
            .unwrap();
        let mut times = Vec::new();
        for account in ["acme", "other"] {
            let ask = Ask {
                span: Period {
                    from: at(0),
                    to: at(75 * MINUTE),
                },
                node: None,
                account: Some(account.parse().unwrap()),
                workload: Some(Pattern::new("workload", "cgroup/*").unwrap()),
            };
            let rows = asked(&world, &ask, at(70 * MINUTE)).await;
            let unit = rows.last().unwrap();
            times.push((minutes(unit), told(unit)));
        }
        let reason = |from, to, links| {
            let why = "agent_down".to_owned();
            (Class::Interpolated, from, to, why, links)
        };
        assert_eq!(times[0].0, [10, 5, 0, 0, 0]);
        assert_eq!(times[0].1, [reason(10, 15, vec![(2, 1)])]);
        assert_eq!(times[1].0, [12, 15, 0, 3, 20]);
        assert_eq!(times[1].1, [reason(15, 30, vec![(2, 1), (2, 2)])]);
    }
}

#[tokio::test]
async fn without_a_filter_every_node_has_one_row() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(10 * MINUTE, 1).await;
        let mut ask = Ask {
            span: Period {
                from: at(0),
                to: at(15 * MINUTE),
            },
            node: None,
            account: None,
            workload: None,
        };
        let rows = asked(&world, &ask, at(12 * MINUTE)).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(minutes(&rows[0]), [10, 0, 0, 0, 2]);
        ask.account = Some("nobody".parse().unwrap());
        assert_eq!(asked(&world, &ask, at(12 * MINUTE)).await, []);
    }
}
