//! Forks that are resolved, keys that are revoked.

use super::*;
use crate::ingest::testing::at;

/// A stream whose second segment was forked; the admitted branch, and the first segment of the other one.
async fn forked(store: &Store, commit: &Handle) -> (Agent, VerifiedSegment) {
    let mut agent = Agent::new(1, 2).enrolled(store).await;
    accepted(commit, agent.next(60, 10)).await;
    let other = agent.sealed(&agent.draft(60, 1000));
    accepted(commit, agent.next(60, 5)).await;
    let fork = send(commit, other.clone()).await;
    assert!(matches!(fork, Verdict::Fork { .. }), "{fork:?}");
    (agent, other)
}

#[tokio::test]
async fn the_admitted_branch_goes_on_where_it_stood() {
    for engine in ENGINES {
        let (home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let (mut agent, other) = forked(&store, &commit).await;
        let next = agent.next(60, 7);
        assert_eq!(send(&commit, next.clone()).await, Verdict::Held);
        let elsewhere = Store::open(&home.location).await.unwrap();
        let person = Person::at(&elsewhere, 100_000);
        let node = agent.node.to_string();
        let order = person.order(&node, agent.stream);
        let decided = resolve(&elsewhere, &order, Keep::Admitted, at(1))
            .await
            .unwrap();
        assert_eq!((decided.changed, decided.before), (0, false));
        let decision = decided.decision.clone().unwrap();
        assert_eq!((decision.first, decision.last), (Seq(1), None));
        accepted(&commit, next).await;
        assert_eq!(cpu(&store).await, 22, "every segment of one branch, once");
        // Whoever comes with the other branch again is told, and stops nobody.
        let fork = send(&commit, other).await;
        assert!(matches!(fork, Verdict::Fork { .. }), "{fork:?}");
        accepted(&commit, agent.next(60, 1)).await;
        let again = resolve(&store, &order, Keep::Admitted, at(2))
            .await
            .unwrap();
        assert!(again.before);
        let refused = resolve(&store, &order, Keep::Other, at(2))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, DecisionError::NotForked { .. }),
            "{refused}"
        );
        // Another fork is another question.
        let third = agent.sealed(&agent.draft(60, 1));
        accepted(&commit, agent.next(60, 2)).await;
        let fork = send(&commit, third).await;
        assert!(matches!(fork, Verdict::Fork { .. }), "{fork:?}");
        assert_eq!(send(&commit, agent.next(60, 1)).await, Verdict::Held);
        let frozen = "SELECT COUNT(*) FROM audit WHERE action = 'stream.freeze'";
        assert_eq!(count(&store, frozen).await, 2);
        assert_eq!(cpu(&store).await, 25);
    }
}

#[tokio::test]
async fn the_other_branch_takes_the_admitted_one_s_place_in_a_new_stream() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let (mut agent, _) = forked(&store, &commit).await;
        // Its holder was told, and began a new stream beside what counts.
        let mut holder = agent.beside(5, 60);
        quarantined(&commit, holder.next(60, 1000), "overlap").await;
        let person = Person::at(&store, 100_000);
        let node = agent.node.to_string();
        let order = person.order(&node, agent.stream);
        assert_eq!(doubt(person.accepts(&holder, 0).await), "overlap");
        let decided = resolve(&store, &order, Keep::Other, at(1)).await.unwrap();
        assert_eq!(decided.changed, 1);
        assert_eq!(cpu(&store).await, 10, "what was before the fork stays");
        let doubts =
            "SELECT COUNT(*) FROM segments WHERE doubt_code = 'fork' AND verdict = 'quarantined'";
        assert_eq!(count(&store, doubts).await, 1);
        person.accepts(&holder, 0).await.unwrap();
        assert_eq!(cpu(&store).await, 1010);
        accepted(&commit, holder.next(60, 1)).await;
        let Verdict::Refused(refusal) = send(&commit, agent.next(60, 7)).await else {
            panic!("the stream is over")
        };
        assert_eq!(refusal.reason, RefusalReason::StreamClosed);
        assert!(
            resolve(&store, &order, Keep::Other, at(2))
                .await
                .unwrap()
                .before
        );
        assert_eq!(doubt(person.accepts(&agent, 1).await), "overlap");
        assert_eq!(cpu(&store).await, 1011);
    }
}

