//! Other systems' rating examples through our own engine.
//!
//! Cases are mapped by what they say, never by their id: a key that is not understood makes the
//! case "not built". Every case of the areas built so far must agree, or stand in
//! `conformance/differs.md` with our own amount and the reason.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the whole file is a test; a case that cannot be read fails it"
)]

use std::collections::BTreeMap;
use std::path::Path;

use rust_decimal::Decimal;
use serde_json::{Map, Value};
use tallystick_common::money::{Currency, Exact, Money};
use tallystick_common::price::{Model, Tier, Tiers};
use tallystick_common::rating::{Rated, Step, rate_units};

/// The areas of the examples whose price models are built.
const AREAS: [&str; 3] = ["standard", "graduated", "volume"];

const NOT_BUILT: &str = "not built";

#[test]
fn every_example_agrees_or_is_listed_with_its_reason() {
    let differing = differing_cases();
    let mut faults = Vec::new();
    let mut cases = 0;
    for line in read("rating-cases.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if !AREAS.contains(&text(&case["area"])) {
            continue;
        }
        cases += 1;
        let id = text(&case["id"]);
        faults.extend(judge(
            id,
            verdict(&case),
            differing.get(id).map(String::as_str),
        ));
    }
    assert!(cases >= 78, "only {cases} cases were read");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_of_differences_names_only_cases_that_exist() {
    let cases = read("rating-cases.jsonl");
    for id in differing_cases().keys() {
        assert!(cases.contains(&format!("\"id\": \"{id}\"")), "{id}");
    }
}

/// What came of one case.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Agrees,
    Differs { ours: String, why: String },
    NotBuilt { why: String },
}

fn judge(id: &str, verdict: Verdict, listed: Option<&str>) -> Option<String> {
    match (verdict, listed) {
        (Verdict::Agrees, None) => None,
        (Verdict::Agrees, Some(_)) => Some(format!("{id} agrees: take it off the table")),
        (Verdict::Differs { ours, .. }, Some(listed)) if ours == listed => None,
        (Verdict::NotBuilt { .. }, Some(NOT_BUILT)) => None,
        (other, listed) => Some(format!("{id}: {other:?}, listed as {listed:?}")),
    }
}

fn verdict(case: &Value) -> Verdict {
    let expected = case["expected"].as_object().unwrap();
    match Example::map(
        case["price"].as_object().unwrap(),
        case["usage"].as_object().unwrap(),
    ) {
        None => Verdict::NotBuilt {
            why: format!("{} {}", case["price"], case["usage"]),
        },
        Some(example) => {
            let wrong: Vec<_> = expected
                .iter()
                .filter(|(key, value)| !example.agrees(key, value))
                .map(|(key, value)| format!("{key} should be {value}"))
                .collect();
            if wrong.is_empty() {
                Verdict::Agrees
            } else {
                Verdict::Differs {
                    ours: example.total(),
                    why: wrong.join(", "),
                }
            }
        }
    }
}

/// Quantities, each rated by itself, and how their amounts make the total.
struct Example {
    rated: Vec<(String, Exact, Rated)>,
    /// None where the source counts without a currency: then nothing is rounded.
    currency: Option<Currency>,
    combine: Combine,
}

enum Combine {
    Sum,
    /// The second less the first: what a late arrival changes.
    Correction,
    /// The amount is a factor, averaged over the quantity.
    Average,
}

impl Example {
    fn map(price: &Map<String, Value>, usage: &Map<String, Value>) -> Option<Self> {
        let mut price = Keys::of(price);
        let mut usage = Keys::of(usage);
        let currency = match price.take("currency").map(text) {
            None | Some("unitless") => None,
            Some(code) => Some(Currency::new(code).unwrap()),
        };
        // The policies we follow by default; any other value is not mapped.
        price.take_if("tier_upper_bound", "inclusive");
        price.take_if("tier_lower_bound", "inclusive");
        let name = text(price.take("model")?);
        let (quantities, combine) = quantities(&mut price, &mut usage)?;
        let model = model(name, &mut price);
        let models = match model {
            Some(model) => vec![model; quantities.len()],
            None => per_unit_type(name, &mut price, &quantities)?,
        };
        let terms = currency
            .unwrap_or_else(|| Currency::new("EUR").unwrap())
            .into();
        let rate = |((label, quantity), (model, block)): ((String, Exact), (Model, u128))| {
            let units = quantity.checked_div(block).unwrap();
            if block > 1 && units.to_string().contains(['.', '/']) {
                return None; // A started block counts in full: packages.
            }
            Some((label, units, rate_units(&model, &units, terms).unwrap()))
        };
        let rated = quantities
            .into_iter()
            .zip(models)
            .map(rate)
            .collect::<Option<_>>()?;
        let is_mapped = price.is_done() && usage.is_done();
        is_mapped.then_some(Self {
            rated,
            currency,
            combine,
        })
    }

