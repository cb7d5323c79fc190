//! Stories and properties of statements.

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::price::{Model, Price, Tier, Tiers};
use crate::time::{HOUR_US, QUARTER_HOUR_US};

const CPU_HOUR: u128 = 3_600_000_000;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn november() -> Period {
    Period {
        from: at("2026-11-01T00:00:00Z"),
        to: at("2026-12-01T00:00:00Z"),
    }
}

fn day(day: u64) -> Timestamp {
    november()
        .from
        .saturating_add(Micros((day - 1) * 24 * HOUR_US))
}

fn price(id: &str, meter: Meter, per: &str, text: &str) -> Price {
    Price {
        id: id.into(),
        title: id.to_uppercase(),
        meter,
        app_meter: None,
        per: per.parse().unwrap(),
        scope: Scope::Account,
        free: Decimal::ZERO,
        model: Model::PerUnit {
            price: text.parse().unwrap(),
        },
    }
}

fn plan(name: &str, prices: Vec<Price>) -> Plan {
    Plan {
        name: name.into(),
        title: name.to_uppercase(),
        currency: Currency::new("EUR").unwrap(),
        prices,
    }
}

fn cpu_plan(name: &str, per_hour: &str) -> Plan {
    plan(
        name,
        vec![price("cpu", Meter::CPU_TIME, "cpu-hour", per_hour)],
    )
}

fn usage(node: u8, workload: &str, meter: Meter, quantity: u128, from: u64, to: u64) -> UsageItem {
    UsageItem {
        node: NodeId([node; 16]),
        node_name: format!("node-{node}"),
        workload: workload.parse().unwrap(),
        meter,
        from: day(from),
        to: day(to),
        quantity,
        registers: vec![],
        measured: Micros(day(to).since(day(from)).0),
        interpolated: Micros(0),
        unmeasured: Micros(0),
    }
}

fn span(register: u64, from: u64, to: u64, opening: u128, closing: u128) -> RegisterSpan {
    RegisterSpan {
        stream: StreamId([7; 16]),
        register: RegisterId(register),
        from: day(from),
        to: day(to),
        opening: Reading(opening),
        closing: Reading(closing),
    }
}

fn input(windows: Vec<PlanWindow>, usage: Vec<UsageItem>) -> StatementInput {
    StatementInput {
        account: AccountRef {
            id: "acme".into(),
            name: "ACME".into(),
            currency: Currency::new("EUR").unwrap(),
            zone: Zone::utc(),
        },
        seller: "Hosting Ltd".into(),
        buyer: "ACME Inc".into(),
        period: november(),
        windows,
        usage,
        notes: vec![],
        rounding: RoundingMode::default(),
    }
}

fn window(plan: Plan, from: u64, to: u64) -> PlanWindow {
    PlanWindow {
        plan,
        from: day(from),
        to: day(to),
    }
}

#[test]
fn usage_of_all_workloads_becomes_one_line_with_a_detail_each() {
    let usage = vec![
        usage(1, "cgroup/web", Meter::CPU_TIME, 2 * CPU_HOUR, 1, 2),
        usage(1, "cgroup/web", Meter::CPU_TIME, CPU_HOUR, 2, 3),
        usage(2, "host/other", Meter::CPU_TIME, CPU_HOUR / 2, 1, 3),
    ];
    let statement = draft(input(vec![window(cpu_plan("basic", "0.1"), 1, 31)], usage)).unwrap();
    let [line] = &statement.lines[..] else {
        panic!("{:?}", statement.lines)
    };
    assert_eq!(
        (line.id.as_str(), line.quantity, line.units.to_string()),
        ("basic/cpu", 3 * CPU_HOUR + CPU_HOUR / 2, "3.5".to_owned(),)
    );
    assert_eq!(line.amount.to_string(), "0.35 EUR");
    let details: Vec<_> = line
        .details
        .iter()
        .map(|d| (d.of.node_name.as_str(), d.quantity))
        .collect();
    assert_eq!(
        details,
        [("node-1", 3 * CPU_HOUR), ("node-2", CPU_HOUR / 2)]
    );
    assert_eq!(statement.total, line.amount);
}

