//! Stories of periods that were issued, and are known otherwise later.

use tallystick_common::correction::{CorrectionKind, Reason};
use tallystick_common::time::Timestamp;

use super::super::draft::Which;
use super::super::issue::{Order, issue};
use super::super::testing::at;
use super::super::testing::world::{TO_DECEMBER, World};
use super::super::{BillingError, InvoiceDocument};
use super::issue::{Corrected, CorrectionOrder, IssueAs, issue_correction};
use super::{Proposal, propose};
use crate::audit::{self, Verification};
use crate::catalog::account::CorrectionPolicy;
use crate::catalog::assignment::NewAssignment;
use crate::catalog::change::{self, ChangeError, NewAccount};
use crate::console::view::correction::told;
use crate::ingest::admit::Verdict;
use crate::store::billing::InvoiceRow;
use crate::store::corrections::CorrectionRow;
use crate::store::testing::ENGINES;
use crate::store::{self, Store};

const CPU_HOUR: u128 = 3_600_000_000;
/// Half of what is left of November.
const HALF: u64 = TO_DECEMBER / 2;
const DAY: u64 = 24 * 3600;

fn december(hours: u64) -> Timestamp {
    let micros = hours * 3_600_000_000 + 1;
    at("2026-12-01T00:00:00Z").saturating_add(tallystick_common::time::Micros(micros))
}

fn month(text: &str) -> Which {
    Which::Month(text.parse().unwrap())
}

async fn issued(store: &Store, account: &str, which: &str, now: Timestamp) -> InvoiceRow {
    let order = Order {
        account,
        which: month(which),
        accept_gaps: Some("the node is at sea"),
        seller: "Seller",
        actor: "test",
    };
    issue(store, &order, now).await.unwrap().invoice().clone()
}

async fn proposed(store: &Store, account: &str, now: Timestamp) -> Proposal {
    let mut tx = store.read().await.unwrap();
    let found = propose(&mut tx, account, month("2026-11"), now).await;
    found.unwrap()
}

async fn corrected_as(
    store: &Store,
    account: &str,
    issue_as: Option<IssueAs>,
    now: Timestamp,
) -> Result<Corrected, BillingError> {
    let order = CorrectionOrder {
        account,
        which: month("2026-11"),
        issue_as,
        actor: "test",
    };
    issue_correction(store, &order, now).await
}

async fn corrected(store: &Store, account: &str, now: Timestamp) -> CorrectionRow {
    match corrected_as(store, account, None, now).await.unwrap() {
        Corrected::Now(row) => row,
        other => panic!("{other:?}"),
    }
}

fn read(row: &InvoiceRow) -> InvoiceDocument {
    let document: InvoiceDocument = serde_json::from_str(&row.document).unwrap();
    assert_eq!(document.to_json(), row.document);
    assert_eq!(document.amount(), row.total);
    document
}

/// A second customer by the same plan.
async fn other(store: &Store) {
    let new = NewAccount {
        id: "other",
        name: "Other",
        currency: "EUR",
        time_zone: "UTC",
        anchor_day: 1,
    };
    let from = at("2026-11-01T00:00:00Z");
    change::create_account(store, &new, "test", from)
        .await
        .unwrap();
    change::subscribe(store, "other", "starter", from, "test", from)
        .await
        .unwrap();
}

fn rule(account: &str, from: &str) -> NewAssignment {
    NewAssignment::new(account.parse().unwrap(), "*", "cgroup/*", at(from)).unwrap()
}

async fn assign(store: &Store, rule: &NewAssignment, now: Timestamp) -> Result<i64, ChangeError> {
    let made = change::assign(store, rule, "test", now).await;
    made.map(|rule| rule.id)
}

/// A hundred CPU hours in each half of what is left of November.
async fn on_time(world: &mut World) {
    world.next(HALF, 100 * CPU_HOUR).await;
    world.next(HALF, 101 * CPU_HOUR + 7).await;
}

