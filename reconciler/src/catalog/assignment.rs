//! Assignments: which workloads of which nodes belong to which account, from when.
//!
//! The latest effective assignment that matches a workload of a node wins. Two assignments to
//! different accounts that could match the same workload from the same instant are refused when
//! the second is made, so "latest" is never a tie between accounts. `host` is never assigned (the
//! host's total is its workloads plus `host/other`); `host/other` only by a selector that begins
//! with `host/`.
//!
//! A rule may end what is an account's: from its instant on nobody has it, until a later rule gives it away.
//! A rule that is made to correct may take the place of others from the same instant: of them the one that
//! was made last holds. Rules are only added, so [`Assignments::made_by`] tells what held at any time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tallystick_common::ids::{NodeId, WorkloadName};
use tallystick_common::period::Period;
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
    /// Whether it ends what is the account's of what it selects; left out when it gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
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
    /// Whether it ends what is the account's.
    pub ends: bool,
    /// Whether it may say of a time that was invoiced, or in place of a rule from the same instant, what was
    /// not said before.
    pub corrects: bool,
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
            ends: false,
            corrects: false,
        })
    }

    /// The same selectors, to end what is the account's.
    #[must_use]
    pub fn ending(self) -> Self {
        Self { ends: true, ..self }
    }

    /// The same, to correct what was said before.
    #[must_use]
    pub fn correcting(self, corrects: bool) -> Self {
        Self { corrects, ..self }
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
        let effective = |rule: &&Assignment| rule.from <= at && rule.matches(node, workload);
        let gives = self.0.iter().filter(|rule| !rule.ends).filter(effective);
        let given = gives.max_by_key(|rule| rule.place())?;
        let ended = |rule: &Assignment| {
            rule.ends && rule.account == given.account && rule.place() > given.place()
        };
        let mut ends = self.0.iter().filter(|rule| ended(rule)).filter(effective);
        ends.next().is_none().then_some(given)
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

    /// Whether some rule for the account may give it workloads of the node in the period: one that was not
    /// ended whole before.
    #[must_use]
    pub fn awaits_node(&self, account: &AccountId, node: &NodeNames, period: Period) -> bool {
        let own = || self.0.iter().filter(|rule| rule.account == *account);
        let ended = |given: &Assignment| {
            own().any(|rule| {
                rule.ends
                    && rule.from <= period.from
                    && rule.place() > given.place()
                    && rule.matches_node(node)
                    && covers(&rule.workload, &given.workload)
            })
        };
        own().any(|rule| {
            !rule.ends && rule.from < period.to && rule.matches_node(node) && !ended(rule)
        })
    }

    /// Rules that could select what a new one selects.
    pub fn beside<'a>(
        &'a self,
        new: &'a NewAssignment,
        nodes: &'a [NodeNames],
    ) -> impl Iterator<Item = &'a Assignment> {
        self.0.iter().filter(|rule| {
            workloads_intersect(&rule.workload, &new.workload)
                && nodes_intersect(&rule.node, &new.node, nodes)
        })
    }

    /// Refuses a rule that gives a workload to a second account from the same instant, or gives and ends
    /// it at once, unless it is made to correct that; and one that ends what was never given.
    ///
    /// # Errors
    /// Names the rule in the way.
    pub fn check(&self, new: &NewAssignment, nodes: &[NodeNames]) -> Result<(), CatalogError> {
        if new.ends && !self.gave(new, nodes) {
            return Err(CatalogError::Invalid {
                what: "end of an assignment",
                value: format!("workloads {} of nodes {}", new.workload, new.node),
                why: format!(
                    "nothing of it was assigned to {} by {}; see `assign list`",
                    new.account, new.from
                ),
            });
        }
        let clash = self.beside(new, nodes).find(|rule| {
            let same_account = rule.account == new.account;
            let both_give = !rule.ends && !new.ends;
            rule.from == new.from
                && !new.corrects
                && ((both_give && !same_account) || (same_account && rule.ends != new.ends))
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

    fn gave(&self, new: &NewAssignment, nodes: &[NodeNames]) -> bool {
        let mut beside = self.beside(new, nodes);
        beside.any(|rule| !rule.ends && rule.account == new.account && rule.from <= new.from)
    }

    /// The same rule, if it was made before and none from the same instant took its place since, or a part of it.
    #[must_use]
    pub fn same<'a>(
        &'a self,
        new: &'a NewAssignment,
        nodes: &'a [NodeNames],
    ) -> Option<&'a Assignment> {
        let said = self.beside(new, nodes).filter(|rule| rule.says(new));
        let held = said.max_by_key(|rule| rule.id)?;
        let mut since = self
            .beside(new, nodes)
            .filter(|rule| rule.from == new.from && rule.id > held.id);
        let replaced = |rule: &Assignment| rule.account != new.account || rule.ends != new.ends;
        (!since.any(replaced)).then_some(held)
    }
}

impl Assignment {
    /// Later places decide.
    fn place(&self) -> (Timestamp, i64) {
        (self.from, self.id)
    }

    fn says(&self, new: &NewAssignment) -> bool {
        self.account == new.account
            && self.ends == new.ends
            && self.from == new.from
            && self.node == new.node
            && self.workload == new.workload
    }

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

/// Whether whatever one pattern selects the other does, as far as their text tells.
fn covers(wide: &Pattern, narrow: &Pattern) -> bool {
    let special = narrow.as_str() == WorkloadName::HOST_OTHER;
    wide == narrow || (wide.as_str() == "*" && !special)
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
mod tests;
