use std::sync::Arc;

use proptest::prelude::*;
use tallystick_common::period::Period;
use tallystick_common::segment::CloseReason;
use tallystick_common::time::QUARTER_HOUR_US;
use tallystick_common::wire::Refused;

use super::*;
use crate::billing::usage::{UsageRow, usage};
use crate::ingest::admit::{Doubt, StreamState};
use crate::ingest::testing::{Agent, at, interpolated};
use crate::rollup;
use crate::store::sql;
use crate::store::testing::{ENGINES, Engine, engine, store};

fn clock() -> Timestamp {
    at(100_000_000)
}

fn peer() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

fn committer(store: &Store) -> Committer {
    channel(store.clone(), clock, Arc::default()).1
}

/// One transaction of these segments; `None` for answers that never came.
async fn commit(committer: &mut Committer, segments: &[&VerifiedSegment]) -> Vec<Option<Verdict>> {
    let (mut batch, mut answers) = (Vec::new(), Vec::new());
    for segment in segments {
        let (answer, verdict) = oneshot::channel();
        batch.push(Job::Segment {
            segment: Box::new((*segment).clone()),
            packed: compressed::compress(segment.bytes()).unwrap().into(),
            peer: peer(),
            answer,
        });
        answers.push(verdict);
    }
    committer.commit(&mut batch).await;
    answers
        .iter_mut()
        .map(|answer| answer.try_recv().ok())
        .collect()
}

async fn accepted(committer: &mut Committer, segment: &VerifiedSegment) {
    assert_eq!(
        commit(committer, &[segment]).await,
        [Some(Verdict::Accepted)]
    );
}

async fn count(store: &Store, query: &'static str) -> i64 {
    let mut tx = store.read().await.unwrap();
    sql::query_scalar(query).fetch_one(&mut tx).await.unwrap()
}

async fn usage_of(store: &Store, seconds: u64) -> Vec<UsageRow> {
    let mut tx = store.read().await.unwrap();
    let to = at(seconds).next_multiple(QUARTER_HOUR_US);
    usage(&mut tx, Period { from: at(0), to }).await.unwrap()
}

async fn cpu_of(store: &Store, seconds: u64) -> u128 {
    let rows = usage_of(store, seconds).await;
    rows.iter()
        .find(|row| row.workload.as_str() == "cgroup/web")
        .map_or(0, |row| row.quantity)
}

#[tokio::test]
async fn a_segment_sent_twice_is_billed_once() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let (first, second) = (agent.next(60, 10), agent.next(60, 5));
        let mut committer = committer(&store);
        let verdicts = commit(&mut committer, &[&first, &first, &second, &first]).await;
        assert_eq!(
            verdicts,
            [
                Verdict::Accepted,
                Verdict::Duplicate,
                Verdict::Accepted,
                Verdict::Duplicate
            ]
            .map(Some)
        );
        rollup::catch_up(&store).await.unwrap();
        let mut restarted = self::committer(&store);
        let verdicts = commit(&mut restarted, &[&second, &first]).await;
        assert_eq!(
            verdicts,
            [Some(Verdict::Duplicate), Some(Verdict::Duplicate)]
        );
        rollup::catch_up(&store).await.unwrap();
        rollup::catch_up(&store).await.unwrap();
        assert_eq!(cpu_of(&store, 120).await, 15);
    }
}

#[tokio::test]
async fn a_segment_out_of_turn_waits_for_its_turn() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let (first, second) = (agent.next(60, 10), agent.next(60, 5));
        let mut committer = committer(&store);
        let ahead = Verdict::Ahead { expected: Seq(0) };
        assert_eq!(commit(&mut committer, &[&second]).await, [Some(ahead)]);
        assert_eq!(count(&store, "SELECT COUNT(*) FROM segments").await, 0);
        accepted(&mut committer, &first).await;
        accepted(&mut committer, &second).await;
    }
}