#[tokio::test]
async fn late_usage_is_corrected_to_what_the_bill_would_have_been() {
    for engine in ENGINES {
        let mut punctual = World::new(engine).await;
        on_time(&mut punctual).await;
        let whole = issued(&punctual.store, "acme", "2026-11", december(0)).await;
        assert_eq!(whole.total.to_string(), "2.41 EUR");

        let mut late = World::new(engine).await;
        late.next(HALF, 100 * CPU_HOUR).await;
        let first = issued(&late.store, "acme", "2026-11", december(0)).await;
        assert_eq!(first.total.to_string(), "1.20 EUR");
        let nothing = corrected_as(&late.store, "acme", None, december(1)).await;
        assert_eq!(nothing.unwrap(), Corrected::Nothing);
        late.next(HALF, 101 * CPU_HOUR + 7).await;
        late.next(DAY, 5 * CPU_HOUR).await;

        let seen = proposed(&late.store, "acme", december(30)).await;
        let [
            Reason::Late {
                first: from,
                segments,
                node_name,
                ..
            },
        ] = &seen.correction.reasons[..]
        else {
            panic!("{:?}", seen.correction.reasons)
        };
        assert_eq!((from.0, *segments, node_name.as_str()), (1, 1, "node-1"));

        let text = told(&seen.correction);
        for said in [
            "correction invoice of TS-2026-000001\n",
            "because node-1 sent segments 1 to 1 of stream",
            "CPU time  1.21 EUR\n    360000000000 µs were 1.20 EUR, 723600000007 µs are 2.41 EUR\n",
            "cgroup/web on node-1: 360000000000 before, 723600000007 now; before by register 1: 0 at",
            "Difference  1.21 EUR\n",
        ] {
            assert!(text.contains(said), "{said:?} in\n{text}");
        }

        let more = corrected(&late.store, "acme", december(30)).await;
        assert_eq!(more.issued.number, "CI-2026-000001");
        assert_eq!(more.kind, CorrectionKind::CorrectionInvoice);
        let sum = first.total.checked_add(more.issued.total).unwrap();
        assert_eq!(sum, whole.total);
        let (document, whole) = (read(&more.issued), read(&whole));
        assert_eq!(document.document_version, 2);
        let [line] = &document.statement.lines[..] else {
            panic!("{:?}", document.statement.lines)
        };
        let on_time = &whole.statement.lines[0];
        assert_eq!(
            (line.quantity, &line.unrounded),
            (on_time.quantity, &on_time.unrounded)
        );
        let correction = document.correction.unwrap();
        assert_eq!(correction.invoice.number, first.number);
        assert_eq!(correction.base, correction.invoice);
        let register = &correction.differences.lines[0].details[0].registers_now[0];
        assert_eq!(register.register.0, 1);

        let again = corrected_as(&late.store, "acme", None, december(31)).await;
        assert_eq!(again.unwrap(), Corrected::Before(more));
        let mut tx = late.store.read().await.unwrap();
        let held = store::billing::invoice(&mut tx, &first.number)
            .await
            .unwrap();
        assert_eq!(held, Some(first), "what was issued stays");
        assert!(matches!(
            audit::verify(&mut tx).await.unwrap(),
            Verification::Whole(_)
        ));
    }
}

#[tokio::test]
async fn corrections_follow_one_another_and_add_up() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(HALF, 50 * CPU_HOUR).await;
        let mut paid = issued(&world.store, "acme", "2026-11", december(0))
            .await
            .total;
        let mut base = "TS-2026-000001".to_owned();
        for (hour, number) in [(1, "CI-2026-000001"), (2, "CI-2026-000002")] {
            world.next(HALF / 2, 3 * CPU_HOUR + 1).await;
            let row = corrected(&world.store, "acme", december(hour)).await;
            assert_eq!(
                (row.issued.number.as_str(), row.base.as_str()),
                (number, base.as_str())
            );
            paid = paid.checked_add(row.issued.total).unwrap();
            base.clone_from(&row.issued.number);
        }
        let now = proposed(&world.store, "acme", december(3)).await;
        assert_eq!(paid, now.draft.statement.total);
        assert!(now.correction.differences.is_none());
        let next_year = at("2027-01-05T00:00:00Z");
        assign(
            &world.store,
            &rule("acme", "2026-11-01T00:00:00Z")
                .ending()
                .correcting(true),
            next_year,
        )
        .await
        .unwrap();
        let back = corrected(&world.store, "acme", next_year).await;
        assert_eq!(
            back.issued.number, "CN-2027-000001",
            "a series per kind and year"
        );
        assert!(paid.checked_add(back.issued.total).unwrap().is_zero());
    }
}

