//! Assignments: which workloads of which nodes belong to which account, from when.
//!
//! The latest effective assignment that matches a workload of a node wins. Two assignments to
//! different accounts that could match the same workload from the same instant are refused when
//! the second is made, so "latest" is never a tie between accounts. `host` is never assigned (the
//! host's total is its workloads plus `host/other`); `host/other` only by a selector that begins
//! with `host/`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tallystick_common::ids::{NodeId, WorkloadName};
use tallystick_common::time::Timestamp;
use utoipa::ToSchema;

use super::pattern::selects_workload;
use super::{AccountId, CatalogError, Pattern, quarter_hour};

/// A node as selectors see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNames {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// One rule. Rules are never changed; a later one takes over from its instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// 1, 2, 3 in the order of making.
    pub id: i64,
    /// Who gets the usage.
    pub account: AccountId,
    /// A node's id, or a pattern on nodes' names.
    #[schema(value_type = String, example = "web-*")]
    pub node: Pattern,
    /// A pattern on workloads' names.
    #[schema(value_type = String, example = "cgroup/*")]
    pub workload: Pattern,
    /// From when, a quarter-hour.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// When the rule was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// An assignment that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAssignment {
    /// Who gets the usage.
    pub account: AccountId,
    /// A node's id, or a pattern on nodes' names.
    pub node: Pattern,
    /// A pattern on workloads' names.
    pub workload: Pattern,
    /// From when.
    pub from: Timestamp,
}

impl NewAssignment {
    /// Checks what can be checked without looking at other rules.
    ///
    /// # Errors
    /// For a selector or instant outside its grammar.
    pub fn new(
        account: AccountId,
        node: &str,
        workload: &str,
        from: Timestamp,
    ) -> Result<Self, CatalogError> {
        let workload_pattern = Pattern::new("workload selector", workload)?;
        if workload == WorkloadName::HOST {
            return Err(CatalogError::Invalid {
                what: "workload selector",
                value: workload.to_owned(),
                why: "host is the control reading of the whole node and is never billed; assign cgroup/* and host/other"
                    .to_owned(),
            });
        }
        Ok(Self {
            account,
            node: Pattern::new("node selector", node)?,
            workload: workload_pattern,
            from: quarter_hour(from)?,
        })
    }
}

/// All rules, in the order of making.
#[derive(Debug, Clone, Default)]
pub struct Assignments(Vec<Assignment>);

impl Assignments {
    /// From the store's rows.
    #[must_use]
    pub fn new(mut rules: Vec<Assignment>) -> Self {
        rules.sort_by_key(|rule| rule.id);
        Self(rules)
    }

    /// Every rule.
    pub fn iter(&self) -> impl Iterator<Item = &Assignment> {
        self.0.iter()
    }

    /// The rules for an account.
    #[must_use]
    pub fn of(&self, account: &AccountId) -> Vec<&Assignment> {
        let of = |rule: &&Assignment| rule.account == *account;
        self.0.iter().filter(of).collect()
    }

    /// The rules that were made by then.
    #[must_use]
    pub fn made_by(&self, at: Timestamp) -> Self {
        let made = self.0.iter().filter(|rule| rule.created_at <= at);
        Self(made.cloned().collect())
    }

    /// The rule that says whose the workload is at an instant.
    #[must_use]
    pub fn owner(&self, node: &NodeNames, workload: &str, at: Timestamp) -> Option<&Assignment> {
        self.0
            .iter()
            .filter(|rule| rule.from <= at && rule.matches(node, workload))
            .max_by_key(|rule| (rule.from, rule.id))
    }

    /// Instants within `(from, to)` at which some rule takes effect: between two of them nobody's
    /// usage changes hands.
    #[must_use]
    pub fn changes(&self, from: Timestamp, to: Timestamp) -> BTreeSet<Timestamp> {
        self.0
            .iter()
            .map(|rule| rule.from)
            .filter(|at| *at > from && *at < to)
            .collect()
    }

    /// Whether some rule for the account, effective before `to`, selects the node.
    #[must_use]
    pub fn selects_node(&self, account: &AccountId, node: &NodeNames, to: Timestamp) -> bool {
        self.0
            .iter()
            .any(|rule| rule.account == *account && rule.from < to && rule.matches_node(node))
    }

    /// Refuses a rule that gives a workload to a second account from the same instant.
    ///
    /// # Errors
    /// Names the rule in the way.
    pub fn check(&self, new: &NewAssignment, nodes: &[NodeNames]) -> Result<(), CatalogError> {
        let clash = self.0.iter().find(|rule| {
            rule.from == new.from
                && rule.account != new.account
                && workloads_intersect(&rule.workload, &new.workload)
                && nodes_intersect(&rule.node, &new.node, nodes)
        });
        match clash {
            None => Ok(()),
            Some(rule) => Err(CatalogError::Overlap {
                account: new.account.clone(),
                other: rule.account.clone(),
                id: rule.id,
                node: new.node.to_string(),
                workload: new.workload.to_string(),
                from: new.from,
            }),
        }
    }

    /// The same rule, if it was made before.
    #[must_use]
    pub fn same(&self, new: &NewAssignment) -> Option<&Assignment> {
        self.0.iter().find(|rule| {
            rule.account == new.account
                && rule.from == new.from
                && rule.node == new.node
                && rule.workload == new.workload
        })
    }
}

impl Assignment {
    fn matches(&self, node: &NodeNames, workload: &str) -> bool {
        self.matches_node(node) && selects_workload(&self.workload, workload)
    }

    fn matches_node(&self, node: &NodeNames) -> bool {
        node_matches(&self.node, node)
    }
}

/// Whether a node selector stands for a node: its id in full, or a pattern on its name.
#[must_use]
pub fn node_matches(selector: &Pattern, node: &NodeNames) -> bool {
    match selector.as_str().parse::<NodeId>() {
        Ok(id) => node.id == id,
        Err(_) => selector.matches(&node.name),
    }
}

fn workloads_intersect(left: &Pattern, right: &Pattern) -> bool {
    let both_other = [left, right]
        .iter()
        .all(|selector| selects_workload(selector, WorkloadName::HOST_OTHER));
    if both_other {
        return true;
    }
    // Apart from `host` and `host/other`, which the rules above treat, any common name counts.
    let special = |selector: &Pattern| selector.as_str() == WorkloadName::HOST_OTHER;
    !special(left) && !special(right) && left.intersects(right)
}

fn nodes_intersect(left: &Pattern, right: &Pattern, nodes: &[NodeNames]) -> bool {
    let id = |selector: &Pattern| selector.as_str().parse::<NodeId>().ok();
    match (id(left), id(right)) {
        (None, None) => left.intersects(right),
        (Some(left), Some(right)) => left == right,
        (Some(id), None) => known(nodes, id).is_none_or(|node| node_matches(right, node)),
        (None, Some(id)) => known(nodes, id).is_none_or(|node| node_matches(left, node)),
    }
}

fn known(nodes: &[NodeNames], id: NodeId) -> Option<&NodeNames> {
    nodes.iter().find(|node| node.id == id)
}

#[cfg(test)]
mod tests {
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
}
