use tallystick_common::decision::Decision;
use tallystick_common::keys::Signed;
use tallystick_common::meter::Meter;
use tallystick_common::period::Period;
use tallystick_common::seal::VerifiedSegment;
use tallystick_common::segment::{CloseReason, Purpose};
use tallystick_common::time::{HOUR_US, Micros};
use tallystick_common::wire::RefusalReason;

use super::*;
use crate::audit;
use crate::billing::registers::counted;
use crate::billing::testing::world::{TO_DECEMBER, World};
use crate::billing::usage::usage;
use crate::ingest::admit::Verdict;
use crate::ingest::commit::Handle;
use crate::ingest::testing::{Agent, Draft, at, committing, exact, send, with_hole};
use crate::rollup;
use crate::store::testing::{ENGINES, store};
use crate::store::{Store, decisions, nodes, sql, streams};

fn signer() -> SecretKey {
    SecretKey::from_seed(&[77; 32])
}

/// A person who decides.
struct Person<'a> {
    store: &'a Store,
    signer: SecretKey,
    now: Timestamp,
}

impl<'a> Person<'a> {
    fn at(store: &'a Store, seconds: u64) -> Self {
        Self {
            store,
            signer: signer(),
            now: at(seconds),
        }
    }

    async fn decides(
        &self,
        agent: &Agent,
        range: (u64, u64),
        judgement: Judgement,
    ) -> Result<Decided, DecisionError> {
        let node = agent.node.to_string();
        let order = self.order(&node, agent.stream);
        let range = (Seq(range.0), Seq(range.1));
        decide(self.store, &order, range, judgement, self.now).await
    }

    async fn accepts(&self, agent: &Agent, seq: u64) -> Result<Decided, DecisionError> {
        self.decides(agent, (seq, seq), Judgement::Accept).await
    }

    async fn rejects(&self, agent: &Agent, seq: u64) -> Result<Decided, DecisionError> {
        self.decides(agent, (seq, seq), Judgement::Reject).await
    }

    fn order<'b>(&'b self, node: &'b str, stream: StreamId) -> Order<'b> {
        Order {
            node,
            stream,
            reason: "looked at it",
            actor: "cli:anna",
            signer: &self.signer,
        }
    }
}

/// Doubt that keeps a segment from counting.
fn doubt(refused: Result<Decided, DecisionError>) -> &'static str {
    match refused {
        Err(DecisionError::Doubtful { doubt, .. }) => doubt.code(),
        other => panic!("{other:?}"),
    }
}

/// CPU time that is billed, after holding rollups and registers against the segments.
async fn cpu(store: &Store) -> u128 {
    let found = rollup::check(store).await.unwrap();
    assert_eq!((found.differing, found.first), (0, None), "to the byte");
    let mut tx = store.read().await.unwrap();
    let first = at(0).floor_to(HOUR_US);
    let span = Period {
        from: first,
        to: first.saturating_add(Micros(1000 * HOUR_US)),
    };
    let rows = usage(&mut tx, span).await.unwrap();
    let all = streams::all(&mut tx).await.unwrap();
    let registers = counted(&mut tx, all.iter(), span).await.unwrap();
    let mut sum = 0;
    for row in rows
        .iter()
        .filter(|row| row.workload.as_str() == "cgroup/web")
    {
        let key = (row.node, row.workload.clone(), row.meter);
        let spans = registers.get(&key).into_iter().flatten();
        let by_registers: u128 = spans.map(|span| span.closing.0 - span.opening.0).sum();
        assert_eq!(row.quantity, by_registers, "I3");
        sum += row.quantity;
    }
    sum
}

async fn count(store: &Store, query: &'static str) -> i64 {
    let mut tx = store.read().await.unwrap();
    sql::query_scalar(query).fetch_one(&mut tx).await.unwrap()
}

fn is_quarantined(verdict: &Verdict, code: &str) -> bool {
    matches!(verdict, Verdict::Quarantined(doubt) if doubt.code() == code)
}