#[tokio::test]
async fn whoever_gets_anothers_usage_for_the_past_pays_what_that_one_gets_back() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        let store = world.store.clone();
        other(&store).await;
        on_time(&mut world).await;
        let acme = issued(&store, "acme", "2026-11", december(0)).await;
        let theirs = issued(&store, "other", "2026-11", december(0)).await;
        assert!(theirs.total.is_zero());

        // From the instant of the rule that it replaces, and from one in the middle of a segment.
        let whole = rule("other", "2026-11-01T00:00:00Z");
        let refused = assign(&store, &whole, december(1)).await.unwrap_err();
        assert!(
            refused.to_string().contains("would belong to both"),
            "{refused}"
        );
        let half = rule("other", "2026-11-28T06:15:00Z");
        let refused = assign(&store, &half, december(1))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("TS-2026-000001, TS-2026-000002") && refused.contains("--correct"),
            "{refused}"
        );
        for (rule, credit) in [(half, "-1.21 EUR"), (whole, "-1.20 EUR")] {
            let rule = rule.correcting(true);
            let id = assign(&store, &rule, december(1)).await.unwrap();
            assert_eq!(
                assign(&store, &rule, december(2)).await.unwrap(),
                id,
                "once"
            );
            let back = corrected(&store, "acme", december(3)).await;
            assert_eq!(back.kind, CorrectionKind::CreditNote);
            let more = corrected(&store, "other", december(3)).await;
            assert_eq!(back.issued.total.to_string(), credit);
            let both = back.issued.total.checked_add(more.issued.total).unwrap();
            assert!(both.is_zero(), "{back:?} {more:?}");
            let reasons = read(&back.issued).correction.unwrap().reasons;
            assert_eq!(
                reasons,
                [Reason::Reassigned {
                    own: vec![],
                    others: 1
                }]
            );
        }
        let now = proposed(&store, "other", december(4)).await;
        assert_eq!(now.draft.statement.total, acme.total, "all of it");
        let now = proposed(&store, "acme", december(4)).await;
        assert!(now.draft.statement.total.is_zero());
    }
}

#[tokio::test]
async fn a_change_of_the_past_is_in_the_audit_log_with_what_held_before() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        on_time(&mut world).await;
        let store = &world.store;
        issued(store, "acme", "2026-11", december(0)).await;
        let end = rule("acme", "2026-11-25T00:00:00Z").ending();
        assert!(assign(store, &end, december(1)).await.is_err());
        // Made by a clock that is behind: by the time it notes, the invoice still does not know of it.
        let behind = at("2026-11-30T00:00:00Z");
        let id = assign(store, &end.correcting(true), behind).await.unwrap();
        let mut tx = store.read().await.unwrap();
        let entries = audit::entries(&mut tx, 0, 100).await.unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry.action == "assignment.end");
        let detail: serde_json::Value = serde_json::from_str(&entry.unwrap().detail).unwrap();
        assert_eq!(detail["before"][0]["id"], 1);
        assert_eq!(
            (detail["id"].as_i64(), detail["ends"].as_bool()),
            (Some(id), Some(true))
        );
        assert_eq!(detail["invoices"], serde_json::json!(["TS-2026-000001"]));
        let rules = store::catalog::assignments(&mut tx).await.unwrap();
        assert_eq!(rules.made_by(december(0)).iter().count(), 1);
    }
}