#[tokio::test]
async fn what_is_in_doubt_is_kept_and_not_billed() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let mut committer = committer(&store);
        accepted(&mut committer, &agent.next(60, 10)).await;
        let mut draft = agent.draft(60, 1000);
        draft.part(1).opening += 1;
        let doubtful = agent.seal(&draft);
        let verdicts = commit(&mut committer, &[&doubtful, &agent.next(60, 3)]).await;
        assert!(
            matches!(verdicts[0], Some(Verdict::Quarantined(Doubt::Odometer(_)))),
            "{verdicts:?}"
        );
        assert_eq!(verdicts[1], Some(Verdict::Accepted));
        assert_eq!(cpu_of(&store, 180).await, 13, "from the tail");
        rollup::catch_up(&store).await.unwrap();
        assert_eq!(cpu_of(&store, 180).await, 13, "from the rollups");
        let mut tx = store.read().await.unwrap();
        let row =
            sql::query("SELECT doubt_code, doubt FROM segments WHERE verdict = 'quarantined'")
                .fetch_one(&mut tx)
                .await
                .unwrap();
        assert_eq!(row.try_get::<String, _>(0).unwrap(), "odometer");
        assert!(
            row.try_get::<String, _>(1)
                .unwrap()
                .contains("continues at 11, but stood at 10")
        );
    }
}

#[tokio::test]
async fn a_fork_stops_its_stream_and_both_branches_are_kept() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let mut committer = committer(&store);
        accepted(&mut committer, &agent.next(60, 10)).await;
        let branches: Vec<_> = (1..=4)
            .map(|quantity| agent.sealed(&agent.draft(60, quantity)))
            .collect();
        accepted(&mut committer, &branches[0]).await;
        let fork = Verdict::Fork {
            known: branches[0].hash(),
        };
        for branch in &branches[1..] {
            assert_eq!(
                commit(&mut committer, &[branch]).await,
                [Some(fork.clone())]
            );
        }
        let kept = "SELECT (SELECT COUNT(*) FROM forks) * 10 + (SELECT COUNT(*) FROM refusals)";
        assert_eq!(
            count(&store, kept).await,
            13,
            "one begins the branch, the budget bounds the rest"
        );
        assert_eq!(
            count(
                &store,
                "SELECT COUNT(*) FROM audit WHERE action = 'stream.freeze'"
            )
            .await,
            1
        );
        agent.seal(&agent.draft(60, 1));
        let next = agent.next(60, 1);
        for committer in [&mut committer, &mut self::committer(&store)] {
            assert_eq!(commit(committer, &[&next]).await, [Some(Verdict::Held)]);
        }
        assert_eq!(count(&store, kept).await, 13, "the node keeps what is held");
        assert_eq!(cpu_of(&store, 120).await, 11);
    }
}

#[tokio::test]
async fn two_streams_of_a_node_do_not_count_one_time_twice() {
    for engine in ENGINES {
        for together in [true, false] {
            let (_folder, store) = store(engine).await;
            let mut one = Agent::new(1, 2).enrolled(&store).await;
            let mut other = Agent::new(1, 3);
            other.boot = tallystick_common::ids::BootId([77; 16]);
            let (first, second) = (one.next(60, 10), other.next(90, 10));
            let mut committer = committer(&store);
            let verdicts = if together {
                commit(&mut committer, &[&first, &second]).await
            } else {
                let mut verdicts = commit(&mut committer, &[&first]).await;
                verdicts.extend(commit(&mut committer, &[&second]).await);
                verdicts
            };
            assert_eq!(verdicts[0], Some(Verdict::Accepted));
            let doubted = matches!(
                verdicts[1],
                Some(Verdict::Quarantined(Doubt::Overlap { .. }))
            );
            assert!(doubted, "in one transaction: {together}: {verdicts:?}");
            accepted(&mut committer, &other.next(60, 1)).await;
        }
    }
}

#[tokio::test]
async fn two_nodes_of_one_kernel_are_billed_once() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut one = Agent::new(1, 2).enrolled(&store).await;
        let mut other = Agent::new(7, 3).enrolled(&store).await;
        other.boot = one.boot;
        let mut committer = committer(&store);
        let verdicts = commit(&mut committer, &[&one.next(60, 10), &other.next(60, 10)]).await;
        assert_eq!(verdicts[0], Some(Verdict::Accepted));
        assert_eq!(
            verdicts[1],
            Some(Verdict::Quarantined(Doubt::SharedKernel { node: one.node }))
        );
        let mut restarted = self::committer(&store);
        let verdicts = commit(&mut restarted, &[&other.next(60, 10), &one.next(60, 10)]).await;
        assert!(
            matches!(verdicts[0], Some(Verdict::Quarantined(_))),
            "the second stays the second"
        );
        assert_eq!(verdicts[1], Some(Verdict::Accepted));
    }
}

