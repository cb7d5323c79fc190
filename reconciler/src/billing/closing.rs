//! Which periods of accounts are open, waiting, provable, overdue or closed, and closing those that nodes are
//! outstanding of.
//!
//! A period closes by proof when it is issued: every awaited node has accounted for all of it. Otherwise somebody
//! closes it with gaps: a person, or after the deadline the rule, if the policy says so. That is a decision
//! of its own, noted with its reason in the audit log; the invoice names it and what is outstanding when it is
//! issued. Closing changes no figure, and freezes none: what arrives before the invoice is on it.

use std::collections::BTreeMap;

use serde::Serialize;
use tallystick_common::ids::NodeId;
use tallystick_common::period::{Calendar, Month, Period, Zone};
use tallystick_common::time::{SECOND_US, Timestamp};
use utoipa::ToSchema;

use super::BillingError;
use super::draft::{Which, period_of};
use crate::catalog::assignment::NodeNames;
use crate::catalog::change::known_account;
use crate::catalog::{Account, AccountId, Assignments, CatalogError};
use crate::config::{self, ClosingPolicy};
use crate::store::again::again;
use crate::store::billing::{StreamPosition, proved_through};
use crate::store::closings::{self, Closing};
use crate::store::nodes::{Node, NodeState};
use crate::store::{self, Connection, Store, StoreError};

/// Who the rule is in the audit log.
pub const RULE: &str = "rule:closing";

/// How a period stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeriodState {
    /// It has not ended.
    Open,
    /// It has ended, and nodes are outstanding.
    Waiting,
    /// Every awaited node has accounted for it: it can be issued.
    Provable,
    /// Nodes are outstanding beyond the deadline: it can be closed with gaps.
    Overdue,
    /// It was closed with gaps, or has its invoice.
    Closed,
}

/// How a node stands to a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has accounted for all of it.
    Complete,
    /// It is awaited.
    Outstanding,
    /// It will not account for the rest: it is banned or retired.
    Missing,
}

/// A node whose time a period needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeriodNode {
    /// The node.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Its name.
    pub node_name: String,
    /// How it stands.
    pub standing: Standing,
    /// Until when its time is accounted for; null when nothing has come.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub covered_through: Option<Timestamp>,
}

/// A period of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PeriodView {
    /// Whose.
    #[schema(value_type = String)]
    pub account: AccountId,
    /// The month in which it begins.
    #[schema(value_type = String, example = "2026-11")]
    pub period: Month,
    /// First instant.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// How it stands.
    pub state: PeriodState,
    /// From when on it may be closed with gaps by the rule, or a person is reminded.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
    /// Nodes whose time it needs, by name.
    pub nodes: Vec<PeriodNode>,
    /// Who closed it with gaps.
    pub closed_by: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// The number of its invoice.
    pub invoice: Option<String>,
}

impl PeriodView {
    /// Names of the nodes that it waits for.
    #[must_use]
    pub fn waits_for(&self) -> Vec<&str> {
        let outstanding = |node: &&PeriodNode| node.standing == Standing::Outstanding;
        let nodes = self.nodes.iter().filter(outstanding);
        nodes.map(|node| node.node_name.as_str()).collect()
    }
}

/// Whether a period needs a node's time: the account's rules select it, or it `carried` the account's workloads;
/// unless it left before the period began or came after it ended.
pub(super) fn awaits(
    rules: &Assignments,
    account: &AccountId,
    period: &Period,
    node: &Node,
    carried: bool,
) -> bool {
    let names = NodeNames {
        id: node.id,
        name: node.name.clone(),
    };
    let selected = || rules.awaits_node(account, &names, *period);
    let gone = matches!(node.state, NodeState::Retired { at, .. } if at <= period.from);
    (carried || selected()) && !gone && node.enrolled_at < period.to
}

/// How a node stands to a period that needs its time.
pub(super) fn standing(node: &Node, covered: Option<Timestamp>, period: &Period) -> Standing {
    if covered >= Some(node.owes_through(period.to)) {
        return Standing::Complete;
    }
    match node.state {
        NodeState::Active => Standing::Outstanding,
        NodeState::Banned { .. } | NodeState::Retired { .. } => Standing::Missing,
    }
}

/// How a period stands; `settled` when it was closed with gaps or issued.
fn state(
    to: Timestamp,
    deadline: Timestamp,
    waits: bool,
    settled: bool,
    now: Timestamp,
) -> PeriodState {
    match () {
        () if settled => PeriodState::Closed,
        () if now < to => PeriodState::Open,
        () if !waits => PeriodState::Provable,
        () if now < deadline => PeriodState::Waiting,
        () => PeriodState::Overdue,
    }
}

