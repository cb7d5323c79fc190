//! What is wrong with a plan, all of it at once, each with its remedy.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::{BillingUnit, Plan, Price, Scope, Tiers};
use crate::application;
use crate::meter::Meter;

/// Meters of the host alone. The host's own reading is a control and is never rated, so a price on
/// one of these could never be charged.
const HOST_ONLY: &[Meter] = &[Meter::UPTIME, Meter::CPU_STEAL];

/// One fault of a plan and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", location(.price.as_deref()))]
pub struct Problem {
    /// Id of the price; none when the plan itself is at fault.
    pub price: Option<String>,
    /// What is wrong, and the remedy.
    pub fault: Fault,
}

fn location(price: Option<&str>) -> String {
    price.map_or_else(|| "plan".to_owned(), |id| format!("price {id:?}"))
}

/// What can be wrong with a plan that could be read. Each text ends in the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A name outside the grammar.
    #[error(
        "{0:?} is not a name: use 1 to 64 lower-case letters, digits, \"-\", \"_\" and \".\", beginning with a letter or digit"
    )]
    Name(String),
    /// No text for the invoice.
    #[error("the title is empty: write what the customer should read on the invoice")]
    NoTitle,
    /// Nothing costs anything.
    #[error("there are no prices: add a [[prices]] table")]
    NoPrices,
    /// Two prices of one name.
    #[error("the id is used {0} times: give every price an id of its own")]
    DuplicateId(usize),
    /// The same usage would be charged twice.
    #[error(
        "{meter} with scope {scope} is also priced by {other:?}, so the same usage would be billed twice: keep one of the two prices"
    )]
    DoubleBilling {
        /// The meter.
        meter: Meter,
        /// The scope, as written in documents.
        scope: &'static str,
        /// The other price.
        other: String,
    },
    /// A unit of something else.
    #[error("{unit} does not fit {meter}, which counts {base}: use one of {fitting}", base = .meter.unit(), fitting = BillingUnit::names(BillingUnit::for_meter(*.meter)))]
    UnitDoesNotFit {
        /// The unit.
        unit: BillingUnit,
        /// The meter.
        meter: Meter,
    },
    /// Application usage of every name together.
    #[error(
        "{0} counts what applications report under many names: say which one is charged, for example app_meter = \"requests\""
    )]
    NoAppMeter(Meter),
    /// A name of application usage with a meter of something else.
    #[error("{0} is not reported by applications: leave out app_meter")]
    AppMeterElsewhere(Meter),
    /// A meter that no workload has.
    #[error(
        "{0} is measured of the host only, whose readings are a control and never billed: price a meter that workloads have"
    )]
    HostOnly(Meter),
    /// A price below zero.
    #[error("the {what} is {amount}: prices must not be negative, give a credit instead")]
    Negative {
        /// Which number, for example `price of tier 2`.
        what: String,
        /// What was given.
        amount: Decimal,
    },
    /// A tiered price without tiers.
    #[error("there are no tiers: add at least {{ price = \"…\" }}")]
    NoTiers,
    /// A bound that is not above the one before.
    #[error(
        "tier {tier} ends at {bound}, not above {before}: let up_to rise from tier to tier, beginning above 0"
    )]
    NotRising {
        /// Number of the tier, from 1.
        tier: usize,
        /// Its bound.
        bound: Decimal,
        /// The bound before it.
        before: Decimal,
    },
    /// Usage above the last bound would have no price.
    #[error("the last tier ends at {0}: leave out its up_to, or add a tier without one")]
    LastTierBounded(Decimal),
    /// A tier without a bound that is not the last.
    #[error("tier {0} has no up_to but is not the last: give it one")]
    UnboundedTier(usize),
    /// The option does nothing.
    #[error(
        "charge_first_flat_at_zero is set, but the first tier has no flat amount: give it one, or drop the option"
    )]
    NoFirstFlat,
}

