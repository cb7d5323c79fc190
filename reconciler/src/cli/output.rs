//! Tables for people, JSON for programs, of the same values.

use serde::Serialize;
use serde_json::Value;

/// How answers are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    /// JSON instead of tables.
    pub(super) json: bool,
}

impl Output {
    /// A value as JSON.
    pub(super) fn value(self, value: &impl Serialize) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string_pretty(value)?);
        Ok(())
    }

    /// One thing: a line for each field.
    pub(super) fn one(self, thing: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            return self.value(thing);
        }
        let Value::Object(fields) = serde_json::to_value(thing)? else {
            return self.value(thing);
        };
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, value) in &fields {
            println!("{name:width$}  {}", text(value));
        }
        Ok(())
    }

    /// A list: a table of these fields.
    pub(super) fn list(self, things: &[impl Serialize], columns: &[&str]) -> anyhow::Result<()> {
        if self.json {
            return self.value(&things);
        }
        let mut rows = vec![
            columns
                .iter()
                .map(|name| name.to_uppercase())
                .collect::<Vec<_>>(),
        ];
        for thing in things {
            let value = serde_json::to_value(thing)?;
            rows.push(columns.iter().map(|name| text(&value[*name])).collect());
        }
        print!("{}", table(&rows));
        Ok(())
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

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["A".to_owned(), "B".to_owned()],
            vec!["long".to_owned(), "x".to_owned()],
        ];
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