#[tokio::test]
async fn lines_go_on_the_next_invoice_if_that_is_the_policy() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        let store = world.store.clone();
        world.next(HALF, 100 * CPU_HOUR).await;
        issued(&store, "acme", "2026-11", december(0)).await;
        let now = december(1);
        let account = "acme".parse().unwrap();
        let policy = CorrectionPolicy::NextInvoice;
        change::set_correction_policy(&store, "acme", policy, "test", now)
            .await
            .unwrap();
        let mut tx = store.read().await.unwrap();
        assert_eq!(
            store::corrections::policy(&mut tx, &account).await.unwrap(),
            policy
        );
        drop(tx);
        world.next(HALF, 101 * CPU_HOUR).await;
        world.next(31 * DAY, 10 * CPU_HOUR).await;
        let credit = corrected_as(&store, "acme", Some(IssueAs::CreditNote), now).await;
        let refused = credit.unwrap_err().to_string();
        assert!(
            refused.contains("1.21 EUR") && refused.contains("next-invoice"),
            "{refused}"
        );
        let row = corrected(&store, "acme", now).await;
        assert_eq!(row.issued.number, "CL-2026-000001");

        let late = at("2027-01-01T00:00:00Z");
        let next = issued(&store, "acme", "2026-12", late).await;
        let document = read(&next);
        assert_eq!(document.statement.total.to_string(), "0.12 EUR");
        assert_eq!(
            (document.document_version, next.total.to_string()),
            (2, "1.33 EUR".to_owned())
        );
        let [carried] = &document.carried[..] else {
            panic!("{:?}", document.carried)
        };
        assert_eq!(carried.invoice, "TS-2026-000001");
        assert_eq!(carried.lines[0].difference.to_string(), "1.21 EUR");
        let mut tx = store.read().await.unwrap();
        let held = store::corrections::all(&mut tx, Some("acme"))
            .await
            .unwrap();
        assert_eq!(held[0].carried_by.as_ref(), Some(&next.number));
        assert!(
            store::corrections::waiting(&mut tx, "acme")
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test]
async fn two_who_correct_at_once_issue_one_document() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(HALF, 100 * CPU_HOUR).await;
        issued(&world.store, "acme", "2026-11", december(0)).await;
        world.next(HALF, 100 * CPU_HOUR).await;
        let store = &world.store;
        let one = || corrected_as(store, "acme", None, december(1));
        let (a, b, c) = tokio::join!(one(), one(), one());
        let all = [a.unwrap(), b.unwrap(), c.unwrap()];
        let now = all.iter().filter(|done| matches!(done, Corrected::Now(_)));
        assert_eq!(now.count(), 1, "{all:?}");
        let mut tx = store.read().await.unwrap();
        let held = store::corrections::all(&mut tx, None).await.unwrap();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].issued.number, "CI-2026-000001");
    }
}

#[tokio::test]
async fn a_period_that_was_not_issued_is_not_corrected() {
    for engine in ENGINES {
        let world = World::new(engine).await;
        let refused = corrected_as(&world.store, "acme", None, december(0)).await;
        assert!(
            matches!(refused, Err(BillingError::NotIssued { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn what_is_counted_after_all_is_a_reason() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(HALF, 100 * CPU_HOUR).await;
        let mut doubtful = world.agent.draft(3600, CPU_HOUR);
        doubtful.part(1).opening += 1000;
        let verdict = world.seal(&doubtful).await;
        assert!(matches!(verdict, Verdict::Quarantined(_)), "{verdict:?}");
        issued(&world.store, "acme", "2026-11", december(0)).await;
        world
            .sql("UPDATE segments SET verdict = 'counted', doubt = NULL, doubt_code = NULL WHERE seq = 1")
            .await;
        let seen = proposed(&world.store, "acme", december(1)).await;
        let [Reason::Accepted { segments, .. }] = &seen.correction.reasons[..] else {
            panic!("{:?}", seen.correction.reasons)
        };
        assert_eq!(segments.iter().map(|seq| seq.0).collect::<Vec<_>>(), [1]);
    }
}