#[test]
fn a_price_by_workload_makes_a_line_each_and_restarts_its_tiers() {
    let mut cpu = price("cpu", Meter::CPU_TIME, "cpu-hour", "1");
    cpu.scope = Scope::Workload;
    let tier = |up_to, price| Tier {
        up_to,
        price,
        flat: Decimal::ZERO,
    };
    cpu.model = Model::Graduated(Tiers {
        tiers: vec![tier(Some(10.into()), 1.into()), tier(None, 2.into())],
        charge_first_flat_at_zero: false,
    });
    let usage = vec![
        usage(1, "cgroup/a", Meter::CPU_TIME, 3 * CPU_HOUR, 1, 2),
        usage(1, "cgroup/b", Meter::CPU_TIME, 12 * CPU_HOUR, 1, 2),
    ];
    let statement = draft(input(vec![window(plan("p", vec![cpu]), 1, 31)], usage)).unwrap();
    let amounts: Vec<_> = statement
        .lines
        .iter()
        .map(|line| line.amount.amount())
        .collect();
    assert_eq!(amounts, ["3.00", "14.00"]);
    assert_eq!(statement.total.amount(), "17.00");
    assert!(
        statement.lines[0].id.ends_with("/cgroup/a"),
        "{}",
        statement.lines[0].id
    );
}

#[test]
fn a_change_of_plan_splits_the_period_and_the_id_says_from_when() {
    let windows = vec![
        window(cpu_plan("dear", "1"), 16, 31),
        window(cpu_plan("cheap", "0.1"), 1, 16),
    ];
    let usage = vec![
        usage(1, "cgroup/a", Meter::CPU_TIME, 10 * CPU_HOUR, 15, 16),
        usage(1, "cgroup/a", Meter::CPU_TIME, 10 * CPU_HOUR, 16, 17),
    ];
    let statement = draft(input(windows, usage)).unwrap();
    let lines: Vec<_> = statement
        .lines
        .iter()
        .map(|line| (line.id.as_str(), line.amount.amount()))
        .collect();
    assert_eq!(
        lines,
        [
            ("cheap/cpu", "1.00".to_owned()),
            ("dear/cpu@2026-11-16T00:00:00Z", "10.00".to_owned())
        ]
    );
}

#[test]
fn usage_without_a_price_or_a_subscription_is_listed_not_lost() {
    let usage = vec![
        usage(1, "cgroup/a", Meter::DISK_READ, 5, 1, 2),
        usage(1, "cgroup/a", Meter::DISK_READ, 6, 2, 3),
        usage(1, "cgroup/a", Meter::CPU_TIME, 7, 20, 21),
    ];
    let statement = draft(input(vec![window(cpu_plan("p", "1"), 1, 16)], usage)).unwrap();
    assert_eq!(statement.lines, []);
    let unpriced: Vec<_> = statement
        .unpriced
        .iter()
        .map(|u| (u.reason, u.meter, u.detail.quantity))
        .collect();
    assert_eq!(
        unpriced,
        [
            (UnpricedReason::NoSubscription, Meter::CPU_TIME, 7),
            (UnpricedReason::NoPrice, Meter::DISK_READ, 11),
        ]
    );
}

#[test]
fn a_peak_is_the_maximum_over_time_and_workloads() {
    let windows = vec![window(
        plan("p", vec![price("ram", Meter::MEMORY_PEAK, "GiB", "1")]),
        1,
        31,
    )];
    let usage = vec![
        usage(1, "cgroup/a", Meter::MEMORY_PEAK, 3 << 30, 1, 2),
        usage(1, "cgroup/a", Meter::MEMORY_PEAK, 2 << 30, 2, 3),
        usage(1, "cgroup/b", Meter::MEMORY_PEAK, 1 << 30, 1, 3),
    ];
    let statement = draft(input(windows, usage)).unwrap();
    assert_eq!(statement.total.amount(), "3.00");
}

#[test]
fn a_flat_amount_due_without_usage_makes_a_line() {
    let mut base = price("base", Meter::CPU_TIME, "cpu-hour", "1");
    let tier = Tier {
        up_to: None,
        price: Decimal::ONE,
        flat: 5.into(),
    };
    base.model = Model::Volume(Tiers {
        tiers: vec![tier],
        charge_first_flat_at_zero: true,
    });
    let idle = price("idle", Meter::DISK_READ, "GB", "1");
    let windows = vec![window(plan("p", vec![base, idle]), 1, 31)];
    let statement = draft(input(windows, vec![])).unwrap();
    assert_eq!(
        statement.lines.len(),
        1,
        "no line for a price that nothing was used of"
    );
    assert_eq!(statement.total.amount(), "5.00");
}

#[test]
fn lines_are_rounded_and_then_added() {
    let prices = [
        price("a", Meter::DISK_READ, "byte", "0.005"),
        price("b", Meter::DISK_WRITE, "byte", "0.005"),
    ];
    let windows = vec![window(plan("p", prices.to_vec()), 1, 31)];
    let usage = vec![
        usage(1, "cgroup/a", Meter::DISK_READ, 1, 1, 2),
        usage(1, "cgroup/a", Meter::DISK_WRITE, 1, 1, 2),
    ];
    let statement = draft(input(windows, usage)).unwrap();
    assert_eq!(statement.total.amount(), "0.02");
    assert_eq!(statement.unrounded_total.to_string(), "0.01");
}

