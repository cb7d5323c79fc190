use proptest::prelude::*;
use tallystick_common::time::Micros;

use super::*;
use crate::audit;
use crate::billing::issue::{Issued, Order, issue};
use crate::billing::testing::at;
use crate::billing::testing::world::{TO_DECEMBER, World};
use crate::billing::{InvoiceDocument, leakage};
use crate::config::Closing as Rule;
use crate::store::testing::ENGINES;

const DAY: u64 = 24 * 3600 * SECOND_US;

fn rule(policy: ClosingPolicy) -> Rule {
    Rule {
        deadline: Micros(5 * DAY),
        policy,
    }
}

fn november() -> Month {
    "2026-11".parse().unwrap()
}

async fn stands(world: &World, now: &str) -> PeriodView {
    let mut tx = world.store.read().await.unwrap();
    let rule = rule(ClosingPolicy::Wait);
    period(&mut tx, "acme", november(), &rule, at(now))
        .await
        .unwrap()
}

async fn closes(world: &World, reason: &str, now: &str) -> Result<PeriodView, BillingError> {
    let order = Close {
        account: "acme",
        month: november(),
        reason,
        actor: "cli:anna",
    };
    close(&world.store, &order, &rule(ClosingPolicy::Wait), at(now)).await
}

async fn issues(world: &World, accept_gaps: Option<&str>, now: &str) -> InvoiceDocument {
    let order = Order {
        account: "acme",
        which: Which::Month(november()),
        accept_gaps,
        seller: "Seller",
        actor: "cli:bert",
    };
    let issued = issue(&world.store, &order, at(now)).await.unwrap();
    assert!(matches!(issued, Issued::Now(_)));
    serde_json::from_str(&issued.invoice().document).unwrap()
}

async fn audited(world: &World) -> Vec<(String, String)> {
    let mut tx = world.store.read().await.unwrap();
    let entries = audit::entries(&mut tx, 0, 100).await.unwrap().into_iter();
    entries
        .filter(|entry| entry.action.starts_with("period.") || entry.action == "invoice.issue")
        .map(|entry| (entry.actor, entry.action))
        .collect()
}

#[tokio::test]
async fn a_period_says_for_whom_it_waits() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(3600, 1000).await;
        for (now, state) in [
            ("2026-11-30T23:59:59Z", PeriodState::Open),
            ("2026-12-01T00:00:00Z", PeriodState::Waiting),
            ("2026-12-05T23:59:59Z", PeriodState::Waiting),
            ("2026-12-06T00:00:00Z", PeriodState::Overdue),
        ] {
            let view = stands(&world, now).await;
            assert_eq!(view.state, state, "{now}");
            assert_eq!(view.waits_for(), ["node-1"]);
            assert_eq!(
                view.nodes[0].covered_through,
                Some(at("2026-11-22T13:00:00Z"))
            );
        }
        world.next(TO_DECEMBER - 3600, 1).await;
        let view = stands(&world, "2026-12-06T00:00:00Z").await;
        assert_eq!(view.state, PeriodState::Provable);
        assert_eq!(view.nodes[0].standing, Standing::Complete);
        let mut tx = world.store.read().await.unwrap();
        let (rule, now) = (rule(ClosingPolicy::Wait), at("2027-01-02T00:00:00Z"));
        let all = periods(&mut tx, None, &rule, now).await.unwrap();
        let all: Vec<_> = all
            .iter()
            .map(|view| (view.period.to_string(), view.state))
            .collect();
        let expected = [
            ("2026-11".to_owned(), PeriodState::Provable),
            ("2026-12".to_owned(), PeriodState::Waiting),
            ("2027-01".to_owned(), PeriodState::Open),
        ];
        assert_eq!(all, expected);
    }
}

