//! Accounts, assignments, plan versions and subscriptions: rows in and out.
//!
//! Rules on them are in [`crate::catalog`]. Every change is noted in the audit log in the same
//! transaction.

use serde_json::json;
use tallystick_common::time::Timestamp;

use super::column::instant;
use super::sql::{self, Row};
use super::{Connection, StoreError};
use crate::audit::{self, Note};
use crate::catalog::change::AssignmentChange;
use crate::catalog::{Account, AccountId, Assignment, Assignments, Pattern, Subscription};

/// One applied version of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanVersion {
    /// Name of the plan.
    pub plan: String,
    /// 1, 2, 3 in the order of applying.
    pub version: i64,
    /// Digest of the canonical document.
    pub digest: String,
    /// Currency of its prices.
    pub currency: String,
    /// The canonical document, JSON.
    pub document: String,
    /// The text as it was applied, TOML.
    pub source: String,
    /// When.
    pub applied_at: Timestamp,
}

/// Adds an account.
///
/// # Errors
/// When the id is taken or the database fails.
pub async fn insert_account(
    conn: &mut Connection,
    account: &Account,
    actor: &str,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO accounts (id, name, currency, time_zone, anchor_day, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(account.id.as_str())
    .bind(&account.name)
    .bind(&account.currency)
    .bind(&account.time_zone)
    .bind(i64::from(account.anchor_day))
    .bind(account.created_at.as_i64())
    .execute(&mut *conn)
    .await?;
    let note = Note {
        at: account.created_at,
        actor,
        action: "account.create",
        subject: account.id.as_str(),
        detail: json!(account),
    };
    audit::append(conn, &note).await?;
    Ok(())
}

/// Every account, by id.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn accounts(conn: &mut Connection) -> Result<Vec<Account>, StoreError> {
    let rows = sql::query("SELECT * FROM accounts ORDER BY id")
        .fetch_all(conn)
        .await?;
    rows.iter().map(account_row).collect()
}

/// One account.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn account(conn: &mut Connection, id: &str) -> Result<Option<Account>, StoreError> {
    let row = sql::query("SELECT * FROM accounts WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(account_row).transpose()
}

fn account_row(row: &Row) -> Result<Account, StoreError> {
    let anchor_day: i64 = row.try_get("anchor_day")?;
    Ok(Account {
        id: account_id(row, "id")?,
        name: row.try_get("name")?,
        currency: row.try_get("currency")?,
        time_zone: row.try_get("time_zone")?,
        anchor_day: u8::try_from(anchor_day)
            .map_err(|_| StoreError::damaged("accounts.anchor_day", anchor_day))?,
        created_at: instant(row, "created_at", "accounts.created_at")?,
    })
}

fn account_id(row: &Row, column: &str) -> Result<AccountId, StoreError> {
    let text: String = row.try_get(column)?;
    text.parse()
        .map_err(|error| StoreError::damaged("account id", error))
}

/// Adds a rule and gives it the next id.
///
/// # Errors
/// When the database fails.
pub async fn insert_assignment(
    conn: &mut Connection,
    change: &AssignmentChange<'_>,
) -> Result<Assignment, StoreError> {
    let AssignmentChange {
        new,
        actor,
        at: now,
        ..
    } = *change;
    let id: i64 = sql::query_scalar(
        "INSERT INTO assignments (id, account, node_selector, workload_selector, from_at, created_at, ends) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5, $6 FROM assignments WHERE TRUE RETURNING id",
    )
    .bind(new.account.as_str())
    .bind(new.node.as_str())
    .bind(new.workload.as_str())
    .bind(new.from.as_i64())
    .bind(now.as_i64())
    .bind(i64::from(new.ends))
    .fetch_one(&mut *conn)
    .await?;
    let made = Assignment {
        id,
        account: new.account.clone(),
        node: new.node.clone(),
        workload: new.workload.clone(),
        from: new.from,
        ends: new.ends,
        created_at: now,
    };
    let subject = made.account.to_string();
    let note = Note {
        at: now,
        actor,
        action: match new.ends {
            true => "assignment.end",
            false => "assignment.create",
        },
        subject: &subject,
        detail: told(&made, change),
    };
    audit::append(conn, &note).await?;
    Ok(made)
}

/// The rule; where it corrects what was said before, with what was.
fn told(made: &Assignment, change: &AssignmentChange<'_>) -> serde_json::Value {
    let mut detail = json!(made);
    if change.new.corrects {
        detail["before"] = json!(change.before);
        detail["invoices"] = json!(change.invoices);
    }
    detail
}

/// Every rule.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn assignments(conn: &mut Connection) -> Result<Assignments, StoreError> {
    let rows = sql::query("SELECT * FROM assignments ORDER BY id")
        .fetch_all(conn)
        .await?;
    let rules: Result<Vec<_>, _> = rows.iter().map(assignment_row).collect();
    Ok(Assignments::new(rules?))
}