/// The second claims the kernel in another process, while the first believes itself alone.
#[tokio::test]
async fn two_nodes_of_one_kernel_on_two_reconcilers_are_billed_once() {
    for engine in ENGINES {
        let (home, store) = store(engine).await;
        let elsewhere = Store::open(&home.location).await.unwrap();
        let mut one = Agent::new(1, 2).enrolled(&store).await;
        let mut other = Agent::new(7, 3).beside(4, 600).enrolled(&store).await;
        other.boot = one.boot;
        let (mut here, mut there) = (committer(&store), committer(&elsewhere));
        accepted(&mut here, &one.next(60, 10)).await;
        accepted(&mut there, &other.next(60, 10)).await;
        let shared = |node| Verdict::Quarantined(Doubt::SharedKernel { node });
        let verdicts = commit(&mut here, &[&one.next(640, 5)]).await;
        assert_eq!(verdicts, [Some(shared(other.node))]);
        let verdicts = commit(&mut there, &[&other.next(60, 10)]).await;
        assert_eq!(verdicts, [Some(shared(one.node))]);
    }
}

/// A node's second stream arrives elsewhere: what the first counted is known there.
#[tokio::test]
async fn two_streams_of_a_node_on_two_reconcilers_do_not_count_one_time_twice() {
    for engine in ENGINES {
        let (home, store) = store(engine).await;
        let elsewhere = Store::open(&home.location).await.unwrap();
        let mut one = Agent::new(1, 2).enrolled(&store).await;
        let mut other = one.beside(3, 90);
        let (mut here, mut there) = (committer(&store), committer(&elsewhere));
        accepted(&mut here, &one.next(60, 10)).await;
        accepted(&mut there, &other.next(60, 10)).await;
        accepted(&mut here, &one.next(30, 10)).await;
        let verdicts = commit(&mut here, &[&one.next(30, 10)]).await;
        let doubted = matches!(
            verdicts[0],
            Some(Verdict::Quarantined(Doubt::Overlap { .. }))
        );
        assert!(doubted, "{verdicts:?}");
    }
}

#[tokio::test]
async fn a_ban_by_another_process_acts_in_the_next_transaction() {
    for engine in ENGINES {
        let (folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let mut committer = committer(&store);
        accepted(&mut committer, &agent.next(60, 10)).await;
        let elsewhere = Store::open(&folder.location).await.unwrap();
        let mut tx = elsewhere.write().await.unwrap();
        let ban = NodeState::Banned {
            at: at(60),
            reason: "stolen".to_owned(),
        };
        assert!(
            nodes::set_state(&mut tx, agent.node, &ban, at(60))
                .await
                .unwrap()
        );
        tx.commit().await.unwrap();
        let verdicts = commit(&mut committer, &[&agent.next(60, 1)]).await;
        let Some(Verdict::Refused(refusal)) = &verdicts[0] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(refusal.reason, RefusalReason::Banned);
        assert!(refusal.detail.contains("stolen"));
        assert_eq!(
            count(
                &store,
                "SELECT COUNT(*) FROM refusals WHERE reason = 'banned'"
            )
            .await,
            1
        );
    }
}

#[tokio::test]
async fn a_final_segment_retires_its_node_and_nothing_is_taken_after_it() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let mut committer = committer(&store);
        accepted(&mut committer, &agent.next(60, 10)).await;
        let mut last = agent.draft(60, 5);
        last.header.purpose = Purpose::Final;
        for part in &mut last.parts {
            part.closed = Some(CloseReason::StreamEnd);
        }
        let last = agent.seal(&last);
        let after = agent.next(60, 1);
        let verdicts = commit(&mut committer, &[&last, &after]).await;
        assert_eq!(verdicts[0], Some(Verdict::Accepted));
        let Some(Verdict::Refused(refusal)) = &verdicts[1] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(refusal.reason, RefusalReason::Retired);
        let mut tx = store.read().await.unwrap();
        let node = nodes::by_id(&mut tx, agent.node).await.unwrap().unwrap();
        let retired = NodeState::Retired {
            at: at(120),
            lost: None,
        };
        assert_eq!(node.state, retired);
        assert_eq!(
            count(
                &store,
                "SELECT COUNT(*) FROM audit WHERE action = 'node.retire' AND actor LIKE 'node:%'"
            )
            .await,
            1
        );
        assert_eq!(cpu_of(&store, 180).await, 15);
    }
}

