//! What was agreed: documents against the digests on the invoice, the period, what was whose.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::node::Node;
use super::{Difference, Step};
use crate::evidence::{Holding, Terms as TermsPart};
use crate::ids::{Hash, NodeId, WorkloadName};
use crate::invoice::{InvoiceDocument, digest};
use crate::money::Currency;
use crate::pattern::{Pattern, selects_workload};
use crate::period::{Calendar, Period, Zone};
use crate::price::Plan;
use crate::statement::{AccountRef, PlanWindow, Statement};
use crate::time::Timestamp;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    id: String,
    name: String,
    currency: String,
    time_zone: String,
    anchor_day: u8,
    #[serde(rename = "created_at")]
    _created_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscription {
    #[serde(rename = "id")]
    _id: i64,
    account: String,
    plan: String,
    #[serde(rename = "plan_version")]
    _plan_version: i64,
    from: Timestamp,
    #[serde(rename = "created_at")]
    _created_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assignment {
    id: i64,
    account: String,
    node: Pattern,
    workload: Pattern,
    from: Timestamp,
    #[serde(default)]
    ends: bool,
    #[serde(rename = "created_at")]
    _created_at: Timestamp,
}

/// What was agreed, read.
pub(super) struct Terms {
    pub(super) account: AccountRef,
    pub(super) windows: Vec<PlanWindow>,
    pub(super) holdings: Vec<Held>,
    rules: Vec<Assignment>,
}

/// A holding, read.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) node: NodeId,
    pub(super) workload: WorkloadName,
    pub(super) span: Period,
}

pub(super) fn read(part: &TermsPart, document: &InvoiceDocument) -> Result<Terms, Difference> {
    let digests = &document.digests;
    let account: Account = json("account", &part.account, digests.account)?;
    let subscriptions: Vec<Subscription> =
        json("subscriptions", &part.subscriptions, digests.subscriptions)?;
    let rules: Vec<Assignment> = json("assignments", &part.assignments, digests.assignments)?;
    let foreign = subscriptions.iter().map(|held| &held.account);
    if let Some(other) = foreign
        .chain(rules.iter().map(|rule| &rule.account))
        .find(|id| **id != account.id)
    {
        let why = format!("a subscription or assignment is of {other:?}");
        return Err(Difference::new(Step::Documents, "account", why));
    }
    let period = document.statement.period;
    check_period(&account, period, &document.tz_database)?;
    let windows = windows(&part.plans, subscriptions, document)?;
    let account = account_ref(account)?;
    Ok(Terms {
        account,
        windows,
        holdings: holdings(&part.holdings, &document.statement)?,
        rules,
    })
}

fn json<T: DeserializeOwned>(what: &str, bytes: &[u8], expected: Hash) -> Result<T, Difference> {
    let differs = |why: String| Difference::new(Step::Documents, what, why);
    let found = digest(bytes);
    if found != expected {
        let why = format!("the digest is {found}, the invoice names {expected}");
        return Err(differs(why));
    }
    serde_json::from_slice(bytes).map_err(|error| differs(error.to_string()))
}

fn account_ref(account: Account) -> Result<AccountRef, Difference> {
    let differs = |why: String| Difference::new(Step::Documents, "account", why);
    Ok(AccountRef {
        currency: Currency::new(&account.currency).map_err(|error| differs(error.to_string()))?,
        zone: Zone::new(&account.time_zone).map_err(|error| differs(error.to_string()))?,
        id: account.id,
        name: account.name,
    })
}

fn check_period(account: &Account, period: Period, tz: &str) -> Result<(), Difference> {
    let differs = |why: String| Difference::new(Step::Period, period, why);
    let calendar = Zone::new(&account.time_zone)
        .and_then(|zone| Calendar::new(zone, account.anchor_day))
        .map_err(|error| differs(error.to_string()))?;
    let (_, expected) = calendar
        .containing(period.from)
        .map_err(|error| differs(error.to_string()))?;
    if expected == period {
        return Ok(());
    }
    Err(differs(format!(
        "the calendar of {} gives {expected} (the invoice was bounded with time zones {tz})",
        account.time_zone
    )))
}

/// Which plan prices when: a subscription holds until the next one begins.
fn windows(
    plans: &[Vec<u8>],
    mut subscriptions: Vec<Subscription>,
    document: &InvoiceDocument,
) -> Result<Vec<PlanWindow>, Difference> {
    let differs = |why: String| Difference::new(Step::Documents, "plans", why);
    let period = document.statement.period;
    subscriptions.sort_by_key(|held| held.from);
    let ends = subscriptions.iter().skip(1).map(|next| next.from);
    let ends: Vec<Timestamp> = ends.chain([Timestamp::MAX]).collect();
    let spans = subscriptions.iter().zip(ends).filter_map(|(held, to)| {
        let span = Period {
            from: held.from,
            to,
        };
        Some((held, span.overlap(&period)?))
    });
    let spans: Vec<_> = spans.collect();
    let digests = &document.digests.plans;
    if spans.len() != plans.len() || plans.len() != digests.len() {
        let why = "their number is not that of the subscriptions in the period";
        return Err(differs(why.to_owned()));
    }
    let mut windows = Vec::new();
    for (((held, span), bytes), expected) in spans.into_iter().zip(plans).zip(digests) {
        let plan = plan(bytes)?;
        if plan.digest() != *expected || plan.name != held.plan {
            let why = format!(
                "plan {:?} has digest {}, the invoice names {expected}",
                plan.name,
                plan.digest()
            );
            return Err(differs(why));
        }
        windows.push(PlanWindow {
            plan,
            from: span.from,
            to: span.to,
        });
    }
    Ok(windows)
}