fn flag(row: &Row, column: &str, what: &'static str) -> Result<bool, StoreError> {
    match row.try_get::<i64, _>(column)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(StoreError::damaged(what, other)),
    }
}

fn assignment_row(row: &Row) -> Result<Assignment, StoreError> {
    let pattern = |column: &str| -> Result<Pattern, StoreError> {
        let text: String = row.try_get(column)?;
        Pattern::new("selector", &text).map_err(|error| StoreError::damaged("assignments", error))
    };
    Ok(Assignment {
        id: row.try_get("id")?,
        account: account_id(row, "account")?,
        node: pattern("node_selector")?,
        workload: pattern("workload_selector")?,
        from: instant(row, "from_at", "assignments.from_at")?,
        ends: flag(row, "ends", "assignments.ends")?,
        created_at: instant(row, "created_at", "assignments.created_at")?,
    })
}

/// Adds a version of a plan.
///
/// # Errors
/// When the version exists or the database fails.
pub async fn insert_plan_version(
    conn: &mut Connection,
    version: &PlanVersion,
    actor: &str,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO plan_versions (plan, version, digest, currency, document, source, applied_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&version.plan)
    .bind(version.version)
    .bind(&version.digest)
    .bind(&version.currency)
    .bind(&version.document)
    .bind(&version.source)
    .bind(version.applied_at.as_i64())
    .execute(&mut *conn)
    .await?;
    let note = Note {
        at: version.applied_at,
        actor,
        action: "plan.apply",
        subject: &version.plan,
        detail: json!({ "version": version.version, "digest": version.digest }),
    };
    audit::append(conn, &note).await?;
    Ok(())
}

/// Every version of every plan, by name and version.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn plan_versions(conn: &mut Connection) -> Result<Vec<PlanVersion>, StoreError> {
    let query = "SELECT * FROM plan_versions ORDER BY plan, version";
    let rows = sql::query(query).fetch_all(conn).await?;
    rows.iter().map(plan_row).collect()
}

/// One version of a plan; the latest when none is named.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn plan_version(
    conn: &mut Connection,
    plan: &str,
    version: Option<i64>,
) -> Result<Option<PlanVersion>, StoreError> {
    let query = "SELECT * FROM plan_versions WHERE plan = $1 AND ($2 = 0 OR version = $2) \
                 ORDER BY version DESC LIMIT 1";
    let row = sql::query(query)
        .bind(plan)
        .bind(version.unwrap_or(0))
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(plan_row).transpose()
}

fn plan_row(row: &Row) -> Result<PlanVersion, StoreError> {
    Ok(PlanVersion {
        plan: row.try_get("plan")?,
        version: row.try_get("version")?,
        digest: row.try_get("digest")?,
        currency: row.try_get("currency")?,
        document: row.try_get("document")?,
        source: row.try_get("source")?,
        applied_at: instant(row, "applied_at", "plan_versions.applied_at")?,
    })
}

/// Adds a subscription and gives it the next id.
///
/// # Errors
/// When one from the same instant exists or the database fails.
pub async fn insert_subscription(
    conn: &mut Connection,
    new: &Subscription,
    actor: &str,
) -> Result<Subscription, StoreError> {
    let id: i64 = sql::query_scalar(
        "INSERT INTO subscriptions (id, account, plan, plan_version, from_at, created_at) \
         SELECT COALESCE(MAX(id), 0) + 1, $1, $2, $3, $4, $5 FROM subscriptions WHERE TRUE RETURNING id",
    )
    .bind(new.account.as_str())
    .bind(&new.plan)
    .bind(new.plan_version)
    .bind(new.from.as_i64())
    .bind(new.created_at.as_i64())
    .fetch_one(&mut *conn)
    .await?;
    let made = Subscription { id, ..new.clone() };
    let subject = made.account.to_string();
    let note = Note {
        at: made.created_at,
        actor,
        action: "subscription.create",
        subject: &subject,
        detail: json!(made),
    };
    audit::append(conn, &note).await?;
    Ok(made)
}

/// The subscriptions of one account, or of all, by account and beginning.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn subscriptions(
    conn: &mut Connection,
    account: Option<&AccountId>,
) -> Result<Vec<Subscription>, StoreError> {
    let query =
        "SELECT * FROM subscriptions WHERE $1 = '' OR account = $1 ORDER BY account, from_at";
    let rows = sql::query(query)
        .bind(account.map_or("", AccountId::as_str))
        .fetch_all(conn)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Subscription {
                id: row.try_get("id")?,
                account: account_id(row, "account")?,
                plan: row.try_get("plan")?,
                plan_version: row.try_get("plan_version")?,
                from: instant(row, "from_at", "subscriptions.from_at")?,
                created_at: instant(row, "created_at", "subscriptions.created_at")?,
            })
        })
        .collect()
}
