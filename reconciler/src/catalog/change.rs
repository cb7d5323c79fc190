//! Changes to the catalog, as API and command line ask for them: checked, written and noted in the
//! audit log in one transaction.
//!
//! Asking twice for the same thing gives the same answer and changes nothing the second time.

use tallystick_common::ids::NodeId;
use tallystick_common::money::Currency;
use tallystick_common::period::{Calendar, Zone};
use tallystick_common::price::Plan;
use tallystick_common::time::Timestamp;

use super::account::CorrectionPolicy;
use super::assignment::NodeNames;
use super::subscription::plan_reference;
use super::{Account, AccountId, CatalogError, Subscription, quarter_hour};
use crate::audit::{self, Note};
use crate::bans::Entry;
use crate::store::again::{Passing, again};
use crate::store::catalog::PlanVersion;
use crate::store::nodes::{Node, NodeState};
use crate::store::{self, Connection, Store, StoreError};

mod assign;

use assign::after_issued;
pub use assign::{AssignmentChange, assign};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// A rule forbids it.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The plan cannot be used; every problem at once.
    #[error("plan {plan}: {}", problems.join("; "))]
    Plan {
        /// Name of the plan, or where its text came from.
        plan: String,
        /// What is wrong, each with its remedy.
        problems: Vec<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Passing for ChangeError {
    fn is_passing(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_passing())
    }
}

/// An account that is asked for.
#[derive(Debug, Clone)]
pub struct NewAccount<'a> {
    /// Slug.
    pub id: &'a str,
    /// Name on documents.
    pub name: &'a str,
    /// ISO 4217 code.
    pub currency: &'a str,
    /// IANA name.
    pub time_zone: &'a str,
    /// Day of the month on which periods begin.
    pub anchor_day: u8,
}

impl NewAccount<'_> {
    fn check(&self, now: Timestamp) -> Result<Account, CatalogError> {
        let invalid = |what, value: &str, why: String| CatalogError::Invalid {
            what,
            value: value.to_owned(),
            why,
        };
        let id: AccountId = self.id.parse()?;
        if self.name.trim().is_empty() || self.name.chars().any(char::is_control) {
            let why = "write the name that stands on invoices".to_owned();
            return Err(invalid("account name", self.name, why));
        }
        let currency = Currency::new(self.currency)
            .map_err(|error| invalid("currency", self.currency, error.to_string()))?;
        let zone = Zone::new(self.time_zone)
            .map_err(|error| invalid("time zone", self.time_zone, error.to_string()))?;
        Calendar::new(zone.clone(), self.anchor_day).map_err(|error| {
            invalid(
                "anchor day",
                &self.anchor_day.to_string(),
                error.to_string(),
            )
        })?;
        Ok(Account {
            id,
            name: self.name.trim().to_owned(),
            currency: currency.code().to_owned(),
            time_zone: zone.name().to_owned(),
            anchor_day: self.anchor_day,
            created_at: now,
        })
    }
}

/// Makes an account.
///
/// # Errors
/// When a field is not usable, or the id is taken by an account with other fields.
pub async fn create_account(
    store: &Store,
    new: &NewAccount<'_>,
    actor: &str,
    now: Timestamp,
) -> Result<Account, ChangeError> {
    again!(create_account_once(store, new, actor, now))
}

async fn create_account_once(
    store: &Store,
    new: &NewAccount<'_>,
    actor: &str,
    now: Timestamp,
) -> Result<Account, ChangeError> {
    let account = new.check(now)?;
    let mut tx = store.write().await?;
    if let Some(held) = store::catalog::account(&mut tx, new.id).await? {
        if (Account {
            created_at: now,
            ..held.clone()
        }) == account
        {
            return Ok(held);
        }
        return Err(CatalogError::Exists {
            what: "account",
            name: new.id.to_owned(),
            hint: " with other fields, and accounts do not change: choose another id",
        }
        .into());
    }
    store::catalog::insert_account(&mut tx, &account, actor).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(account)
}

/// The account with that id.
///
/// # Errors
/// When there is none or the database fails.
pub async fn known_account(conn: &mut Connection, id: &str) -> Result<Account, ChangeError> {
    let found = store::catalog::account(conn, id).await?;
    Ok(found.ok_or_else(|| CatalogError::Unknown {
        what: "account",
        name: id.to_owned(),
        hint: "see `account list`, or make it with `account create`",
    })?)
}

