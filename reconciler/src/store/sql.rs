//! Statements that run on either engine, and the rows they give.
//!
//! The names are those of sqlx, and so is the text: placeholders are `$1`, `$2`, which SQLite takes
//! too. What a column holds is BIGINT, TEXT or bytes, on both; a bound value says which, also when it is
//! NULL. Rows stay what the driver made them, so reading one costs no copy.

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, ColumnIndex, Row as _, SqlSafeStr, SqlStr};

use super::Connection;

/// A bound value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// BIGINT.
    Number(Option<i64>),
    /// TEXT.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($type:ty => $kind:ident $convert:expr;)*) => { $(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$kind(Some($convert(value)))
            }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self {
                Self::$kind(value.map($convert))
            }
        }
    )* };
}

values! {
    i64 => Number std::convert::identity;
    &str => Text str::to_owned;
    &String => Text String::clone;
    String => Text std::convert::identity;
    &[u8] => Bytes <[u8]>::to_vec;
    Vec<u8> => Bytes std::convert::identity;
}

/// A row of either engine.
#[derive(Debug)]
pub enum Row {
    /// Of the file.
    Sqlite(SqliteRow),
    /// Of the server.
    Postgres(PgRow),
}

/// What a column can be read as.
pub trait Field<'r>:
    sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite> + sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>
{
}

impl<'r, T> Field<'r> for T where
    T: sqlx::Decode<'r, Sqlite>
        + sqlx::Type<Sqlite>
        + sqlx::Decode<'r, Postgres>
        + sqlx::Type<Postgres>
{
}

impl Row {
    /// A column, by name or number.
    ///
    /// # Errors
    /// When there is none, or it holds something else.
    pub fn try_get<'r, T, I>(&'r self, index: I) -> Result<T, sqlx::Error>
    where
        T: Field<'r>,
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(index),
            Self::Postgres(row) => row.try_get(index),
        }
    }
}

/// A whole row read at once.
pub trait FromRow: Sized {
    /// Its columns, in order.
    ///
    /// # Errors
    /// When there are too few, or one holds something else.
    fn from_row(row: &Row) -> Result<Self, sqlx::Error>;
}

impl<A: for<'r> Field<'r>, B: for<'r> Field<'r>> FromRow for (A, B) {
    fn from_row(row: &Row) -> Result<Self, sqlx::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

/// The first column alone.
#[derive(Debug)]
pub struct First<T>(T);

impl<T: for<'r> Field<'r>> FromRow for First<T> {
    fn from_row(row: &Row) -> Result<Self, sqlx::Error> {
        row.try_get(0).map(Self)
    }
}

/// A statement and its values.
#[derive(Debug)]
#[must_use]
pub struct Query {
    text: SqlStr,
    values: Vec<Value>,
}

/// A statement whose rows are read as `T`.
#[derive(Debug)]
#[must_use]
pub struct QueryAs<T>(Query, std::marker::PhantomData<fn() -> T>);

/// A statement of whose rows the first column counts.
#[derive(Debug)]
#[must_use]
pub struct QueryScalar<T>(QueryAs<First<T>>);

/// A statement.
pub fn query(text: impl SqlSafeStr) -> Query {
    Query {
        text: text.into_sql_str(),
        values: Vec::new(),
    }
}

/// A statement whose rows are read as tuples.
pub fn query_as<T: FromRow>(text: impl SqlSafeStr) -> QueryAs<T> {
    QueryAs(query(text), std::marker::PhantomData)
}

/// A statement of whose rows the first column counts.
pub fn query_scalar<T: for<'r> Field<'r>>(text: impl SqlSafeStr) -> QueryScalar<T> {
    QueryScalar(query_as(text))
}

/// What a statement did.
#[derive(Debug, Clone, Copy)]
pub struct Done(u64);

impl Done {
    /// Rows inserted, updated or deleted.
    #[must_use]
    pub fn rows_affected(self) -> u64 {
        self.0
    }
}

impl Query {
    /// The value of the next placeholder.
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Executes it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn execute(self, conn: &mut Connection) -> Result<Done, sqlx::Error> {
        match conn {
            Connection::Sqlite(tx) => {
                let query = sqlx::query_with(self.text, sqlite(self.values)?);
                Ok(Done(query.execute(&mut **tx).await?.rows_affected()))
            }
            Connection::Postgres(tx) => {
                let query = sqlx::query_with(self.text, postgres(self.values)?);
                Ok(Done(query.execute(&mut **tx).await?.rows_affected()))
            }
        }
    }