async fn quarantined(to: &Handle, segment: VerifiedSegment, code: &str) {
    let verdict = send(to, segment).await;
    assert!(is_quarantined(&verdict, code), "{verdict:?}");
}

async fn accepted(to: &Handle, segment: VerifiedSegment) {
    assert_eq!(send(to, segment).await, Verdict::Accepted);
}

#[tokio::test]
async fn what_a_person_accepts_counts_once_and_what_is_rejected_does_not() {
    for engine in ENGINES {
        for rolled_up in [false, true] {
            let (home, store) = store(engine).await;
            let commit = committing(&store, || at(100_000));
            let mut agent = Agent::new(1, 2).enrolled(&store).await;
            accepted(&commit, agent.next(60, 10)).await;
            let holed = with_hole(&agent, 5000, 700);
            quarantined(&commit, agent.seal(&holed), "hole").await;
            accepted(&commit, agent.next(60, 3)).await;
            if rolled_up {
                rollup::catch_up(&store).await.unwrap();
            }
            assert_eq!(cpu(&store).await, 13);
            // By another process than the one that admits.
            let elsewhere = Store::open(&home.location).await.unwrap();
            let person = Person::at(&elsewhere, 100_001);
            let decided = person.accepts(&agent, 1).await.unwrap();
            assert_eq!((decided.changed, decided.before), (1, false));
            assert_eq!(decided.set_aside.len(), 1);
            assert!(decided.set_aside[0].contains("nothing accounts for the host"));
            assert_eq!(cpu(&store).await, 713);
            let again = person.accepts(&agent, 1).await.unwrap();
            assert_eq!((again.changed, again.before), (0, true));
            assert_eq!(again.decision, decided.decision);
            accepted(&commit, agent.next(60, 4)).await;
            assert_eq!(cpu(&store).await, 717);
            let rejected = person.rejects(&agent, 1).await.unwrap();
            assert_eq!((rejected.changed, rejected.before), (1, false));
            assert_eq!(cpu(&store).await, 17);
            assert!(person.rejects(&agent, 1).await.unwrap().before);
            assert!(
                !person.accepts(&agent, 1).await.unwrap().before,
                "the latest holds"
            );
            assert_eq!(cpu(&store).await, 717);
            let notes = "SELECT COUNT(*) FROM audit WHERE action LIKE 'quarantine.%' AND actor = 'cli:anna'";
            assert_eq!(count(&store, notes).await, 3);
            let mut tx = store.read().await.unwrap();
            assert!(matches!(
                audit::verify(&mut tx).await.unwrap(),
                audit::Verification::Whole(_)
            ));
            let kept = decisions::list(&mut tx, None, 0, 10).await.unwrap();
            let kinds: Vec<_> = kept
                .iter()
                .map(|held| (held.number, held.kind.as_str()))
                .collect();
            assert_eq!(kinds, [(1, "accept"), (2, "reject"), (3, "accept")]);
            let signed: Vec<Vec<u8>> =
                sql::query_scalar("SELECT signed FROM decisions ORDER BY id")
                    .fetch_all(&mut tx)
                    .await
                    .unwrap();
            let said = Signed::<Decision>::from_bytes(&signed[0]).unwrap();
            let said = said.verify(&signer().public()).unwrap();
            assert_eq!(
                (said.first, said.last, said.number),
                (Seq(1), Some(Seq(1)), 1)
            );
        }
    }
}

