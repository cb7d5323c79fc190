//! Issued corrections, their numbers, who carries them, and how each account is corrected.
//!
//! A number is taken in the transaction that writes its document, so no series has holes.

use serde_json::json;
use tallystick_common::correction::CorrectionKind;
use tallystick_common::ids::Seq;
use tallystick_common::period::Period;
use tallystick_common::time::Timestamp;

use super::billing::{InvoiceRow, invoice_row};
use super::column::{self, optional_instant, unsigned};
use super::sql::{self, Row};
use super::streams::StreamRow;
use super::{Connection, StoreError};
use crate::audit::{self, Note};
use crate::catalog::AccountId;
use crate::catalog::account::CorrectionPolicy;

/// An issued correction. Never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorrectionRow {
    /// Its document; the total is the difference.
    pub issued: InvoiceRow,
    /// What it is.
    pub kind: CorrectionKind,
    /// The invoice that it corrects.
    pub invoice: String,
    /// The document before it of the same period.
    pub base: String,
    /// The invoice that carries it, if it is to be carried and one does.
    pub carried_by: Option<String>,
}

/// A kind's name in the store, and what its numbers begin with.
fn names(kind: CorrectionKind) -> (&'static str, &'static str) {
    match kind {
        CorrectionKind::CreditNote => ("credit_note", "CN"),
        CorrectionKind::CorrectionInvoice => ("correction_invoice", "CI"),
        CorrectionKind::NextInvoice => ("next_invoice", "CL"),
    }
}

fn kind_named(name: &str) -> Result<CorrectionKind, StoreError> {
    [
        CorrectionKind::CreditNote,
        CorrectionKind::CorrectionInvoice,
        CorrectionKind::NextInvoice,
    ]
    .into_iter()
    .find(|kind| names(*kind).0 == name)
    .ok_or_else(|| StoreError::damaged("corrections.kind", name))
}

/// Takes the next number of a kind and year.
///
/// # Errors
/// When the database fails.
pub async fn take_number(
    conn: &mut Connection,
    kind: CorrectionKind,
    year: i64,
) -> Result<String, StoreError> {
    let (name, prefix) = names(kind);
    let next: i64 = sql::query_scalar(
        "INSERT INTO correction_series (kind, year, next_ordinal) VALUES ($1, $2, 2) \
         ON CONFLICT (kind, year) DO UPDATE SET next_ordinal = correction_series.next_ordinal + 1 \
         RETURNING next_ordinal",
    )
    .bind(name)
    .bind(year)
    .fetch_one(&mut *conn)
    .await?;
    super::billing::numbered(conn, prefix, year, next - 1).await
}

/// Writes an issued correction.
///
/// # Errors
/// When the number is taken, its base was corrected already, or the database fails.
pub async fn insert(
    conn: &mut Connection,
    row: &CorrectionRow,
    actor: &str,
) -> Result<(), StoreError> {
    let issued = &row.issued;
    sql::query(
        "INSERT INTO corrections (number, kind, account, invoice, base, period_from, period_to, currency, \
         total_minor, digest, document, issued_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(&issued.number)
    .bind(names(row.kind).0)
    .bind(&issued.account)
    .bind(&row.invoice)
    .bind(&row.base)
    .bind(issued.period.from.as_i64())
    .bind(issued.period.to.as_i64())
    .bind(issued.total.currency().code())
    .bind(issued.total.minor())
    .bind(&issued.digest)
    .bind(&issued.document)
    .bind(issued.issued_at.as_i64())
    .execute(&mut *conn)
    .await?;
    let note = Note {
        at: issued.issued_at,
        actor,
        action: "correction.issue",
        subject: &issued.number,
        detail: json!({
            "account": issued.account,
            "kind": row.kind,
            "invoice": row.invoice,
            "base": row.base,
            "period": issued.period,
            "total": issued.total,
            "digest": issued.digest,
        }),
    };
    audit::append(conn, &note).await?;
    Ok(())
}

const COLUMNS: &str = "SELECT c.*, x.invoice AS carried_by FROM corrections c \
                       LEFT JOIN carried_corrections x ON x.correction = c.number";

/// Issued corrections, of one account or of all, in the order of issuing.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn all(
    conn: &mut Connection,
    account: Option<&str>,
) -> Result<Vec<CorrectionRow>, StoreError> {
    let query = format!("{COLUMNS} WHERE $1 = '' OR c.account = $1 ORDER BY c.issued_at, c.number");
    rows(conn, query, account.unwrap_or("")).await
}

/// The corrections of an invoice: each is the base of the next.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn of_invoice(
    conn: &mut Connection,
    invoice: &str,
) -> Result<Vec<CorrectionRow>, StoreError> {
    let query = format!("{COLUMNS} WHERE c.invoice = $1 ORDER BY c.issued_at, c.number");
    let mut held = rows(conn, query, invoice).await?;
    let mut chain: Vec<CorrectionRow> = Vec::with_capacity(held.len());
    loop {
        let base = chain.last().map_or(invoice, |last| &last.issued.number);
        let Some(next) = held.iter().position(|row| row.base == base) else {
            break;
        };
        chain.push(held.swap_remove(next));
    }
    match held.first() {
        None => Ok(chain),
        Some(row) => Err(StoreError::damaged("corrections.base", &row.issued.number)),
    }
}

/// Corrections of an account that its next invoice is to carry, in the order of issuing.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn waiting(
    conn: &mut Connection,
    account: &str,
) -> Result<Vec<CorrectionRow>, StoreError> {
    let query = format!(
        "{COLUMNS} WHERE c.account = $1 AND c.kind = 'next_invoice' AND x.invoice IS NULL \
         ORDER BY c.issued_at, c.number"
    );
    rows(conn, query, account).await
}