#[tokio::test]
async fn a_stream_that_is_over_stays_over_when_it_is_forked_again() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let (mut agent, _) = forked(&store, &commit).await;
        let third = agent.sealed(&agent.draft(60, 2000));
        let next = agent.next(60, 7);
        let person = Person::at(&store, 100_000);
        let node = agent.node.to_string();
        let order = person.order(&node, agent.stream);
        resolve(&store, &order, Keep::Admitted, at(1))
            .await
            .unwrap();
        accepted(&commit, next).await;
        assert!(matches!(send(&commit, third).await, Verdict::Fork { .. }));
        resolve(&store, &order, Keep::Other, at(2)).await.unwrap();
        assert_eq!(cpu(&store).await, 15);
        // A branch that nobody has heard of yet, from before.
        let mut older = Agent::new(1, 2);
        older.next(60, 10);
        let fourth = older.next(60, 4000);
        assert!(matches!(send(&commit, fourth).await, Verdict::Fork { .. }));
        resolve(&store, &order, Keep::Admitted, at(3))
            .await
            .unwrap();
        let Verdict::Refused(refusal) = send(&commit, agent.next(60, 1)).await else {
            panic!("the stream is over")
        };
        assert_eq!(refusal.reason, RefusalReason::StreamClosed);
        assert_eq!(cpu(&store).await, 15);
    }
}

#[tokio::test]
async fn a_key_may_be_revoked_again_from_where_it_was() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        for quantity in [10, 5] {
            accepted(&commit, agent.next(60, quantity)).await;
        }
        let person = Person::at(&store, 100_000);
        let node = agent.node.to_string();
        let order = person.order(&node, agent.stream);
        revoke(&store, &order, Seq(1), false, at(1)).await.unwrap();
        person.rejects(&agent, 1).await.unwrap();
        let again = revoke(&store, &order, Seq(1), false, at(2)).await.unwrap();
        assert_eq!((again.changed, again.before), (0, false));
        assert_eq!(count(&store, "SELECT COUNT(*) FROM revocations").await, 1);
        assert_eq!(cpu(&store).await, 10);
    }
}

#[tokio::test]
async fn a_stream_that_is_not_forked_has_nothing_to_resolve() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        accepted(&commit, agent.next(60, 10)).await;
        let person = Person::at(&store, 1);
        let order = person.order("node-1", agent.stream);
        let refused = resolve(&store, &order, Keep::Other, at(1))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, DecisionError::NotForked { .. }),
            "{refused}"
        );
        let unknown = person.order("node-1", StreamId([9; 16]));
        let refused = resolve(&store, &unknown, Keep::Other, at(1))
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("no stream of this node"),
            "{refused}"
        );
        accepted(&commit, agent.next(60, 1)).await;
        assert_eq!(cpu(&store).await, 11);
    }
}

#[tokio::test]
async fn a_revoked_key_counts_for_what_came_before_and_signs_nothing_new() {
    for engine in ENGINES {
        for rolled_up in [false, true] {
            let (home, store) = store(engine).await;
            let commit = committing(&store, || at(100_000));
            let mut agent = Agent::new(1, 2).enrolled(&store).await;
            let segments: Vec<_> = [1, 20, 300, 4000]
                .map(|quantity| agent.next(60, quantity))
                .into();
            for segment in &segments {
                accepted(&commit, segment.clone()).await;
            }
            if rolled_up {
                rollup::catch_up(&store).await.unwrap();
            }
            let elsewhere = Store::open(&home.location).await.unwrap();
            let person = Person::at(&elsewhere, 100_000);
            let node = agent.node.to_string();
            let order = person.order(&node, agent.stream);
            let asked = revoke(&elsewhere, &order, Seq(2), true, at(9))
                .await
                .unwrap();
            assert_eq!((asked.changed, asked.decision), (2, None));
            assert_eq!(cpu(&store).await, 4321, "it was only asked");
            let next = agent.next(60, 1);
            let decided = revoke(&elsewhere, &order, Seq(2), false, at(9))
                .await
                .unwrap();
            assert_eq!(decided.changed, 2);
            assert_eq!(cpu(&store).await, 21);
            let beside = agent.beside(3, 600).next(60, 5);
            for refused in [next, beside] {
                let Verdict::Refused(refusal) = send(&commit, refused).await else {
                    panic!("taken")
                };
                assert_eq!(refusal.reason, RefusalReason::Signature);
                assert!(refusal.detail.contains("revoked"), "{}", refusal.detail);
                assert!(
                    refusal.detail.contains("looked at it"),
                    "{}",
                    refusal.detail
                );
            }
            // Both had their receipts before.
            for segment in [&segments[0], &segments[3]] {
                assert_eq!(send(&commit, segment.clone()).await, Verdict::Duplicate);
            }
            let refused = person.accepts(&agent, 2).await.unwrap_err();
            assert!(
                matches!(refused, DecisionError::Revoked { .. }),
                "{refused}"
            );
            let again = revoke(&store, &order, Seq(2), false, at(10)).await.unwrap();
            assert!(again.before);
            // It was stolen earlier than was thought.
            let earlier = revoke(&store, &order, Seq(1), false, at(10)).await.unwrap();
            assert_eq!(earlier.changed, 1);
            assert_eq!(cpu(&store).await, 1);
            // A new node of the same host goes on.
            let mut anew = Agent::new(9, 9).enrolled(&store).await;
            accepted(&commit, anew.next(60, 70)).await;
            assert_eq!(cpu(&store).await, 71);
            let kept = "SELECT COUNT(*) FROM refusals WHERE reason = 'signature'";
            assert_eq!(count(&store, kept).await, 2);
        }
    }
}

