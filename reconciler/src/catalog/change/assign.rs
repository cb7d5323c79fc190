//! Making assignments: the past is changed only by saying so, and the log keeps what held before.

use std::collections::BTreeSet;

use tallystick_common::time::{Micros, Timestamp};

use super::{ChangeError, known_account, node_names};
use crate::catalog::assignment::{NewAssignment, NodeNames};
use crate::catalog::{Assignment, Assignments, CatalogError};
use crate::store::again::again;
use crate::store::{self, Connection, Store, StoreError};

/// Makes a rule.
///
/// # Errors
/// When the account is unknown, the rule gives something to a second account at one instant, ends what was
/// not given, or says of a time that was invoiced otherwise than before and is not made to correct that.
pub async fn assign(
    store: &Store,
    new: &NewAssignment,
    actor: &str,
    now: Timestamp,
) -> Result<Assignment, ChangeError> {
    again!(assign_once(store, new, actor, now))
}

async fn assign_once(
    store: &Store,
    new: &NewAssignment,
    actor: &str,
    now: Timestamp,
) -> Result<Assignment, ChangeError> {
    let mut tx = store.write().await?;
    known_account(&mut tx, new.account.as_str()).await?;
    let rules = store::catalog::assignments(&mut tx).await?;
    let nodes = node_names(&mut tx).await?;
    if let Some(same) = rules.same(new, &nodes) {
        return Ok(same.clone());
    }
    rules.check(new, &nodes)?;
    let invoices = invoiced(&mut tx, new, &rules, &nodes).await?;
    if !invoices.is_empty() && !new.corrects {
        let (what, from) = ("assign", new.from);
        return Err(CatalogError::Invoiced {
            what,
            from,
            invoices,
        }
        .into());
    }
    let before: Vec<&Assignment> = rules.beside(new, &nodes).collect();
    let changed = AssignmentChange {
        new,
        before: &before,
        invoices: &invoices,
        actor,
        at: after_issued(&mut tx, now).await?,
    };
    let made = store::catalog::insert_assignment(&mut tx, &changed).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(made)
}

/// A rule to be made, and what is noted beside it.
#[derive(Debug, Clone, Copy)]
pub struct AssignmentChange<'a> {
    /// The rule.
    pub new: &'a NewAssignment,
    /// Rules that could select the same, as they were before.
    pub before: &'a [&'a Assignment],
    /// Invoices of the time that it speaks of.
    pub invoices: &'a [String],
    /// Who asks.
    pub actor: &'a str,
    /// When.
    pub at: Timestamp,
}

/// Numbers of invoices of a time from the rule's instant on, of its account and of those that had what it
/// selects.
async fn invoiced(
    conn: &mut Connection,
    new: &NewAssignment,
    rules: &Assignments,
    nodes: &[NodeNames],
) -> Result<Vec<String>, StoreError> {
    let mut accounts: BTreeSet<&str> = rules
        .beside(new, nodes)
        .map(|rule| rule.account.as_str())
        .collect();
    accounts.insert(new.account.as_str());
    let issued = store::corrections::issued_after(conn, new.from).await?;
    let touched = issued
        .into_iter()
        .filter(|(account, _)| accounts.contains(account.as_str()));
    Ok(touched.map(|(_, number)| number).collect())
}

/// `now`, or the first instant after all that was issued: by the time at which a document is made is told
/// which documents knew of it, whatever the clocks of several servers say.
pub(super) async fn after_issued(
    conn: &mut Connection,
    now: Timestamp,
) -> Result<Timestamp, StoreError> {
    let last = store::corrections::last_issued(conn).await?;
    Ok(last.map_or(now, |last| now.max(last.saturating_add(Micros(1)))))
}
