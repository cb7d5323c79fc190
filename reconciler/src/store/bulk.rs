//! Many rows by few statements.
//!
//! A statement costs SQLite two changes of thread and PostgreSQL a way there and back before it does
//! anything, so what is written by the thousand goes to the database in statements of many rows: lists of
//! VALUES for SQLite, whose placeholders are bare `?` because it finds each named one by walking through
//! all of them; one array a column for PostgreSQL, whose statement is then the same for any number of
//! rows. On both the columns are called `column1`, `column2`, and so on. One statement for PostgreSQL must
//! not insert a key twice.

use std::sync::Arc;

use sqlx::Arguments as _;
use sqlx::postgres::PgArguments;

use super::sql::{self, Row, Value};
use super::{Connection, StoreError};

/// Rows of one statement for SQLite. Few sizes, so that each text is prepared once.
const ROWS: [usize; 4] = [64, 16, 4, 1];
/// Rows of one statement for PostgreSQL.
const ROWS_MAX: usize = 16_384;

/// A statement around a list of rows: `before VALUES (?, ?), (?, ?) after`.
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
pub(super) struct Values(Vec<Value>);

impl Values {
    /// All of them.
    pub(super) fn into_inner(self) -> Vec<Value> {
        self.0
    }

    /// One more.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "stands as the last expression of bind functions that can fail"
    )]
    pub(super) fn add(&mut self, value: impl Into<Value>) -> Result<(), StoreError> {
        self.0.push(value.into());
        Ok(())
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
        match conn {
            Connection::Sqlite(tx) => {
                for (text, chunk) in self.statements(rows) {
                    let values = sql::sqlite(self.values(chunk, &bind)?)?;
                    let query = sqlx::query_with(sqlx::AssertSqlSafe(text), values);
                    changed += query.execute(&mut **tx).await?.rows_affected();
                }
            }
            Connection::Postgres(tx) => {
                for chunk in rows.chunks(ROWS_MAX) {
                    let values = self.arrays(self.values(chunk, &bind)?)?;
                    let query = sqlx::query_with(sqlx::AssertSqlSafe(self.unnested()), values);
                    changed += query.execute(&mut **tx).await?.rows_affected();
                }
            }
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
    ) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        match conn {
            Connection::Sqlite(tx) => {
                for (text, chunk) in self.statements(rows) {
                    let values = sql::sqlite(self.values(chunk, &bind)?)?;
                    let query = sqlx::query_with(sqlx::AssertSqlSafe(text), values);
                    found.extend(
                        query
                            .fetch_all(&mut **tx)
                            .await?
                            .into_iter()
                            .map(Row::Sqlite),
                    );
                }
            }
            Connection::Postgres(tx) => {
                for chunk in rows.chunks(ROWS_MAX) {
                    let values = self.arrays(self.values(chunk, &bind)?)?;
                    let query = sqlx::query_with(sqlx::AssertSqlSafe(self.unnested()), values);
                    found.extend(
                        query
                            .fetch_all(&mut **tx)
                            .await?
                            .into_iter()
                            .map(Row::Postgres),
                    );
                }
            }
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
    ) -> Result<Vec<Value>, StoreError> {
        let mut values = Values(Vec::with_capacity(rows.len() * self.columns));
        for row in rows {
            bind(&mut values, row)?;
        }
        Ok(values.0)
    }

    fn text(&self, rows: usize) -> String {
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let rows = vec![row; rows].join(", ");
        format!("{} VALUES {rows} {}", self.before, self.after)
    }

    fn unnested(&self) -> String {
        let list = |prefix: &str| {
            let name = |number| format!("{prefix}{number}");
            (1..=self.columns).map(name).collect::<Vec<_>>().join(", ")
        };
        let (arrays, names) = (list("$"), list("column"));
        let (before, after) = (self.before, self.after);
        format!("{before} SELECT {names} FROM UNNEST({arrays}) AS u ({names}) {after}")
    }

    /// Values by column, each an array of what its first value is.
    fn arrays(&self, values: Vec<Value>) -> Result<PgArguments, StoreError> {
        let mut columns: Vec<Column> = Vec::with_capacity(self.columns);
        for (place, value) in values.into_iter().enumerate() {
            match columns.get_mut(place % self.columns) {
                Some(column) => column.push(value)?,
                None => columns.push(Column::beginning(value)),
            }
        }
        let mut arguments = PgArguments::default();
        arguments.reserve(self.columns, 0);
        for column in columns {
            match column {
                Column::Numbers(values) => arguments.add(values),
                Column::Texts(values) => arguments.add(values),
                Column::Bytes(values) => arguments.add(values),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }
}

/// All values of one column.
enum Column {
    Numbers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

impl Column {
    fn beginning(value: Value) -> Self {
        match value {
            Value::Number(value) => Self::Numbers(vec![value]),
            Value::Text(value) => Self::Texts(vec![value.map(sql::without_nul)]),
            Value::Bytes(value) => Self::Bytes(vec![value]),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), StoreError> {
        match (self, value) {
            (Self::Numbers(values), Value::Number(value)) => values.push(value),
            (Self::Texts(values), Value::Text(value)) => values.push(value.map(sql::without_nul)),
            (Self::Bytes(values), Value::Bytes(value)) => values.push(value),
            _ => return Err(sqlx::Error::Encode("a column of several kinds".into()).into()),
        }
        Ok(())
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{self, ENGINES};

    #[tokio::test]
    async fn every_row_arrives_whatever_their_number() {
        for engine in ENGINES {
            let (_folder, store) = testing::store(engine).await;
            let mut tx = store.write().await.unwrap();
            let text =
                "CREATE TABLE numbers (number BIGINT NOT NULL PRIMARY KEY, twice BIGINT NOT NULL)";
            sql::query(text).execute(&mut tx).await.unwrap();
            let bulk = Bulk {
                before: "INSERT INTO numbers (number, twice)",
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
            let held: Vec<(i64, i64)> = sql::query_as(query).fetch_all(&mut tx).await.unwrap();
            assert_eq!(held, expected);
        }
    }
}