#[tokio::test]
async fn a_stranger_s_segment_is_refused() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2);
        let verdicts = commit(&mut committer(&store), &[&agent.next(60, 1)]).await;
        let Some(Verdict::Refused(refusal)) = &verdicts[0] else {
            panic!("{verdicts:?}")
        };
        assert_eq!(refusal.reason, RefusalReason::UnknownNode);
    }
}

#[tokio::test]
async fn a_node_that_moves_between_two_on_one_store_goes_on_at_once() {
    for engine in ENGINES {
        let (folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let elsewhere = Store::open(&folder.location).await.unwrap();
        let (mut one, mut other) = (committer(&store), committer(&elsewhere));
        let segments: Vec<_> = (0..4).map(|_| agent.next(60, 1)).collect();
        accepted(&mut one, &segments[0]).await;
        accepted(&mut other, &segments[1]).await;
        assert_eq!(
            commit(&mut one, &[&segments[1]]).await,
            [Some(Verdict::Duplicate)],
            "what the other admitted is known at once"
        );
        accepted(&mut one, &segments[2]).await;
        assert_eq!(cpu_of(&store, 180).await, 3);
    }
}

#[tokio::test]
async fn a_failed_transaction_changes_nothing_and_is_not_remembered() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let mut committer = committer(&store);
        accepted(&mut committer, &agent.next(60, 10)).await;
        let mut tx = store.write().await.unwrap();
        let (trap, opened) = match engine {
            Engine::Sqlite => (
                "CREATE TRIGGER trap BEFORE UPDATE ON streams BEGIN SELECT RAISE(ABORT, 'disk full'); END",
                "DROP TRIGGER trap",
            ),
            Engine::Postgres => (
                "ALTER TABLE streams ADD CONSTRAINT trap CHECK (next_seq < 2)",
                "ALTER TABLE streams DROP CONSTRAINT trap",
            ),
        };
        sql::query(trap).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let second = agent.next(60, 5);
        assert_eq!(commit(&mut committer, &[&second]).await, [None]);
        assert_eq!(count(&store, "SELECT COUNT(*) FROM segments").await, 1);
        let mut tx = store.write().await.unwrap();
        sql::query(opened).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        accepted(&mut committer, &second).await;
        assert_eq!(cpu_of(&store, 120).await, 15);
    }
}

#[tokio::test]
async fn refusals_are_kept_within_a_budget_and_counted_beyond_it() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        let agent = Agent::new(1, 2).enrolled(&store).await;
        let mut committer = committer(&store);
        let size = usize::try_from(refusals::BUDGET_BYTES / 4).unwrap();
        let mut batch = Vec::new();
        for _ in 0..6 {
            let refused = RefusedBytes {
                node: agent.node,
                stream: None,
                seq: None,
                refused: Refused {
                    seq: None,
                    reason: RefusalReason::Format,
                    detail: "no".to_owned(),
                },
                peer: peer(),
                bytes: vec![7; size],
            };
            batch.push(Job::Refuse {
                refused: Box::new(refused),
                answer: oneshot::channel().0,
            });
        }
        committer.commit(&mut batch).await;
        assert_eq!(count(&store, "SELECT COUNT(*) FROM refusals").await, 4);
        let counted = "SELECT count * 10 + kept_count FROM refusal_counts WHERE reason = 'format'";
        assert_eq!(count(&store, counted).await, 64);
    }
}

/// What the committer believes of the stream.
async fn believed(committer: &mut Committer, store: &Store, agent: &Agent) -> StreamState {
    let mut tx = store.write().await.unwrap();
    let row = committer
        .book
        .node(&mut tx, agent.node)
        .await
        .unwrap()
        .unwrap()
        .0;
    let entry = committer
        .book
        .entry(&mut tx, row, agent.node, agent.stream)
        .await
        .unwrap();
    entry.state.clone()
}

