//! Rating again, and where the result is not what was issued.
//!
//! Times beside a quantity (measured, interpolated, unmeasured) are not billed, and a file of few
//! readings does not prove them: they are left out of the comparison.

use serde_json::Value;

use super::node::Node;
use super::terms::Terms;
use super::usage::Used;
use super::{Difference, Step};
use crate::invoice::InvoiceDocument;
use crate::money::RoundingMode;
use crate::period::Period;
use crate::statement::{self, Note, Statement, StatementInput};

/// Keys whose values are notes on time.
const TIMES: [&str; 3] = ["measured", "interpolated", "unmeasured"];

/// The statement computed from the evidence, if it is the one on the document.
pub(super) fn recomputed(
    document: &InvoiceDocument,
    terms: &Terms,
    nodes: &[Node],
    used: &Used,
) -> Result<Statement, Difference> {
    let issued = &document.statement;
    let input = StatementInput {
        account: terms.account.clone(),
        seller: issued.seller.clone(),
        buyer: terms.account.name.clone(),
        period: issued.period,
        windows: terms.windows.clone(),
        usage: used.items.clone(),
        notes: notes(issued, nodes, used),
        rounding: RoundingMode::default(),
    };
    let computed = statement::draft(input)
        .map_err(|error| Difference::new(Step::Statement, "the statement", error))?;
    let (left, right) = (value(&computed)?, value(issued)?);
    match first_difference("", &left, &right) {
        None => Ok(computed),
        Some((place, why)) => Err(Difference::new(Step::Statement, place, why)),
    }
}

/// The notes of the document, with gaps as the chains name them.
fn notes(issued: &Statement, nodes: &[Node], used: &Used) -> Vec<Note> {
    let others = issued.notes.iter();
    let mut notes: Vec<Note> = others
        .filter(|note| !matches!(note, Note::Gap { .. }))
        .cloned()
        .collect();
    let carried = |node: &&Node| used.items.iter().any(|item| item.node == node.id);
    for node in nodes.iter().filter(carried) {
        notes.extend(gaps(node, issued.period));
    }
    notes
}

fn gaps(node: &Node, period: Period) -> impl Iterator<Item = Note> + '_ {
    let counted = node
        .streams
        .iter()
        .flat_map(|stream| stream.stretches().into_iter().flatten());
    let gaps = counted.flat_map(|link| &link.header.gaps);
    gaps.filter_map(move |gap| {
        let named = Period {
            from: gap.from,
            to: gap.to,
        };
        let within = named.overlap(&period)?;
        Some(Note::Gap {
            node: node.id,
            node_name: node.name.clone(),
            from: within.from,
            to: within.to,
            cause: gap.cause,
        })
    })
}

fn value(statement: &Statement) -> Result<Value, Difference> {
    serde_json::to_value(statement)
        .map_err(|error| Difference::new(Step::Statement, "the statement", error))
}

/// Where two statements part first, and how.
fn first_difference(place: &str, computed: &Value, issued: &Value) -> Option<(String, String)> {
    match (computed, issued) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = right.keys().chain(left.keys());
            keys.filter(|key| !TIMES.contains(&key.as_str()))
                .find_map(|key| {
                    let place = joined(place, key);
                    let none = &Value::Null;
                    let (left, right) = (left.get(key), right.get(key));
                    first_difference(&place, left.unwrap_or(none), right.unwrap_or(none))
                })
        }
        (Value::Array(left), Value::Array(right)) => {
            let longest = left.len().max(right.len());
            (0..longest).find_map(|index| {
                let none = &Value::Null;
                let (left, right) = (left.get(index), right.get(index));
                let (left, right) = (left.unwrap_or(none), right.unwrap_or(none));
                first_difference(&named(place, index, right, left), left, right)
            })
        }
        _ if computed == issued => None,
        _ => Some((
            place.to_owned(),
            format!(
                "the evidence gives {}, the invoice says {}",
                told(computed),
                told(issued)
            ),
        )),
    }
}

fn joined(place: &str, key: &str) -> String {
    match place {
        "" => key.to_owned(),
        place => format!("{place}, {key}"),
    }
}

/// `line starter/cpu` where there is an id, else the place in the list.
fn named(place: &str, index: usize, one: &Value, other: &Value) -> String {
    let id = [one, other]
        .into_iter()
        .find_map(|value| value["id"].as_str());
    match id {
        Some(id) => format!("{place} {id}"),
        None => format!("{place} {}", index + 1),
    }
}

fn told(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= 80 {
        return text;
    }
    let cut: String = text.chars().take(77).collect();
    format!("{cut}...")
}
