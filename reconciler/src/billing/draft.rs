//! Drafts: the statement of an account for a period, as of now.

use std::collections::{BTreeMap, BTreeSet};

use tallystick_common::ids::{NodeId, Seq, WorkloadName};
use tallystick_common::money::{Currency, RoundingMode};
use tallystick_common::period::{Calendar, Month, Period, Zone};
use tallystick_common::price::Plan;
use tallystick_common::statement::{
    AccountRef, Note, PlanWindow, Statement, StatementInput, UsageItem,
};
use tallystick_common::time::{QUARTER_HOUR_US, Timestamp};

use super::BillingError;
use super::closing::{self, Standing};
use super::document::{CutDecision, CutPosition, Digests, Outstanding, digest_of};
use super::registers::{self, Counted};
use super::usage::{self, UsageRow};
use crate::catalog::assignment::NodeNames;
use crate::catalog::change::known_account;
use crate::catalog::{Account, Assignments, Subscription, subscription};
use crate::store::billing::StreamPosition;
use crate::store::decisions::DecisionRow;
use crate::store::inspect::GapRow;
use crate::store::nodes::Node;
use crate::store::streams::Stream;
use crate::store::{self, Connection, StoreError};

/// A statement as of now, and what issuing it would need to know.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Lines, steps and totals.
    pub statement: Statement,
    /// Nodes whose time is awaited: without them the period cannot be closed.
    pub outstanding: Vec<Outstanding>,
    /// Nodes that are banned or retired and will not account for the rest.
    pub missing: Vec<Outstanding>,
    /// Up to where each stream was counted.
    pub cut: Vec<CutPosition>,
    /// What decided the amounts.
    pub digests: Digests,
}

/// Which period a draft is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that holds an instant.
    At(Timestamp),
    /// The one that begins in a month.
    Month(Month),
}

/// The period of an account.
///
/// # Errors
/// When the account has no such period.
pub fn period_of(account: &Account, which: Which) -> Result<Period, BillingError> {
    let calendar = Calendar::new(Zone::new(&account.time_zone)?, account.anchor_day)?;
    match which {
        Which::At(instant) => Ok(calendar.containing(instant)?.1),
        Which::Month(month) => Ok(calendar.period(month)?),
    }
}

/// All that is read from the store for one statement.
struct Facts {
    account: Account,
    period: Period,
    rules: Assignments,
    subscriptions: Vec<Subscription>,
    nodes: Vec<Node>,
    positions: Vec<StreamPosition>,
    streams: Vec<Stream>,
}

impl Facts {
    async fn read(
        conn: &mut Connection,
        account: &str,
        which: Which,
    ) -> Result<Self, BillingError> {
        let account = known_account(conn, account).await?;
        let period = period_of(&account, which)?;
        Self::of(conn, account, period).await
    }

    async fn of(
        conn: &mut Connection,
        account: Account,
        period: Period,
    ) -> Result<Self, BillingError> {
        Ok(Self {
            period,
            rules: store::catalog::assignments(conn).await?,
            subscriptions: store::catalog::subscriptions(conn, Some(&account.id)).await?,
            nodes: store::nodes::all(conn).await?,
            positions: store::billing::stream_positions(conn).await?,
            streams: store::streams::all(conn).await?,
            account,
        })
    }

    /// Until when the node's time of this period is accounted for without a hole. A claim about the future
    /// proves nothing.
    fn covered_through(&self, node: &Node) -> Option<Timestamp> {
        store::billing::accounted_through(&self.positions, node.id, self.period.from)
    }

    /// Instants at which usage must be cut: it may change hands or plan there.
    fn cuts(&self, now: Timestamp) -> Vec<Timestamp> {
        let Period { from, to } = self.period;
        let to = now.next_multiple(QUARTER_HOUR_US).min(to);
        cuts(&self.rules, &self.subscriptions, Period { from, to })
    }

    /// Whether the period needs the node's time.
    fn waits_for(&self, node: &Node, usage: &[UsageItem]) -> bool {
        let carried = usage.iter().any(|item| item.node == node.id);
        closing::awaits(&self.rules, &self.account.id, &self.period, node, carried)
    }

    fn outstanding(&self, usage: &[UsageItem]) -> (Vec<Outstanding>, Vec<Outstanding>) {
        let needed = self.nodes.iter().filter(|node| self.waits_for(node, usage));
        let needed: Vec<&Node> = needed.collect();
        let all = |wanted: Standing| {
            let stands = |node: &&&Node| {
                closing::standing(node, self.covered_through(node), &self.period) == wanted
            };
            let row = |node: &&Node| Outstanding {
                node: node.id,
                node_name: node.name.clone(),
                state: node.state.as_str().to_owned(),
                covered_through: self.covered_through(node),
            };
            needed.iter().filter(stands).map(row).collect()
        };
        (all(Standing::Outstanding), all(Standing::Missing))
    }