fn plan(bytes: &[u8]) -> Result<Plan, Difference> {
    let differs = |why: String| Difference::new(Step::Documents, "plans", why);
    let plan: Plan = serde_json::from_slice(bytes).map_err(|error| differs(error.to_string()))?;
    let again = serde_json::to_vec(&plan).map_err(|error| differs(error.to_string()))?;
    if again == bytes {
        Ok(plan)
    } else {
        Err(differs("a plan is in another spelling".to_owned()))
    }
}

/// What was held, of the workloads that the statement names and no others.
fn holdings(part: &[Holding], statement: &Statement) -> Result<Vec<Held>, Difference> {
    let lines = statement.lines.iter().flat_map(|line| &line.details);
    let unpriced = statement.unpriced.iter().map(|unpriced| &unpriced.detail);
    let named: BTreeSet<(NodeId, &WorkloadName)> = lines
        .chain(unpriced)
        .map(|detail| (detail.of.node, &detail.of.workload))
        .collect();
    let differs =
        |holding: &Holding, why: &str| Difference::new(Step::Assignments, &holding.workload, why);
    let mut held: Vec<Held> = Vec::with_capacity(part.len());
    for holding in part {
        let span = holding.span();
        let whole = span.from < span.to && span.from.is_quarter_hour() && span.to.is_quarter_hour();
        if !whole || !statement.period.covers(&span) {
            return Err(differs(holding, "it is held outside the period"));
        }
        let workload = holding
            .workload()
            .map_err(|error| differs(holding, &error.to_string()))?;
        if !named.contains(&(holding.node, &workload)) {
            return Err(differs(holding, "the statement does not name it"));
        }
        let follows = held.last().is_none_or(|last| {
            let key = (last.node, &last.workload);
            key < (holding.node, &workload)
                || (key == (holding.node, &workload) && last.span.to <= span.from)
        });
        if !follows {
            return Err(differs(holding, "it is held twice, or out of order"));
        }
        held.push(Held {
            node: holding.node,
            workload,
            span,
        });
    }
    Ok(held)
}

impl Terms {
    /// The holdings of a node.
    pub(super) fn of(&self, node: NodeId) -> impl Iterator<Item = &Held> {
        self.holdings.iter().filter(move |held| held.node == node)
    }

    /// Whether a workload may be shown in a segment of that time.
    pub(super) fn may_show(&self, node: NodeId, workload: &WorkloadName, time: Period) -> bool {
        let touches = |held: &Held| {
            held.workload == *workload && held.span.from <= time.to && held.span.to >= time.from
        };
        workload.is_host() || self.of(node).any(touches)
    }

    /// Whether a rule of the account selects what is held, from its beginning on.
    pub(super) fn check_rules(&self, node: NodeId, name: &str) -> Result<(), Difference> {
        let selects = |rule: &Assignment, held: &Held| {
            let by_id = rule.node.as_str().parse::<NodeId>();
            let node = by_id.map_or_else(|_| rule.node.matches(name), |id| id == node);
            rule.from <= held.span.from
                && node
                && selects_workload(&rule.workload, held.workload.as_str())
        };
        // Of the account's own rules the latest decides; one that ends gives nothing.
        let latest = |held: &Held| {
            let selecting = self.rules.iter().filter(|rule| selects(rule, held));
            selecting.max_by_key(|rule| (rule.from, rule.id))
        };
        let unassigned = |held: &&Held| latest(held).is_none_or(|rule| rule.ends);
        match self.of(node).find(unassigned) {
            None => Ok(()),
            Some(held) => {
                let why = format!(
                    "no assignment of the account selects it on {name} from {} on",
                    held.span.from
                );
                Err(Difference::new(Step::Assignments, &held.workload, why))
            }
        }
    }
}

/// Whether the file has the nodes that are held on, each once, and no other.
pub(super) fn check_nodes(terms: &Terms, nodes: &[Node]) -> Result<(), Difference> {
    if !nodes.is_sorted_by(|a, b| a.id < b.id) {
        let why = "nodes are out of order, or one is there twice";
        return Err(Difference::new(Step::Node, "nodes", why));
    }
    if let Some(node) = nodes.iter().find(|node| terms.of(node.id).next().is_none()) {
        let why = "nothing on it is the account's";
        return Err(Difference::new(Step::Node, &node.name, why));
    }
    let there = |held: &Held| nodes.iter().any(|node| node.id == held.node);
    match terms.holdings.iter().find(|held| !there(held)) {
        None => Ok(()),
        Some(held) => Err(Difference::new(
            Step::Node,
            held.node,
            "it is not in the file",
        )),
    }
}
