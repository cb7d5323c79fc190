//! Issued invoices and their numbers.
//!
//! A number is taken in the transaction that writes its invoice, so no series has holes.

use serde_json::json;
use tallystick_common::ids::{Hash, NodeId, Seq, StreamId};
use tallystick_common::money::{Currency, Money};
use tallystick_common::period::Period;
use tallystick_common::time::Timestamp;

use super::column::{bytes, id, instant, optional_instant, unsigned};
use super::sql::{self, Row};
use super::{Connection, StoreError};
use crate::audit::{self, Note};

/// An issued invoice. Never changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvoiceRow {
    /// `TS-2026-000001`.
    pub number: String,
    /// Who owes.
    pub account: String,
    /// For which time.
    pub period: Period,
    /// The total, rounded.
    pub total: Money,
    /// BLAKE3 of the document's bytes, hexadecimal.
    pub digest: String,
    /// The frozen JSON document.
    pub document: String,
    /// When.
    pub issued_at: Timestamp,
}

/// Where a stream stood when an invoice was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPosition {
    /// Whose stream.
    pub node: NodeId,
    /// The stream.
    pub stream: StreamId,
    /// The last admitted segment; none when there is none.
    pub seq: Option<Seq>,
    /// Its hash.
    pub head: Hash,
    /// From when it accounts for time.
    pub covered_from: Timestamp,
    /// Until when.
    pub covered_through: Timestamp,
    /// The same without segments ahead of the server's clock: what closing may trust.
    pub proved_through: Option<Timestamp>,
}

/// Takes the next number of a year.
///
/// # Errors
/// When the database fails.
pub async fn take_number(conn: &mut Connection, year: i64) -> Result<String, StoreError> {
    let next: i64 = sql::query_scalar(
        "INSERT INTO invoice_series (year, next_ordinal) VALUES ($1, 2) \
         ON CONFLICT (year) DO UPDATE SET next_ordinal = invoice_series.next_ordinal + 1 \
         RETURNING next_ordinal",
    )
    .bind(year)
    .fetch_one(&mut *conn)
    .await?;
    numbered(conn, "TS", year, next - 1).await
}

/// A number of this life of the store: of another series after each restore, see [`super::restoring`].
pub(super) async fn numbered(
    conn: &mut Connection,
    prefix: &str,
    year: i64,
    ordinal: i64,
) -> Result<String, StoreError> {
    let series: String = sql::query_scalar("SELECT series FROM meta WHERE single = 1")
        .fetch_one(conn)
        .await?;
    let series = if series.is_empty() {
        series
    } else {
        format!("{series}-")
    };
    Ok(format!("{prefix}-{year:04}-{series}{ordinal:06}"))
}

/// Writes an issued invoice.
///
/// # Errors
/// When the number or the period is taken, or the database fails.
pub async fn insert_invoice(
    conn: &mut Connection,
    invoice: &InvoiceRow,
    actor: &str,
) -> Result<(), StoreError> {
    sql::query(
        "INSERT INTO invoices (number, account, period_from, period_to, currency, total_minor, digest, document, issued_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&invoice.number)
    .bind(&invoice.account)
    .bind(invoice.period.from.as_i64())
    .bind(invoice.period.to.as_i64())
    .bind(invoice.total.currency().code())
    .bind(invoice.total.minor())
    .bind(&invoice.digest)
    .bind(&invoice.document)
    .bind(invoice.issued_at.as_i64())
    .execute(&mut *conn)
    .await?;
    let note = Note {
        at: invoice.issued_at,
        actor,
        action: "invoice.issue",
        subject: &invoice.number,
        detail: json!({
            "account": invoice.account,
            "period": invoice.period,
            "total": invoice.total,
            "digest": invoice.digest,
        }),
    };
    audit::append(conn, &note).await?;
    Ok(())
}

/// Issued invoices, of one account or of all, by number.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn invoices(
    conn: &mut Connection,
    account: Option<&str>,
) -> Result<Vec<InvoiceRow>, StoreError> {
    let query = "SELECT * FROM invoices WHERE $1 = '' OR account = $1 ORDER BY number";
    let rows = sql::query(query)
        .bind(account.unwrap_or(""))
        .fetch_all(conn)
        .await?;
    rows.iter().map(invoice_row).collect()
}

/// The invoice with that number.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn invoice(
    conn: &mut Connection,
    number: &str,
) -> Result<Option<InvoiceRow>, StoreError> {
    let row = sql::query("SELECT * FROM invoices WHERE number = $1")
        .bind(number)
        .fetch_optional(conn)
        .await?;
    row.as_ref().map(invoice_row).transpose()
}