/// Says what becomes of corrections by which an account owes more.
///
/// # Errors
/// When the account is unknown or the database fails.
pub async fn set_correction_policy(
    store: &Store,
    account: &str,
    policy: CorrectionPolicy,
    actor: &str,
    now: Timestamp,
) -> Result<(), ChangeError> {
    let mut tx = store.write().await?;
    let account = known_account(&mut tx, account).await?;
    if store::corrections::policy(&mut tx, &account.id).await? == policy {
        return Ok(());
    }
    store::corrections::set_policy(&mut tx, &account.id, policy, actor, now).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(())
}

/// Every node as selectors see it.
///
/// # Errors
/// When the database fails.
pub async fn node_names(conn: &mut Connection) -> Result<Vec<NodeNames>, StoreError> {
    let nodes = store::nodes::all(conn).await?;
    Ok(nodes
        .into_iter()
        .map(|node| NodeNames {
            id: node.id,
            name: node.name,
        })
        .collect())
}

/// Reads a plan's TOML and checks it. `origin` names the text in errors.
///
/// # Errors
/// With every problem of the plan.
pub fn check_plan(origin: &str, text: &str) -> Result<Plan, ChangeError> {
    let fail = |problems| ChangeError::Plan {
        plan: origin.to_owned(),
        problems,
    };
    let plan: Plan = toml::from_str(text).map_err(|error| fail(vec![error.to_string()]))?;
    let problems: Vec<String> = plan.check().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        Ok(plan)
    } else {
        Err(fail(problems))
    }
}

/// Applies a plan: a new version, unless its latest version means the same.
///
/// # Errors
/// When the plan has problems, or changes the currency of its earlier versions.
pub async fn apply_plan(
    store: &Store,
    origin: &str,
    text: &str,
    actor: &str,
    now: Timestamp,
) -> Result<PlanVersion, ChangeError> {
    again!(apply_plan_once(store, origin, text, actor, now))
}

async fn apply_plan_once(
    store: &Store,
    origin: &str,
    text: &str,
    actor: &str,
    now: Timestamp,
) -> Result<PlanVersion, ChangeError> {
    let plan = check_plan(origin, text)?;
    let digest = plan.digest().to_string();
    let mut tx = store.write().await?;
    let latest = store::catalog::plan_version(&mut tx, &plan.name, None).await?;
    if let Some(latest) = latest.as_ref().filter(|latest| latest.digest == digest) {
        return Ok(latest.clone());
    }
    let version = PlanVersion {
        version: latest.map_or(1, |latest| latest.version + 1),
        digest,
        currency: plan.currency.code().to_owned(),
        document: plan.canonical_json(),
        source: text.to_owned(),
        applied_at: now,
        plan: plan.name,
    };
    store::catalog::insert_plan_version(&mut tx, &version, actor).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(version)
}

/// The plan version meant by `NAME` or `NAME@VERSION`.
///
/// # Errors
/// When there is none or the database fails.
pub async fn known_plan(conn: &mut Connection, text: &str) -> Result<PlanVersion, ChangeError> {
    let (plan, version) = plan_reference(text)?;
    let found = store::catalog::plan_version(conn, &plan, version).await?;
    Ok(found.ok_or_else(|| CatalogError::Unknown {
        what: "plan",
        name: text.to_owned(),
        hint: "see `plan list`, or apply it with `plan apply FILE`",
    })?)
}

/// Subscribes an account to a plan version (the latest when none is named) from a quarter-hour on.
///
/// # Errors
/// When account or plan is unknown, the currencies differ, or the instant is taken by another plan.
pub async fn subscribe(
    store: &Store,
    account: &str,
    plan: &str,
    from: Timestamp,
    actor: &str,
    now: Timestamp,
) -> Result<Subscription, ChangeError> {
    again!(subscribe_once(store, account, plan, from, actor, now))
}