    /// The one comparison: by value, so `0.5` is `0.50`.
    fn agrees(&self, key: &str, value: &Value) -> bool {
        let is = |ours: Exact| exact(value) == ours;
        match key {
            "total" => is(self.total().parse().unwrap()),
            "unrounded" => is(self.unrounded()),
            "lines" => self.lines_agree(value.as_array().unwrap()),
            "quantity" | "billed_quantity" | "seconds" | "blocks" => is(self.rated[0].1),
            "previous" => is(self.amount(0)),
            "new" => is(self.amount(1)),
            "delta" => is(self.total().parse().unwrap()),
            "average_rate_factor" => is(self.total().parse().unwrap()),
            "net_discount" => is(Exact::from(1)
                .checked_sub(&self.total().parse().unwrap())
                .unwrap()),
            "units_in_range" => self.tier_parts().iter().any(|(quantity, _)| is(*quantity)),
            "per_unit_total" => self.rated[0].2.steps.iter().any(|step| match step {
                Step::Tier { amount, flat, .. } => is(amount.checked_sub(flat).unwrap()),
                _ => false,
            }),
            // What the source would bill under our policy; `total` is what it does bill.
            "total_if_upper_bound_inclusive" => is(self.total().parse().unwrap()),
            _ => false,
        }
    }

    /// Amount of one of the parts, rounded where there is a currency.
    fn amount(&self, index: usize) -> Exact {
        let rated = &self.rated[index].2;
        match self.currency {
            Some(_) => rated.amount.amount().parse().unwrap(),
            None => rated.unrounded,
        }
    }

    fn unrounded(&self) -> Exact {
        Exact::sum(self.rated.iter().map(|(_, _, rated)| &rated.unrounded)).unwrap()
    }

    fn total(&self) -> String {
        let money = self.rated.iter().map(|(_, _, rated)| rated.amount);
        match (&self.combine, self.currency) {
            (Combine::Sum, Some(currency)) => money
                .fold(Money::zero(currency), |sum, amount| {
                    sum.checked_add(amount).unwrap()
                })
                .amount(),
            (Combine::Sum, None) => self.unrounded().to_string(),
            (Combine::Correction, _) => {
                let amounts: Vec<_> = money.collect();
                amounts[1].checked_sub(amounts[0]).unwrap().amount()
            }
            (Combine::Average, _) => {
                let (_, share, rated) = &self.rated[0];
                quotient(&rated.unrounded, share).to_string()
            }
        }
    }

    fn lines_agree(&self, lines: &[Value]) -> bool {
        let parts = self.tier_parts();
        let (one_each, tiers) = (lines.len() == self.rated.len(), lines.len() == parts.len());
        let agrees = |(index, line): (usize, &Value)| match line
            .get("unit")
            .or_else(|| line.get("group"))
            .map(text)
        {
            Some(name) => {
                let same = |(label, _, _): &_| label == name;
                let found = self.rated.iter().position(same);
                found.is_some_and(|found| one_each && self.amount(found) == exact(&line["amount"]))
            }
            None => tiers && parts[index] == (exact(&line["quantity"]), exact(&line["amount"])),
        };
        lines.iter().enumerate().all(agrees)
    }

    /// Quantity and amount of every tier that was charged.
    fn tier_parts(&self) -> Vec<(Exact, Exact)> {
        let steps = self.rated.iter().flat_map(|(_, _, rated)| &rated.steps);
        steps
            .filter_map(|step| match step {
                Step::Tier {
                    quantity, amount, ..
                }
                | Step::PerUnit {
                    quantity, amount, ..
                } => Some((*quantity, *amount)),
                _ => None,
            })
            .collect()
    }
}