/// The invoice of an account that shares time with a period.
///
/// # Errors
/// When the database fails or the row is damaged.
pub async fn invoice_for(
    conn: &mut Connection,
    account: &str,
    period: &Period,
) -> Result<Option<InvoiceRow>, StoreError> {
    let row = sql::query(
        "SELECT * FROM invoices WHERE account = $1 AND period_from < $3 AND period_to > $2 \
         ORDER BY period_from LIMIT 1",
    )
    .bind(account)
    .bind(period.from.as_i64())
    .bind(period.to.as_i64())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(invoice_row).transpose()
}

pub(super) fn invoice_row(row: &Row) -> Result<InvoiceRow, StoreError> {
    let currency: &str = row.try_get("currency")?;
    let currency =
        Currency::new(currency).map_err(|error| StoreError::damaged("invoices.currency", error))?;
    Ok(InvoiceRow {
        number: row.try_get("number")?,
        account: row.try_get("account")?,
        period: Period {
            from: instant(row, "period_from", "invoices.period_from")?,
            to: instant(row, "period_to", "invoices.period_to")?,
        },
        total: Money::new(row.try_get("total_minor")?, currency),
        digest: row.try_get("digest")?,
        document: row.try_get("document")?,
        issued_at: instant(row, "issued_at", "invoices.issued_at")?,
    })
}

/// Where every stream stands.
///
/// # Errors
/// When the database fails or a row is damaged.
pub async fn stream_positions(conn: &mut Connection) -> Result<Vec<StreamPosition>, StoreError> {
    let rows = sql::query(
        "SELECT n.node AS node, s.stream AS stream, s.next_seq AS next_seq, s.head AS head, \
         s.covered_from AS covered_from, s.covered_through AS covered_through, s.proved_through AS proved_through FROM streams s JOIN nodes n ON n.id = s.node \
         ORDER BY s.id",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(StreamPosition {
                node: NodeId(id(row, "node", "nodes.node")?),
                stream: StreamId(id(row, "stream", "streams.stream")?),
                seq: unsigned(row, "next_seq", "streams.next_seq")?
                    .checked_sub(1)
                    .map(Seq),
                head: Hash(bytes(row, "head", "streams.head")?),
                covered_from: instant(row, "covered_from", "streams.covered_from")?,
                covered_through: instant(row, "covered_through", "streams.covered_through")?,
                proved_through: optional_instant(row, "proved_through", "streams.proved_through")?,
            })
        })
        .collect()
}

/// Until when a node's time is proved to be accounted for, over all its streams, whatever lies before.
#[must_use]
pub fn proved_through(positions: &[StreamPosition], node: NodeId) -> Option<Timestamp> {
    let own = positions.iter().filter(|position| position.node == node);
    own.filter_map(|position| position.proved_through).max()
}

/// Until when a node's time is proved to be accounted for from `since` on, or from where it began later, with
/// nothing left out. One stream need not go on where another ended: a node that was rolled back, or whose
/// segments were refused, leaves time between them that neither speaks of.
#[must_use]
pub fn accounted_through(
    positions: &[StreamPosition],
    node: NodeId,
    since: Timestamp,
) -> Option<Timestamp> {
    let own = positions.iter().filter(|position| position.node == node);
    let proved =
        |position: &StreamPosition| Some((position.covered_from, position.proved_through?));
    let mut extents: Vec<(Timestamp, Timestamp)> = own.filter_map(proved).collect();
    extents.sort_unstable();
    let (_, mut through) = *extents.first()?;
    for (from, to) in extents {
        if from > through.max(since) {
            break;
        }
        through = through.max(to);
    }
    Some(through)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds).unwrap()
    }

    fn accounted(extents: &[(u64, u64)], since: u64) -> Option<Timestamp> {
        let node = NodeId([1; 16]);
        let position = |(from, to): &(u64, u64)| StreamPosition {
            node,
            stream: StreamId([2; 16]),
            seq: Some(Seq(1)),
            head: Hash::ZERO,
            covered_from: at(*from),
            covered_through: at(*to),
            proved_through: Some(at(*to)),
        };
        let positions: Vec<StreamPosition> = extents.iter().map(position).collect();
        accounted_through(&positions, node, at(since))
    }

    #[test]
    fn time_between_two_streams_is_not_accounted_for_by_the_later_one() {
        assert_eq!(accounted(&[(10, 20), (20, 30)], 0), Some(at(30)));
        assert_eq!(accounted(&[(25, 30), (10, 20)], 0), Some(at(20)));
        assert_eq!(accounted(&[(10, 20), (15, 30)], 0), Some(at(30)));
        assert_eq!(accounted(&[(10, 20), (25, 30)], 15), Some(at(20)));
        assert_eq!(accounted(&[(10, 20), (25, 30)], 22), Some(at(20)));
        assert_eq!(
            accounted(&[(10, 20), (25, 30)], 25),
            Some(at(30)),
            "before that is another period"
        );
        assert_eq!(accounted(&[], 0), None);
    }
}