/// All that is read once for the periods of accounts.
struct Facts {
    rules: Assignments,
    nodes: Vec<Node>,
    positions: Vec<StreamPosition>,
    closings: BTreeMap<(String, Timestamp), Closing>,
    invoices: BTreeMap<(String, Timestamp), String>,
    /// When each account's first subscription begins.
    subscribed: BTreeMap<AccountId, Timestamp>,
}

impl Facts {
    async fn read(conn: &mut Connection, account: Option<&AccountId>) -> Result<Self, StoreError> {
        let of = account.map(AccountId::as_str);
        let mut nodes = store::nodes::all(conn).await?;
        nodes.sort_by(|left, right| (&left.name, left.id).cmp(&(&right.name, right.id)));
        let closings = closings::closings(conn, of).await?.into_iter();
        let invoices = closings::invoiced(conn, of).await?.into_iter();
        let mut subscribed = BTreeMap::new();
        for held in store::catalog::subscriptions(conn, account).await? {
            let first = subscribed.entry(held.account).or_insert(held.from);
            *first = held.from.min(*first);
        }
        Ok(Self {
            rules: store::catalog::assignments(conn).await?,
            nodes,
            positions: store::billing::stream_positions(conn).await?,
            closings: closings
                .map(|held| ((held.account.clone(), held.period.from), held))
                .collect(),
            invoices: invoices
                .map(|held| ((held.account, held.period.from), held.number))
                .collect(),
            subscribed,
        })
    }

    /// When the account's first rule or subscription takes effect.
    fn begins(&self, account: &AccountId) -> Option<Timestamp> {
        let rules = self.rules.of(account).into_iter();
        let first = rules.map(|rule| rule.from).min();
        let subscribed = self.subscribed.get(account).copied();
        first.into_iter().chain(subscribed).min()
    }

    fn nodes(&self, account: &AccountId, period: &Period) -> Vec<PeriodNode> {
        let needed = |node: &&Node| awaits(&self.rules, account, period, node, false);
        let of = |node: &Node| {
            let covered_through = proved_through(&self.positions, node.id);
            PeriodNode {
                node: node.id,
                node_name: node.name.clone(),
                standing: standing(node, covered_through, period),
                covered_through,
            }
        };
        self.nodes.iter().filter(needed).map(of).collect()
    }

    fn view(
        &self,
        account: &AccountId,
        (month, period): (Month, Period),
        closing: &config::Closing,
        now: Timestamp,
    ) -> PeriodView {
        let key = (account.to_string(), period.from);
        let closed = self.closings.get(&key);
        let invoice = self.invoices.get(&key).cloned();
        let nodes = self.nodes(account, &period);
        let waits = nodes
            .iter()
            .any(|node| node.standing == Standing::Outstanding);
        let deadline = period.to.saturating_add(closing.deadline);
        let settled = closed.is_some() || invoice.is_some();
        PeriodView {
            account: account.clone(),
            period: month,
            from: period.from,
            to: period.to,
            state: state(period.to, deadline, waits, settled, now),
            deadline,
            nodes,
            closed_by: closed.map(|closed| closed.actor.clone()),
            reason: closed.map(|closed| closed.reason.clone()),
            invoice,
        }
    }

    /// The account's periods from its first rule or subscription up to the present one.
    fn periods(
        &self,
        account: &Account,
        now: Timestamp,
    ) -> Result<Vec<(Month, Period)>, BillingError> {
        let calendar = Calendar::new(Zone::new(&account.time_zone)?, account.anchor_day)?;
        let begins = self.begins(&account.id).unwrap_or(now).min(now);
        let (mut month, mut period) = calendar.containing(begins)?;
        let mut periods = vec![(month, period)];
        while period.to <= now {
            let Some(next) = month.next() else { break };
            (month, period) = (next, calendar.period(next)?);
            periods.push((month, period));
        }
        Ok(periods)
    }
}

/// The periods of an account, or of all, up to the present ones, by account and time.
///
/// # Errors
/// When the account is unknown or the database fails.
pub async fn periods(
    conn: &mut Connection,
    account: Option<&str>,
    closing: &config::Closing,
    now: Timestamp,
) -> Result<Vec<PeriodView>, BillingError> {
    let accounts = match account {
        Some(account) => vec![known_account(conn, account).await?],
        None => store::catalog::accounts(conn).await?,
    };
    let only = account.and(accounts.first()).map(|account| &account.id);
    let facts = Facts::read(conn, only).await?;
    let mut views = Vec::new();
    for account in &accounts {
        for period in facts.periods(account, now)? {
            views.push(facts.view(&account.id, period, closing, now));
        }
    }
    Ok(views)
}