    /// All its rows.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fetch_all(self, conn: &mut Connection) -> Result<Vec<Row>, sqlx::Error> {
        match conn {
            Connection::Sqlite(tx) => {
                let query = sqlx::query_with(self.text, sqlite(self.values)?);
                let rows = query.fetch_all(&mut **tx).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Connection::Postgres(tx) => {
                let query = sqlx::query_with(self.text, postgres(self.values)?);
                let rows = query.fetch_all(&mut **tx).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Its first row, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fetch_optional(self, conn: &mut Connection) -> Result<Option<Row>, sqlx::Error> {
        match conn {
            Connection::Sqlite(tx) => {
                let query = sqlx::query_with(self.text, sqlite(self.values)?);
                Ok(query.fetch_optional(&mut **tx).await?.map(Row::Sqlite))
            }
            Connection::Postgres(tx) => {
                let query = sqlx::query_with(self.text, postgres(self.values)?);
                Ok(query.fetch_optional(&mut **tx).await?.map(Row::Postgres))
            }
        }
    }

    /// Its first row.
    ///
    /// # Errors
    /// When there is none, or the database fails.
    pub async fn fetch_one(self, conn: &mut Connection) -> Result<Row, sqlx::Error> {
        let row = self.fetch_optional(conn).await?;
        row.ok_or(sqlx::Error::RowNotFound)
    }
}

impl<T: FromRow> QueryAs<T> {
    /// The value of the next placeholder.
    pub fn bind(self, value: impl Into<Value>) -> Self {
        Self(self.0.bind(value), self.1)
    }

    /// All its rows.
    ///
    /// # Errors
    /// When the database fails, or a row is something else.
    pub async fn fetch_all(self, conn: &mut Connection) -> Result<Vec<T>, sqlx::Error> {
        let rows = self.0.fetch_all(conn).await?;
        rows.iter().map(T::from_row).collect()
    }

    /// Its first row, if there is one.
    ///
    /// # Errors
    /// When the database fails, or the row is something else.
    pub async fn fetch_optional(self, conn: &mut Connection) -> Result<Option<T>, sqlx::Error> {
        let row = self.0.fetch_optional(conn).await?;
        row.as_ref().map(T::from_row).transpose()
    }

    /// Its first row.
    ///
    /// # Errors
    /// When there is none, it is something else, or the database fails.
    pub async fn fetch_one(self, conn: &mut Connection) -> Result<T, sqlx::Error> {
        T::from_row(&self.0.fetch_one(conn).await?)
    }
}

impl<T: for<'r> Field<'r>> QueryScalar<T> {
    /// The value of the next placeholder.
    pub fn bind(self, value: impl Into<Value>) -> Self {
        Self(self.0.bind(value))
    }

    /// The first column of all its rows.
    ///
    /// # Errors
    /// When the database fails, or a row is something else.
    pub async fn fetch_all(self, conn: &mut Connection) -> Result<Vec<T>, sqlx::Error> {
        let rows = self.0.fetch_all(conn).await?;
        Ok(rows.into_iter().map(|first| first.0).collect())
    }

    /// The first column of its first row, if there is one.
    ///
    /// # Errors
    /// When the database fails, or the row is something else.
    pub async fn fetch_optional(self, conn: &mut Connection) -> Result<Option<T>, sqlx::Error> {
        Ok(self.0.fetch_optional(conn).await?.map(|first| first.0))
    }

    /// The first column of its first row.
    ///
    /// # Errors
    /// When there is none, it is something else, or the database fails.
    pub async fn fetch_one(self, conn: &mut Connection) -> Result<T, sqlx::Error> {
        Ok(self.0.fetch_one(conn).await?.0)
    }
}

/// Values as SQLite takes them.
pub(super) fn sqlite(values: Vec<Value>) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(values.len(), 0);
    for value in values {
        match value {
            Value::Number(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value),
            Value::Bytes(value) => arguments.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn postgres(values: Vec<Value>) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    arguments.reserve(values.len(), 0);
    for value in values {
        match value {
            Value::Number(value) => arguments.add(value),
            Value::Text(value) => arguments.add(value.map(without_nul)),
            Value::Bytes(value) => arguments.add(value),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// PostgreSQL's TEXT holds every character but NUL. What a peer sent must not fail a transaction.
pub(super) fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}
