//! Periods closed with gaps, and which periods have an invoice.

use serde_json::json;
use tallystick_common::period::Period;
use tallystick_common::time::Timestamp;

use super::column::instant;
use super::sql::{self, Row};
use super::{Connection, StoreError};
use crate::audit::{self, Note};

/// That a period was closed although nodes were outstanding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Whose.
    pub account: String,
    /// Which.
    pub period: Period,
    /// Why.
    pub reason: String,
    /// Who closed it.
    pub actor: String,
    /// When.
    pub at: Timestamp,
}

/// A period and the number of its invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoiced {
    /// Whose.
    pub account: String,
    /// Which.
    pub period: Period,
    /// The invoice's number.
    pub number: String,
}

/// Closes a period, and notes what was outstanding.
///
/// # Errors
/// When the database fails, or the period is closed already.
pub async fn insert(
    conn: &mut Connection,
    closing: &Closing,
    outstanding: &[String],
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO closings (account, period_from, period_to, reason, actor, closed_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&closing.account)
    .bind(closing.period.from.as_i64())
    .bind(closing.period.to.as_i64())
    .bind(&closing.reason)
    .bind(&closing.actor)
    .bind(closing.at.as_i64())
    .execute(&mut *conn)
    .await?;
    let note = Note {
        at: closing.at,
        actor: &closing.actor,
        action: "period.close",
        subject: &closing.account,
        detail: json!({
            "period": closing.period,
            "reason": closing.reason,
            "outstanding": outstanding,
        }),
    };
    audit::append(conn, &note).await?;
    Ok(())
}

/// The closings of an account, or of all, by account and time.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn closings(
    conn: &mut Connection,
    account: Option<&str>,
) -> Result<Vec<Closing>, StoreError> {
    let query =
        "SELECT * FROM closings WHERE $1 = '' OR account = $1 ORDER BY account, period_from";
    let rows = sql::query(query)
        .bind(account.unwrap_or(""))
        .fetch_all(conn)
        .await?;
    let read = |row: &Row| {
        Ok(Closing {
            account: row.try_get("account")?,
            period: period(row)?,
            reason: row.try_get("reason")?,
            actor: row.try_get("actor")?,
            at: instant(row, "closed_at", "closings.closed_at")?,
        })
    };
    rows.iter().map(read).collect()
}

/// The periods of an account, or of all, that have an invoice, by account and time.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn invoiced(
    conn: &mut Connection,
    account: Option<&str>,
) -> Result<Vec<Invoiced>, StoreError> {
    let query = "SELECT account, period_from, period_to, number FROM invoices \
                 WHERE $1 = '' OR account = $1 ORDER BY account, period_from";
    let rows = sql::query(query)
        .bind(account.unwrap_or(""))
        .fetch_all(conn)
        .await?;
    let read = |row: &Row| {
        Ok(Invoiced {
            account: row.try_get("account")?,
            period: period(row)?,
            number: row.try_get("number")?,
        })
    };
    rows.iter().map(read).collect()
}

fn period(row: &Row) -> Result<Period, StoreError> {
    Ok(Period {
        from: instant(row, "period_from", "a beginning")?,
        to: instant(row, "period_to", "an end")?,
    })
}
