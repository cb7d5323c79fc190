//! Derived rows, column by column: as they are held, as segments make them, and where the two differ.
//!
//! What segments make is what [`super::add`] would bind for them, so that equal means equal to the byte.

use std::collections::{BTreeMap, BTreeSet};

use super::super::bulk::{Bulk, Values};
use super::super::column::number;
use super::super::sql::{self, Value};
use super::super::streams::StreamRow;
use super::super::{Connection, StoreError};
use super::{
    GROUPS, Names, Row, bind_register, bind_row, find_names, firsts, hours, merged, named, names,
};
use crate::rollup::Advance;

/// Which derived rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Rollups of one hour since 1970.
    Hour(u64),
    /// Registers of one stream.
    Stream(StreamRow),
}

/// Rows by their key, with the key among the columns.
pub type Rows = BTreeMap<Vec<i64>, Vec<Value>>;

/// A row, or one column of it, that is not what its segments make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: &'static str,
    /// The row's key.
    pub key: Vec<i64>,
    /// The first column that differs, what it holds and what it is due to hold; none when the whole row
    /// is missing or should not be there.
    pub column: Option<(String, Value, Value)>,
    /// Whether the row is there.
    pub held: bool,
}

impl Scope {
    fn table(self) -> &'static str {
        match self {
            Self::Hour(_) => "rollups",
            Self::Stream(_) => "registers",
        }
    }

    /// The columns, those of the key first.
    fn columns(self) -> Vec<String> {
        let names =
            |list: &[&str]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
        match self {
            Self::Hour(_) => {
                let mut columns = names(&["hour", "workload", "meter"]);
                for (group, _) in GROUPS {
                    columns.extend((0..4).map(|quarter| format!("{group}{quarter}")));
                }
                columns.extend(names(&["last_at", "last_reading"]));
                columns
            }
            Self::Stream(_) => names(&[
                "stream",
                "register",
                "workload",
                "meter",
                "basis",
                "opened_at",
                "last_at",
                "last_reading",
                "closed",
            ]),
        }
    }

    /// How many columns the key has.
    fn keys(self) -> usize {
        match self {
            Self::Hour(_) => 3,
            Self::Stream(_) => 2,
        }
    }

    /// The value of the first column.
    fn first(self) -> Result<i64, StoreError> {
        match self {
            Self::Hour(hour) => number(hour, "an hour"),
            Self::Stream(stream) => Ok(stream.0),
        }
    }

    fn key(self, row: &[Value]) -> Vec<i64> {
        let number = |value: &Value| match value {
            Value::Number(Some(number)) => *number,
            _ => 0,
        };
        row.iter().take(self.keys()).map(number).collect()
    }
}

/// The rows that are there.
///
/// # Errors
/// When the database fails.
pub async fn held(conn: &mut Connection, scope: Scope) -> Result<Rows, StoreError> {
    let (columns, table) = (scope.columns(), scope.table());
    let text = format!(
        "SELECT {} FROM {table} WHERE {} = $1",
        columns.join(", "),
        columns[0]
    );
    let rows = sql::query(sqlx::AssertSqlSafe(text))
        .bind(scope.first()?)
        .fetch_all(conn)
        .await?;
    let read = |row: &sql::Row| {
        let values = columns
            .iter()
            .enumerate()
            .map(|(place, name)| value(row, place, name));
        let values = values.collect::<Result<Vec<_>, StoreError>>()?;
        Ok((scope.key(&values), values))
    };
    rows.iter().map(read).collect()
}

fn value(row: &sql::Row, place: usize, name: &str) -> Result<Value, StoreError> {
    Ok(match name {
        "last_reading" => Value::Bytes(Some(row.try_get::<Vec<u8>, _>(place)?)),
        "basis" | "closed" => Value::Text(row.try_get::<Option<String>, _>(place)?),
        _ => Value::Number(Some(row.try_get::<i64, _>(place)?)),
    })
}

