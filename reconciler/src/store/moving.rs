//! Copies a store from one place to another, and proves that nothing was lost on the way.
//!
//! One of the two is a file: tables and columns are those that it has, and rows go in the order of their keys.
//! Everything arrives in one transaction, which is committed only if each table, read back in the same order, has
//! the same number of rows and the same digest as where it came from. Who owns which node is not copied.

use super::bulk::{Bulk, Values};
use super::sql::{self, Row, Value};
use super::{Connection, Location, Store, StoreError, Tx};

/// Rows read and written at once.
const PAGE: i64 = 4096;
/// What belongs to running processes.
const LEFT_OUT: [&str; 3] = ["replicas", "owners", "turns"];

/// One table, as it was copied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Copied {
    /// Its name.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
    /// BLAKE3 of all its rows, in the order of its key, hexadecimal.
    pub digest: String,
}

/// Copies everything from the file `from` to the server `to`, where no store may be yet. While it copies,
/// nobody writes to the file.
///
/// # Errors
/// When either fails, there is a store already, or a table read back is not what was written; then the
/// server's store stays without rows and may be dropped.
pub async fn copy(from: &Store, to: &Location) -> Result<(Store, Vec<Copied>), StoreError> {
    let mut source = from.write().await?;
    let copied = arrive(&mut source, to).await?;
    Ok((Store::open(to).await?, copied))
}

/// Copies what the transaction `from` sees to `to`, where no store may be yet: at least one of them is a file.
///
/// # Errors
/// As [`copy`].
pub(crate) async fn arrive(from: &mut Tx, to: &Location) -> Result<Vec<Copied>, StoreError> {
    let target = Store::unsettled(to).await?;
    let copied = fill(from, &target, to).await;
    target.close().await;
    copied
}

async fn fill(from: &mut Tx, target: &Store, to: &Location) -> Result<Vec<Copied>, StoreError> {
    let mut tx = target.write().await?;
    if is_settled(&mut tx).await? {
        return Err(StoreError::Exists { store: to.clone() });
    }
    let tables = match &**from {
        Connection::Sqlite(_) => tables(from).await?,
        Connection::Postgres(_) => tables(&mut tx).await?,
    };
    let mut copied = Vec::new();
    for table in &tables {
        copied.push(copy_table(from, &mut tx, table).await?);
    }
    // After all of them: a server gives up on whoever falls silent in the middle.
    for (table, written) in tables.iter().zip(&copied) {
        let read = digest(&mut tx, table).await?;
        if read != *written {
            let why = format!(
                "{} rows were written, {} read back",
                written.rows, read.rows
            );
            return Err(StoreError::Damaged {
                what: "a copied table",
                why: format!("{}: {why}, or their contents differ", table.name),
            });
        }
    }
    tx.commit().await?;
    Ok(copied)
}

/// Whether a store there has begun its life: one that was cut off while it arrived has not.
pub(crate) async fn is_settled(conn: &mut Connection) -> Result<bool, StoreError> {
    let settled: i64 = sql::query_scalar("SELECT COUNT(*) FROM meta")
        .fetch_one(conn)
        .await?;
    Ok(settled > 0)
}

/// What every table of a file comes to.
///
/// # Errors
/// When the file cannot be read.
pub(crate) async fn digests(file: &mut Connection) -> Result<Vec<Copied>, StoreError> {
    let mut found = Vec::new();
    for table in tables(file).await? {
        found.push(digest(file, &table).await?);
    }
    Ok(found)
}

/// A table's shape.
#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
    /// Places of the key's columns, in the order of the key.
    key: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Number,
    Text,
    Bytes,
}

/// Every table of the file that is copied, those that others refer to first.
async fn tables(file: &mut Connection) -> Result<Vec<Table>, StoreError> {
    let query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
                 AND name <> '_sqlx_migrations' ORDER BY rowid";
    let names: Vec<String> = sql::query_scalar(query).fetch_all(file).await?;
    let mut tables = Vec::new();
    for name in names {
        if !LEFT_OUT.contains(&name.as_str()) {
            tables.push(table(file, name).await?);
        }
    }
    Ok(tables)
}

async fn table(file: &mut Connection, name: String) -> Result<Table, StoreError> {
    let query = "SELECT name, type, pk FROM pragma_table_info($1) ORDER BY cid";
    let rows = sql::query(query)
        .bind(name.as_str())
        .fetch_all(file)
        .await?;
    let mut columns = Vec::new();
    let mut key = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let (column, kind): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let kind = match kind.as_str() {
            "BIGINT" => Kind::Number,
            "TEXT" => Kind::Text,
            "BLOB" => Kind::Bytes,
            _ => {
                return Err(StoreError::damaged(
                    "sqlite_master",
                    format!("{column} {kind}"),
                ));
            }
        };
        let in_key: i64 = row.try_get(2)?;
        if in_key > 0 {
            key.push((in_key, place));
        }
        columns.push((column, kind));
    }
    key.sort_unstable();
    let key = key.into_iter().map(|(_, place)| place).collect();
    Ok(Table { name, columns, key })
}

impl Table {
    fn names(&self, of: impl Iterator<Item = usize>) -> String {
        let names: Vec<&str> = of.map(|place| self.columns[place].0.as_str()).collect();
        names.join(", ")
    }

