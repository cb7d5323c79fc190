//! Tables for people, JSON for programs, of the same values.

use std::io::Write as _;

use serde::Serialize;
use serde_json::Value;
use tallystick_common::time::{Micros, SECOND_US};

/// Columns whose cells end, rather than begin, below each other.
const NUMBERS: [&str; 9] = [
    "quantity",
    "total",
    "version",
    "seq",
    "count",
    "anchor_day",
    "number",
    "first",
    "last",
];

/// How answers are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// JSON instead of tables.
    pub(super) json: bool,
}

impl Output {
    /// A value as JSON.
    pub(super) fn value(self, value: &impl Serialize) -> anyhow::Result<()> {
        say(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// One thing: a line for each of these fields.
    pub(super) fn one(self, thing: &impl Serialize, fields: &[&str]) -> anyhow::Result<()> {
        if self.json {
            return self.value(thing);
        }
        let value = serde_json::to_value(thing)?;
        let lines: Vec<_> = fields
            .iter()
            .map(|name| (*name, text(&value[*name])))
            .collect();
        say(&sheet(&lines))
    }

    /// A list: a table of these fields.
    pub(super) fn list(self, things: &[impl Serialize], columns: &[&str]) -> anyhow::Result<()> {
        if self.json {
            return self.value(&things);
        }
        say(&table_of(things, columns)?)
    }
}

/// Writes to standard output, whose reader may have gone: the caller treats that as the end.
pub(super) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A table of these fields of things.
pub(super) fn table_of(things: &[impl Serialize], columns: &[&str]) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for thing in things {
        let value = serde_json::to_value(thing)?;
        rows.push(columns.iter().map(|name| text(&value[*name])).collect());
    }
    Ok(table(columns, &rows))
}

/// Rows under the names of their columns.
pub(super) fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let heads = columns
        .iter()
        .map(|name| name.replace('_', " ").to_uppercase());
    let heads: Vec<String> = heads.collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells
            .chain(heads.get(column))
            .map(|cell| cell.chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(columns).zip(&widths);
        let cells = cells.map(|((cell, name), width)| {
            if NUMBERS.contains(name) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    std::iter::once(&heads).chain(rows).map(line).collect()
}

/// Names and values below each other.
pub(super) fn sheet(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| {
        let name = name.replace('_', " ");
        format!("{name:width$}  {value}\n")
    };
    lines.iter().map(line).collect()
}

/// A duration for people: `1h 02m 03s`, below a minute with up to three decimals.
pub(super) fn duration(time: Micros) -> String {
    let (seconds, millis) = (time.0 / SECOND_US, time.0 % SECOND_US / 1000);
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes, rest, millis) {
        (0, 0, rest, 0) => format!("{rest}s"),
        (0, 0, rest, millis) => format!("{rest}.{millis:03}s"),
        (0, minutes, rest, _) => format!("{minutes}m {rest:02}s"),
        (hours, minutes, rest, _) => format!("{hours}h {minutes:02}m {rest:02}s"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(money) if money.len() == 2 && money.contains_key("amount") => {
            format!("{} {}", text(&money["amount"]), text(&money["currency"]))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["long".to_owned(), "x".to_owned()],
            vec!["é".to_owned(), "y".to_owned()],
        ];
        assert_eq!(table(&["a", "b"], &rows), "A     B\nlong  x\né     y\n");
    }

    #[test]
    fn numbers_end_below_each_other() {
        let rows = [vec!["1".to_owned()], vec!["1234567890".to_owned()]];
        assert_eq!(
            table(&["quantity"], &rows),
            "  QUANTITY\n         1\n1234567890\n"
        );
    }

    #[test]
    fn an_empty_list_has_its_heads() {
        assert_eq!(table(&["id", "last_seen_at"], &[]), "ID  LAST SEEN AT\n");
    }

    #[test]
    fn what_is_unknown_is_a_dash_and_money_has_its_currency() {
        assert_eq!(text(&Value::Null), "-");
        let money = serde_json::json!({ "amount": "1.20", "currency": "EUR" });
        assert_eq!(text(&money), "1.20 EUR");
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let all = [
            (0, "0s"),
            (1_500_000, "1.500s"),
            (59_000_000, "59s"),
            (61_999_999, "1m 01s"),
            (3_723_000_000, "1h 02m 03s"),
        ];
        for (micros, expected) in all {
            assert_eq!(duration(Micros(micros)), expected);
        }
    }
}