#[test]
fn input_that_would_bill_wrongly_is_refused() {
    let item = || usage(1, "cgroup/a", Meter::CPU_TIME, 1, 1, 2);
    let basic = || window(cpu_plan("basic", "1"), 1, 31);
    let refused = |windows: Vec<PlanWindow>, usage: Vec<UsageItem>, says: &str| {
        let error = draft(input(windows, usage)).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    };
    refused(
        vec![basic(), window(cpu_plan("other", "1"), 30, 31)],
        vec![],
        "end one subscription",
    );
    refused(vec![basic(), basic()], vec![], "end one subscription");
    refused(
        vec![basic()],
        vec![UsageItem {
            workload: "host".parse().unwrap(),
            ..item()
        }],
        "never",
    );
    refused(
        vec![window(cpu_plan("p", "1"), 5, 5)],
        vec![],
        "quarter-hours",
    );
    let crooked = PlanWindow {
        from: day(1).saturating_add(Micros(1)),
        ..basic()
    };
    refused(vec![crooked], vec![], "quarter-hours");
    refused(
        vec![window(cpu_plan("p", "1"), 2, 31)],
        vec![UsageItem {
            to: day(3),
            ..item()
        }],
        "cut",
    );
    refused(
        vec![basic()],
        vec![UsageItem {
            to: day(40),
            ..item()
        }],
        "cut it there",
    );
    refused(
        vec![basic()],
        vec![UsageItem {
            to: day(1),
            ..item()
        }],
        "span",
    );
    refused(vec![window(cpu_plan("p", "-1"), 1, 31)], vec![], "negative");
    let mut yen = cpu_plan("yen", "1");
    yen.currency = Currency::new("JPY").unwrap();
    refused(vec![window(yen, 1, 31)], vec![], "is in JPY");
    let counted = |from, to| UsageItem {
        registers: vec![span(3, from, to, 0, 1)],
        ..item()
    };
    refused(
        vec![basic()],
        vec![counted(1, 3), counted(2, 4)],
        "counted twice",
    );
    let most = UsageItem {
        quantity: u128::MAX,
        ..item()
    };
    refused(
        vec![basic()],
        vec![most.clone(), most.clone()],
        "basic/cpu has more than 128 bits",
    );
    refused(vec![basic()], vec![most], "cannot rate line basic/cpu");
}

#[test]
fn usage_that_its_registers_do_not_bear_out_is_named() {
    let with = |meter, quantity, registers| UsageItem {
        registers,
        ..usage(1, "cgroup/a", meter, quantity, 1, 3)
    };
    let discrepancies = |item: UsageItem| {
        let statement = draft(input(vec![window(cpu_plan("p", "1"), 1, 31)], vec![item])).unwrap();
        statement
            .discrepancies
            .iter()
            .map(|d| d.counted)
            .collect::<Vec<_>>()
    };
    let two = || vec![span(1, 1, 2, 100, 150), span(2, 2, 3, 0, 5)];
    assert!(discrepancies(with(Meter::CPU_TIME, 55, two())).is_empty());
    assert_eq!(discrepancies(with(Meter::CPU_TIME, 56, two())), [55]);
    assert_eq!(
        discrepancies(with(Meter::CPU_TIME, 0, vec![span(1, 1, 2, 5, 4)])),
        [0]
    );
    assert!(discrepancies(with(Meter::MEMORY_PEAK, 150, two())).is_empty());
    assert_eq!(discrepancies(with(Meter::MEMORY_PEAK, 151, two())), [150]);
    assert_eq!(discrepancies(with(Meter::MEMORY_PEAK, 149, two())), [150]);
    assert!(discrepancies(with(Meter::MEMORY_PEAK, 3, vec![span(1, 1, 2, 9, 9)])).is_empty());
    for meter in [Meter::CPU_TIME, Meter::MEMORY_PEAK] {
        assert_eq!(
            discrepancies(with(meter, 1, vec![])),
            [0],
            "counted by none"
        );
        assert!(discrepancies(with(meter, 0, vec![])).is_empty());
    }
}