/// One thing that happens to a stream.
#[derive(Debug, Clone)]
enum Step {
    /// A segment: its length, its quantity, how its readings came to be, and what else is in it.
    Seal {
        seconds: u64,
        quantity: u64,
        interpolated: bool,
        flaw: Flaw,
        closes: bool,
    },
    RollUp,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    Jump,
    LeftOut,
}

fn step() -> impl Strategy<Value = Step> {
    let flaw = prop_oneof![6 => Just(Flaw::None), 1 => Just(Flaw::Jump), 1 => Just(Flaw::LeftOut)];
    let seal = (1u64..5000, any::<u32>(), any::<bool>(), flaw, any::<bool>());
    prop_oneof![
        6 => seal.prop_map(|(seconds, quantity, interpolated, flaw, closes)| Step::Seal {
            seconds, quantity: quantity.into(), interpolated, flaw, closes,
        }),
        1 => Just(Step::RollUp),
        1 => Just(Step::Restart),
    ]
}

/// What the next segment does, and the CPU time it should add.
fn sealed(agent: &mut Agent, step: &Step, register: u64) -> (VerifiedSegment, u128) {
    let Step::Seal {
        seconds,
        quantity,
        interpolated: spread,
        flaw,
        closes,
    } = step
    else {
        unreachable!("only for seals")
    };
    let mut draft = agent.draft(*seconds, u128::from(*quantity));
    let mut flawed = false;
    if let Some(cpu) = draft
        .parts
        .iter_mut()
        .position(|part| part.workload == "cgroup/web")
    {
        let part = &mut draft.parts[cpu];
        let (from, to) = (draft.header.from, draft.header.covered_through);
        if *spread {
            part.intervals = interpolated(from, to, u128::from(*quantity));
        }
        let continues = part.opened.is_none();
        match flaw {
            Flaw::Jump if continues => (part.opening, flawed) = (part.opening + 3, true),
            Flaw::LeftOut if continues => {
                draft.parts.remove(cpu);
                flawed = true;
            }
            _ if *closes => part.closed = Some(CloseReason::Vanished),
            _ => {}
        }
    } else {
        let meter = tallystick_common::meter::Meter::CPU_TIME;
        let mut part = draft.opening("cgroup/web", register, meter);
        part.intervals = interpolated(
            part.start,
            draft.header.covered_through,
            u128::from(*quantity),
        );
        draft.parts.push(part);
    }
    let counts = if flawed { 0 } else { u128::from(*quantity) };
    (agent.seal(&draft), counts)
}

async fn lives_of_a_stream(engine: Engine, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (_folder, store) = store(engine).await;
    let mut agent = Agent::new(1, 2).enrolled(&store).await;
    let mut committer = committer(&store);
    let (mut expected, mut seconds, mut register) = (0, 0, 2);
    for step in &steps {
        match step {
            Step::Seal {
                seconds: length, ..
            } => {
                let (segment, counts) = sealed(&mut agent, step, register);
                let verdicts = commit(&mut committer, &[&segment]).await;
                prop_assert!(
                    verdicts[0].as_ref().is_some_and(Verdict::advances),
                    "{:?}",
                    verdicts
                );
                (expected, seconds, register) = (expected + counts, seconds + length, register + 1);
            }
            Step::RollUp => rollup::catch_up(&store).await.unwrap(),
            Step::Restart => {
                let before = believed(&mut committer, &store, &agent).await;
                committer = self::committer(&store);
                prop_assert_eq!(believed(&mut committer, &store, &agent).await, before);
            }
        }
        prop_assert_eq!(cpu_of(&store, seconds).await, expected);
    }
    let with_tail = usage_of(&store, seconds).await;
    rollup::catch_up(&store).await.unwrap();
    prop_assert_eq!(usage_of(&store, seconds).await, with_tail);
    let before = believed(&mut committer, &store, &agent).await;
    prop_assert_eq!(
        believed(&mut self::committer(&store), &store, &agent).await,
        before
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Rollups and stored tail together say what was accepted, wherever the rollups stand; and a
    /// committer that reads a stream again believes what the one that wrote it believed.
    #[test]
    fn a_stream_means_the_same_from_memory_rollups_or_tail(engine in engine(), steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(lives_of_a_stream(engine, steps))?;
    }
}
