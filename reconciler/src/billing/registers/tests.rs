use proptest::prelude::*;
use tallystick_common::meter::Meter;
use tallystick_common::segment::CloseReason;
use tallystick_common::statement::{Discrepancy, RegisterSpan};
use tallystick_common::time::{Micros, QUARTER_HOUR_US, SECOND_US};

use crate::billing::draft::{Which, draft};
use crate::billing::issue::Issued;
use crate::billing::testing::world::{TO_DECEMBER, World};
use crate::billing::testing::{assign, at as instant};
use crate::billing::{BillingError, Draft, InvoiceDocument};
use crate::catalog::change::{self, NewAccount};
use crate::ingest::admit::Verdict;
use crate::ingest::testing::{self, Agent, at, interpolated};
use crate::store::testing::{ENGINES, Engine, engine};

/// The first line's quantity and the registers that counted it, when they agree.
fn agreed(draft: &Draft) -> (u128, Vec<RegisterSpan>) {
    assert_eq!(draft.statement.discrepancies, []);
    let line = &draft.statement.lines[0];
    (line.quantity, line.details[0].registers.clone())
}

/// Register, opening and closing of each span.
fn readings(registers: &[RegisterSpan]) -> Vec<(u64, u128, u128)> {
    let readings = |span: &RegisterSpan| (span.register.0, span.opening.0, span.closing.0);
    registers.iter().map(readings).collect()
}

fn discrepancies(draft: &Draft) -> Vec<(u128, u128)> {
    let pair = |found: &Discrepancy| (found.quantity, found.counted);
    draft.statement.discrepancies.iter().map(pair).collect()
}

const LATE: &str = "2026-11-30T23:59:59Z";

#[tokio::test]
async fn a_rollup_row_that_its_registers_do_not_bear_out_is_shown_and_not_issued() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        for _ in 0..3 {
            world.next(TO_DECEMBER / 3, 1000).await;
        }
        world.roll_up().await;
        assert_eq!(agreed(&world.draft("acme", LATE).await).0, 3000);
        world
        .sql(
            "UPDATE rollups SET quantity0 = quantity0 + 1 WHERE hour = (SELECT MAX(hour) FROM rollups) \
             AND workload = (SELECT id FROM workloads WHERE name = 'cgroup/web')",
        )
        .await;
        let draft = world.draft("acme", LATE).await;
        assert_eq!(discrepancies(&draft), [(3001, 3000)]);
        let shown = crate::console::view::of_statement(&draft.statement).notes;
        assert!(
            shown
                .iter()
                .any(|note| note.contains("3001 to be billed, 3000 counted")),
            "{shown:?}"
        );
        let refused = world.issue().await.unwrap_err();
        assert!(
            matches!(refused, BillingError::Discrepancies { count: 1, .. }),
            "{refused}"
        );
        world
        .sql(
            "UPDATE rollups SET quantity0 = quantity0 - 1 WHERE hour = (SELECT MAX(hour) FROM rollups) \
             AND workload = (SELECT id FROM workloads WHERE name = 'cgroup/web')",
        )
        .await;
        assert!(matches!(world.issue().await, Ok(Issued::Now(_))));
    }
}

#[tokio::test]
async fn an_invoice_counts_all_that_its_cut_names_however_far_the_rollups_are_behind() {
    for engine in ENGINES {
        let mut documents = Vec::new();
        for rolled in 0..=3 {
            let mut world = World::new(engine).await;
            for segment in 0..3 {
                world.next(TO_DECEMBER / 3, 1000).await;
                if segment + 1 == rolled {
                    world.roll_up().await;
                }
            }
            let issued = world.issue().await.unwrap();
            let document: InvoiceDocument =
                serde_json::from_str(&issued.invoice().document).unwrap();
            assert_eq!(document.cut[0].seq.0, 2);
            assert_eq!(document.statement.lines[0].quantity, 3000);
            let counted = &document.statement.lines[0].details[0].registers;
            assert_eq!(readings(counted), [(1, 0, 3000)]);
            documents.push(document.to_json());
            world.roll_up().await;
            let after = world.draft("acme", LATE).await.statement;
            assert_eq!(after, document.statement, "nothing came late");
        }
        documents.dedup();
        assert_eq!(
            documents.len(),
            1,
            "the same bytes from rows and from the tail"
        );
    }
}