#[tokio::test]
async fn a_person_closes_with_gaps_and_the_invoice_names_them() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(3600, 1000).await;
        let early = closes(&world, "x", "2026-11-30T00:00:00Z").await;
        assert!(matches!(early, Err(BillingError::NotEnded { .. })));
        let blank = closes(&world, " ", "2026-12-01T00:00:00Z").await;
        assert!(blank.unwrap_err().to_string().contains("write why"));
        let closed = closes(&world, "burnt down", "2026-12-01T00:00:00Z").await;
        assert_eq!(closed.unwrap().state, PeriodState::Closed);
        let again = closes(&world, "another", "2026-12-02T00:00:00Z").await;
        assert_eq!(again.unwrap().reason.as_deref(), Some("burnt down"));
        // What comes between closing and issuing is on the invoice.
        world.next(3600, 500).await;
        let document = issues(&world, None, "2026-12-03T00:00:00Z").await;
        let gaps = document.accepted_gaps.unwrap();
        assert_eq!(
            (gaps.by.as_str(), gaps.reason.as_str()),
            ("cli:anna", "burnt down")
        );
        let through = gaps.outstanding[0].covered_through;
        assert_eq!(through, Some(at("2026-11-22T14:00:00Z")));
        assert_eq!(document.statement.lines[0].quantity, 1500);
        let view = stands(&world, "2026-12-03T00:00:00Z").await;
        assert_eq!(view.invoice.as_deref(), Some("TS-2026-000001"));
        let expected = [
            ("cli:anna".to_owned(), "period.close".to_owned()),
            ("cli:bert".to_owned(), "invoice.issue".to_owned()),
        ];
        assert_eq!(audited(&world).await, expected);
    }
}

#[tokio::test]
async fn the_rule_closes_once_and_only_when_it_is_to() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(3600, 1000).await;
        let late = at("2026-12-06T00:00:00Z");
        let waits = rule(ClosingPolicy::Wait);
        let closes = rule(ClosingPolicy::CloseWithGaps);
        let by = async |rule: &Rule, now| {
            let closed = close_overdue(&world.store, rule, now).await.unwrap();
            closed.len()
        };
        assert_eq!(by(&waits, late).await, 0);
        assert_eq!(by(&closes, at("2026-12-05T23:59:59Z")).await, 0);
        let (one, two) = tokio::join!(by(&closes, late), by(&closes, late));
        assert!(one + two >= 1);
        assert_eq!(by(&closes, late).await, 0);
        let expected = [(RULE.to_owned(), "period.close".to_owned())];
        assert_eq!(audited(&world).await, expected, "once, by whom");
        let document = issues(&world, None, "2026-12-07T00:00:00Z").await;
        let gaps = document.accepted_gaps.unwrap();
        assert_eq!(gaps.by, RULE);
        assert_eq!(
            gaps.reason,
            "the deadline, 5d after the period's end, has passed"
        );
    }
}

#[tokio::test]
async fn a_proved_period_has_no_gaps_to_accept() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER, 1000).await;
        let closed = closes(&world, "x", "2026-12-06T00:00:00Z").await;
        assert!(matches!(closed, Err(BillingError::NoGaps { .. })));
        let rule = rule(ClosingPolicy::CloseWithGaps);
        let overdue = close_overdue(&world.store, &rule, at("2026-12-08T00:00:00Z")).await;
        assert_eq!(overdue.unwrap(), []);
    }
}

/// I10: what comes after the invoice changes nothing that was issued; it is unbilled.
#[tokio::test]
async fn late_arrivals_change_nothing_that_was_issued() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(3600, 1000).await;
        let before = issues(&world, Some("burnt down"), "2026-12-01T00:00:00Z").await;
        let view = stands(&world, "2026-12-01T00:00:00Z").await;
        assert_eq!(
            view.closed_by.as_deref(),
            Some("cli:bert"),
            "closed and issued at once"
        );
        world.next(3600, 77).await;
        world.roll_up().await;
        let mut tx = world.store.read().await.unwrap();
        let row = store::billing::invoice(&mut tx, &before.number)
            .await
            .unwrap();
        assert_eq!(row.unwrap().document, before.to_json());
        let now = at("2026-12-02T00:00:00Z");
        let leakage = leakage::report(&mut tx, 48, now).await.unwrap();
        let cpu = &leakage.meters[0];
        let told = [&cpu.received, &cpu.billed, &cpu.unbilled, &cpu.difference];
        assert_eq!(told, ["1077", "1000", "77", "0"]);
    }
}

proptest! {
    /// Whatever comes: a settled period is closed, one that has not ended is open, and none is overdue before its
    /// deadline or while nobody is outstanding.
    #[test]
    fn states_follow_time_and_proof(
        now in 0_u64..200, to in 1_u64..100, wait in 0_u64..50, waits: bool, settled: bool,
    ) {
        let instant = |seconds| Timestamp::from_seconds(seconds).unwrap();
        let deadline = instant(to + wait);
        let state = state(instant(to), deadline, waits, settled, instant(now));
        prop_assert_eq!(state == PeriodState::Closed, settled);
        prop_assert_eq!(state == PeriodState::Open, !settled && now < to);
        prop_assert_eq!(state == PeriodState::Overdue, !settled && waits && now >= to + wait);
        prop_assert_eq!(state == PeriodState::Provable, !settled && !waits && now >= to);
    }
}