#[tokio::test]
async fn what_counts_or_is_not_there_is_not_decided_on() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        accepted(&commit, agent.next(60, 10)).await;
        let person = Person::at(&store, 100_000);
        let refused = person.accepts(&agent, 0).await.unwrap_err();
        assert!(
            matches!(refused, DecisionError::Counted { .. }),
            "{refused}"
        );
        let refused = person.rejects(&agent, 0).await.unwrap_err();
        assert!(
            matches!(refused, DecisionError::NotQuarantined { .. }),
            "{refused}"
        );
        for judgement in [Judgement::Accept, Judgement::Reject] {
            let refused = person.decides(&agent, (0, 1), judgement).await.unwrap_err();
            assert!(
                matches!(refused, DecisionError::NoSegment { .. }),
                "{refused}"
            );
            let backwards = person.decides(&agent, (1, 0), judgement).await.unwrap_err();
            assert!(
                matches!(backwards, DecisionError::Catalog(_)),
                "{backwards}"
            );
        }
        let order = Order {
            reason: " ",
            ..person.order("node-1", agent.stream)
        };
        let refused = resolve(&store, &order, Keep::Other, at(1))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("write why"), "{refused}");
        assert_eq!(count(&store, "SELECT COUNT(*) FROM decisions").await, 0);
        assert_eq!(count(&store, "SELECT COUNT(*) FROM audit").await, 0);
        assert_eq!(cpu(&store).await, 10);
    }
}

/// Whatever is broken stays out: every doubt of a stream by itself, asked about as of now.
#[tokio::test]
async fn what_is_broken_is_never_accepted() {
    type Change = fn(&mut Draft);
    let cases: [(&str, Change); 8] = [
        ("odometer", |draft| draft.part(1).opening += 1),
        ("tiling", |draft| {
            draft.part(1).intervals = exact(at(60), at(119), 1);
        }),
        ("missing_register", |draft| drop(draft.parts.pop())),
        ("reused_register", |draft| {
            draft.part(1).opened = Some(tallystick_common::segment::Basis::Birth);
        }),
        ("moved_register", |draft| {
            draft.part(1).workload = "cgroup/db";
        }),
        ("overlap", |draft| {
            let twin = draft.opening("cgroup/web", 9, Meter::CPU_TIME);
            draft.parts.push(twin);
        }),
        ("impossible_quantity", |draft| {
            draft.part(1).intervals[0].quantity = 1 << 100;
        }),
        ("register_twice", |draft| {
            let meter = Meter::CPU_TIME;
            let one = draft.opening("cgroup/db", 9, meter);
            let other = draft.opening("cgroup/cache", 9, meter);
            draft.parts.extend([one, other]);
        }),
    ];
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        for (number, (code, change)) in (1..).zip(&cases) {
            let mut agent = Agent::new(number, number).enrolled(&store).await;
            accepted(&commit, agent.next(60, 10)).await;
            let mut draft = agent.draft(60, 5);
            change(&mut draft);
            // A hole besides is set aside, and hides nothing.
            draft.part(0).intervals = exact(at(60), at(90), 1);
            draft.part(0).closed = Some(CloseReason::Reboot);
            quarantined(&commit, agent.seal(&draft), code).await;
            let person = Person::at(&store, 100_000);
            assert_eq!(doubt(person.accepts(&agent, 1).await), *code);
        }
        assert_eq!(cpu(&store).await, 80);
        assert_eq!(count(&store, "SELECT COUNT(*) FROM decisions").await, 0);
    }
}

#[tokio::test]
async fn time_that_has_come_is_accepted_and_proves() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(60));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        accepted(&commit, agent.next(60, 10)).await;
        quarantined(&commit, agent.next(600, 7), "future").await;
        assert_eq!(
            doubt(Person::at(&store, 600).accepts(&agent, 1).await),
            "future"
        );
        let decided = Person::at(&store, 660).accepts(&agent, 1).await.unwrap();
        assert_eq!(
            decided.set_aside,
            Vec::<String>::new(),
            "nothing is in doubt now"
        );
        assert_eq!(cpu(&store).await, 17);
        let mut tx = store.read().await.unwrap();
        let all = streams::all(&mut tx).await.unwrap();
        assert_eq!(all[0].proved_through, Some(at(660)));
        drop(tx);
        // The process that admits has not kept what it knew of the stream.
        let later = committing(&store, || at(10_000));
        accepted(&later, agent.next(60, 1)).await;
        assert_eq!(cpu(&store).await, 18);
    }
}