#[tokio::test]
async fn usage_whose_rows_are_lost_is_shown_as_counted_and_not_billed() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER, 1000).await;
        world.roll_up().await;
        world.sql("DELETE FROM rollups").await;
        let draft = world.draft("acme", LATE).await;
        assert_eq!(discrepancies(&draft), [(0, 1000)]);
        assert!(matches!(
            world.issue().await,
            Err(BillingError::Discrepancies { .. })
        ));
    }
}

#[tokio::test]
async fn a_row_of_a_workload_without_registers_is_shown() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER, 1000).await;
        world.roll_up().await;
        world
        .sql("INSERT INTO workloads (id, node, name, first_seen_at) VALUES (99, 1, 'cgroup/ghost', 0)")
        .await;
        world
            .sql("UPDATE rollups SET workload = 99 WHERE quantity3 = 1000")
            .await;
        let draft = world.draft("acme", LATE).await;
        assert_eq!(discrepancies(&draft), [(1000, 0), (0, 1000)]);
    }
}

#[tokio::test]
async fn an_interpolated_interval_across_the_end_of_a_period_is_cut_alike_on_both_sides() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER - 600, 7).await;
        let mut absent = world.agent.draft(2400, 0);
        let (from, to) = (absent.header.from, absent.header.covered_through);
        absent.part(1).intervals = interpolated(from, to, 1001);
        assert_eq!(world.seal(&absent).await, Verdict::Accepted);
        world.next(60, 5).await;
        for rolled in [false, true] {
            if rolled {
                world.roll_up().await;
            }
            let (november, registers) = agreed(&world.draft("acme", LATE).await);
            assert_eq!(readings(&registers), [(1, 0, 7 + 250)]);
            let (december, registers) = agreed(&world.draft("acme", "2026-12-01T00:31:00Z").await);
            assert_eq!(readings(&registers), [(1, 257, 1013)]);
            assert_eq!(registers[0].from, instant("2026-12-01T00:00:00Z"));
            assert_eq!((november, december), (257, 756));
        }
    }
}

#[tokio::test]
async fn registers_that_come_and_go_within_the_period_count_by_their_own_readings() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(600, 10).await;
        let mut reset = world.agent.draft(600, 3);
        reset.part(1).closed = Some(CloseReason::Reset);
        let mut anew = reset.opening("cgroup/web", 2, Meter::CPU_TIME);
        anew.start = reset.part(1).intervals.last().unwrap().end;
        anew.intervals.clear();
        reset.parts.push(anew);
        assert_eq!(world.seal(&reset).await, Verdict::Accepted);
        world.next(600, 40).await;
        let mut closes = world.agent.draft(600, 5);
        closes.part(2).closed = Some(CloseReason::Vanished);
        assert_eq!(world.seal(&closes).await, Verdict::Accepted);
        world.next(600, 0).await;
        let mut third = world.agent.draft(600, 0);
        let opened = third
            .opening("cgroup/web", 3, Meter::CPU_TIME)
            .measured(third.header.covered_through, 100);
        third.parts.push(opened);
        assert_eq!(world.seal(&third).await, Verdict::Accepted);
        world.next(600, 1).await;
        for rolled in [false, true] {
            if rolled {
                world.roll_up().await;
            }
            let (quantity, registers) = agreed(&world.draft("acme", LATE).await);
            assert_eq!(quantity, 13 + 45 + 101);
            assert_eq!(readings(&registers), [(1, 0, 13), (2, 0, 45), (3, 0, 101)]);
            assert_eq!(registers[1].from, at(1200));
            assert_eq!(registers[1].to, at(2400));
        }
        // Derived rows only say where to look: without them the segments are read one by one.
        let forgotten = match engine {
            Engine::Sqlite => {
                "UPDATE registers SET last_at = 0, last_reading = zeroblob(16), closed = NULL, opened_at = 0"
            }
            Engine::Postgres => {
                "UPDATE registers SET last_at = 0, last_reading = decode(repeat('00', 16), 'hex'), closed = NULL, opened_at = 0"
            }
        };
        world.sql(forgotten).await;
        assert_eq!(agreed(&world.draft("acme", LATE).await).0, 159);
        world.sql("DELETE FROM registers").await;
        assert_eq!(agreed(&world.draft("acme", LATE).await).0, 159);
    }
}

