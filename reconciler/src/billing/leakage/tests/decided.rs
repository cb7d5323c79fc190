//! What persons decide after hours were tallied and invoices issued, and what corrections bill.

use tallystick_common::ids::Seq;
use tallystick_common::keys::SecretKey;

use super::*;
use crate::billing::correction::issue::{Corrected, CorrectionOrder, issue_correction};
use crate::billing::draft::Which;
use crate::billing::issue::{Order as Issue, issue};
use crate::billing::testing::{at as instant, correct};
use crate::catalog::account::CorrectionPolicy;
use crate::catalog::change::{self, NewAccount};
use crate::decision::{self, Judgement, Keep};
use crate::ingest::testing::with_hole;

const CPU_HOUR: u128 = 3_600_000_000;
/// Half of what is left of November.
const HALF: u64 = TO_DECEMBER / 2;

/// CPU time by the account, in hours of it.
#[derive(Debug, PartialEq, Eq)]
struct Hours {
    received: i128,
    billed: i128,
    unbilled: i128,
    quarantined: i128,
    written_off: i128,
}

/// The account as it is told at once, which is what the hours come to when they are tallied anew; it adds up.
async fn told(world: &World, now: Timestamp) -> Hours {
    let live = {
        let mut tx = world.store.read().await.unwrap();
        report(&mut tx, 1000, now).await.unwrap()
    };
    assert_eq!(caught_up(world, now).await.1, 0, "hours that differ");
    let tallied = reported(world, now).await;
    assert_eq!(live.meters, tallied.meters);
    assert!(tallied.adds_up(), "{tallied:?}");
    for row in &tallied.meters {
        let number = |text: &String| text.parse::<i128>().unwrap();
        let accounted = [
            &row.billed,
            &row.unbilled,
            &row.quarantined,
            &row.written_off,
        ];
        let accounted: i128 = accounted.into_iter().map(number).sum();
        assert_eq!(number(&row.received), accounted, "{row:?}");
    }
    let mut meters = tallied.meters.iter();
    let cpu = meters.find(|row| row.meter == Meter::CPU_TIME).unwrap();
    let hours = |text: &String| {
        let micros: i128 = text.parse().unwrap();
        assert_eq!(micros % 3_600_000_000, 0, "whole hours: {cpu:?}");
        micros / 3_600_000_000
    };
    Hours {
        received: hours(&cpu.received),
        billed: hours(&cpu.billed),
        unbilled: hours(&cpu.unbilled),
        quarantined: hours(&cpu.quarantined),
        written_off: hours(&cpu.written_off),
    }
}

fn december(hours: u64) -> Timestamp {
    instant("2026-12-01T00:00:01Z").saturating_add(Micros(hours * HOUR_US))
}

async fn issued(world: &World, account: &str, now: Timestamp) {
    let order = Issue {
        account,
        which: Which::Month("2026-11".parse().unwrap()),
        accept_gaps: Some("the node is at sea"),
        seller: "Seller",
        actor: "test",
    };
    issue(&world.store, &order, now).await.unwrap();
}

/// Corrects November: the number of the correction.
async fn corrected(world: &World, account: &str, now: Timestamp) -> String {
    let order = CorrectionOrder {
        account,
        which: Which::Month("2026-11".parse().unwrap()),
        issue_as: None,
        actor: "test",
    };
    match issue_correction(&world.store, &order, now).await.unwrap() {
        Corrected::Now(row) => row.issued.number,
        other => panic!("{other:?}"),
    }
}

/// A person who decides on the world's node.
struct Person<'a> {
    world: &'a World,
    node: String,
    signer: SecretKey,
    now: Timestamp,
}

impl<'a> Person<'a> {
    fn at(world: &'a World, now: Timestamp) -> Self {
        Self {
            world,
            node: world.agent.node.to_string(),
            signer: SecretKey::from_seed(&[77; 32]),
            now,
        }
    }