/// Labelled quantities and what their amounts mean.
fn quantities(
    price: &mut Keys<'_>,
    usage: &mut Keys<'_>,
) -> Option<(Vec<(String, Exact)>, Combine)> {
    let one = |quantity: Exact| vec![(String::new(), quantity)];
    if let (Some(start), Some(end)) = (usage.take("start"), usage.take("end")) {
        return Some((one(seconds_between(start, end)), Combine::Sum));
    }
    if let Some(seconds) = usage.take("seconds") {
        return Some((one(exact(seconds)), Combine::Sum));
    }
    if let Some(share) = usage.take("share_of_month") {
        return Some((one(exact(share)), Combine::Average));
    }
    if let Some(before) = usage.take("billed_quantity") {
        let after = usage.take("new_cumulative_quantity")?;
        let both = [("before", before), ("after", after)];
        return Some((
            both.map(|(l, q)| (l.to_owned(), exact(q))).to_vec(),
            Combine::Correction,
        ));
    }
    if let Some(groups) = usage.take("groups") {
        price
            .take("per_group")
            .filter(|each| **each == Value::Bool(true))?;
        return Some((labelled(groups.as_object()?), Combine::Sum));
    }
    if let Some(quantity) = usage.take("quantity") {
        let directions = price.take("directions").map_or(Exact::from(1), exact);
        let block = price.take("per_quantity").map_or(1, whole);
        let quantity = exact(quantity)
            .checked_mul(&directions)?
            .checked_div(block)?;
        return Some((one(quantity), Combine::Sum));
    }
    let types: Vec<_> = price.0.get("units")?.as_object()?.keys().cloned().collect();
    let quantity = |name: String| Some((name.clone(), exact(usage.take(&name)?)));
    Some((
        types.into_iter().map(quantity).collect::<Option<_>>()?,
        Combine::Sum,
    ))
}

fn labelled(quantities: &Map<String, Value>) -> Vec<(String, Exact)> {
    quantities
        .iter()
        .map(|(label, quantity)| (label.clone(), exact(quantity)))
        .collect()
}

/// The price for every quantity, and the size of its blocks.
fn model(name: &str, price: &mut Keys<'_>) -> Option<(Model, u128)> {
    let at_zero = price
        .take("first_tier_flat_at_zero_usage")
        .and_then(Value::as_bool);
    match name {
        "standard" => {
            let unit = price.take("unit").or_else(|| price.take("price"))?;
            Some((
                Model::PerUnit {
                    price: decimal(unit),
                },
                1,
            ))
        }
        "time_of_day" => {
            let unit = decimal(price.take("per_second")?);
            let fee = price.take("connect_fee").map_or(Decimal::ZERO, decimal);
            // Due once something is used: the flat amount of a single tier.
            Some((tiered("graduated", vec![open_tier(unit, fee)], false)?, 1))
        }
        "graduated_share_of_month" => {
            let factors = price.take("rate_factors_per_quarter")?.as_array()?;
            let quarter = |index: usize| Decimal::new(25 * i64::try_from(index).unwrap(), 2);
            let tier = |(index, factor)| Tier {
                up_to: (index < factors.len()).then(|| quarter(index)),
                ..open_tier(decimal(factor), Decimal::ZERO)
            };
            Some((
                tiered("graduated", (1..).zip(factors).map(tier).collect(), false)?,
                1,
            ))
        }
        "graduated" | "volume" => {
            if let Some(range) = price.take("range") {
                return Some((tiered(name, range_tiers(range), false)?, 1));
            }
            let rows = price.take("tiers")?.as_array()?;
            let capacities = price.take("tier_definition").map(text);
            let (tiers, block) = tiers(rows, capacities)?;
            Some((tiered(name, tiers, at_zero.unwrap_or(false))?, block))
        }
        _ => None,
    }
}

/// Prices by the type of unit, one for each quantity.
fn per_unit_type(
    name: &str,
    price: &mut Keys<'_>,
    quantities: &[(String, Exact)],
) -> Option<Vec<(Model, u128)>> {
    let units = price.take("units")?.as_object()?;
    let definition = price.take("tier_definition").map(text);
    let model = |(label, _): &(String, Exact)| {
        let (tiers, block) = tiers(units.get(label)?.as_array()?, definition)?;
        Some((tiered(name, tiers, false)?, block))
    };
    quantities.iter().map(model).collect()
}

fn tiered(name: &str, tiers: Vec<Tier>, charge_first_flat_at_zero: bool) -> Option<Model> {
    let tiers = Tiers {
        tiers,
        charge_first_flat_at_zero,
    };
    match name {
        "graduated" => Some(Model::Graduated(tiers)),
        "volume" => Some(Model::Volume(tiers)),
        _ => None,
    }
}

fn open_tier(price: Decimal, flat: Decimal) -> Tier {
    Tier {
        up_to: None,
        price,
        flat,
    }
}