    /// Up to where the streams were counted of the nodes that the account may own workloads of.
    async fn cut(&self, conn: &mut Connection) -> Result<Vec<CutPosition>, StoreError> {
        let selected = self.selected();
        let mut cut = Vec::new();
        for stream in &self.streams {
            let (Some(last), true) = (
                stream.next.0.checked_sub(1),
                selected.contains_key(&stream.node),
            ) else {
                continue;
            };
            let since = self.period.from;
            cut.push(CutPosition {
                node: stream.node,
                stream: stream.stream,
                seq: Seq(last),
                hash: stream.head,
                covered_through: stream.covered_through,
                quarantined: store::readings::quarantined_after(conn, stream.row, since).await?,
                decisions: decided(conn, stream, since).await?,
            });
        }
        Ok(cut)
    }

    /// Nodes of which the account may own workloads.
    fn selected(&self) -> BTreeMap<NodeId, &str> {
        let names = |node: &&Node| NodeNames {
            id: node.id,
            name: node.name.clone(),
        };
        let (account, to) = (&self.account.id, self.period.to);
        self.nodes
            .iter()
            .filter(|node| self.rules.selects_node(account, &names(node), to))
            .map(|node| (node.id, node.name.as_str()))
            .collect()
    }

    fn owns(&self, node: NodeId, node_name: &str, workload: &WorkloadName, at: Timestamp) -> bool {
        let node = NodeNames {
            id: node,
            name: node_name.to_owned(),
        };
        let owner = self.rules.owner(&node, workload.as_str(), at);
        owner.is_some_and(|rule| rule.account == self.account.id)
    }

    /// The part of the rows that is the account's in `span`, each with the registers that counted it.
    /// What registers counted and no row holds is an item of no quantity: it is billed low, and the
    /// statement names it.
    fn items(&self, rows: Vec<UsageRow>, mut counted: Counted, span: Period) -> Vec<UsageItem> {
        let mut items = Vec::new();
        for row in rows {
            if self.owns(row.node, &row.node_name, &row.workload, span.from) {
                let key = (row.node, row.workload.clone(), row.meter);
                let registers = counted.remove(&key).unwrap_or_default();
                items.push(row.into_item(span, registers));
            }
        }
        let names = self.selected();
        for ((node, workload, meter), registers) in counted {
            let name = names.get(&node).copied().unwrap_or_default();
            let rose = registers.iter().any(|span| span.closing > span.opening);
            if rose && self.owns(node, name, &workload, span.from) {
                let row = UsageRow::none(node, name.to_owned(), workload, meter);
                items.push(row.into_item(span, registers));
            }
        }
        items
    }

    /// What the nodes that carried the usage name as not measured.
    async fn gaps(
        &self,
        conn: &mut Connection,
        usage: &[UsageItem],
    ) -> Result<Vec<Note>, StoreError> {
        let carried: BTreeSet<NodeId> = usage.iter().map(|item| item.node).collect();
        let gaps = store::inspect::gaps(conn, self.period).await?;
        let note = |gap: GapRow| {
            let node = self.nodes.iter().find(|node| node.row == gap.node)?;
            carried.contains(&node.id).then(|| Note::Gap {
                node: node.id,
                node_name: node.name.clone(),
                from: gap.span.from,
                to: gap.span.to,
                cause: gap.cause,
            })
        };
        Ok(gaps.into_iter().filter_map(note).collect())
    }

    async fn usage(
        &self,
        conn: &mut Connection,
        span: Period,
    ) -> Result<Vec<UsageItem>, StoreError> {
        let rows = usage::usage(conn, span).await?;
        let selected = self.selected();
        let streams = self.streams.iter();
        let streams = streams.filter(|stream| selected.contains_key(&stream.node));
        let counted = registers::counted(conn, streams, span).await?;
        Ok(self.items(rows, counted, span))
    }
}

/// The decisions on segments of a stream that account for time after an instant.
async fn decided(
    conn: &mut Connection,
    stream: &Stream,
    since: Timestamp,
) -> Result<Vec<CutDecision>, StoreError> {
    let all = store::decisions::of_stream(conn, stream.row).await?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let Some(first) = store::readings::first_after(conn, stream.row, since).await? else {
        return Ok(Vec::new());
    };
    let concerns = |held: &DecisionRow| held.concerns(first, stream.next);
    let cut = |held: DecisionRow| CutDecision {
        number: held.number,
        kind: held.kind,
        first: held.first,
        last: held.last,
        decided_at: held.at,
    };
    Ok(all.into_iter().filter(concerns).map(cut).collect())
}

/// Instants at which usage of a span must be cut, its bounds among them: it may change hands or plan
/// there.
#[must_use]
pub fn cuts(rules: &Assignments, subscriptions: &[Subscription], span: Period) -> Vec<Timestamp> {
    let Period { from, to } = span;
    if to <= from {
        return Vec::new();
    }
    let mut cuts: BTreeSet<Timestamp> = rules.changes(from, to);
    let begin = subscriptions.iter().map(|held| held.from);
    cuts.extend(begin.filter(|at| *at > from && *at < to));
    cuts.extend([from, to]);
    cuts.into_iter().collect()
}

