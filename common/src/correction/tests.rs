//! Stories and properties of corrections.

use proptest::prelude::*;

use super::*;
use crate::ids::RegisterId;
use crate::money::{Currency, RoundingMode};
use crate::period::Zone;
use crate::price::{Model, Plan, Price, Scope, Tier, Tiers};
use crate::reading::Reading;
use crate::statement::{AccountRef, PlanWindow, StatementInput, UsageItem, draft};
use crate::time::{HOUR_US, Micros};

const CPU_HOUR: u128 = 3_600_000_000;

fn november() -> Period {
    Period {
        from: "2026-11-01T00:00:00Z".parse().unwrap(),
        to: "2026-12-01T00:00:00Z".parse().unwrap(),
    }
}

fn price(id: &str, meter: Meter, per: &str, scope: Scope, model: Model) -> Price {
    Price {
        id: id.into(),
        title: id.to_uppercase(),
        meter,
        app_meter: None,
        per: per.parse().unwrap(),
        scope,
        free: 2.into(),
        model,
    }
}

fn tier(up_to: Option<u32>, price: &str, flat: u32) -> Tier {
    Tier {
        up_to: up_to.map(Into::into),
        price: price.parse().unwrap(),
        flat: flat.into(),
    }
}

/// Graduated CPU time over the account, and peaks by workload, both with an allowance.
fn plan() -> Plan {
    let tiers = Tiers {
        tiers: vec![tier(Some(10), "0.333", 1), tier(None, "0.21", 3)],
        charge_first_flat_at_zero: false,
    };
    let each = Model::PerUnit {
        price: "0.0137".parse().unwrap(),
    };
    let cpu = Model::Graduated(tiers);
    Plan {
        name: "basic".into(),
        title: "Basic".into(),
        currency: Currency::new("EUR").unwrap(),
        prices: vec![
            price("cpu", Meter::CPU_TIME, "cpu-hour", Scope::Account, cpu),
            price("peak", Meter::MEMORY_PEAK, "MiB", Scope::Workload, each),
        ],
    }
}

fn of(account: &str, period: Period, usage: Vec<UsageItem>) -> Statement {
    draft(StatementInput {
        account: AccountRef {
            id: account.into(),
            name: account.to_uppercase(),
            currency: Currency::new("EUR").unwrap(),
            zone: Zone::utc(),
        },
        seller: "Seller".into(),
        buyer: "Buyer".into(),
        period,
        windows: vec![PlanWindow {
            plan: plan(),
            from: period.from,
            to: period.to,
        }],
        usage,
        notes: vec![],
        rounding: RoundingMode::default(),
    })
    .unwrap()
}

fn statement(usage: &[UsageItem]) -> Statement {
    of("acme", november(), usage.to_vec())
}

/// What a register of its own counted in one hour of the month.
fn item(register: u64, workload: &str, meter: Meter, quantity: u128) -> UsageItem {
    let begin = november().from.as_micros() + register * HOUR_US;
    let from = Timestamp::EPOCH.saturating_add(Micros(begin));
    let to = from.saturating_add(Micros(HOUR_US));
    let span = RegisterSpan {
        stream: StreamId([7; 16]),
        register: RegisterId(register),
        from,
        to,
        opening: Reading(0),
        closing: Reading(quantity),
    };
    UsageItem {
        node: NodeId([1; 16]),
        node_name: "web-1".into(),
        workload: workload.parse().unwrap(),
        meter,
        from,
        to,
        quantity,
        registers: vec![span],
        measured: Micros(HOUR_US),
        interpolated: Micros(0),
        unmeasured: Micros(0),
    }
}

fn cpu(register: u64, workload: &str, hours: u128) -> UsageItem {
    item(register, workload, Meter::CPU_TIME, hours * CPU_HOUR)
}

#[test]
fn a_line_says_what_was_said_and_what_is_known_and_which_register_counted_it() {
    let then = statement(&[cpu(1, "cgroup/a", 5)]);
    let now = statement(&[cpu(1, "cgroup/a", 5), cpu(2, "cgroup/b", 20)]);
    let found = differences(&then, &now).unwrap();
    let [line] = &found.lines[..] else {
        panic!("{:?}", found.lines)
    };
    assert_eq!(line.id, "basic/cpu");
    assert_eq!(
        (line.quantity_then, line.quantity_now),
        (5 * CPU_HOUR, 25 * CPU_HOUR)
    );
    // 3 × 0.333 + 1; 10 × 0.333 + 1 + 13 × 0.21 + 3.
    assert_eq!(line.amount_then.amount(), "2.00");
    assert_eq!(line.amount_now.amount(), "10.06");
    assert_eq!(found.total.amount(), "8.06");
    assert_eq!(found.unrounded_total.to_string(), "8.061");
    let [detail] = &line.details[..] else {
        panic!("{:?}", line.details)
    };
    assert_eq!(detail.of.workload.as_str(), "cgroup/b");
    assert_eq!(detail.registers_then, []);
    assert_eq!(detail.registers_now[0].register, RegisterId(2));
}

