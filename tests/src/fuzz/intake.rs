//! What applications and scrape targets say.

use tallystick_agent::config::Scrape;
use tallystick_agent::intake::decoders;

use super::{Input, Output, Target};

pub(super) const EVENTS: Target = Target {
    name: "events",
    max_bytes: 2048,
    run: events,
    seeds: event_seeds,
    words: &[
        "\"specversion\":\"1.0\"",
        "\"id\":\"",
        "\"source\":\"",
        "\"type\":\"",
        "\"subject\":\"",
        "\"data\":{",
        "\"value\":",
        "\"meter\":\"",
        "\"unit\":\"seconds\"",
        "\"data_base64\":\"",
        "\"datacontenttype\":\"",
    ],
};

pub(super) const OTLP: Target = Target {
    name: "otlp",
    max_bytes: 2048,
    run: otlp,
    seeds: otlp_seeds,
    words: &[
        "\"resourceMetrics\":[",
        "\"scopeMetrics\":[",
        "\"metrics\":[",
        "\"sum\":{",
        "\"dataPoints\":[",
        "\"asInt\":\"",
        "\"asDouble\":",
        "\"aggregationTemporality\":2",
        "\"isMonotonic\":true",
        "\"attributes\":[",
        "\"stringValue\":\"",
        "\"startTimeUnixNano\":\"",
        "\"timeUnixNano\":\"",
        "\"resource\":{",
        "\"unit\":\"",
        "\"name\":\"",
        "\"flags\":1",
    ],
};

pub(super) const EXPOSITION: Target = Target {
    name: "exposition",
    max_bytes: 2048,
    run: exposition,
    seeds: exposition_seeds,
    words: &[
        "# TYPE ",
        " counter\n",
        "a_total",
        "_created",
        "{device=\"eth0\"}",
        "# EOF",
        "1.5e+06",
        "NaN",
        "+Inf",
    ],
};

/// The first byte: structured, batched, or attributes as pieces and then the body; or a number alone.
fn events(bytes: &[u8]) {
    let mut input = Input(bytes);
    match input.byte() % 4 {
        0 => drop(decoders::events(input.0, false)),
        1 => drop(decoders::events(input.0, true)),
        2 => {
            let values: [&[u8]; 5] = std::array::from_fn(|_| input.piece());
            let names = [
                "ce-specversion",
                "ce-id",
                "ce-source",
                "ce-type",
                "ce-subject",
            ];
            let headers: Vec<(&str, &[u8])> = names.into_iter().zip(values).collect();
            let _ = decoders::binary_event(&headers, input.0);
        }
        _ => number(&String::from_utf8_lossy(input.0)),
    }
}

/// A number that is whole is what it was written as.
fn number(text: &str) {
    let Some(value) = decoders::whole(text) else {
        return;
    };
    assert_eq!(decoders::whole(&value.to_string()), Some(value));
    if let Ok(plain) = text.parse::<u128>() {
        assert_eq!(value, plain);
    }
}

fn otlp(bytes: &[u8]) {
    let mut input = Input(bytes);
    let json = input.byte() % 2 == 0;
    let _ = decoders::otlp(input.0, json);
}

fn exposition(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let found = decoders::exposition(&text, &scrape());
    assert!(found <= 2 * text.lines().count());
}

fn scrape() -> Scrape {
    let text = r#"
url = "http://127.0.0.1:9100/metrics"
interval_seconds = 60
workload = "node"
meters = [
    { metric = "a_total", meter = "a" },
    { metric = "sent_bytes_total", labels = { device = "eth0" }, meter = "sent", unit = "bytes" },
]
"#;
    toml::from_str(text).expect("a target to scrape")
}

fn event_seeds() -> Vec<Vec<u8>> {
    let event = r#"{"specversion":"1.0","id":"1","source":"/a","type":"jobs","subject":"shop","data":{"value":5,"meter":"jobs","unit":"count"}}"#;
    let encoded = r#"{"specversion":"1.0","id":"2","source":"/a","type":"jobs","subject":"shop","datacontenttype":"application/json","data_base64":"eyJ2YWx1ZSI6IjEuNWUzIn0="}"#;
    let out = |how: u8, body: &str| Output::default().byte(how).bytes(body.as_bytes()).0;
    let binary = [b"1.0" as &[u8], b"1", b"/a", b"jobs", b"sh%6Fp"];
    let binary = binary
        .iter()
        .fold(Output::default().byte(2), |out, value| out.piece(value));
    vec![
        out(0, event),
        out(0, encoded),
        out(1, &format!("[{event},{encoded}]")),
        binary.bytes(br#"{"value":5}"#).0,
        out(3, "+1.50e+3"),
        out(3, "170141183460469231731687303715884105727"),
        out(3, "-0.0"),
    ]
}

fn otlp_seeds() -> Vec<Vec<u8>> {
    let json = r#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"tallystick.workload","value":{"stringValue":"shop"}}]},"scopeMetrics":[{"scope":{"name":"s"},"metrics":[{"name":"jobs","unit":"By","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[{"asInt":"12","startTimeUnixNano":"1000","timeUnixNano":"2000000","attributes":[{"key":"a","value":{"boolValue":true}}]},{"asDouble":1.5,"flags":1}]}},{"name":"g","gauge":{"dataPoints":[{}]}}]}]}]}"#;
    vec![
        Output::default().byte(0).bytes(json.as_bytes()).0,
        Output::default().byte(1).bytes(&protobuf()).0,
    ]
}

/// The same export in Protobuf.
fn protobuf() -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).expect("it is short");
        let mut out = vec![
            number << 3 | 2,
            length & 0x7f | if length > 127 { 0x80 } else { 0 },
        ];
        out.extend((length > 127).then_some(1));
        out.extend(bytes);
        out
    };
    let fixed =
        |number: u8, value: u64| [vec![number << 3 | 1], value.to_le_bytes().to_vec()].concat();
    let text = |key: &str, value: &str| {
        field(
            1,
            &[
                field(1, key.as_bytes()),
                field(2, &field(1, value.as_bytes())),
            ]
            .concat(),
        )
    };
    let point = [
        fixed(2, 1000),
        fixed(3, 2_000_000),
        fixed(6, 12),
        field(7, &[field(1, b"a"), field(2, &[0x10, 1])].concat()),
    ];
    let double = [fixed(3, 5), fixed(4, 0x4028_0000_0000_0000)];
    let sum = [
        field(1, &point.concat()),
        field(1, &double.concat()),
        vec![0x10, 2, 0x18, 1],
    ]
    .concat();
    let metric = [field(1, b"jobs"), field(3, b"By"), field(7, &sum)].concat();
    let scope = [field(1, &field(1, b"s")), field(2, &metric)].concat();
    let resource = text("tallystick.workload", "shop");
    field(1, &[field(1, &resource), field(2, &scope)].concat())
}

fn exposition_seeds() -> Vec<Vec<u8>> {
    let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\\",y=\"z\"} 1.5e+06 1795348800000\na_created{x=\"a\\\"b\\\\\",y=\"z\"} 1.79e+09\n# TYPE sent_bytes_total counter\nsent_bytes_total{device=\"eth0\"} 7\n# TYPE g gauge\ng 3\n# EOF\n";
    super::texts(&[
        text,
        "# TYPE a counter\na_total 17 # {id=\"x\"} 1\na_created 1795348800.123\n",
    ])
}