#[tokio::test]
async fn two_streams_never_both_count_one_time() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut one = Agent::new(1, 2).enrolled(&store).await;
        let mut other = one.beside(3, 30);
        let holed = with_hole(&one, 60, 10);
        quarantined(&commit, one.seal(&holed), "hole").await;
        accepted(&commit, other.next(60, 20)).await;
        let person = Person::at(&store, 100_000);
        let refused = person.accepts(&one, 0).await;
        assert!(
            refused
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("would count twice")
        );
        assert_eq!(doubt(refused), "overlap");
        assert_eq!(cpu(&store).await, 20);
        // What follows beside the other stream is in doubt for that alone, until that ends.
        quarantined(&commit, one.next(30, 5), "overlap").await;
        assert_eq!(doubt(person.accepts(&one, 1).await), "overlap");
        assert_eq!(
            doubt(person.decides(&one, (0, 1), Judgement::Accept).await),
            "overlap"
        );
        // The key of the other stream was stolen: what it counted is free again.
        let node = other.node.to_string();
        let order = person.order(&node, other.stream);
        let revoked = revoke(&store, &order, Seq(0), false, at(100_000))
            .await
            .unwrap();
        assert_eq!(revoked.changed, 1);
        assert_eq!(cpu(&store).await, 0);
        let decided = person
            .decides(&one, (0, 1), Judgement::Accept)
            .await
            .unwrap();
        assert_eq!(decided.changed, 2);
        assert_eq!(cpu(&store).await, 15);
    }
}

#[tokio::test]
async fn a_shared_kernel_counts_where_the_other_node_did_not() {
    for engine in ENGINES {
        let (home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut one = Agent::new(1, 2).enrolled(&store).await;
        let mut other = Agent::new(7, 3).enrolled(&store).await;
        other.boot = one.boot;
        accepted(&commit, one.next(60, 10)).await;
        let mut ended = one.draft(60, 10);
        ended.part(1).opening += 1;
        quarantined(&commit, one.seal(&ended), "odometer").await;
        for quantity in [100, 200] {
            quarantined(&commit, other.next(60, quantity), "shared_kernel").await;
        }
        let elsewhere = Store::open(&home.location).await.unwrap();
        let person = Person::at(&elsewhere, 100_000);
        assert_eq!(doubt(person.accepts(&other, 0).await), "shared_kernel");
        let decided = person.accepts(&other, 1).await.unwrap();
        assert!(
            decided.set_aside[0].contains("the same kernel"),
            "{decided:?}"
        );
        assert_eq!(cpu(&store).await, 210);
        assert_eq!(doubt(person.accepts(&one, 1).await), "shared_kernel");
        // A third stream of the first node, late: this time was counted of the other node.
        let mut late = one.beside(5, 60);
        late.boot = one.boot;
        quarantined(&commit, late.next(60, 1000), "shared_kernel").await;
        assert_eq!(cpu(&store).await, 210);
    }
}

#[tokio::test]
async fn last_words_that_are_accepted_retire_their_node() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        accepted(&commit, agent.next(60, 10)).await;
        let mut last = agent.draft(60, 5);
        last.header.purpose = Purpose::Final;
        quarantined(&commit, agent.seal(&last), "left_open").await;
        let decided = Person::at(&store, 100_000)
            .accepts(&agent, 1)
            .await
            .unwrap();
        assert!(
            decided.set_aside[0].contains("leaves register"),
            "{decided:?}"
        );
        assert_eq!(cpu(&store).await, 15);
        let mut tx = store.read().await.unwrap();
        let node = nodes::by_id(&mut tx, agent.node).await.unwrap().unwrap();
        let (retired, lost) = (at(120), None);
        assert_eq!(node.state, nodes::NodeState::Retired { at: retired, lost });
        drop(tx);
        let Verdict::Refused(refusal) = send(&commit, agent.next(60, 1)).await else {
            panic!("taken")
        };
        assert_eq!(refusal.reason, RefusalReason::Retired);
    }
}

