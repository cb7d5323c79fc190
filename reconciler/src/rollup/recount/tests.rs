//! Random histories, doubtful segments among them, rolled up in random pieces: counting again finds the
//! same bytes, and puts them back when they are damaged.

use std::collections::VecDeque;

use tallystick_common::meter::Meter;
use tallystick_common::segment::{Basis, CloseReason};

use super::super::{catch_up, read, write};
use super::*;
use crate::ingest::admit::Verdict;
use crate::ingest::commit::Handle;
use crate::ingest::testing::{Agent, Draft, at, committing, interpolated, send};
use crate::store::testing::{self, ENGINES};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Does something to a segment: what follows honestly goes on from there.
fn change(dice: &mut Dice, draft: &mut Draft, number: u64) {
    let spare = 10 + number;
    let end = draft.header.covered_through;
    let last = draft.parts.len() - 1;
    match dice.below(9) {
        0 => draft.parts[last].workload = "cgroup/elsewhere",
        1 => draft.parts[last].opening += 7,
        2 => drop(draft.parts.pop()),
        3 => draft.parts[last].opened = Some(Basis::Birth),
        4 => draft.parts[last].closed = Some(CloseReason::Vanished),
        5 => {
            let start = draft.parts[last].start;
            draft.parts[last].intervals = interpolated(start, end, 12_345);
        }
        6 => draft
            .parts
            .push(draft.opening("cgroup/web", spare, Meter::MEMORY_PEAK)),
        7 => {
            let mut twin = draft.parts[last].clone();
            twin.workload = "cgroup/twin";
            twin.closed = Some(CloseReason::Reset);
            draft.parts.push(twin);
        }
        _ => draft
            .parts
            .push(draft.opening("cgroup/late", spare, Meter::CPU_TIME)),
    }
}

/// Rolls up some of what waits.
async fn roll_some(store: &Store, dice: &mut Dice) {
    let mut behind = {
        let mut tx = store.read().await.unwrap();
        VecDeque::from(streams::behind(&mut tx, None).await.unwrap())
    };
    let most = usize::try_from(1 + dice.below(5)).unwrap();
    let pages = read(store, &mut behind, most).await.unwrap();
    write(store, &super::super::add_up(pages).unwrap())
        .await
        .unwrap();
}

/// Two nodes, one of them with two streams: how many segments were counted, and how many not.
async fn history(store: &Store, dice: &mut Dice) -> (u32, u32) {
    let commit: Handle = committing(store, || at(10_000_000));
    let first = Agent::new(1, 1).enrolled(store).await;
    let beside = first.beside(3, 1800);
    let mut agents = [first, Agent::new(2, 2).enrolled(store).await, beside];
    let (mut counted, mut doubted) = (0, 0);
    for number in 0..30 {
        let agent = &mut agents[usize::try_from(dice.below(3)).unwrap()];
        let mut draft = agent.draft(30 + dice.below(4000), dice.below(1_000_000).into());
        if dice.below(3) == 0 && !draft.parts.is_empty() {
            change(dice, &mut draft, number);
        }
        match send(&commit, agent.seal(&draft)).await {
            Verdict::Accepted => counted += 1,
            Verdict::Quarantined(_) => doubted += 1,
            other => panic!("{other:?}"),
        }
        if dice.below(4) == 0 {
            roll_some(store, dice).await;
        }
    }
    (counted, doubted)
}

/// Every derived row.
async fn dump(store: &Store) -> Vec<Rows> {
    let scopes = scopes(store).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let mut rows = Vec::new();
    for scope in scopes {
        rows.push(rollups::held(&mut tx, scope).await.unwrap());
    }
    rows
}