impl Plan {
    /// Every problem of the plan; none means it may be applied. In the order of the document.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        self.check_plan(&mut |fault| found.push(Problem { price: None, fault }));
        for price in &self.prices {
            let mut report = |fault| {
                found.push(Problem {
                    price: Some(price.id.clone()),
                    fault,
                });
            };
            check_price(price, &mut report);
        }
        self.check_ids(&mut found);
        self.check_double_billing(&mut found);
        found
    }

    fn check_plan(&self, report: &mut impl FnMut(Fault)) {
        check_name(&self.name, report);
        check_title(&self.title, report);
        if self.prices.is_empty() {
            report(Fault::NoPrices);
        }
    }

    fn check_ids(&self, found: &mut Vec<Problem>) {
        let mut uses = BTreeMap::<&str, usize>::new();
        for price in &self.prices {
            *uses.entry(&price.id).or_default() += 1;
        }
        for (id, times) in uses.into_iter().filter(|(_, times)| *times > 1) {
            found.push(Problem {
                price: Some(id.to_owned()),
                fault: Fault::DuplicateId(times),
            });
        }
    }

    fn check_double_billing(&self, found: &mut Vec<Problem>) {
        for (index, price) in self.prices.iter().enumerate() {
            let same = |other: &&Price| {
                (other.meter, other.scope) == (price.meter, price.scope)
                    && other.app_meter == price.app_meter
            };
            if let Some(other) = self.prices.iter().take(index).find(same) {
                let fault = Fault::DoubleBilling {
                    meter: price.meter,
                    scope: scope_name(price.scope),
                    other: other.id.clone(),
                };
                found.push(Problem {
                    price: Some(price.id.clone()),
                    fault,
                });
            }
        }
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Account => "account",
        Scope::Workload => "workload",
    }
}

fn check_price(price: &Price, report: &mut impl FnMut(Fault)) {
    check_name(&price.id, report);
    check_title(&price.title, report);
    if !price.per.fits(price.meter) {
        report(Fault::UnitDoesNotFit {
            unit: price.per,
            meter: price.meter,
        });
    }
    match (application::is_app_meter(price.meter), &price.app_meter) {
        (true, None) => report(Fault::NoAppMeter(price.meter)),
        (false, Some(_)) => report(Fault::AppMeterElsewhere(price.meter)),
        _ => {}
    }
    if HOST_ONLY.contains(&price.meter) {
        report(Fault::HostOnly(price.meter));
    }
    check_amount("free allowance", price.free, report);
    match &price.model {
        super::Model::PerUnit { price } => check_amount("price", *price, report),
        super::Model::Graduated(tiers) | super::Model::Volume(tiers) => {
            check_tiers(tiers, report);
        }
    }
}

fn check_name(name: &str, report: &mut impl FnMut(Fault)) {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = name.len() <= 64
        && name.starts_with(alphanumeric)
        && name
            .chars()
            .all(|c| alphanumeric(c) || matches!(c, '-' | '_' | '.'));
    if !good {
        report(Fault::Name(name.to_owned()));
    }
}

fn check_title(title: &str, report: &mut impl FnMut(Fault)) {
    if title.trim().is_empty() {
        report(Fault::NoTitle);
    }
}

fn check_amount(what: &str, amount: Decimal, report: &mut impl FnMut(Fault)) {
    if amount < Decimal::ZERO {
        report(Fault::Negative {
            what: what.to_owned(),
            amount,
        });
    }
}

