use tallystick_common::statement::Note;
use tallystick_common::time::Timestamp;

use super::draft::{Which, draft};
use super::issue::{Issued, Order, issue};
use super::testing::world::{TO_DECEMBER, World};
use super::testing::{acme, assign, at, correct, cover, cpu, node};
use super::{BillingError, Draft, InvoiceDocument};
use crate::audit::{self, Verification};
use crate::catalog::change::{self, NewAccount};
use crate::ingest::admit::{Doubt, Verdict};
use crate::store::Store;
use crate::store::sql;
use crate::store::testing::{ENGINES, Engine, Home, store};

const HOUR: i64 = 3_600_000_000;

fn october() -> Which {
    Which::Month("2026-10".parse().unwrap())
}

fn order(accept_gaps: Option<&str>) -> Order<'_> {
    Order {
        account: "acme",
        which: october(),
        accept_gaps,
        seller: "Seller",
        actor: "cli:anna",
    }
}

fn november() -> Timestamp {
    at("2026-11-01T00:00:00Z")
}

/// A node that used ten CPU hours for acme on the third of October.
async fn world(engine: Engine) -> (Home, Store) {
    let (folder, store) = store(engine).await;
    node(&store, november()).await;
    acme(&store, at("2026-10-01T00:00:00Z")).await;
    cpu(
        &store,
        3,
        at("2026-10-03T10:00:00Z"),
        [4 * HOUR, 3 * HOUR, 2 * HOUR, HOUR],
    )
    .await;
    (folder, store)
}

async fn drafted(store: &Store, account: &str, now: &str) -> Draft {
    let mut tx = store.read().await.unwrap();
    draft(&mut tx, account, october(), "Seller", at(now))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_draft_is_quantity_times_price_of_what_is_there_now() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        let first = drafted(&store, "acme", "2026-10-03T11:00:00Z").await;
        assert_eq!(first.statement.total.to_string(), "0.12 EUR");
        assert_eq!(first.statement.lines[0].quantity, 10 * 3_600_000_000);
        cpu(&store, 3, at("2026-10-03T11:00:00Z"), [1, 0, 0, 0]).await;
        let second = drafted(&store, "acme", "2026-10-03T11:01:00Z").await;
        assert_eq!(second.statement.lines[0].quantity, 10 * 3_600_000_000 + 1);
        assert_ne!(
            first.statement.unrounded_total,
            second.statement.unrounded_total
        );
    }
}

#[tokio::test]
async fn usage_changes_hands_at_the_quarter_hour_of_an_assignment() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        let other = NewAccount {
            id: "other",
            name: "Other",
            currency: "EUR",
            time_zone: "UTC",
            anchor_day: 1,
        };
        let from = at("2026-10-01T00:00:00Z");
        change::create_account(&store, &other, "test", from)
            .await
            .unwrap();
        change::subscribe(&store, "other", "starter", from, "test", from)
            .await
            .unwrap();
        assign(&store, "other", "cgroup/acme", at("2026-10-03T10:30:00Z"))
            .await
            .unwrap();
        let quantity = |draft: &Draft| draft.statement.lines[0].quantity;
        let now = "2026-10-04T00:00:00Z";
        assert_eq!(
            quantity(&drafted(&store, "acme", now).await),
            7 * 3_600_000_000
        );
        assert_eq!(
            quantity(&drafted(&store, "other", now).await),
            3 * 3_600_000_000
        );
        let clash = assign(&store, "acme", "*", at("2026-10-03T10:30:00Z"))
            .await
            .unwrap_err();
        assert!(
            clash
                .to_string()
                .contains("both other (assignment 2) and acme"),
            "{clash}"
        );
    }
}

#[tokio::test]
async fn host_other_is_billed_only_when_it_is_assigned_by_name() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        cpu(&store, 1, at("2026-10-03T10:00:00Z"), [15 * HOUR, 0, 0, 0]).await;
        cpu(&store, 2, at("2026-10-03T10:00:00Z"), [5 * HOUR, 0, 0, 0]).await;
        let from = at("2026-10-02T00:00:00Z");
        assign(&store, "acme", "*", from).await.unwrap();
        let now = "2026-10-04T00:00:00Z";
        let before = drafted(&store, "acme", now).await.statement.lines[0].quantity;
        assert_eq!(
            before,
            10 * 3_600_000_000,
            "a star means neither host nor its rest"
        );
        assign(&store, "acme", "host/other", from).await.unwrap();
        let after = drafted(&store, "acme", now).await.statement.lines[0].quantity;
        assert_eq!(after, 15 * 3_600_000_000);
    }
}