/// Whoever has the key names one of his own with it: that one is as dead from there on.
#[tokio::test]
async fn a_key_that_a_revoked_one_named_is_revoked_too() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        accepted(&commit, agent.next(60, 1)).await;
        let mut rotating = agent.draft(60, 20);
        rotating.header.purpose = Purpose::RotateKey([55; 32]);
        accepted(&commit, agent.seal(&rotating)).await;
        let person = Person::at(&store, 100_000);
        let order = person.order("node-1", agent.stream);
        revoke(&store, &order, Seq(1), false, at(9)).await.unwrap();
        let Verdict::Refused(refusal) = send(&commit, agent.next(60, 300)).await else {
            panic!("taken")
        };
        assert_eq!(refusal.reason, RefusalReason::Signature);
        assert_eq!(cpu(&store).await, 1);
    }
}

/// A fork that a stolen key makes stops nobody: what it signs is refused first.
#[tokio::test]
async fn a_revoked_key_forks_nothing() {
    for engine in ENGINES {
        let (_home, store) = store(engine).await;
        let commit = committing(&store, || at(100_000));
        let mut agent = Agent::new(1, 2).enrolled(&store).await;
        let other = agent.sealed(&agent.draft(60, 9));
        accepted(&commit, agent.next(60, 1)).await;
        let mut beside = agent.beside(3, 600);
        accepted(&commit, beside.next(60, 5)).await;
        let person = Person::at(&store, 100_000);
        let order = person.order("node-1", beside.stream);
        revoke(&store, &order, Seq(0), false, at(9)).await.unwrap();
        let Verdict::Refused(refusal) = send(&commit, other).await else {
            panic!("taken")
        };
        assert_eq!(refusal.reason, RefusalReason::Signature);
        assert_eq!(count(&store, "SELECT COUNT(*) FROM forks").await, 0);
        assert_eq!(cpu(&store).await, 1);
    }
}

#[tokio::test]
async fn a_revocation_names_the_invoices_that_it_touches() {
    for engine in ENGINES {
        let mut world = World::new(engine).await;
        world.next(TO_DECEMBER / 2, 1000).await;
        world.next(TO_DECEMBER / 2, 500).await;
        world.next(7200, 300).await;
        let issued = world.issue().await.unwrap();
        let person = Person::at(&world.store, 100_000);
        let order = person.order("node-1", world.agent.stream);
        let asked = revoke(&world.store, &order, Seq(1), true, at(9))
            .await
            .unwrap();
        let decided = revoke(&world.store, &order, Seq(1), false, at(9))
            .await
            .unwrap();
        assert_eq!(asked.touched, decided.touched);
        let number = &issued.invoice().number;
        let touched: Vec<_> = decided
            .touched
            .iter()
            .map(|one| (&*one.account, one.invoice.as_ref()))
            .collect();
        assert_eq!(touched, [("acme", Some(number)), ("acme", None)]);
        assert_eq!(
            decided.touched[1].period_from.to_string(),
            "2026-12-01T00:00:00Z"
        );
        let draft = world.draft("acme", "2026-11-30T23:59:59Z").await;
        assert_eq!(draft.statement.lines[0].quantity, 1000);
        assert_eq!(draft.statement.discrepancies, [], "I3");
        assert_eq!(draft.cut[0].quarantined, [Seq(1), Seq(2)]);
    }
}