    fn order(&self) -> decision::Order<'_> {
        decision::Order {
            node: &self.node,
            stream: self.world.agent.stream,
            reason: "looked at it",
            actor: "cli:anna",
            signer: &self.signer,
        }
    }

    async fn judges(&self, seq: u64, judgement: Judgement) {
        let (store, order, range) = (&self.world.store, self.order(), (Seq(seq), Seq(seq)));
        let decided = decision::decide(store, &order, range, judgement, self.now).await;
        assert!(!decided.unwrap().before);
    }

    async fn revokes(&self, from: u64) {
        let (store, order) = (&self.world.store, self.order());
        let decided = decision::revoke(store, &order, Seq(from), false, self.now).await;
        assert!(!decided.unwrap().before);
    }

    async fn keeps(&self, keep: Keep) {
        let (store, order) = (&self.world.store, self.order());
        let decided = decision::resolve(store, &order, keep, self.now).await;
        assert!(!decided.unwrap().before);
    }
}

#[tokio::test]
async fn late_usage_is_unbilled_until_a_correction_bills_it() {
    for engine in ENGINES {
        for policy in [CorrectionPolicy::OwnDocument, CorrectionPolicy::NextInvoice] {
            let mut world = World::new(engine).await;
            change::set_correction_policy(&world.store, "acme", policy, "test", at(0))
                .await
                .unwrap();
            world.next(HALF, 100 * CPU_HOUR).await;
            world.roll_up().await;
            issued(&world, "acme", december(0)).await;
            let expected = |received, billed| Hours {
                received,
                billed,
                unbilled: received - billed,
                quarantined: 0,
                written_off: 0,
            };
            assert_eq!(told(&world, december(0)).await, expected(100, 100));
            world.next(HALF, 50 * CPU_HOUR).await;
            assert_eq!(told(&world, december(0)).await, expected(150, 100));
            corrected(&world, "acme", december(1)).await;
            assert_eq!(told(&world, december(1)).await, expected(150, 150));
            // And once more, before anybody looked at the one before.
            let kept = world.agent.beside(5, 3600);
            world.agent = kept;
            let mut late = world.agent.draft(HOUR, 7 * CPU_HOUR);
            late.part(1).workload = "cgroup/late";
            late.parts.retain(|part| part.register == 1);
            late.header.gaps = vec![Gap {
                from: late.header.from,
                to: late.header.covered_through,
                cause: Cause::SourceUnreadable,
            }];
            assert_eq!(world.seal(&late).await, Verdict::Accepted);
            corrected(&world, "acme", december(2)).await;
            assert_eq!(told(&world, december(2)).await, expected(157, 157));
        }
    }
}

#[tokio::test]
async fn what_is_accepted_leaves_quarantine_and_is_billed_once() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(HOUR, 10 * CPU_HOUR).await;
        let holed = with_hole(&world.agent, 2 * HOUR, 4 * CPU_HOUR);
        let held = world.seal(&holed).await;
        assert!(matches!(held, Verdict::Quarantined(_)), "{held:?}");
        world.next(TO_DECEMBER - 3 * HOUR, 20 * CPU_HOUR).await;
        issued(&world, "acme", december(0)).await;
        let expected = |billed, unbilled, quarantined, written_off| Hours {
            received: 34,
            billed,
            unbilled,
            quarantined,
            written_off,
        };
        assert_eq!(told(&world, december(0)).await, expected(30, 0, 4, 0));
        let person = Person::at(&world, december(1));
        person.judges(1, Judgement::Accept).await;
        assert_eq!(told(&world, december(1)).await, expected(30, 4, 0, 0));
        corrected(&world, "acme", december(1)).await;
        assert_eq!(told(&world, december(1)).await, expected(34, 0, 0, 0));
        person.judges(1, Judgement::Reject).await;
        assert_eq!(told(&world, december(1)).await, expected(34, -4, 0, 4));
        let number = corrected(&world, "acme", december(2)).await;
        assert!(number.starts_with("CN-"), "{number}");
        assert_eq!(told(&world, december(2)).await, expected(30, 0, 0, 4));
    }
}

