use tallystick_common::ids::{NodeId, Seq, StreamId, WorkloadName};
use tallystick_common::meter::Meter;
use tallystick_common::reading::Cause;
use tallystick_common::time::{Micros, Timestamp};

use super::*;
use crate::overview::{
    Chart, Coverage, LastSegment, LeakageNow, LineSoFar, NamedGap, Series, UsageToday,
};

fn usage(workload: &str, meter: Meter, quantity: &str, account: Option<&str>) -> UsageToday {
    UsageToday {
        node: NodeId([1; 16]),
        node_name: "edge-1".to_owned(),
        workload: WorkloadName::new(workload).unwrap(),
        account: account.map(str::to_owned),
        meter,
        unit: meter.unit(),
        quantity: quantity.to_owned(),
        interpolated: Micros(0),
        unmeasured: Micros(0),
    }
}

fn overview() -> Overview {
    let at = Timestamp::from_seconds(1_795_348_800).unwrap();
    let line = LineSoFar {
        title: "CPU".to_owned(),
        workload: Some(WorkloadName::new("cgroup/<b>web</b>").unwrap()),
        quantity: "0.5".to_owned(),
        unit: "cpu-hour".to_owned(),
        amount: "1.80".to_owned(),
        unrounded: "1.800000".to_owned(),
    };
    Overview {
        at,
        today: at.floor_to(86_400_000_000),
        usage: vec![
            usage("host", Meter::CPU_TIME, "9000000", None),
            usage("host/other", Meter::CPU_TIME, "1234567", Some("this-host")),
            usage("cgroup/web", Meter::MEMORY_USAGE, "77", None),
        ],
        chart: Chart {
            meter: Meter::CPU_TIME,
            from: at,
            to: at,
            step: Micros(1_000_000),
            series: vec![Series {
                node_name: "edge-1".to_owned(),
                workload: WorkloadName::host_other(),
                points: vec![Some(5), None],
            }],
        },
        accounts: vec![AccountSoFar {
            account: "this-host".to_owned(),
            name: "This host".to_owned(),
            currency: "EUR".to_owned(),
            period_from: at,
            period_to: at,
            total: "1.80".to_owned(),
            unrounded_total: "1.800000".to_owned(),
            lines: vec![line],
        }],
        leakage: LeakageNow {
            tallied_at: None,
            differing: 0,
            first: None,
        },
        unassigned_value: None,
        nodes: vec![NodeToday {
            silent_since: None,
            unbalanced: 0,
            node: NodeId([1; 16]),
            name: "edge-1".to_owned(),
            state: "active".to_owned(),
            last_segment: Some(LastSegment {
                stream: StreamId([2; 16]),
                seq: Seq(41),
                received_at: at,
                covered_through: at,
            }),
            coverage: Coverage {
                exact: Micros(750),
                missing: Micros(250),
                ..Coverage::default()
            },
            gaps: vec![NamedGap {
                from: at,
                to: at,
                cause: Cause::NodeDown,
            }],
            lag: Some(Micros(1_500_000)),
            refused: 3,
            quarantined: 0,
        }],
    }
}