fn check_tiers(tiers: &Tiers, report: &mut impl FnMut(Fault)) {
    let Some(last) = tiers.tiers.last() else {
        return report(Fault::NoTiers);
    };
    let mut before = Decimal::ZERO;
    for (number, tier) in (1..).zip(&tiers.tiers) {
        check_amount(&format!("price of tier {number}"), tier.price, report);
        check_amount(&format!("flat amount of tier {number}"), tier.flat, report);
        match tier.up_to {
            Some(bound) if bound <= before => {
                report(Fault::NotRising {
                    tier: number,
                    bound,
                    before,
                });
            }
            Some(bound) => before = bound,
            None if number < tiers.tiers.len() => report(Fault::UnboundedTier(number)),
            None => {}
        }
    }
    if let Some(bound) = last.up_to {
        report(Fault::LastTierBounded(bound));
    }
    if tiers.charge_first_flat_at_zero && tiers.tiers.first().is_some_and(|t| t.flat.is_zero()) {
        report(Fault::NoFirstFlat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_found_at_once_and_names_its_price_and_remedy() {
        let plan: Plan = toml::from_str(
            r#"
            name = "Bad Name"
            title = " "
            currency = "EUR"
            prices = [
                { id = "a", title = "A", meter = "cpu.time", per = "GiB", model = "per_unit", price = "-1" },
                { id = "a", title = "A", meter = "cpu.time", per = "cpu-hour", model = "per_unit", price = "1" },
                { id = "b", title = "B", meter = "uptime", per = "hour", model = "volume", tiers = [] },
                { id = "c", title = "C", meter = "disk.read", per = "GB", free = "-1", model = "graduated", charge_first_flat_at_zero = true, tiers = [
                    { price = "1" },
                    { up_to = "5", price = "1" },
                    { up_to = "5", price = "1", flat = "-2" },
                ] },
            ]
            "#,
        )
        .unwrap();
        let found: Vec<_> = plan.check().iter().map(ToString::to_string).collect();
        let expected = [
            ("plan", "\"Bad Name\" is not a name"),
            ("plan", "title is empty"),
            ("price \"a\"", "use one of cpu-second, cpu-minute, cpu-hour"),
            ("price \"a\"", "the price is -1"),
            ("price \"b\"", "measured of the host only"),
            ("price \"b\"", "no tiers"),
            ("price \"c\"", "free allowance is -1"),
            ("price \"c\"", "tier 1 has no up_to"),
            ("price \"c\"", "flat amount of tier 3 is -2"),
            ("price \"c\"", "tier 3 ends at 5, not above 5"),
            ("price \"c\"", "last tier ends at 5"),
            ("price \"c\"", "first tier has no flat"),
            ("price \"a\"", "used 2 times"),
            ("price \"a\"", "billed twice"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (problem, (place, says)) in found.iter().zip(expected) {
            assert!(
                problem.starts_with(place) && problem.contains(says),
                "{problem}"
            );
        }
    }

    #[test]
    fn application_meters_are_priced_by_name_and_only_they() {
        let plan = |prices: &str| -> Vec<String> {
            let text =
                format!("name = \"p\"\ntitle = \"P\"\ncurrency = \"EUR\"\nprices = [{prices}]");
            let plan: Plan = toml::from_str(&text).unwrap();
            plan.check().iter().map(ToString::to_string).collect()
        };
        let price = |id: &str, meter: &str, per: &str, name: &str| {
            format!(
                r#"{{ id = "{id}", title = "T", meter = "{meter}", {name} per = "{per}", model = "per_unit", price = "1" }},"#
            )
        };
        let requests = r#"app_meter = "requests","#;
        let exports = r#"app_meter = "exports","#;
        let both = price("a", "app.count", "thousand", requests)
            + &price("b", "app.count", "one", exports)
            + &price("c", "app.bytes", "GB", requests);
        assert_eq!(plan(&both), [""; 0]);
        let twice = price("a", "app.count", "thousand", requests)
            + &price("b", "app.count", "one", requests);
        assert!(plan(&twice)[0].contains("billed twice"));
        let unnamed = plan(&price("a", "app.count", "one", ""));
        assert!(unnamed[0].contains("app_meter"), "{unnamed:?}");
        let elsewhere = plan(&price("a", "disk.read", "GB", requests));
        assert!(
            elsewhere[0].contains("leave out app_meter"),
            "{elsewhere:?}"
        );
    }

    #[test]
    fn one_meter_may_be_priced_once_per_scope() {
        let text = r#"
            name = "p"
            title = "P"
            currency = "EUR"
            prices = [
                { id = "a", title = "A", meter = "cpu.time", per = "cpu-hour", model = "per_unit", price = "1" },
                { id = "b", title = "B", meter = "cpu.time", per = "cpu-hour", scope = "workload", model = "per_unit", price = "1" },
            ]
        "#;
        assert_eq!(toml::from_str::<Plan>(text).unwrap().check(), []);
    }
}