/// Tiers by their upper bound, their first unit, or their capacity; with one size of block.
fn tiers(rows: &[Value], definition: Option<&str>) -> Option<(Vec<Tier>, u128)> {
    let rows: Vec<_> = rows.iter().map(|row| row.as_object().unwrap()).collect();
    let block_of = |row: &&Map<String, Value>| row.get("block").map_or(1, whole);
    let block = rows.first().map(block_of)?;
    if definition.is_some_and(|known| known != "capacity_per_tier")
        || rows.iter().any(|row| block_of(row) != block)
    {
        return None;
    }
    let mut filled = Decimal::ZERO;
    let mut tiers = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let mut row = Keys::of(row);
        row.take("block");
        let unit = row
            .take("unit")
            .or_else(|| row.take("block_price"))
            .map(decimal)?;
        let flat = row.take("flat").map_or(Decimal::ZERO, decimal);
        let capacity = row.take("max").or_else(|| row.take("max_blocks"));
        let first_unit_of_next = rows.get(index + 1).and_then(|next| next.get("from"));
        row.take("from");
        let up_to = row
            .take("up_to")
            .filter(|bound| !bound.is_null())
            .map(decimal);
        let up_to = match (
            capacity.filter(|capacity| !capacity.is_null()),
            first_unit_of_next,
        ) {
            (Some(capacity), _) => {
                filled += decimal(capacity);
                Some(filled)
            }
            (None, Some(next)) => Some(decimal(next)),
            (None, None) => up_to,
        };
        tiers.push(Tier {
            up_to,
            ..open_tier(unit, flat)
        });
        if !row.is_done() {
            return None;
        }
    }
    // Beyond the last capacity the last price continues.
    tiers.last_mut()?.up_to = None;
    Some((tiers, block))
}

/// One range "from 11 to 20", which means above 10 up to 20, between tiers that cost nothing.
fn range_tiers(range: &Value) -> Vec<Tier> {
    let nothing = || open_tier(Decimal::ZERO, Decimal::ZERO);
    let before = Tier {
        up_to: Some(decimal(&range["from"]) - Decimal::ONE),
        ..nothing()
    };
    let within = Tier {
        up_to: Some(decimal(&range["to"])),
        ..open_tier(decimal(&range["unit"]), decimal(&range["flat"]))
    };
    vec![before, within, nothing()]
}

/// The keys of an object that are not understood yet.
struct Keys<'a>(BTreeMap<&'a str, &'a Value>);

impl<'a> Keys<'a> {
    fn of(object: &'a Map<String, Value>) -> Self {
        Self(
            object
                .iter()
                .map(|(key, value)| (key.as_str(), value))
                .collect(),
        )
    }

    fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.0.remove(key)
    }

    fn take_if(&mut self, key: &str, value: &str) {
        if self.0.get(key).is_some_and(|found| *found == value) {
            self.0.remove(key);
        }
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

/// Case → our amount, from the rows of the table.
fn differing_cases() -> BTreeMap<String, String> {
    read("differs.md")
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
            let is_case = cells[0].contains('-') && !cells[0].starts_with('-');
            is_case.then(|| {
                assert!(
                    cells.len() >= 3 && cells[2].len() > 10,
                    "{} needs a reason",
                    cells[0]
                );
                (cells[0].to_owned(), cells[1].to_owned())
            })
        })
        .collect()
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conformance")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn exact(value: &Value) -> Exact {
    text(value).parse().unwrap()
}

fn decimal(value: &Value) -> Decimal {
    Decimal::from_str_exact(text(value)).unwrap()
}

fn whole(value: &Value) -> u128 {
    text(value).parse().unwrap()
}

fn quotient(dividend: &Exact, divisor: &Exact) -> Exact {
    // Shares of a month are decimals with few places.
    let divisor: Decimal = divisor.to_string().parse().unwrap();
    let scale = 10_u128.pow(divisor.scale());
    let mantissa = u128::try_from(divisor.mantissa()).unwrap();
    dividend
        .checked_mul(&Exact::from(scale))
        .unwrap()
        .checked_div(mantissa)
        .unwrap()
}

fn seconds_between(start: &Value, end: &Value) -> Exact {
    let instant = |value| {
        text(value)
            .parse::<tallystick_common::time::Timestamp>()
            .unwrap()
    };
    let micros = instant(end).since(instant(start)).0;
    Exact::ratio(micros.into(), 1_000_000).unwrap()
}
