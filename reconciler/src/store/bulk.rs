//! Many rows by few statements.
//!
//! A statement costs two changes of thread before it does anything, so what is written by the thousand
//! goes to the database in statements of many rows. Placeholders are bare `?`: SQLite finds each named
//! one by walking through all of them.

use std::sync::Arc;

use sqlx::Arguments as _;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};

use super::{Connection, StoreError};

/// Rows of one statement. Few sizes, so that each text is prepared once.
const ROWS: [usize; 4] = [64, 16, 4, 1];

/// A statement around a list of rows: `before (?, ?), (?, ?) after`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bulk<'a> {
    /// What stands before the rows.
    pub(super) before: &'a str,
    /// Values in each row.
    pub(super) columns: usize,
    /// What stands after the rows.
    pub(super) after: &'a str,
}

/// Values of the rows of one statement, in order.
#[derive(Debug, Default)]
pub(super) struct Values(SqliteArguments);

impl Values {
    /// One more.
    pub(super) fn add<'t, T: sqlx::Encode<'t, Sqlite> + sqlx::Type<Sqlite>>(
        &mut self,
        value: T,
    ) -> Result<(), StoreError> {
        self.0
            .add(value)
            .map_err(|error| StoreError::Sql(sqlx::Error::Encode(error)))
    }
}

impl Bulk<'_> {
    /// Executes it for all `rows`, whose values `bind` gives: how many rows of the table it changed.
    ///
    /// # Errors
    /// When the database or `bind` fails.
    pub(super) async fn execute<R: Sync>(
        &self,
        conn: &mut Connection,
        rows: &[R],
        bind: impl Fn(&mut Values, &R) -> Result<(), StoreError> + Send + Sync,
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        for (text, chunk) in self.statements(rows) {
            let values = self.values(chunk, &bind)?;
            let query = sqlx::query_with(sqlx::AssertSqlSafe(text), values);
            changed += query.execute(&mut *conn).await?.rows_affected();
        }
        Ok(changed)
    }

    /// As [`Self::execute`], for statements that give rows.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn fetch<R: Sync>(
        &self,
        conn: &mut Connection,
        rows: &[R],
        bind: impl Fn(&mut Values, &R) -> Result<(), StoreError> + Send + Sync,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let mut found = Vec::new();
        for (text, chunk) in self.statements(rows) {
            let values = self.values(chunk, &bind)?;
            let query = sqlx::query_with(sqlx::AssertSqlSafe(text), values);
            found.extend(query.fetch_all(&mut *conn).await?);
        }
        Ok(found)
    }

    fn statements<'r, R>(&self, rows: &'r [R]) -> Vec<(Arc<String>, &'r [R])> {
        let mut statements = Vec::with_capacity(rows.len() / ROWS[0] + ROWS.len());
        let mut rest = rows;
        for size in ROWS {
            let chunks = rest.chunks_exact(size);
            rest = chunks.remainder();
            if chunks.len() > 0 {
                let text = Arc::new(self.text(size));
                statements.extend(chunks.map(|chunk| (Arc::clone(&text), chunk)));
            }
        }
        statements
    }

    fn values<R>(
        &self,
        rows: &[R],
        bind: &impl Fn(&mut Values, &R) -> Result<(), StoreError>,
    ) -> Result<SqliteArguments, StoreError> {
        let mut values = Values::default();
        values.0.reserve(rows.len() * self.columns, 0);
        for row in rows {
            bind(&mut values, row)?;
        }
        Ok(values.0)
    }

    fn text(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let rows = vec![row; rows].join(", ");
        format!("{} {rows} {}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    #[tokio::test]
    async fn every_row_arrives_whatever_their_number() {
        let (_folder, store) = testing::store().await;
        let mut tx = store.write().await.unwrap();
        let text =
            "CREATE TABLE numbers (number BIGINT NOT NULL PRIMARY KEY, twice BIGINT NOT NULL)";
        sqlx::query(text).execute(&mut *tx).await.unwrap();
        let bulk = Bulk {
            before: "INSERT INTO numbers (number, twice) VALUES",
            columns: 2,
            after: "",
        };
        let mut expected = Vec::new();
        for (offset, count) in [(0, 0), (1000, 1), (2000, 63), (3000, 64), (4000, 150)] {
            let rows: Vec<i64> = (offset..offset + count).collect();
            let bind = |values: &mut Values, row: &i64| {
                values.add(*row)?;
                values.add(*row * 2)
            };
            let changed = bulk.execute(&mut tx, &rows, bind).await.unwrap();
            assert_eq!(changed, rows.len() as u64);
            expected.extend(rows.into_iter().map(|number| (number, number * 2)));
        }
        let query = "SELECT number, twice FROM numbers ORDER BY number";
        let held: Vec<(i64, i64)> = sqlx::query_as(query).fetch_all(&mut *tx).await.unwrap();
        assert_eq!(held, expected);
    }
}