async fn run(store: &Store, statements: &[&'static str]) {
    let mut tx = store.write().await.unwrap();
    for statement in statements {
        let done = sql::query(*statement).execute(&mut tx).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }
    tx.commit().await.unwrap();
}

const DAMAGE: [&[&str]; 6] = [
    &["UPDATE rollups SET quantity2 = quantity2 + 1 WHERE hour = (SELECT MIN(hour) FROM rollups)"],
    &["UPDATE rollups SET last_at = last_at - 1 WHERE hour = (SELECT MAX(hour) FROM rollups)"],
    &["UPDATE rollups SET hour = hour + 100 WHERE hour = (SELECT MIN(hour) FROM rollups)"],
    &["DELETE FROM registers WHERE register = 1"],
    &["UPDATE registers SET closed = 'reset', basis = 'birth' WHERE register = 0"],
    &["DELETE FROM rollups", "DELETE FROM registers"],
];

#[tokio::test]
async fn counting_again_finds_the_same_bytes_and_puts_them_back() {
    for engine in ENGINES {
        let (mut counted, mut doubted) = (0, 0);
        for (seed, damage) in DAMAGE.iter().enumerate() {
            eprintln!("seed {seed}");
            let mut dice = Dice(seed as u64);
            let (_home, store) = testing::store(engine).await;
            let history = history(&store, &mut dice).await;
            counted += history.0;
            doubted += history.1;
            let partly = check(&store).await.unwrap();
            assert_eq!(
                (partly.differing, partly.first),
                (0, None),
                "behind the head"
            );
            catch_up(&store).await.unwrap();
            let whole = check(&store).await.unwrap();
            assert_eq!((whole.differing, &whole.first), (0, &None));
            assert!(whole.rows > 0 && whole.registers > 2);
            let before = dump(&store).await;
            run(&store, damage).await;
            let damaged = check(&store).await.unwrap();
            assert!(damaged.differing > 0 && damaged.first.is_some());
            let rebuilt = rebuild(&store, "cli:anna", at(9000)).await.unwrap();
            assert_eq!(rebuilt, damaged, "the same differences, put right");
            assert_eq!(dump(&store).await, before);
            assert_eq!(check(&store).await.unwrap(), whole);
            assert_eq!(rebuild(&store, "cli:anna", at(9000)).await.unwrap(), whole);
            let mut tx = store.read().await.unwrap();
            let notes = audit::entries(&mut tx, 0, 100).await.unwrap();
            let notes = notes.iter().filter(|note| note.action == "rollup.rebuild");
            assert_eq!(notes.count(), 1, "only a change is noted");
        }
        assert!(
            counted > 40 && doubted > 20,
            "{counted} counted, {doubted} not"
        );
    }
}

#[tokio::test]
async fn the_first_differing_cell_is_named() {
    for engine in ENGINES {
        let (_home, store) = testing::store(engine).await;
        let commit = committing(&store, || at(10_000));
        let mut agent = Agent::new(1, 1).enrolled(&store).await;
        send(&commit, agent.next(60, 500)).await;
        catch_up(&store).await.unwrap();
        run(
            &store,
            &["UPDATE rollups SET quantity0 = 501 WHERE quantity0 = 500"],
        )
        .await;
        let found = check(&store).await.unwrap();
        let first = found.first.unwrap();
        let expected = format!(
            "rollups: node node-1, cgroup/web, cpu.time, the hour from {}: quantity0 holds 501, its segments make it 500",
            at(0)
        );
        assert_eq!((found.differing, first), (1, expected));
    }
}

/// A server goes on while rows are put right: what came in between is in them, once.
#[tokio::test]
async fn what_is_rolled_up_meanwhile_counts_once() {
    for engine in ENGINES {
        let (_home, store) = testing::store(engine).await;
        let commit = committing(&store, || at(10_000));
        let mut agent = Agent::new(1, 1).enrolled(&store).await;
        send(&commit, agent.next(60, 500)).await;
        catch_up(&store).await.unwrap();
        for damage in [
            "UPDATE rollups SET quantity0 = 1",
            "UPDATE registers SET opened_at = 1",
        ] {
            run(&store, &[damage]).await;
            let mut seen = Vec::new();
            for scope in scopes(&store).await.unwrap() {
                let mut recount = Recount::new(scope);
                let mut tx = store.read().await.unwrap();
                recount.compare(&mut tx, false).await.unwrap();
                seen.push(recount);
            }
            send(&commit, agent.next(60, 300)).await;
            catch_up(&store).await.unwrap();
            let mut found = Recounted::default();
            for mut recount in seen {
                found.join(put(&store, &mut recount).await.unwrap());
            }
            assert!(found.differing > 0);
            assert_eq!(check(&store).await.unwrap().first, None);
        }
        let mut tx = store.read().await.unwrap();
        let query = "SELECT MAX(quantity0) FROM rollups";
        let sum: i64 = sql::query_scalar(query).fetch_one(&mut tx).await.unwrap();
        assert_eq!(sum, 1100);
    }
}

/// Between counting and putting right a person lets a segment count: what was counted before is not put.
#[tokio::test]
async fn what_is_decided_meanwhile_is_counted_from_the_beginning() {
    use crate::decision::{Judgement, Order, decide};
    use tallystick_common::keys::SecretKey;
    for engine in ENGINES {
        let (_home, store) = testing::store(engine).await;
        let commit = committing(&store, || at(10_000));
        let mut agent = Agent::new(1, 1).enrolled(&store).await;
        send(&commit, agent.next(60, 500)).await;
        let mut holed = agent.draft(60, 7);
        let host = holed.part(0);
        host.intervals = crate::ingest::testing::exact(at(60), at(90), 1);
        host.closed = Some(CloseReason::Reboot);
        let verdict = send(&commit, agent.seal(&holed)).await;
        assert!(matches!(verdict, Verdict::Quarantined(_)), "{verdict:?}");
        catch_up(&store).await.unwrap();
        let mut recount = Recount::new(Scope::Hour(at(0).as_micros() / HOUR_US));
        {
            let mut tx = store.read().await.unwrap();
            let (_, differing) = recount.compare(&mut tx, false).await.unwrap();
            assert_eq!(differing, []);
        }
        let order = Order {
            node: "node-1",
            stream: agent.stream,
            reason: "looked at it",
            actor: "cli:anna",
            signer: &SecretKey::from_seed(&[7; 32]),
        };
        let range = (Seq(1), Seq(1));
        let decided = decide(&store, &order, range, Judgement::Accept, at(20_000)).await;
        assert_eq!(decided.unwrap().changed, 1);
        let put = again!(put(&store, &mut recount)).unwrap();
        assert_eq!((put.differing, put.first), (0, None));
        assert_eq!(check(&store).await.unwrap().differing, 0);
        let mut tx = store.read().await.unwrap();
        let query = "SELECT CAST(SUM(quantity0) AS BIGINT) FROM rollups WHERE meter = $1";
        let sum: i64 = sql::query_scalar(query)
            .bind(i64::from(Meter::CPU_TIME.code()))
            .fetch_one(&mut tx)
            .await
            .unwrap();
        assert_eq!(sum, 507);
    }
}