    /// Rows after a key, in the order of keys.
    async fn page(
        &self,
        conn: &mut Connection,
        after: Option<&[Value]>,
    ) -> Result<Vec<Vec<Value>>, StoreError> {
        let columns = self.names(0..self.columns.len());
        let key = self.names(self.key.iter().copied());
        let places: Vec<String> = (2..self.key.len() + 2).map(|n| format!("${n}")).collect();
        let beyond = after.map_or_else(String::new, |_| {
            format!("WHERE ({key}) > ({})", places.join(", "))
        });
        let name = &self.name;
        let text = format!("SELECT {columns} FROM {name} {beyond} ORDER BY {key} LIMIT $1");
        let mut query = sql::query(sqlx::AssertSqlSafe(text)).bind(PAGE);
        if let Some(after) = after {
            for place in &self.key {
                query = query.bind(after[*place].clone());
            }
        }
        let rows = query.fetch_all(conn).await?;
        rows.iter().map(|row| self.read(row)).collect()
    }

    fn read(&self, row: &Row) -> Result<Vec<Value>, StoreError> {
        let columns = self.columns.iter().enumerate();
        let values = columns.map(|(place, (_, kind))| {
            Ok(match kind {
                Kind::Number => Value::Number(row.try_get(place)?),
                Kind::Text => Value::Text(
                    row.try_get::<Option<String>, _>(place)?
                        .map(sql::without_nul),
                ),
                Kind::Bytes => Value::Bytes(row.try_get(place)?),
            })
        });
        values.collect()
    }
}

async fn copy_table(
    source: &mut Connection,
    target: &mut Connection,
    table: &Table,
) -> Result<Copied, StoreError> {
    let before = format!(
        "INSERT INTO {} ({})",
        table.name,
        table.names(0..table.columns.len())
    );
    let bulk = Bulk {
        before: &before,
        columns: table.columns.len(),
        after: "",
    };
    let bind = |values: &mut Values, row: &Vec<Value>| {
        row.iter().try_for_each(|value| values.add(value.clone()))
    };
    let mut sum = Sum::default();
    let mut last: Option<Vec<Value>> = None;
    loop {
        let mut page = table.page(source, last.as_deref()).await?;
        if page.is_empty() {
            return Ok(sum.of(table));
        }
        bulk.execute(target, &page, bind).await?;
        page.iter().for_each(|row| sum.add(row));
        last = page.pop();
    }
}

async fn digest(conn: &mut Connection, table: &Table) -> Result<Copied, StoreError> {
    let mut sum = Sum::default();
    let mut last: Option<Vec<Value>> = None;
    loop {
        let mut page = table.page(conn, last.as_deref()).await?;
        if page.is_empty() {
            return Ok(sum.of(table));
        }
        page.iter().for_each(|row| sum.add(row));
        last = page.pop();
    }
}

/// Rows and their digest.
#[derive(Default)]
struct Sum {
    rows: u64,
    hasher: blake3::Hasher,
}

impl Sum {
    fn add(&mut self, row: &[Value]) {
        self.rows += 1;
        for value in row {
            let (kind, bytes) = match value {
                Value::Number(Some(number)) => (1, &number.to_be_bytes()[..]),
                Value::Text(Some(text)) => (2, text.as_bytes()),
                Value::Bytes(Some(bytes)) => (3, &bytes[..]),
                Value::Number(None) | Value::Text(None) | Value::Bytes(None) => (0, &[][..]),
            };
            self.hasher.update(&[kind]);
            self.hasher.update(&(bytes.len() as u64).to_be_bytes());
            self.hasher.update(bytes);
        }
    }

    fn of(&self, table: &Table) -> Copied {
        Copied {
            table: table.name.clone(),
            rows: self.rows,
            digest: self.hasher.finalize().to_hex().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{self, Verification};
    use crate::billing::testing::world::{TO_DECEMBER, World};
    use crate::ingest::admit::Verdict;
    use crate::ingest::testing::{at, committing, send};
    use crate::store::testing::{Engine, Home};

    #[tokio::test]
    async fn a_store_that_moved_to_a_server_is_the_same_and_goes_on() {
        let mut world = World::new(Engine::Sqlite).await;
        world.next(TO_DECEMBER / 2, 1000).await;
        world.roll_up().await;
        world.next(TO_DECEMBER / 4, 500).await;
        let late = "2026-11-30T23:59:59Z";
        let before = world.draft("acme", late).await.statement;
        let home = Home::empty(Engine::Postgres).await;
        let (server, copied) = copy(&world.store, &home.location).await.unwrap();
        assert_eq!(server.epoch(), world.store.epoch());
        let rows = |name: &str| {
            copied
                .iter()
                .find(|copied| copied.table == name)
                .unwrap()
                .rows
        };
        assert_eq!(
            (rows("segments"), rows("accounts"), rows("meta")),
            (2, 1, 1)
        );
        let again = copy(&world.store, &home.location).await;
        assert!(matches!(again, Err(StoreError::Exists { .. })));
        let mut tx = server.read().await.unwrap();
        let log = audit::verify(&mut tx).await.unwrap();
        assert!(matches!(log, Verification::Whole(_)), "{log:?}");
        drop(tx);
        world.store = server;
        assert_eq!(world.draft("acme", late).await.statement, before);
        let commit = committing(&world.store, || at(100_000_000));
        let next = world.agent.next(60, 7);
        assert_eq!(send(&commit, next).await, Verdict::Accepted);
    }
}
