//! Stories of rules: who owns what when, and which are refused.

use super::*;

const QUARTER: u64 = 900;

fn at(quarter: u64) -> Timestamp {
    Timestamp::from_seconds(quarter * QUARTER).unwrap()
}

fn new(account: &str, node: &str, workload: &str, from: u64) -> NewAssignment {
    NewAssignment::new(account.parse().unwrap(), node, workload, at(from)).unwrap()
}

fn rules(list: &[(&str, &str, &str, u64)]) -> Assignments {
    let rules = list
        .iter()
        .zip(1..)
        .map(|((account, node, workload, from), id)| {
            let rule = new(account, node, workload, *from);
            Assignment {
                id,
                account: rule.account,
                node: rule.node,
                workload: rule.workload,
                from: rule.from,
                ends: false,
                created_at: at(0),
            }
        });
    Assignments::new(rules.collect())
}

fn node(name: &str) -> NodeNames {
    NodeNames {
        id: NodeId([7; 16]),
        name: name.to_owned(),
    }
}

fn owner(rules: &Assignments, workload: &str, quarter: u64) -> Option<String> {
    rules
        .owner(&node("web-1"), workload, at(quarter))
        .map(|rule| rule.account.to_string())
}

#[test]
fn the_latest_effective_assignment_that_matches_wins() {
    let rules = rules(&[
        ("provider", "*", "cgroup/*", 1),
        ("acme", "web-*", "cgroup/acme*", 5),
        ("other", "db-*", "*", 6),
    ]);
    assert_eq!(owner(&rules, "cgroup/acme.slice", 0), None);
    assert_eq!(
        owner(&rules, "cgroup/acme.slice", 4).as_deref(),
        Some("provider")
    );
    assert_eq!(
        owner(&rules, "cgroup/acme.slice", 5).as_deref(),
        Some("acme")
    );
    assert_eq!(owner(&rules, "cgroup/ssh", 9).as_deref(), Some("provider"));
}

#[test]
fn the_host_is_nobodys_and_its_rest_must_be_named() {
    let rules = rules(&[("acme", "*", "*", 1)]);
    assert_eq!(owner(&rules, "host", 2), None);
    assert_eq!(owner(&rules, "host/other", 2), None);
    assert_eq!(owner(&rules, "interface/eth0", 2).as_deref(), Some("acme"));
    let error = NewAssignment::new("acme".parse().unwrap(), "*", "host", at(1)).unwrap_err();
    assert!(error.to_string().contains("never billed"), "{error}");
}

#[test]
fn an_instant_off_the_grid_is_refused() {
    let off = Timestamp::from_seconds(901).unwrap();
    let error = NewAssignment::new("acme".parse().unwrap(), "*", "*", off).unwrap_err();
    for neighbour in ["1970-01-01T00:15:00Z", "1970-01-01T00:30:00Z"] {
        assert!(error.to_string().contains(neighbour), "{error}");
    }
}

#[test]
fn two_accounts_for_the_same_thing_from_the_same_instant_are_refused() {
    let rules = rules(&[("acme", "web-*", "cgroup/*", 4)]);
    let nodes = [node("web-1")];
    let clash = |rule: &NewAssignment| rules.check(rule, &nodes).is_err();
    assert!(clash(&new("other", "*-1", "cgroup/x", 4)));
    assert!(clash(&new(
        "other",
        &NodeId([7; 16]).to_string(),
        "cgroup/x",
        4
    )));
    assert!(
        !clash(&new("other", "*-1", "cgroup/x", 5)),
        "a later rule takes over"
    );
    assert!(
        !clash(&new("acme", "*", "cgroup/x", 4)),
        "the same account may repeat itself"
    );
    assert!(!clash(&new("other", "db-*", "cgroup/x", 4)), "other nodes");
    assert!(
        !clash(&new("other", "*", "interface/*", 4)),
        "other workloads"
    );
    assert!(
        !clash(&new("other", "*", "host/other", 4)),
        "a star does not mean the host's rest"
    );
}

/// Adds rules in the order of making.
fn made(mut rules: Assignments, news: &[NewAssignment]) -> Assignments {
    for new in news {
        let id = i64::try_from(rules.0.len()).unwrap() + 1;
        rules.0.push(Assignment {
            id,
            account: new.account.clone(),
            node: new.node.clone(),
            workload: new.workload.clone(),
            from: new.from,
            ends: new.ends,
            created_at: at(u64::try_from(id).unwrap()),
        });
    }
    rules
}