#[test]
fn canonical_json_comes_back_and_any_other_spelling_is_refused() {
    let mut item = usage(
        1,
        "cgroup/a",
        Meter::CPU_TIME,
        u128::from(u64::MAX) * 10,
        1,
        2,
    );
    item.registers = vec![span(1, 1, 2, 0, u128::from(u64::MAX) * 10)];
    let mut input = input(vec![window(cpu_plan("p", "0.0000001"), 1, 31)], vec![item]);
    input.notes.push(Note::Remark {
        text: "draft".into(),
    });
    let statement = draft(input).unwrap();
    let json = statement.to_json();
    assert!(
        json.contains(r#""quantity":"184467440737095516150""#),
        "{json}"
    );
    assert_eq!(Statement::from_json(&json).unwrap(), statement);
    let spaced = json.replacen(':', ": ", 1);
    assert!(
        Statement::from_json(&spaced)
            .unwrap_err()
            .to_string()
            .contains("canonical")
    );
    assert!(Statement::from_json(&json.replacen("\"total\"", "\"sum\"", 1)).is_err());
}

fn any_usage() -> impl Strategy<Value = UsageItem> {
    let meters = prop::sample::select(vec![
        Meter::CPU_TIME,
        Meter::DISK_READ,
        Meter::MEMORY_PEAK,
        Meter::NETWORK_TX,
    ]);
    (
        0u8..3,
        0u8..4,
        meters,
        any::<u64>(),
        1u64..30,
        prop::collection::vec(any::<u32>(), 0..3),
    )
        .prop_map(|(node, workload, meter, quantity, from, registers)| {
            let mut item = usage(
                node,
                &format!("cgroup/{workload}"),
                meter,
                quantity.into(),
                from,
                from + 1,
            );
            item.registers = registers
                .into_iter()
                .map(|register| span(u64::from(register), from, from + 1, 0, quantity.into()))
                .collect();
            item
        })
}

fn two_plans() -> Vec<PlanWindow> {
    let prices = || {
        let mut workload = price("disk", Meter::DISK_READ, "GB", "0.07");
        workload.scope = Scope::Workload;
        vec![
            price("cpu", Meter::CPU_TIME, "cpu-hour", "0.0137"),
            workload,
            price("ram", Meter::MEMORY_PEAK, "GiB", "0.5"),
        ]
    };
    vec![
        window(plan("first", prices()), 1, 16),
        window(plan("second", prices()), 16, 31),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_same_input_in_any_order_gives_the_same_bytes(
        (usage, shuffled) in prop::collection::vec(any_usage(), 0..20)
            .prop_flat_map(|usage| (Just(usage.clone()), Just(usage).prop_shuffle())),
    ) {
        let notes = |days: [u64; 2]| days.map(|d| Note::Gap {
            node: NodeId([1; 16]), node_name: "node-1".into(),
            from: day(d), to: day(d + 1), cause: Cause::AgentDown,
        });
        let mut one = input(two_plans(), usage);
        one.notes.extend(notes([1, 5]));
        let mut other = input(two_plans(), shuffled);
        other.windows.reverse();
        other.notes.extend(notes([5, 1]));
        for item in &mut other.usage {
            item.registers.reverse();
        }
        match (draft(one), draft(other)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(one.to_json(), other.to_json());
                prop_assert_eq!(one.digest(), other.digest());
            }
            (Err(one), Err(other)) => prop_assert_eq!(one, other),
            (one, other) => prop_assert!(false, "{:?} {:?}", one.is_ok(), other.is_ok()),
        }
    }

    #[test]
    fn nothing_is_lost_and_the_total_is_the_sum_of_the_lines(
        usage in prop::collection::vec(any_usage(), 0..20),
    ) {
        let mut usage = usage;
        for item in &mut usage {
            item.registers.clear();
        }
        let counted = |quantities: &mut dyn Iterator<Item = (Meter, u128)>| {
            quantities.filter(|(meter, _)| *meter != Meter::MEMORY_PEAK).map(|(_, q)| q).sum::<u128>()
        };
        let used = counted(&mut usage.iter().map(|item| (item.meter, item.quantity)));
        let statement = draft(input(two_plans(), usage)).unwrap();
        let billed = counted(&mut statement.lines.iter().map(|line| (line.meter, line.quantity)));
        let named = counted(&mut statement.unpriced.iter().map(|u| (u.meter, u.detail.quantity)));
        prop_assert_eq!(billed + named, used);
        let sum: i64 = statement.lines.iter().map(|line| line.amount.minor()).sum();
        prop_assert_eq!(sum, statement.total.minor());
        for line in &statement.lines {
            prop_assert!(line.window.from.as_micros() % QUARTER_HOUR_US == 0);
            prop_assert_eq!(line.per.convert(line.quantity), line.units);
        }
    }
}