/// The correction with that number.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn numbered(
    conn: &mut Connection,
    number: &str,
) -> Result<Option<CorrectionRow>, StoreError> {
    let query = format!("{COLUMNS} WHERE c.number = $1");
    Ok(rows(conn, query, number).await?.pop())
}

/// The issued document with that number: an invoice, or a correction of one.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn document(
    conn: &mut Connection,
    number: &str,
) -> Result<Option<InvoiceRow>, StoreError> {
    match super::billing::invoice(conn, number).await? {
        Some(invoice) => Ok(Some(invoice)),
        None => Ok(numbered(conn, number).await?.map(|row| row.issued)),
    }
}

async fn rows(
    conn: &mut Connection,
    query: String,
    value: &str,
) -> Result<Vec<CorrectionRow>, StoreError> {
    // The text is made of constants of this module.
    let query = sql::query(sqlx::AssertSqlSafe(query)).bind(value);
    let rows = query.fetch_all(conn).await?;
    rows.iter().map(correction_row).collect()
}

fn correction_row(row: &Row) -> Result<CorrectionRow, StoreError> {
    Ok(CorrectionRow {
        issued: invoice_row(row)?,
        kind: kind_named(row.try_get("kind")?)?,
        invoice: row.try_get("invoice")?,
        base: row.try_get("base")?,
        carried_by: row.try_get("carried_by")?,
    })
}

/// Writes down that an invoice carries a correction.
///
/// # Errors
/// When another does, or the database fails.
pub async fn carry(
    conn: &mut Connection,
    correction: &str,
    invoice: &str,
) -> Result<(), StoreError> {
    sql::query("INSERT INTO carried_corrections (correction, invoice) VALUES ($1, $2)")
        .bind(correction)
        .bind(invoice)
        .execute(conn)
        .await?;
    Ok(())
}

/// Account and number of every invoice whose period ends after an instant, by number.
///
/// # Errors
/// When the database fails.
pub async fn issued_after(
    conn: &mut Connection,
    at: Timestamp,
) -> Result<Vec<(String, String)>, StoreError> {
    let query = "SELECT account, number FROM invoices WHERE period_to > $1 ORDER BY number";
    Ok(sql::query_as(query)
        .bind(at.as_i64())
        .fetch_all(conn)
        .await?)
}

/// When the newest document was issued.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn last_issued(conn: &mut Connection) -> Result<Option<Timestamp>, StoreError> {
    let query = "SELECT MAX(at) AS at FROM (SELECT MAX(issued_at) AS at FROM invoices \
                 UNION ALL SELECT MAX(issued_at) FROM corrections) issued";
    let row = sql::query(query).fetch_one(conn).await?;
    optional_instant(&row, "at", "invoices.issued_at")
}

/// When the newest was made of all assignments and the account's subscriptions.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn last_agreed(
    conn: &mut Connection,
    account: &str,
) -> Result<Option<Timestamp>, StoreError> {
    let query = "SELECT MAX(at) AS at FROM (SELECT MAX(created_at) AS at FROM assignments \
                 UNION ALL SELECT MAX(created_at) FROM subscriptions WHERE account = $1) agreed";
    let row = sql::query(query).bind(account).fetch_one(conn).await?;
    optional_instant(&row, "at", "assignments.created_at")
}

/// Segments of a stream beyond a position that have time in a span: the first, the last, and how many.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn beyond(
    conn: &mut Connection,
    stream: StreamRow,
    from: Seq,
    span: Period,
) -> Result<Option<(Seq, Seq, u64)>, StoreError> {
    let row = sql::query(
        "SELECT COUNT(*) AS count, COALESCE(MIN(seq), 0) AS first, COALESCE(MAX(seq), 0) AS last FROM segments \
         WHERE stream = $1 AND seq >= $2 AND covered_from < $3 AND covered_through > $4",
    )
    .bind(stream.0)
    .bind(column::number(from.0, "a sequence number")?)
    .bind(span.to.as_i64())
    .bind(span.from.as_i64())
    .fetch_one(conn)
    .await?;
    let value = |name| unsigned(&row, name, "segments.seq");
    let count = value("count")?;
    Ok((count > 0).then_some((Seq(value("first")?), Seq(value("last")?), count)))
}

/// How an account is corrected; the default when nobody said.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn policy(
    conn: &mut Connection,
    account: &AccountId,
) -> Result<CorrectionPolicy, StoreError> {
    let query =
        "SELECT policy FROM correction_policies WHERE account = $1 ORDER BY version DESC LIMIT 1";
    let row = sql::query(query)
        .bind(account.as_str())
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else {
        return Ok(CorrectionPolicy::default());
    };
    let name: &str = row.try_get("policy")?;
    CorrectionPolicy::named(name).ok_or_else(|| StoreError::damaged("correction_policies", name))
}

/// Says how an account is corrected from now on.
///
/// # Errors
/// When the database fails.
pub async fn set_policy(
    conn: &mut Connection,
    account: &AccountId,
    policy: CorrectionPolicy,
    actor: &str,
    at: Timestamp,
) -> Result<(), StoreError> {
    let before = self::policy(conn, account).await?;
    sql::query(
        "INSERT INTO correction_policies (account, version, policy, set_at, set_by) \
         SELECT $1, COALESCE(MAX(version), 0) + 1, $2, $3, $4 FROM correction_policies WHERE account = $1",
    )
    .bind(account.as_str())
    .bind(policy.as_str())
    .bind(at.as_i64())
    .bind(actor)
    .execute(&mut *conn)
    .await?;
    let note = Note {
        at,
        actor,
        action: "account.correction_policy",
        subject: account.as_str(),
        detail: json!({ "before": before, "after": policy }),
    };
    audit::append(conn, &note).await?;
    Ok(())
}