/// One period of an account.
///
/// # Errors
/// When the account or its period is unknown, or the database fails.
pub async fn period(
    conn: &mut Connection,
    account: &str,
    month: Month,
    closing: &config::Closing,
    now: Timestamp,
) -> Result<PeriodView, BillingError> {
    let account = known_account(conn, account).await?;
    let period = period_of(&account, Which::Month(month))?;
    let facts = Facts::read(conn, Some(&account.id)).await?;
    Ok(facts.view(&account.id, (month, period), closing, now))
}

/// Who closes a period with gaps, and why.
#[derive(Debug, Clone, Copy)]
pub struct Close<'a> {
    /// The account.
    pub account: &'a str,
    /// The month in which the period begins.
    pub month: Month,
    /// Why.
    pub reason: &'a str,
    /// Who.
    pub actor: &'a str,
}

/// Closes a period that has ended although nodes are outstanding. One that is closed stays as it is.
///
/// # Errors
/// When it has not ended, nothing is outstanding, there is no reason, or the database fails.
pub async fn close(
    store: &Store,
    order: &Close<'_>,
    closing: &config::Closing,
    now: Timestamp,
) -> Result<PeriodView, BillingError> {
    again!(close_once(store, order, closing, now))
}

async fn close_once(
    store: &Store,
    order: &Close<'_>,
    closing: &config::Closing,
    now: Timestamp,
) -> Result<PeriodView, BillingError> {
    let reason = order.reason.trim();
    if reason.is_empty() {
        return Err(BillingError::Catalog(CatalogError::Invalid {
            what: "reason",
            value: order.reason.to_owned(),
            why: "write why the period closes with gaps: the invoice says so".to_owned(),
        }));
    }
    let mut tx = store.write().await?;
    let mut view = period(&mut tx, order.account, order.month, closing, now).await?;
    let (account, span) = (order.account.to_owned(), view.span());
    match view.state {
        PeriodState::Closed => return Ok(view),
        PeriodState::Open => {
            return Err(BillingError::NotEnded {
                account,
                period: span,
            });
        }
        PeriodState::Provable => {
            return Err(BillingError::NoGaps {
                account,
                period: span,
            });
        }
        PeriodState::Waiting | PeriodState::Overdue => {}
    }
    let closed = Closing {
        account,
        period: span,
        reason: reason.to_owned(),
        actor: order.actor.to_owned(),
        at: now,
    };
    let outstanding: Vec<String> = view.waits_for().into_iter().map(str::to_owned).collect();
    closings::insert(&mut tx, &closed, &outstanding).await?;
    tx.commit().await?;
    view.state = PeriodState::Closed;
    view.closed_by = Some(closed.actor);
    view.reason = Some(closed.reason);
    Ok(view)
}

impl PeriodView {
    /// Its time.
    #[must_use]
    pub fn span(&self) -> Period {
        Period {
            from: self.from,
            to: self.to,
        }
    }
}

/// Closes every overdue period, if the policy is to. Those that it closed.
///
/// # Errors
/// When the database fails; what was closed stays closed.
pub async fn close_overdue(
    store: &Store,
    closing: &config::Closing,
    now: Timestamp,
) -> Result<Vec<PeriodView>, BillingError> {
    if closing.policy != ClosingPolicy::CloseWithGaps {
        return Ok(Vec::new());
    }
    let overdue = {
        let mut tx = store.read().await?;
        periods(&mut tx, None, closing, now).await?
    };
    let mut closed = Vec::new();
    for view in overdue {
        if view.state == PeriodState::Overdue {
            let reason = reason(closing);
            let order = Close {
                account: view.account.as_str(),
                month: view.period,
                reason: &reason,
                actor: RULE,
            };
            match close(store, &order, closing, now).await {
                // What was outstanding has come meanwhile.
                Err(BillingError::NoGaps { .. }) => {}
                done => closed.push(done?),
            }
        }
    }
    Ok(closed)
}

fn reason(closing: &config::Closing) -> String {
    let seconds = closing.deadline.0 / SECOND_US;
    let (count, unit) = match seconds {
        _ if seconds.is_multiple_of(86_400) => (seconds / 86_400, "d"),
        _ if seconds.is_multiple_of(3600) => (seconds / 3600, "h"),
        _ => (seconds, "s"),
    };
    format!("the deadline, {count}{unit} after the period's end, has passed")
}

#[cfg(test)]
mod tests;