#[tokio::test]
async fn what_is_rejected_is_written_off_until_it_is_accepted_after_all() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(HOUR, 10 * CPU_HOUR).await;
        for _ in 0..2 {
            let holed = with_hole(&world.agent, 2 * HOUR, 4 * CPU_HOUR);
            world.seal(&holed).await;
        }
        let now = at(6 * HOUR);
        let expected = |unbilled, quarantined, written_off| Hours {
            received: 18,
            billed: 0,
            unbilled,
            quarantined,
            written_off,
        };
        assert_eq!(told(&world, now).await, expected(10, 8, 0));
        let person = Person::at(&world, now);
        person.judges(1, Judgement::Reject).await;
        assert_eq!(told(&world, now).await, expected(10, 4, 4));
        person.judges(1, Judgement::Accept).await;
        assert_eq!(told(&world, now).await, expected(14, 4, 0));
        person.judges(1, Judgement::Reject).await;
        person.judges(2, Judgement::Accept).await;
        assert_eq!(told(&world, now).await, expected(14, 0, 4));
    }
}

#[tokio::test]
async fn what_a_revoked_key_sealed_is_written_off_and_credited() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(HALF, 100 * CPU_HOUR).await;
        let holed = with_hole(&world.agent, 2 * HOUR, 4 * CPU_HOUR);
        world.seal(&holed).await;
        world.next(HALF - 2 * HOUR, 60 * CPU_HOUR).await;
        world.roll_up().await;
        issued(&world, "acme", december(0)).await;
        let expected = |billed, unbilled, quarantined, written_off| Hours {
            received: 164,
            billed,
            unbilled,
            quarantined,
            written_off,
        };
        assert_eq!(told(&world, december(0)).await, expected(160, 0, 4, 0));
        Person::at(&world, december(1)).revokes(1).await;
        assert_eq!(told(&world, december(1)).await, expected(160, -60, 0, 64));
        let number = corrected(&world, "acme", december(1)).await;
        assert!(number.starts_with("CN-"), "{number}");
        assert_eq!(told(&world, december(1)).await, expected(100, 0, 0, 64));
    }
}

#[tokio::test]
async fn of_a_fork_only_what_was_admitted_and_not_kept_is_written_off() {
    for engine in ENGINES {
        for (keep, counted) in [(Keep::Admitted, 16), (Keep::Other, 10)] {
            let mut world = World::new(engine).await;
            world.next(HOUR, 10 * CPU_HOUR).await;
            let draft = world.agent.draft(HOUR, 9 * CPU_HOUR);
            let fork = world.agent.sealed(&draft);
            world.next(HOUR, 6 * CPU_HOUR).await;
            let verdict = world.hand_over(fork).await;
            assert!(matches!(verdict, Verdict::Fork { .. }), "{verdict:?}");
            let now = at(3 * HOUR);
            let expected = |unbilled| Hours {
                received: 16,
                billed: 0,
                unbilled,
                quarantined: 0,
                written_off: 16 - unbilled,
            };
            assert_eq!(told(&world, now).await, expected(16));
            Person::at(&world, now).keeps(keep).await;
            assert_eq!(told(&world, now).await, expected(counted));
        }
    }
}

#[tokio::test]
async fn what_changes_hands_is_billed_to_one_of_them() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER, 70 * CPU_HOUR).await;
        let from = instant("2026-11-01T00:00:00Z");
        let new = NewAccount {
            id: "other",
            name: "Other",
            currency: "EUR",
            time_zone: "UTC",
            anchor_day: 1,
        };
        change::create_account(&world.store, &new, "test", from)
            .await
            .unwrap();
        change::subscribe(&world.store, "other", "starter", from, "test", from)
            .await
            .unwrap();
        issued(&world, "acme", december(0)).await;
        let expected = |billed| Hours {
            received: 70,
            billed,
            unbilled: 70 - billed,
            quarantined: 0,
            written_off: 0,
        };
        assert_eq!(told(&world, december(0)).await, expected(70));
        correct(&world.store, "other", "cgroup/*", from)
            .await
            .unwrap();
        assert_eq!(told(&world, december(1)).await, expected(70));
        corrected(&world, "acme", december(1)).await;
        assert_eq!(told(&world, december(1)).await, expected(0));
        issued(&world, "other", december(1)).await;
        assert_eq!(told(&world, december(1)).await, expected(70));
    }
}