async fn subscribe_once(
    store: &Store,
    account: &str,
    plan: &str,
    from: Timestamp,
    actor: &str,
    now: Timestamp,
) -> Result<Subscription, ChangeError> {
    quarter_hour(from)?;
    let mut tx = store.write().await?;
    let account = known_account(&mut tx, account).await?;
    let version = known_plan(&mut tx, plan).await?;
    if version.currency != account.currency {
        return Err(CatalogError::Invalid {
            what: "plan",
            value: plan.to_owned(),
            why: format!(
                "its prices are in {}, account {} is billed in {}",
                version.currency, account.id, account.currency
            ),
        }
        .into());
    }
    let held = store::catalog::subscriptions(&mut tx, Some(&account.id)).await?;
    if let Some(held) = held.into_iter().find(|held| held.from == from) {
        if (&held.plan, held.plan_version) == (&version.plan, version.version) {
            return Ok(held);
        }
        return Err(CatalogError::Exists {
            what: "subscription",
            name: format!("of {} from {from}", account.id),
            hint: " to another plan: choose a later quarter-hour",
        }
        .into());
    }
    let new = Subscription {
        id: 0,
        account: account.id,
        plan: version.plan,
        plan_version: version.version,
        from,
        created_at: after_issued(&mut tx, now).await?,
    };
    let made = store::catalog::insert_subscription(&mut tx, &new, actor).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(made)
}

/// The node meant by an id or a name.
///
/// # Errors
/// When there is none, or several have that name.
pub async fn known_node(conn: &mut Connection, text: &str) -> Result<Node, ChangeError> {
    let mut found = match text.parse::<NodeId>() {
        Ok(id) => store::nodes::by_id(conn, id).await?.into_iter().collect(),
        Err(_) => store::nodes::by_name(conn, text).await?,
    };
    if found.len() > 1 {
        return Err(CatalogError::Invalid {
            what: "node",
            value: text.to_owned(),
            why: "several nodes have that name: give the id, see `node list`".to_owned(),
        }
        .into());
    }
    Ok(found.pop().ok_or_else(|| CatalogError::Unknown {
        what: "node",
        name: text.to_owned(),
        hint: "see `node list`",
    })?)
}

fn check_state(node: &Node, state: &NodeState) -> Result<(), CatalogError> {
    let invalid = |what, value: &str, why: &str| {
        Err(CatalogError::Invalid {
            what,
            value: value.to_owned(),
            why: why.to_owned(),
        })
    };
    match (&node.state, state) {
        (_, NodeState::Banned { reason, .. }) if reason.trim().is_empty() => invalid(
            "reason",
            reason,
            "write why the node is banned: it is told so, and the audit log keeps it",
        ),
        (NodeState::Banned { .. }, NodeState::Retired { .. }) => invalid(
            "node",
            &node.name,
            "it is banned, and stays so: what it has not shipped is missing already",
        ),
        (_, NodeState::Retired { lost: None, .. }) => invalid(
            "node",
            &node.name,
            "its final segment has not come: run `tallystick-agent retire --yes` on it, and it retires by \
             itself; if the host is gone for good, say so with --lost REASON, and what it has not shipped is \
             missing for ever",
        ),
        (
            _,
            NodeState::Retired {
                lost: Some(lost), ..
            },
        ) if lost.trim().is_empty() => invalid(
            "lost",
            lost,
            "write why the node cannot ship its final segment: the audit log keeps it",
        ),
        _ => Ok(()),
    }
}

/// Bans a node, or gives it up as lost. Ingest sees it in its next transaction. A node that ends in good
/// order retires by its own final segment.
///
/// # Errors
/// When there is no such node or the database fails.
pub async fn set_node_state(
    store: &Store,
    node: &str,
    state: NodeState,
    actor: &str,
    now: Timestamp,
) -> Result<Node, ChangeError> {
    let mut tx = store.write().await?;
    let node = known_node(&mut tx, node).await?;
    if node.state.as_str() == state.as_str() {
        return Ok(node);
    }
    check_state(&node, &state)?;
    store::nodes::set_state(&mut tx, node.id, &state, now).await?;
    let (action, detail) = match &state {
        NodeState::Active => ("node.activate", serde_json::json!({})),
        NodeState::Banned { reason, .. } => ("node.ban", serde_json::json!({ "reason": reason })),
        NodeState::Retired { lost, .. } => ("node.retire", serde_json::json!({ "lost": lost })),
    };
    let subject = node.id.to_string();
    audit::append(
        &mut tx,
        &Note {
            at: now,
            actor,
            action,
            subject: &subject,
            detail,
        },
    )
    .await?;
    store
        .note_ban(&Entry::of_state(node.id, &state, now))
        .map_err(StoreError::from)?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(Node { state, ..node })
}