#[test]
fn the_first_page_shows_the_figures_and_where_they_come_from() {
    let page = first_page(&overview()).unwrap();
    for figure in [
        "1.800000",
        "1.234 s",
        "1234567 µs",
        "edge-1",
        ">41<",
        "1.5 s",
        "node down",
        "3 refused",
        "unassigned",
    ] {
        assert!(page.contains(figure), "{figure} is missing in {page}");
    }
    assert!(
        page.contains(r#"<rect class="exact" x="250" width="750""#),
        "three quarters are exact"
    );
    assert!(!page.contains("segments in quarantine"), "there is none");
}

#[test]
fn figures_can_be_read_by_a_script_as_whole_numbers() {
    let page = first_page(&overview()).unwrap();
    assert!(page.contains(r#"<data value="1234567" title="1234567 µs">"#));
}

#[test]
fn nodes_of_one_name_and_accounts_of_one_workload_have_rows_of_their_own() {
    let mut overview = overview();
    let mut twin = usage("host/other", Meter::CPU_TIME, "1111", Some("this-host"));
    twin.node = NodeId([2; 16]);
    let elsewhere = usage("host/other", Meter::CPU_TIME, "2222", Some("another"));
    overview.usage.extend([twin, elsewhere]);
    let page = first_page(&overview).unwrap();
    for quantity in ["1234567", "1111", "2222"] {
        assert!(page.contains(&format!("<data value=\"{quantity}\"")));
    }
}

#[test]
fn what_nodes_and_people_call_things_is_never_markup() {
    let page = first_page(&overview()).unwrap();
    assert!(!page.contains("<b>web</b>"));
    assert!(page.contains("&#60;b&#62;web") || page.contains("&lt;b&gt;web"));
}

#[test]
fn the_page_runs_no_inline_script_and_names_no_other_origin() {
    let page = first_page(&overview()).unwrap();
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("onclick"));
    assert_eq!(page.matches("<script").count(), 1);
    assert!(!page.contains("style="));
}

#[test]
fn the_fragment_is_a_part_of_the_page() {
    let overview = overview();
    let (page, fragment) = (
        first_page(&overview).unwrap(),
        first_page_fragment(&overview).unwrap(),
    );
    assert!(page.contains(fragment.trim()));
}

#[test]
fn an_invoice_shows_each_step() {
    let view = InvoiceView {
        number: Some("TS-2026-000001".to_owned()),
        account: "This host".to_owned(),
        period_from: "2026-11-01".to_owned(),
        period_to: "2026-12-01".to_owned(),
        currency: "EUR".to_owned(),
        total: "1.80".to_owned(),
        unrounded_total: "1.800000".to_owned(),
        digest: Some("ab".repeat(32)),
        lines: vec![InvoiceLineView {
            title: "CPU".to_owned(),
            of: None,
            quantity: "0.5 cpu-hour".to_owned(),
            exact: "1800000000 µs".to_owned(),
            amount: "1.80".to_owned(),
            unrounded: "1.8".to_owned(),
            steps: vec!["0.5 × 3.60 = 1.8".to_owned()],
        }],
        notes: vec!["edge-2 is outstanding".to_owned()],
        corrections: CorrectionsView {
            by: vec![CorrectedBy {
                number: "CN-2026-000001".to_owned(),
                kind: "credit note".to_owned(),
                total: "-0.30 EUR".to_owned(),
            }],
            changes: vec![ChangeView {
                title: "Memory".to_owned(),
                difference: "-0.30".to_owned(),
                said: vec!["5 were 0.30 EUR".to_owned()],
            }],
            ..CorrectionsView::default()
        },
    };
    let page = invoice_page(&view).unwrap();
    for part in [
        "TS-2026-000001",
        "0.5 × 3.60 = 1.8",
        "edge-2 is outstanding",
        "1800000000 µs",
        "<a href=\"/invoices/CN-2026-000001\">CN-2026-000001</a>",
        "5 were 0.30 EUR",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(
        login_page(Some("no such token"))
            .unwrap()
            .contains("no such token")
    );
}

#[test]
fn the_first_page_says_what_does_not_add_up_and_who_is_silent() {
    let mut overview = overview();
    let page = first_page(&overview).unwrap();
    assert!(page.contains("No hour is tallied yet"));
    assert!(!page.contains("Silent since"));
    let at = overview.today;
    overview.leakage.tallied_at = Some(at);
    assert!(
        first_page(&overview)
            .unwrap()
            .contains("Zero: all that was received")
    );
    overview.leakage.differing = 2;
    overview.leakage.first = Some(at);
    overview.nodes[0].silent_since = Some(at);
    overview.nodes[0].unbalanced = 3;
    let page = first_page(&overview).unwrap();
    assert!(page.contains(&format!("differences, the first in the hour from {at}")));
    assert!(page.contains(&format!("Silent since {at}.")));
    assert!(page.contains("3 sums of this node are not conserved"));
}
