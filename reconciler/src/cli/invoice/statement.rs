//! A statement for people: lines with their steps, the total, and what else is to be said.

use tallystick_common::statement::{Line, Statement, Unpriced, UnpricedReason};

use crate::console::view::{discrepancy, note};

/// The statement as text.
pub(in crate::cli) fn told(statement: &Statement) -> String {
    let titles: Vec<String> = statement.lines.iter().map(title).collect();
    let amounts: Vec<String> = statement
        .lines
        .iter()
        .map(|line| line.amount.to_string())
        .collect();
    let total = statement.total.to_string();
    let widest = |texts: &[String], least: &str| {
        let widths = texts.iter().map(|text| text.chars().count());
        widths.chain([least.chars().count()]).max().unwrap_or(0)
    };
    let (left, right) = (widest(&titles, "Total"), widest(&amounts, &total));
    let mut text = format!(
        "{} ({}), {}\n\n",
        statement.account.name, statement.account.id, statement.period
    );
    for ((line, title), amount) in statement.lines.iter().zip(&titles).zip(&amounts) {
        text.push_str(&format!("{title:<left$}  {amount:>right$}\n"));
        for step in &line.steps {
            text.push_str(&format!("    {step}\n"));
        }
    }
    text.push_str(&format!("{:<left$}  {total:>right$}\n", "Total"));
    let exact = statement.unrounded_total.cut(6);
    text.push_str(&format!("    before rounding {exact}\n"));
    text.push_str(&remarks(statement));
    text
}

fn title(line: &Line) -> String {
    match &line.workload {
        Some(of) => format!("{} · {} on {}", line.title, of.workload, of.node_name),
        None => line.title.clone(),
    }
}

fn remarks(statement: &Statement) -> String {
    let unpriced = statement.unpriced.iter().map(not_charged);
    let notes = statement
        .notes
        .iter()
        .map(|said| format!("Note: {}", note(said)));
    let wrong = statement.discrepancies.iter().map(discrepancy);
    let lines = unpriced.chain(notes).chain(wrong);
    lines.map(|line| format!("{line}\n")).collect()
}

fn not_charged(unpriced: &Unpriced) -> String {
    let (meter, detail) = (unpriced.meter, &unpriced.detail);
    let why = match unpriced.reason {
        UnpricedReason::NoSubscription => "no subscription covers its time",
        UnpricedReason::NoPrice => "the plan has no price for it",
    };
    format!(
        "Not charged: {meter} {} {} of {} on {}: {why}",
        detail.quantity,
        meter.unit(),
        detail.of.workload,
        detail.of.node_name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::draft::{Which, draft};
    use crate::billing::testing::{self, at};
    use crate::store::testing::{ENGINES, store};

    #[tokio::test]
    async fn every_line_tells_how_its_amount_came_about() {
        for engine in ENGINES {
            let (_folder, store) = store(engine).await;
            let hour = at("2026-11-22T12:00:00Z");
            testing::node(&store, at("2026-11-22T13:00:00Z")).await;
            testing::acme(&store, at("2026-11-01T00:00:00Z")).await;
            // Two hours and a half of CPU time at 0.012.
            testing::cpu(&store, 3, hour, [2_250_000_000; 4]).await;
            let now = at("2026-11-22T13:00:00Z");
            let mut tx = store.read().await.unwrap();
            let draft = draft(&mut tx, "acme", Which::At(now), "Seller", now).await;
            let text = told(&draft.unwrap().statement);
            assert!(text.starts_with("Acme Ltd (acme), 2026-11-01"), "{text}");
            for expected in ["9000000000", "2.5", "0.012", "0.03 EUR", "Note: web-1"] {
                assert!(text.contains(expected), "{expected:?} in\n{text}");
            }
            let amounts: Vec<_> = text
                .lines()
                .filter(|line| line.ends_with(" EUR") && !line.starts_with(' '))
                .map(|line| line.chars().count())
                .collect();
            assert_eq!(amounts.len(), 2, "a line and the total in\n{text}");
            assert_eq!(amounts[0], amounts[1], "below each other in\n{text}");
        }
    }
}