#[tokio::test]
async fn a_period_that_runs_is_not_issued() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        let early = issue(&store, &order(Some("now!")), at("2026-10-31T23:59:59Z"))
            .await
            .unwrap_err();
        assert!(matches!(early, BillingError::NotEnded { .. }), "{early}");
    }
}

#[tokio::test]
async fn a_period_is_not_issued_while_a_node_is_outstanding() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        cover(&store, at("2026-10-31T23:59:59Z")).await;
        let refused = issue(&store, &order(None), november()).await.unwrap_err();
        let text = refused.to_string();
        assert!(
            matches!(refused, BillingError::Outstanding { .. }),
            "{text}"
        );
        assert!(
            text.contains("web-1 is accounted for until 2026-10-31T23:59:59Z"),
            "{text}"
        );
        let draft = drafted(&store, "acme", "2026-11-01T00:00:00Z").await;
        assert!(
            draft
                .statement
                .notes
                .iter()
                .any(|note| matches!(note, Note::Outstanding { .. }))
        );

        cover(&store, november()).await;
        assert!(matches!(
            issue(&store, &order(None), november()).await,
            Ok(Issued::Now(_))
        ));
    }
}

#[tokio::test]
async fn gaps_that_are_accepted_are_named_on_the_document() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        cover(&store, at("2026-10-20T00:00:00Z")).await;
        let empty = issue(&store, &order(Some("  ")), november()).await;
        assert!(empty.is_err(), "a reason of spaces is none");
        let issued = issue(&store, &order(Some("disk burnt")), november())
            .await
            .unwrap();
        let document: InvoiceDocument = serde_json::from_str(&issued.invoice().document).unwrap();
        let gaps = document.accepted_gaps.unwrap();
        assert_eq!(
            (gaps.reason.as_str(), gaps.outstanding[0].node_name.as_str()),
            ("disk burnt", "web-1")
        );
        assert_eq!(document.statement.notes.len(), 1);
    }
}

#[tokio::test]
async fn an_issued_invoice_never_changes_and_is_issued_once() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        let issued = issue(&store, &order(None), november()).await.unwrap();
        let first = issued.invoice().clone();
        assert_eq!(
            (first.number.as_str(), first.total.to_string().as_str()),
            ("TS-2026-000001", "0.12 EUR")
        );
        assert_eq!(
            first.digest,
            blake3::hash(first.document.as_bytes()).to_hex().to_string()
        );
        let document: InvoiceDocument = serde_json::from_str(&first.document).unwrap();
        assert_eq!(document.to_json(), first.document);
        assert_eq!(document.cut[0].seq.0, 4);
        assert_eq!(document.digests.statement, document.statement.digest());

        cpu(&store, 3, at("2026-10-05T10:00:00Z"), [HOUR; 4]).await;
        correct(&store, "acme", "host/other", at("2026-10-01T00:00:00Z"))
            .await
            .unwrap();
        let again = issue(&store, &order(None), at("2026-12-01T00:00:00Z"))
            .await
            .unwrap();
        assert_eq!(again, Issued::Before(first.clone()));
        let mut tx = store.read().await.unwrap();
        let held = crate::store::billing::invoices(&mut tx, None)
            .await
            .unwrap();
        assert_eq!(held, [first]);
    }
}

#[tokio::test]
async fn numbers_have_no_holes_although_attempts_fail() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        let mut numbers = Vec::new();
        for month in ["2026-08", "2026-10", "2026-09"] {
            cover(&store, at("2026-08-01T00:00:00Z")).await;
            let order = Order {
                which: Which::Month(month.parse().unwrap()),
                ..order(None)
            };
            assert!(issue(&store, &order, november()).await.is_err() || month != "2026-10");
            cover(&store, november()).await;
            numbers.push(
                issue(&store, &order, november())
                    .await
                    .unwrap()
                    .invoice()
                    .number
                    .clone(),
            );
        }
        numbers.sort();
        assert_eq!(
            numbers,
            ["TS-2026-000001", "TS-2026-000002", "TS-2026-000003"]
        );
        let next_year = Order {
            which: Which::Month("2026-11".parse().unwrap()),
            ..order(Some("x"))
        };
        let issued = issue(&store, &next_year, at("2027-01-02T00:00:00Z"))
            .await
            .unwrap();
        assert_eq!(issued.invoice().number, "TS-2027-000001");
    }
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        issue(&store, &order(None), november()).await.unwrap();
        let mut tx = store.read().await.unwrap();
        let actions: Vec<String> = audit::entries(&mut tx, 0, 100)
            .await
            .unwrap()
            .into_iter()
            .map(|entry| entry.action)
            .collect();
        assert_eq!(
            actions,
            [
                "account.create",
                "plan.apply",
                "subscription.create",
                "assignment.create",
                "invoice.issue"
            ]
        );
        assert!(matches!(
            audit::verify(&mut tx).await.unwrap(),
            Verification::Whole(_)
        ));
    }
}