#[test]
fn what_is_no_longer_the_accounts_is_taken_back_whole() {
    let peak = item(3, "cgroup/b", Meter::MEMORY_PEAK, 900 << 20);
    let then = statement(&[cpu(1, "cgroup/a", 5), peak.clone()]);
    let now = statement(&[cpu(1, "cgroup/a", 5)]);
    let found = differences(&then, &now).unwrap();
    let [line] = &found.lines[..] else {
        panic!("{:?}", found.lines)
    };
    assert_eq!(line.workload.as_ref().unwrap().workload, peak.workload);
    assert_eq!(
        (line.quantity_now, line.amount_now.amount()),
        (0, "0.00".to_owned())
    );
    assert!(found.total.minor() < 0);
    assert!(CorrectionKind::CreditNote.fits(found.total));
    assert!(!CorrectionKind::NextInvoice.fits(found.total));
}

#[test]
fn usage_that_costs_nothing_is_corrected_too() {
    let then = statement(&[]);
    let now = statement(&[cpu(1, "cgroup/a", 1)]);
    let found = differences(&then, &now).unwrap();
    assert!(found.total.is_zero() && !found.is_none(), "{found:?}");
    let moved = statement(&[cpu(1, "cgroup/b", 1)]);
    let found = differences(&now, &moved).unwrap();
    assert_eq!(found.lines[0].details.len(), 2, "{found:?}");
}

#[test]
fn times_beside_quantities_are_not_corrected() {
    let then = statement(&[cpu(1, "cgroup/a", 5)]);
    let mut item = cpu(1, "cgroup/a", 5);
    item.interpolated = Micros(5);
    assert!(differences(&then, &statement(&[item])).unwrap().is_none());
}

#[test]
fn statements_of_two_things_do_not_differ_by_a_correction() {
    let then = statement(&[]);
    let other = of("other", november(), vec![]);
    assert_eq!(
        differences(&then, &other),
        Err(CorrectionError::Unlike("account"))
    );
    let october = Period {
        from: "2026-10-01T00:00:00Z".parse().unwrap(),
        to: november().from,
    };
    assert_eq!(
        differences(&then, &of("acme", october, vec![])),
        Err(CorrectionError::Unlike("period"))
    );
    let mut wrong = statement(&[]);
    wrong.total = Money::new(1, wrong.currency);
    assert!(matches!(
        differences(&then, &wrong),
        Err(CorrectionError::Sum { .. })
    ));
    let mut twice = statement(&[cpu(1, "cgroup/a", 5)]);
    twice.lines.push(twice.lines[0].clone());
    assert!(matches!(
        differences(&then, &twice),
        Err(CorrectionError::Twice(_))
    ));
}

/// What arrives, and in which of three batches.
fn arrivals() -> impl Strategy<Value = Vec<(UsageItem, usize)>> {
    let workload = prop_oneof![Just("cgroup/a"), Just("cgroup/b"), Just("host/other")];
    let meter = prop_oneof![Just(Meter::CPU_TIME), Just(Meter::MEMORY_PEAK)];
    let one = (workload, meter, 0_u64..40 * 3_600_000_000, 0_usize..3);
    prop::collection::vec(one, 0..20).prop_map(|list| {
        let items = (0..)
            .zip(list)
            .map(|(register, (workload, meter, quantity, batch))| {
                (item(register, workload, meter, u128::from(quantity)), batch)
            });
        items.collect()
    })
}

/// What is known when all batches up to one are there.
fn known(arrivals: &[(UsageItem, usize)], order: [usize; 3], upto: usize) -> Statement {
    let there = |batch: &usize| order[..upto].contains(batch);
    let items = arrivals.iter().filter(|(_, batch)| there(batch));
    statement(&items.map(|(item, _)| item.clone()).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn late_is_on_time_after_correction_in_whatever_order(arrivals in arrivals()) {
        let on_time = known(&arrivals, [0, 1, 2], 3);
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut said = known(&arrivals, order, 1);
            let mut paid = said.total;
            let mut exact = said.unrounded_total;
            for upto in [2, 3] {
                let now = known(&arrivals, order, upto);
                let found = differences(&said, &now).unwrap();
                let sum = found.lines.iter().map(|line| line.difference.minor()).sum::<i64>();
                prop_assert_eq!(sum, found.total.minor());
                paid = paid.checked_add(found.total).unwrap();
                exact = exact.checked_add(&found.unrounded_total).unwrap();
                said = now;
            }
            prop_assert_eq!(&said, &on_time);
            prop_assert_eq!((paid, exact), (on_time.total, on_time.unrounded_total));
        }
    }

    #[test]
    fn correcting_twice_yields_nothing_and_there_and_back_is_nothing(arrivals in arrivals()) {
        let (then, now) = (known(&arrivals, [0, 1, 2], 1), known(&arrivals, [0, 1, 2], 3));
        prop_assert!(differences(&now, &now).unwrap().is_none());
        let (there, back) = (differences(&then, &now).unwrap(), differences(&now, &then).unwrap());
        prop_assert_eq!(there.lines.len(), back.lines.len());
        prop_assert!(there.total.checked_add(back.total).unwrap().is_zero());
        for line in &there.lines {
            let other = back.lines.iter().find(|other| other.id == line.id).unwrap();
            prop_assert_eq!(line.amount_then, other.amount_now);
            prop_assert_eq!(line.quantity_now, other.quantity_then);
        }
    }
}
