//! Stories and properties of rating.

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::price::{BillingUnit, Scope, Tier, Tiers};

fn euro() -> Terms {
    Currency::new("EUR").unwrap().into()
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn tiers(rows: &[(Option<&str>, &str, &str)], charge_first_flat_at_zero: bool) -> Tiers {
    let tier = |(up_to, price, flat): &(Option<&str>, &str, &str)| Tier {
        up_to: up_to.map(decimal),
        price: decimal(price),
        flat: decimal(flat),
    };
    Tiers {
        tiers: rows.iter().map(tier).collect(),
        charge_first_flat_at_zero,
    }
}

fn cpu(model: Model) -> Price {
    Price {
        id: "cpu".into(),
        title: "CPU time".into(),
        meter: crate::meter::Meter::CPU_TIME,
        app_meter: None,
        per: "cpu-hour".parse::<BillingUnit>().unwrap(),
        scope: Scope::Account,
        free: Decimal::ZERO,
        model,
    }
}

fn total(model: &Model, units: &str) -> String {
    rate_units(model, &units.parse().unwrap(), euro())
        .unwrap()
        .amount
        .amount()
}

#[test]
fn three_hours_of_cpu_cost_thirty_cents_and_the_steps_say_why() {
    let price = cpu(Model::PerUnit {
        price: decimal("0.1"),
    });
    let rated = rate(&price, 3 * 3_600_000_000, euro()).unwrap();
    assert_eq!(rated.amount.to_string(), "0.30 EUR");
    let text: Vec<_> = rated.steps.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "cpu.time: 10800000000 µs / 3600000000 µs per cpu-hour = 3 cpu-hour",
            "3 × 0.1 = 0.3",
            "rounded half up: 0.3 → 0.30 EUR",
        ]
    );
}