/// An issued invoice stays; the draft, and so a correction, has what was accepted, and both say so.
#[tokio::test]
async fn an_issued_invoice_stays_and_its_cut_names_the_decisions() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER / 2, 1000).await;
        for (seconds, quantity) in [(600, 40), (300, 2)] {
            let holed = with_hole(&world.agent, seconds, quantity);
            assert!(is_quarantined(&world.seal(&holed).await, "hole"));
        }
        world.next(TO_DECEMBER / 2 - 900, 1000).await;
        let person = Person {
            store: &world.store,
            signer: signer(),
            now: "2026-12-01T00:00:00Z".parse().unwrap(),
        };
        person.accepts(&world.agent, 1).await.unwrap();
        let issued = world.issue().await.unwrap();
        let document = issued.invoice().document.clone();
        let invoice: crate::billing::InvoiceDocument = serde_json::from_str(&document).unwrap();
        let cut = &invoice.cut[0];
        assert_eq!(cut.quarantined, [Seq(2)]);
        let named: Vec<_> = cut
            .decisions
            .iter()
            .map(|held| (held.number, held.kind, held.first))
            .collect();
        assert_eq!(named, [(1, DecisionKind::Accept, Seq(1))]);
        assert_eq!(cut.decisions[0].decided_at, person.now);
        assert_eq!(invoice.statement.lines[0].quantity, 2040);
        let decided = person.accepts(&world.agent, 2).await.unwrap();
        let number = issued.invoice().number.clone();
        assert_eq!(decided.touched.len(), 1);
        assert_eq!(decided.touched[0].invoice, Some(number.clone()));
        let mut tx = world.store.read().await.unwrap();
        let held = crate::store::billing::invoice(&mut tx, &number)
            .await
            .unwrap();
        assert_eq!(held.unwrap().document, document, "I10");
        drop(tx);
        let draft = world.draft("acme", "2026-11-30T23:59:59Z").await;
        assert_eq!(draft.statement.lines[0].quantity, 2042);
        assert_eq!(draft.statement.discrepancies, [], "I3");
        assert_eq!(
            (draft.cut[0].decisions.len(), draft.cut[0].quarantined.len()),
            (2, 0)
        );
    }
}

/// A person decides back and forth while two processes admit and roll up: nothing is lost, and nothing counts twice.
#[tokio::test]
async fn decisions_beside_admission_and_rollups_come_to_the_same() {
    for engine in ENGINES {
        let (home, store) = store(engine).await;
        let elsewhere = Store::open(&home.location).await.unwrap();
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let (here, there) = (
            committing(&store, || at(100_000)),
            committing(&elsewhere, || at(100_000)),
        );
        let holed = with_hole(&agent, 60, 1_000_000);
        quarantined(&here, agent.seal(&holed), "hole").await;
        let deciding = {
            let (store, of) = (elsewhere.clone(), agent.beside(2, 0));
            tokio::spawn(async move {
                for round in 0..7 {
                    let judgement = [Judgement::Accept, Judgement::Reject][round % 2];
                    let person = Person::at(&store, 100_000);
                    let decided = person.decides(&of, (0, 0), judgement).await.unwrap();
                    assert_eq!(decided.changed, 1);
                }
            })
        };
        for number in 0..30 {
            let to = [&here, &there][number / 10 % 2];
            accepted(to, agent.next(60, 1)).await;
            if number % 3 == 0 {
                rollup::catch_up(&store).await.unwrap();
            }
        }
        deciding.await.unwrap();
        assert_eq!(cpu(&store).await, 1_000_030);
        rollup::catch_up(&store).await.unwrap();
        assert_eq!(cpu(&store).await, 1_000_030);
    }
}

mod branches;

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

/// What one segment measured: which stream and when, how much, and whether a person could let it count.
struct Sent {
    agent: usize,
    seq: u64,
    span: (Timestamp, Timestamp),
    quantity: u128,
    broken: bool,
    counted: bool,
}