/// Computes the statement of an account as of now. All reads see one state of the store when `conn`
/// is in a transaction.
///
/// # Errors
/// When the account is unknown or a rule of billing is broken.
pub async fn draft(
    conn: &mut Connection,
    account: &str,
    which: Which,
    seller: &str,
    now: Timestamp,
) -> Result<Draft, BillingError> {
    let facts = Facts::read(conn, account, which).await?;
    compute(conn, facts, seller, now).await
}

/// Computes the statement of a period again, as of now, by the subscriptions that were agreed by `agreed_at`.
///
/// # Errors
/// As [`draft`].
pub async fn again(
    conn: &mut Connection,
    of: &Statement,
    agreed_at: Timestamp,
    now: Timestamp,
) -> Result<Draft, BillingError> {
    let account = known_account(conn, &of.account.id).await?;
    let mut facts = Facts::of(conn, account, of.period).await?;
    facts
        .subscriptions
        .retain(|held| held.created_at <= agreed_at);
    compute(conn, facts, &of.seller, now).await
}

async fn compute(
    conn: &mut Connection,
    facts: Facts,
    seller: &str,
    now: Timestamp,
) -> Result<Draft, BillingError> {
    let windows = windows(conn, &facts).await?;
    let mut usage = Vec::new();
    for pair in facts.cuts(now).windows(2) {
        let span = Period {
            from: pair[0],
            to: pair[1],
        };
        usage.extend(facts.usage(conn, span).await?);
    }
    let (outstanding, missing) = facts.outstanding(&usage);
    let quarantined = usage::quarantined(conn, facts.period).await?;
    let mut notes = notes(&outstanding, &missing, quarantined);
    notes.extend(facts.gaps(conn, &usage).await?);
    let plans = windows.iter().map(|window| window.plan.digest()).collect();
    let statement = statement(&facts, windows, usage, notes, seller)?;
    let digests = Digests {
        account: digest_of(&facts.account),
        assignments: digest_of(&facts.rules.of(&facts.account.id)),
        subscriptions: digest_of(&facts.subscriptions),
        plans,
        statement: statement.digest(),
    };
    Ok(Draft {
        statement,
        outstanding,
        missing,
        cut: facts.cut(conn).await?,
        digests,
    })
}

async fn windows(conn: &mut Connection, facts: &Facts) -> Result<Vec<PlanWindow>, BillingError> {
    let mut windows = Vec::new();
    for held in subscription::spans(facts.subscriptions.clone(), &facts.period) {
        let (name, version) = (&held.subscription.plan, held.subscription.plan_version);
        let row = store::catalog::plan_version(conn, name, Some(version)).await?;
        let row = row.ok_or_else(|| {
            StoreError::damaged("subscriptions", format!("no plan {name}@{version}"))
        })?;
        let plan: Plan = serde_json::from_str(&row.document)
            .map_err(|error| StoreError::damaged("plan_versions.document", error))?;
        windows.push(PlanWindow {
            plan,
            from: held.span.from,
            to: held.span.to,
        });
    }
    Ok(windows)
}

fn notes(outstanding: &[Outstanding], missing: &[Outstanding], quarantined: u64) -> Vec<Note> {
    let late = outstanding.iter().map(|node| Note::Outstanding {
        node: node.node,
        node_name: node.node_name.clone(),
        covered_through: node.covered_through,
    });
    let gone = missing.iter().map(|node| Note::Remark {
        text: match node.covered_through {
            Some(at) => format!(
                "node {} is {}: missing from {at} on",
                node.node_name, node.state
            ),
            None => format!(
                "node {} is {}: missing altogether",
                node.node_name, node.state
            ),
        },
    });
    let doubt = (quarantined > 0).then(|| Note::Remark {
        text: format!("{quarantined} segments of this period are quarantined and not counted"),
    });
    late.chain(gone).chain(doubt).collect()
}

fn statement(
    facts: &Facts,
    windows: Vec<PlanWindow>,
    usage: Vec<UsageItem>,
    notes: Vec<Note>,
    seller: &str,
) -> Result<Statement, BillingError> {
    let account = &facts.account;
    let input = StatementInput {
        account: AccountRef {
            id: account.id.to_string(),
            name: account.name.clone(),
            currency: Currency::new(&account.currency)?,
            zone: Zone::new(&account.time_zone)?,
        },
        seller: seller.to_owned(),
        buyer: account.name.clone(),
        period: facts.period,
        windows,
        usage,
        notes,
        rounding: RoundingMode::default(),
    };
    tallystick_common::statement::draft(input).map_err(|source| BillingError::Statement {
        account: account.id.to_string(),
        source: Box::new(source),
    })
}
