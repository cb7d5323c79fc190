//! Columns to domain types and back: what does not fit is damage, named by table and column.

use tallystick_common::ids::Seq;
use tallystick_common::reading::Reading;
use tallystick_common::time::Timestamp;

use super::StoreError;
use super::sql::Row;

/// A fixed number of bytes.
pub(crate) fn bytes<const N: usize>(
    row: &Row,
    column: &str,
    what: &'static str,
) -> Result<[u8; N], StoreError> {
    let held: &[u8] = row.try_get(column)?;
    held.try_into()
        .map_err(|_| StoreError::damaged(what, format!("{} bytes", held.len())))
}

/// An identifier of 16 bytes.
pub(crate) fn id(row: &Row, column: &str, what: &'static str) -> Result<[u8; 16], StoreError> {
    bytes(row, column, what)
}

/// An instant.
pub(crate) fn instant(
    row: &Row,
    column: &str,
    what: &'static str,
) -> Result<Timestamp, StoreError> {
    let held: i64 = row.try_get(column)?;
    Timestamp::from_i64(held).ok_or_else(|| StoreError::damaged(what, held))
}

/// An instant or NULL.
pub(crate) fn optional_instant(
    row: &Row,
    column: &str,
    what: &'static str,
) -> Result<Option<Timestamp>, StoreError> {
    let held: Option<i64> = row.try_get(column)?;
    let read = |held| Timestamp::from_i64(held).ok_or_else(|| StoreError::damaged(what, held));
    held.map(read).transpose()
}

/// A number that is never negative.
pub(crate) fn unsigned(row: &Row, column: &str, what: &'static str) -> Result<u64, StoreError> {
    let held: i64 = row.try_get(column)?;
    u64::try_from(held).map_err(|_| StoreError::damaged(what, held))
}

/// A reading of 16 bytes, big-endian.
pub(crate) fn reading(row: &Row, column: &str, what: &'static str) -> Result<Reading, StoreError> {
    Ok(Reading(u128::from_be_bytes(bytes(row, column, what)?)))
}

/// A sequence number as its column takes it.
pub(crate) fn seq(seq: Seq) -> Result<i64, StoreError> {
    number(seq.0, "a sequence number")
}

/// A count as a BIGINT takes it.
pub(crate) fn number(value: u64, what: &'static str) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::TooLarge {
        what,
        value: value.into(),
    })
}