/// Two streams of one node, decided on at random while they go on: totals are those of a model that knows
/// spans alone, and no time is ever counted twice.
#[tokio::test]
async fn random_decisions_come_to_what_counts() {
    for engine in ENGINES {
        let (mut flips, mut refusals) = (0, 0);
        for seed in 0..6 {
            eprintln!("seed {seed}");
            let mut dice = Dice(seed);
            let (_home, store) = store(engine).await;
            let commit = committing(&store, || at(10_000_000));
            let first = Agent::new(1, 2).enrolled(&store).await;
            let beside = first.beside(3, 1700);
            let mut agents = [first, beside];
            let mut sent: Vec<Sent> = Vec::new();
            for _ in 0..24 {
                let of = usize::try_from(dice.below(2)).unwrap();
                let agent = &mut agents[of];
                let (seconds, quantity) =
                    (30 + dice.below(2000), u128::from(dice.below(1_000_000)));
                let mut draft = agent.draft(seconds, quantity);
                let mut broken = false;
                match dice.below(4) {
                    0 => draft = with_hole(agent, seconds, quantity),
                    1 if draft.header.seq > Seq::FIRST => {
                        draft.part(1).opening += 7;
                        broken = true;
                    }
                    _ => {}
                }
                let span = (draft.header.from, draft.header.covered_through);
                let segment = agent.seal(&draft);
                let seq = segment.header().seq.0;
                let counted = send(&commit, segment).await == Verdict::Accepted;
                sent.push(Sent {
                    agent: of,
                    seq,
                    span,
                    quantity,
                    broken,
                    counted,
                });
                if dice.below(3) == 0 {
                    rollup::catch_up(&store).await.unwrap();
                }
                if dice.below(2) == 0 {
                    let which = usize::try_from(dice.below(sent.len() as u64)).unwrap();
                    let judgement = if dice.below(3) == 0 {
                        Judgement::Reject
                    } else {
                        Judgement::Accept
                    };
                    match judged(&store, &agents, &mut sent, which, judgement).await {
                        true => flips += 1,
                        false => refusals += 1,
                    }
                }
            }
            let expected: u128 = sent
                .iter()
                .filter(|sent| sent.counted)
                .map(|sent| sent.quantity)
                .sum();
            assert_eq!(cpu(&store).await, expected);
        }
        assert!(
            flips > 5 && refusals > 5,
            "{flips} flips, {refusals} refusals"
        );
    }
}

/// Decides on one segment, and says what a model of spans alone expects: whether its verdict changed.
async fn judged(
    store: &Store,
    agents: &[Agent; 2],
    sent: &mut [Sent],
    which: usize,
    judgement: Judgement,
) -> bool {
    let one = &sent[which];
    let (of, seq, was) = (one.agent, one.seq, one.counted);
    let free = !sent.iter().any(|other| {
        other.agent != of && other.counted && other.span.0 < one.span.1 && other.span.1 > one.span.0
    });
    let possible = free && !one.broken;
    let person = Person::at(store, 10_000_000);
    let decided = person.decides(&agents[of], (seq, seq), judgement).await;
    match (judgement, was, decided) {
        (Judgement::Accept, false, Ok(decided)) => {
            assert!(possible && decided.changed == 1);
            sent[which].counted = true;
            true
        }
        (Judgement::Accept, false, Err(DecisionError::Doubtful { .. })) => {
            assert!(!possible);
            false
        }
        (Judgement::Accept, true, Ok(decided)) => {
            assert!(decided.before);
            false
        }
        (Judgement::Accept, true, Err(DecisionError::Counted { .. }))
        | (Judgement::Reject, true, Err(DecisionError::NotQuarantined { .. })) => false,
        (Judgement::Reject, _, Ok(decided)) => {
            assert_eq!(decided.changed, u64::from(was));
            sent[which].counted = false;
            was
        }
        (judgement, was, other) => panic!("{judgement:?} {was} {other:?}"),
    }
}