#[tokio::test]
async fn what_a_quarantined_segment_added_to_a_reading_is_in_no_quantity() {
    for engine in ENGINES {
        for jump in [0_i64, 30, -4] {
            let mut world = World::new(engine).await;
            world.next(600, 10).await;
            let mut doubtful = world.agent.draft(600, 500);
            let part = doubtful.part(1);
            part.opening = part.opening.checked_add_signed(jump.into()).unwrap();
            if jump == 0 {
                // Its quantity is more than there can be.
                let end = doubtful.header.covered_through;
                *doubtful.part(1) = doubtful
                    .part(1)
                    .clone()
                    .measured(end, u128::from(u64::MAX) << 40);
            }
            assert!(matches!(
                world.seal(&doubtful).await,
                Verdict::Quarantined(_)
            ));
            world.next(600, 3).await;
            world.roll_up().await;
            let (quantity, registers) = agreed(&world.draft("acme", LATE).await);
            assert_eq!(quantity, 13, "jump {jump}");
            let counted = |span: &RegisterSpan| span.closing.0 - span.opening.0;
            assert_eq!(registers.iter().map(counted).collect::<Vec<_>>(), [10, 3]);
            assert_eq!((registers[0].to, registers[1].from), (at(600), at(1200)));
        }
    }
}

#[tokio::test]
async fn usage_that_changes_hands_takes_its_readings_with_it() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        let other = NewAccount {
            id: "other",
            name: "Other",
            currency: "EUR",
            time_zone: "UTC",
            anchor_day: 1,
        };
        let from = instant("2026-11-01T00:00:00Z");
        change::create_account(&world.store, &other, "test", from)
            .await
            .unwrap();
        change::subscribe(&world.store, "other", "starter", from, "test", from)
            .await
            .unwrap();
        for quantity in [100, 20, 3] {
            world.next(1800, quantity).await;
        }
        // In the middle of the second segment, whose quantity is in its last quarter-hour.
        assign(&world.store, "other", "cgroup/web", at(2700))
            .await
            .unwrap();
        world.roll_up().await;
        let (before, registers) = agreed(&world.draft("acme", LATE).await);
        assert_eq!((before, readings(&registers)), (100, vec![(1, 0, 100)]));
        assert_eq!(registers[0].to, at(2700));
        let (after, registers) = agreed(&world.draft("other", LATE).await);
        assert_eq!((after, readings(&registers)), (23, vec![(1, 100, 123)]));
    }
}

#[tokio::test]
async fn a_successor_stream_counts_beside_the_stream_before_it() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(600, 10).await;
        world.next(600, 5).await;
        world.agent = world.agent.succeeded(3);
        world.next(600, 100).await;
        world.next(600, 1).await;
        for rolled in [false, true] {
            if rolled {
                world.roll_up().await;
            }
            let (quantity, registers) = agreed(&world.draft("acme", LATE).await);
            assert_eq!(quantity, 116);
            assert_eq!(readings(&registers), [(1, 0, 15), (1, 0, 101)]);
            assert_ne!(registers[0].stream, registers[1].stream);
        }
    }
}

#[tokio::test]
async fn an_assigned_rest_of_the_host_is_held_against_its_registers_too() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        let mut first = world.agent.draft(600, 1);
        let end = first.header.covered_through;
        let rest = first
            .opening("host/other", 2, Meter::CPU_TIME)
            .measured(end, 9);
        first.parts.push(rest);
        assert_eq!(world.seal(&first).await, Verdict::Accepted);
        assign(&world.store, "acme", "host/other", at(0))
            .await
            .unwrap();
        world.roll_up().await;
        assert_eq!(agreed(&world.draft("acme", LATE).await).0, 10);
    }
}

/// One thing that happens to a node.
#[derive(Debug, Clone)]
enum Step {
    Seal {
        seconds: u64,
        quantity: u64,
        spread: bool,
        change: Change,
    },
    RollUp,
    NewStream,
    Assign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// The unit's register ends.
    Close,
    /// A register of the unit begins, where none is open.
    Open,
    /// A register comes and goes within one segment.
    Flash,
    /// The reading jumps: quarantined.
    Jump,
    /// The register is left out: quarantined.
    LeaveOut,
}