#[test]
fn what_is_ended_is_nobodys_until_it_is_given_again() {
    let rules = rules(&[
        ("provider", "*", "cgroup/*", 1),
        ("acme", "web-*", "cgroup/acme*", 5),
    ]);
    let rules = made(
        rules,
        &[
            new("acme", "*", "*", 9).ending(),
            new("other", "*", "cgroup/acme*", 12),
        ],
    );
    let owners = [5, 8, 9, 11, 12].map(|quarter| owner(&rules, "cgroup/acme.slice", quarter));
    let [first, last, ended, still, given] = owners.each_ref().map(Option::as_deref);
    assert_eq!((first, last), (Some("acme"), Some("acme")));
    assert_eq!((ended, still), (None, None), "it falls back to nobody");
    assert_eq!(given, Some("other"));
    let ssh = owner(&rules, "cgroup/ssh", 20);
    assert_eq!(ssh.as_deref(), Some("provider"), "others' stays theirs");
}

#[test]
fn nothing_is_ended_that_was_not_given() {
    let rules = rules(&[("acme", "web-*", "cgroup/*", 4)]);
    let nodes = [node("web-1")];
    for (end, refused) in [
        (new("acme", "web-1", "cgroup/x", 5).ending(), false),
        (new("acme", "*", "*", 3).ending(), true),
        (new("other", "*", "*", 5).ending(), true),
        (new("acme", "db-*", "*", 5).ending(), true),
        (new("acme", "*", "*", 4).ending(), true),
        (new("acme", "*", "*", 4).ending().correcting(true), false),
    ] {
        assert_eq!(rules.check(&end, &nodes).is_err(), refused, "{end:?}");
    }
}

#[test]
fn of_rules_from_one_instant_the_correcting_one_holds() {
    let nodes = [node("web-1")];
    let rules = rules(&[("acme", "*", "cgroup/*", 4)]);
    let other = new("other", "*", "cgroup/x", 4).correcting(true);
    assert!(rules.check(&other, &nodes).is_ok());
    let again = new("acme", "*", "cgroup/*", 4);
    assert!(rules.same(&again, &nodes).is_some());
    let rules = made(rules, std::slice::from_ref(&other));
    assert_eq!(owner(&rules, "cgroup/x", 4).as_deref(), Some("other"));
    assert_eq!(owner(&rules, "cgroup/y", 4).as_deref(), Some("acme"));
    assert!(rules.same(&other, &nodes).is_some());
    let back = rules.same(&again, &nodes);
    assert!(
        back.is_none(),
        "it no longer holds: to make it again is a change"
    );
    let rules = made(rules, &[again]);
    assert_eq!(owner(&rules, "cgroup/x", 4).as_deref(), Some("acme"));
    let then = rules.made_by(at(2));
    assert_eq!(owner(&then, "cgroup/x", 4).as_deref(), Some("other"));
}

#[test]
fn a_rule_that_lost_a_part_of_what_it_gave_is_made_again() {
    let nodes = [node("web-1")];
    let rules = rules(&[("acme", "*", "cgroup/*", 4)]);
    let part = new("other", "*", "cgroup/x", 4).correcting(true);
    let rules = made(rules, &[part, new("acme", "*", "cgroup/y", 4)]);
    let again = new("acme", "*", "cgroup/*", 4).correcting(true);
    assert!(rules.same(&again, &nodes).is_none(), "x is the other's");
    let rules = made(rules, std::slice::from_ref(&again));
    assert_eq!(owner(&rules, "cgroup/x", 4).as_deref(), Some("acme"));
    assert!(rules.same(&again, &nodes).is_some());
}

#[test]
fn a_node_is_awaited_until_all_of_it_was_ended() {
    let rules = rules(&[("acme", "*", "cgroup/*", 4)]);
    let rules = made(rules, &[new("acme", "*", "cgroup/x", 8).ending()]);
    let acme: AccountId = "acme".parse().unwrap();
    let awaits = |rules: &Assignments, from, to| {
        let (from, to) = (at(from), at(to));
        rules.awaits_node(&acme, &node("web-1"), Period { from, to })
    };
    assert!(awaits(&rules, 20, 30), "only a part of it was ended");
    let rules = made(rules, &[new("acme", "web-*", "*", 12).ending()]);
    assert!(
        awaits(&rules, 8, 16),
        "it was the account's in a part of it"
    );
    assert!(!awaits(&rules, 12, 16));
    assert!(!awaits(&rules, 0, 4));
}