#[tokio::test]
async fn a_plan_is_applied_once_and_its_versions_stay() {
    for engine in ENGINES {
        let (_folder, store) = world(engine).await;
        let now = at("2026-10-10T00:00:00Z");
        let spelled = super::testing::PLAN.replace("0.012", "0.0120");
        let same = change::apply_plan(&store, "test", &spelled, "test", now)
            .await
            .unwrap();
        assert_eq!(same.version, 1, "the same meaning is the same version");
        let dearer = super::testing::PLAN.replace("0.012", "0.024");
        let second = change::apply_plan(&store, "test", &dearer, "test", now)
            .await
            .unwrap();
        assert_eq!(second.version, 2);
        let draft = drafted(&store, "acme", "2026-10-11T00:00:00Z").await;
        assert_eq!(
            draft.statement.total.to_string(),
            "0.12 EUR",
            "a subscription keeps its version"
        );
    }
}

#[tokio::test]
async fn quarter_hours_of_which_nothing_was_said_belong_to_nobody() {
    for engine in ENGINES {
        let (_folder, store) = store(engine).await;
        node(&store, november()).await;
        let assigned_from = at("2026-10-03T10:45:00Z");
        acme(&store, assigned_from).await;
        cpu(&store, 3, at("2026-10-03T10:00:00Z"), [0, 0, 0, HOUR]).await;
        // The workload was born in the last quarter-hour: the row says nothing of the three before.
        let mut tx = store.write().await.unwrap();
        sql::query("UPDATE rollups SET exact0 = 0, exact1 = 0, exact2 = 0")
            .execute(&mut tx)
            .await
            .unwrap();
        let span = tallystick_common::period::Period {
            from: at("2026-10-03T00:00:00Z"),
            to: at("2026-10-04T00:00:00Z"),
        };
        let found = super::usage::assigned(&mut tx, span).await.unwrap();
        let owners: Vec<_> = found
            .iter()
            .map(|usage| usage.account.as_ref().map(ToString::to_string))
            .collect();
        assert_eq!(owners, [Some("acme".to_owned())]);
    }
}

/// A server whose clock stands at the first instant of December.
fn december() -> Timestamp {
    at("2026-12-01T00:00:00Z")
}

#[tokio::test]
async fn a_segment_ahead_of_the_clock_continues_its_stream_and_closes_no_period() {
    for engine in ENGINES {
        let mut world = World::at(engine, december).await;
        world.next(TO_DECEMBER - 3600, 10).await;
        let ahead = world.agent.draft(400 * 24 * 3600, 5);
        let verdict = world.seal(&ahead).await;
        assert!(
            matches!(verdict, Verdict::Quarantined(Doubt::Future { .. })),
            "{verdict:?}"
        );
        for restarted in [false, true] {
            if restarted {
                world.restart(december);
                let further = world.agent.draft(60, 5);
                assert!(world.seal(&further).await.advances(), "the chain goes on");
            }
            let refused = world.issue().await.unwrap_err();
            let BillingError::Outstanding { outstanding, .. } = &refused else {
                panic!("{refused}")
            };
            let through = Some(at("2026-11-30T23:00:00Z"));
            assert_eq!(outstanding[0].covered_through, through);
        }
        // Another stream of the node that speaks of the time as it is closes it.
        world.agent = world.agent.beside(3, TO_DECEMBER - 3600);
        world.next(3600, 7).await;
        let issued = world.issue().await.unwrap();
        let document: InvoiceDocument = serde_json::from_str(&issued.invoice().document).unwrap();
        assert_eq!(document.statement.lines[0].quantity, 17);
        assert_eq!(
            document.statement.notes.len(),
            1,
            "what is quarantined is named"
        );
    }
}