fn step() -> impl Strategy<Value = Step> {
    let change = prop_oneof![
        4 => Just(Change::None),
        2 => Just(Change::Close),
        3 => Just(Change::Open),
        1 => Just(Change::Flash),
        1 => Just(Change::Jump),
        1 => Just(Change::LeaveOut),
    ];
    let seal = (1u64..5000, any::<u32>(), any::<bool>(), change);
    prop_oneof![
        12 => seal.prop_map(|(seconds, quantity, spread, change)| Step::Seal {
            seconds, quantity: quantity.into(), spread, change,
        }),
        2 => Just(Step::RollUp),
        1 => Just(Step::NewStream),
        1 => Just(Step::Assign),
    ]
}

/// The agent's next segment.
fn drafted(agent: &Agent, step: &Step, register: &mut u64) -> testing::Draft {
    let Step::Seal {
        seconds,
        quantity,
        spread,
        change,
    } = step
    else {
        unreachable!("only for seals")
    };
    let mut draft = agent.draft(*seconds, u128::from(*quantity));
    let (from, to) = (draft.header.from, draft.header.covered_through);
    let unit = |part: &testing::Part| part.workload == "cgroup/web";
    for part in draft.parts.iter_mut().filter(|part| unit(part)) {
        if *spread {
            part.intervals = interpolated(from, to, u128::from(*quantity));
        }
    }
    let continues = draft
        .parts
        .iter()
        .any(|part| unit(part) && part.opened.is_none());
    let open = draft.parts.iter().any(unit);
    match change {
        Change::Close => draft
            .parts
            .iter_mut()
            .filter(|part| unit(part))
            .for_each(|part| part.closed = Some(CloseReason::Vanished)),
        Change::Open | Change::Flash if !open => {
            for meter in [Meter::CPU_TIME, Meter::MEMORY_PEAK] {
                *register += 1;
                let mut part = draft.opening("cgroup/web", *register, meter);
                part.start = from.saturating_add(Micros(SECOND_US / 2));
                part.intervals = interpolated(part.start, to, u128::from(*quantity));
                part.closed = (*change == Change::Flash).then_some(CloseReason::Vanished);
                draft.parts.push(part);
            }
        }
        Change::Jump if continues => {
            draft
                .parts
                .iter_mut()
                .filter(|part| unit(part))
                .for_each(|part| part.opening += 3);
        }
        Change::LeaveOut if continues => draft.parts.retain(|part| !unit(part)),
        _ => {}
    }
    draft
}

async fn lives_of_a_node(engine: Engine, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(engine).await;
    let other = NewAccount {
        id: "other",
        name: "Other",
        currency: "EUR",
        time_zone: "UTC",
        anchor_day: 1,
    };
    let from = instant("2026-11-01T00:00:00Z");
    change::create_account(&world.store, &other, "test", from)
        .await
        .unwrap();
    let (mut register, mut stream, mut seconds) = (1, 2, 0);
    for step in &steps {
        match step {
            Step::Seal {
                seconds: length, ..
            } => {
                let draft = drafted(&world.agent, step, &mut register);
                let verdict = world.seal(&draft).await;
                prop_assert!(verdict.advances(), "{:?}", verdict);
                seconds += length;
            }
            Step::RollUp => world.roll_up().await,
            Step::NewStream => {
                (stream, register) = (stream + 1, 1);
                world.agent = world.agent.succeeded(stream);
            }
            Step::Assign => {
                let account = ["acme", "other"][usize::from(stream % 2)];
                let instant = at(seconds / 2).next_multiple(QUARTER_HOUR_US);
                // Refused where the other account has the instant already.
                let _ = assign(&world.store, account, "cgroup/*", instant).await;
            }
        }
        let mut tx = world.store.read().await.unwrap();
        let now = at(seconds);
        for account in ["acme", "other"] {
            let draft = draft(&mut tx, account, Which::At(now), "Seller", now)
                .await
                .unwrap();
            prop_assert_eq!(draft.statement.discrepancies, []);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Rollups and tail add interval by interval, registers subtract readings: they agree whatever
    /// happened and wherever the rollups stand.
    #[test]
    fn usage_is_what_registers_counted(engine in engine(), steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(lives_of_a_node(engine, steps))?;
    }
}