#[test]
fn steps_survive_json() {
    let mut price = cpu(Model::Graduated(tiers(
        &[(Some("1"), "1", "2"), (None, "0.5", "0")],
        false,
    )));
    price.free = decimal("0.25");
    let rated = rate(&price, 7_000_000_001, euro()).unwrap();
    assert_eq!(rated.steps.len(), 6);
    let json = serde_json::to_string(&rated.steps).unwrap();
    assert!(
        json.contains(r#"{"step":"convert","meter":"cpu.time","quantity":"7000000001""#),
        "{json}"
    );
    assert_eq!(
        serde_json::from_str::<Vec<Step>>(&json).unwrap(),
        rated.steps
    );
}

#[test]
fn the_upper_bound_belongs_to_its_tier_and_a_fraction_more_opens_the_next() {
    let rows = [
        (Some("5"), "0", "100"),
        (Some("10"), "0", "50"),
        (None, "5", "0"),
    ];
    let graduated = Model::Graduated(tiers(&rows, false));
    assert_eq!(total(&graduated, "5"), "100.00");
    assert_eq!(total(&graduated, "5.001"), "150.00");
    let volume = Model::Volume(tiers(&rows, false));
    assert_eq!(total(&volume, "5"), "100.00");
    assert_eq!(total(&volume, "5.001"), "50.00", "a volume price may fall");
}

#[test]
fn no_usage_pays_the_first_flat_only_where_the_price_says_so() {
    let rows = [(Some("5"), "1", "3"), (None, "1", "7")];
    for (charge, amount) in [(false, "0.00"), (true, "3.00")] {
        assert_eq!(total(&Model::Graduated(tiers(&rows, charge)), "0"), amount);
        assert_eq!(total(&Model::Volume(tiers(&rows, charge)), "0"), amount);
    }
}

#[test]
fn the_allowance_comes_off_first_and_never_goes_below_nothing() {
    let mut price = cpu(Model::PerUnit {
        price: decimal("1"),
    });
    price.free = decimal("2");
    let amount = |hours: u128| {
        rate(&price, hours * 3_600_000_000, euro())
            .unwrap()
            .amount
            .amount()
    };
    assert_eq!(
        (amount(1), amount(2), amount(5)),
        ("0.00".into(), "0.00".into(), "3.00".into())
    );
}

#[test]
fn what_does_not_fit_is_an_error_that_names_the_step() {
    let price = cpu(Model::PerUnit {
        price: Decimal::MAX,
    });
    let error = rate(&price, u128::MAX, euro()).unwrap_err();
    assert!(matches!(error, RatingError::Money(_)), "{error}");
    let tiny = Decimal::from_i128_with_scale(79_228_162_514_264_337_593_543_950_333, 28);
    let rows = [(Some(tiny), tiny), (None, Decimal::ONE)];
    let tiers = rows
        .map(|(up_to, price)| Tier {
            up_to,
            price,
            flat: Decimal::ZERO,
        })
        .to_vec();
    let model = Model::Graduated(Tiers {
        tiers,
        charge_first_flat_at_zero: false,
    });
    let error = rate(&cpu(model), u128::MAX, euro()).unwrap_err();
    assert!(
        matches!(error, RatingError::Overflow(_) | RatingError::Money(_)),
        "{error}"
    );
    let closed = Model::Volume(self::tiers(&[(Some("1"), "1", "0")], false));
    assert!(matches!(
        rate_units(&closed, &Exact::from(2), euro()),
        Err(RatingError::BeyondLastTier(_))
    ));
    let negative = "-1".parse().unwrap();
    assert!(matches!(
        rate_units(&closed, &negative, euro()),
        Err(RatingError::NegativeQuantity(_))
    ));
}

/// Rising bounds, prices and flats in thousandths, as integers.
#[derive(Debug, Clone)]
struct Rows {
    bounds: Vec<u64>,
    prices: Vec<u32>,
    flats: Vec<u32>,
}

impl Rows {
    fn tiers(&self) -> Tiers {
        let thousandths = |number: u64| Decimal::new(i64::try_from(number).unwrap(), 3);
        let tier = |index: usize| Tier {
            up_to: self.bounds.get(index).copied().map(thousandths),
            price: thousandths(self.prices[index].into()),
            flat: thousandths(self.flats[index].into()),
        };
        Tiers {
            tiers: (0..=self.bounds.len()).map(tier).collect(),
            charge_first_flat_at_zero: false,
        }
    }

    /// Millionths of the graduated amount, thousandth by thousandth of the quantity: integers only,
    /// no tiers logic shared with the code under test.
    fn graduated_millionths(&self, thousandths: u64) -> u128 {
        let tier_of = |unit: u64| self.bounds.iter().filter(|bound| unit > **bound).count();
        let mut tiers_seen = std::collections::BTreeSet::new();
        let mut sum = 0;
        for unit in 1..=thousandths {
            let tier = tier_of(unit);
            sum += u128::from(self.prices[tier]);
            if tiers_seen.insert(tier) {
                sum += u128::from(self.flats[tier]) * 1000;
            }
        }
        sum
    }
}

fn rows() -> impl Strategy<Value = Rows> {
    prop::collection::btree_set(1u64..3000, 0..5).prop_flat_map(|bounds| {
        let count = bounds.len() + 1;
        let numbers = || prop::collection::vec(0u32..100_000, count);
        (Just(bounds), numbers(), numbers()).prop_map(|(bounds, prices, flats)| Rows {
            bounds: bounds.into_iter().collect(),
            prices,
            flats,
        })
    })
}

proptest! {
    #[test]
    fn per_unit_amounts_add_up_over_any_split(
        price in 0i64..i64::MAX, scale in 0u32..28, parts in prop::collection::vec(any::<u64>(), 1..6),
    ) {
        let price = cpu(Model::PerUnit { price: Decimal::new(price, scale) });
        let exact = |quantity| rate_amount(&price, quantity, euro()).map(|rated| rated.0);
        let whole = parts.iter().map(|part| u128::from(*part)).sum();
        let pieces: Result<Vec<_>, _> = parts.iter().map(|part| exact(u128::from(*part))).collect();
        if let (Ok(whole), Ok(pieces)) = (exact(whole), pieces) {
            prop_assert_eq!(Exact::sum(&pieces), Some(whole));
        }
    }

    #[test]
    fn graduated_equals_a_recomputation_by_thousandths(rows in rows(), quantity in 0u64..4000) {
        let units = Exact::ratio(quantity.into(), 1000).unwrap();
        let rated = rate_units(&Model::Graduated(rows.tiers()), &units, euro()).unwrap();
        let expected = Exact::ratio(rows.graduated_millionths(quantity), 1_000_000).unwrap();
        prop_assert_eq!(rated.unrounded, expected);
    }

    #[test]
    fn volume_is_quantity_times_the_price_of_the_tier_reached(rows in rows(), quantity in 1u64..4000) {
        let units = Exact::ratio(quantity.into(), 1000).unwrap();
        let rated = rate_units(&Model::Volume(rows.tiers()), &units, euro()).unwrap();
        let tier = rows.bounds.iter().filter(|bound| quantity > **bound).count();
        let expected = u128::from(quantity) * u128::from(rows.prices[tier])
            + u128::from(rows.flats[tier]) * 1000;
        prop_assert_eq!(rated.unrounded, Exact::ratio(expected, 1_000_000).unwrap());
    }

    #[test]
    fn per_unit_and_graduated_never_fall_when_usage_rises(
        rows in rows(), a in any::<u64>(), b in any::<u64>(), free in 0u32..5000,
    ) {
        let (less, more) = (u128::from(a.min(b)), u128::from(a.max(b)));
        let unit = Decimal::new(rows.prices[0].into(), 7);
        for model in [Model::PerUnit { price: unit }, Model::Graduated(rows.tiers())] {
            let mut price = cpu(model);
            price.free = Decimal::new(free.into(), 3);
            let (small, small_money) = rate_amount(&price, less, euro()).unwrap();
            let (large, large_money) = rate_amount(&price, more, euro()).unwrap();
            prop_assert!(small <= large);
            prop_assert!(small_money.minor() <= large_money.minor());
        }
    }

    #[test]
    fn the_fast_path_and_the_steps_agree(rows in rows(), quantity in any::<u64>()) {
        for model in [Model::Graduated(rows.tiers()), Model::Volume(rows.tiers())] {
            let price = cpu(model);
            let rated = rate(&price, quantity.into(), euro()).unwrap();
            let fast = rate_amount(&price, quantity.into(), euro()).unwrap();
            prop_assert_eq!((rated.unrounded, rated.amount), fast);
            let last = rated.steps.last().cloned();
            prop_assert_eq!(
                last,
                Some(Step::Round {
                    unrounded: rated.unrounded,
                    mode: RoundingMode::HalfUp,
                    amount: rated.amount,
                })
            );
        }
    }
}