/// The rows that segments make: all that rollups hold of every stream that has part in the scope. With
/// `naming`, workloads without a short name get one.
///
/// # Errors
/// When the database fails, or a workload has no short name.
pub async fn due(
    conn: &mut Connection,
    scope: Scope,
    advances: &[Advance],
    naming: bool,
) -> Result<Rows, StoreError> {
    let names = if naming {
        names(conn, advances).await?
    } else {
        let wanted: Vec<_> = firsts(advances).into_keys().collect();
        let mut found = Names::with_capacity(wanted.len());
        find_names(conn, &wanted, &mut found).await?;
        found
    };
    let rows = match scope {
        Scope::Hour(hour) => hour_rows(hour, advances, &names)?,
        Scope::Stream(_) => register_rows(advances, &names)?,
    };
    Ok(rows.into_iter().map(|row| (scope.key(&row), row)).collect())
}

fn hour_rows(
    hour: u64,
    advances: &[Advance],
    names: &Names<'_>,
) -> Result<Vec<Vec<Value>>, StoreError> {
    let mut rows: Vec<Row> = Vec::new();
    for advance in advances {
        let own = hours(advance, names)?.into_iter();
        rows.extend(own.filter(|row| row.hour == hour));
    }
    let bound = |row: &Row| {
        let mut values = Values::default();
        bind_row(&mut values, row)?;
        Ok(values.into_inner())
    };
    merged(rows).iter().map(bound).collect()
}

fn register_rows(advances: &[Advance], names: &Names<'_>) -> Result<Vec<Vec<Value>>, StoreError> {
    let mut rows = Vec::new();
    for advance in advances {
        let (stream, cells) = (&advance.stream, &advance.cells);
        for (register, end) in &cells.registers {
            let mut values = Values::default();
            let workload = named(names, stream.node_row, &end.workload)?;
            bind_register(&mut values, stream.row, *register, workload, end)?;
            let mut values = values.into_inner();
            if end.closed.is_none() && cells.open.binary_search(register).is_err() {
                values.pop();
                values.push(Value::from("left_out"));
            }
            rows.push(values);
        }
    }
    Ok(rows)
}

/// Where they differ, in the order of their keys.
#[must_use]
pub fn differences(scope: Scope, held: &Rows, due: &Rows) -> Vec<Difference> {
    let columns = scope.columns();
    let keys: BTreeSet<&Vec<i64>> = held.keys().chain(due.keys()).collect();
    let difference = |key: &Vec<i64>| {
        let column = match (held.get(key), due.get(key)) {
            (Some(held), Some(due)) => {
                let place = held.iter().zip(due).position(|(held, due)| held != due)?;
                let values = (held[place].clone(), due[place].clone());
                Some((columns[place].clone(), values.0, values.1))
            }
            _ => None,
        };
        Some(Difference {
            table: scope.table(),
            key: key.clone(),
            column,
            held: held.contains_key(key),
        })
    };
    keys.into_iter().filter_map(difference).collect()
}

/// Puts rows as they are due in place of those that differ.
///
/// # Errors
/// When the database fails.
pub async fn replace(
    conn: &mut Connection,
    scope: Scope,
    differing: &[Difference],
    due: &Rows,
) -> Result<(), StoreError> {
    let (columns, table, keys) = (scope.columns(), scope.table(), scope.keys());
    let matches: Vec<_> = (1..=keys)
        .map(|place| format!("{} = ${place}", columns[place - 1]))
        .collect();
    let delete = format!("DELETE FROM {table} WHERE {}", matches.join(" AND "));
    for difference in differing.iter().filter(|difference| difference.held) {
        let query = sql::query(sqlx::AssertSqlSafe(delete.clone()));
        let query = difference
            .key
            .iter()
            .fold(query, |query, part| query.bind(*part));
        query.execute(conn).await?;
    }
    let rows: Vec<_> = differing
        .iter()
        .filter_map(|difference| due.get(&difference.key))
        .collect();
    let before = format!("INSERT INTO {table} ({})", columns.join(", "));
    let bulk = Bulk {
        before: &before,
        columns: columns.len(),
        after: "",
    };
    let bind = |values: &mut Values, row: &&Vec<Value>| {
        row.iter().try_for_each(|value| values.add(value.clone()))
    };
    bulk.execute(conn, &rows, bind).await.map(drop)
}
