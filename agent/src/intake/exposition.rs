//! Prometheus' text format 0.0.4 and OpenMetrics 1.0: the counters that a configuration names.
//!
//! Pure. A counter's `_created` line, where there is one, says since when it counts.

use std::collections::{BTreeMap, HashMap};

use tallystick_common::time::{SECOND_US, Timestamp};

use super::quantity::whole;
use super::series::Point;
use super::{Count, key};
use crate::config::Scrape;
use crate::config::intake::ScrapeMeter;

/// What of a reading is usage, and what is not and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) counts: Vec<Count>,
    pub(super) troubles: Vec<String>,
}

/// One line with a value.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: &'a str,
}

/// The configured counters in what a target said at `now`.
pub(super) fn read(text: &str, scrape: &Scrape, now: Timestamp) -> Found {
    let mut found = Found::default();
    let types = types(text);
    let lines: Vec<Line<'_>> = text.lines().filter_map(line).collect();
    let created = created(&lines);
    for meter in &scrape.meters {
        if let Some(kind) = not_a_counter(&types, &meter.metric) {
            let trouble = format!("{} is a {kind}, which is no count", meter.metric);
            found.troubles.push(trouble);
            continue;
        }
        let mut wanted = lines.iter().filter(|line| selects(meter, line)).peekable();
        if wanted.peek().is_none() {
            let trouble = format!("{} is not there with these labels", meter.metric);
            found.troubles.push(trouble);
        }
        for line in wanted {
            match count(line, meter, scrape, created.get(&series(line)), now) {
                Ok(count) => found.counts.push(count),
                Err(why) => found.troubles.push(format!("{}: {why}", meter.metric)),
            }
        }
    }
    found
}

fn count(
    line: &Line<'_>,
    meter: &ScrapeMeter,
    scrape: &Scrape,
    created: Option<&Timestamp>,
    now: Timestamp,
) -> Result<Count, String> {
    let value = whole(line.value).map_err(|why| format!("{:?}: {why}", line.value))?;
    let workload = meter
        .meter
        .workload(&scrape.workload)
        .map_err(|why| why.to_string())?;
    let (name, labels) = series(line);
    let parts = [scrape.url.as_str(), meter.meter.as_str(), name, &labels];
    Ok(Count {
        key: key("scrape", &parts.map(str::as_bytes)),
        point: Point {
            start: created.copied(),
            time: now,
            value,
        },
        register: (workload, meter.unit.meter()),
    })
}

fn selects(meter: &ScrapeMeter, line: &Line<'_>) -> bool {
    line.name == meter.metric
        && meter
            .labels
            .iter()
            .all(|(name, value)| line.labels.get(name.as_str()) == Some(value))
}

/// A series without the ending of its name: `_total` and `_created` lines of one counter agree in it.
fn series<'a>(line: &Line<'a>) -> (&'a str, String) {
    let name = line.name.strip_suffix("_total").unwrap_or(line.name);
    (name, format!("{:?}", line.labels))
}

fn created<'a>(lines: &[Line<'a>]) -> HashMap<(&'a str, String), Timestamp> {
    lines
        .iter()
        .filter_map(|line| {
            let name = line.name.strip_suffix("_created")?;
            let (_, labels) = series(line);
            Some(((name, labels), seconds(line.value)?))
        })
        .collect()
}

/// Unix seconds with a fraction, cut to microseconds.
fn seconds(text: &str) -> Option<Timestamp> {
    // As text: 1.7952e+09 has its point moved first.
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: usize = exponent
        .strip_prefix('+')
        .unwrap_or(exponent)
        .parse()
        .ok()?;
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let padded = format!("{after:0<width$}", width = exponent.min(64) + 6);
    let (whole, fraction) = padded.split_at_checked(exponent)?;
    let seconds: u64 = format!("{before}{whole}").parse().ok()?;
    let micros: u64 = fraction.get(..6)?.parse().ok()?;
    Timestamp::from_micros(seconds.checked_mul(SECOND_US)?.checked_add(micros)?)
}

fn types(text: &str) -> HashMap<&str, &str> {
    let declared = text.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name, kind.trim()))
    });
    declared.collect()
}

/// What a metric is declared to be, if that is no counter.
fn not_a_counter<'a>(types: &HashMap<&str, &'a str>, metric: &str) -> Option<&'a str> {
    let family = metric.strip_suffix("_total").unwrap_or(metric);
    let kind = types.get(metric).or_else(|| types.get(family))?;
    (!["counter", "untyped", "unknown"].contains(kind)).then_some(*kind)
}

/// A line with a value; comments, empty and malformed lines are none.
fn line(text: &str) -> Option<Line<'_>> {
    let text = text.trim();
    if text.starts_with('#') {
        return None;
    }
    let end = text.find(['{', ' ', '\t'])?;
    let (name, rest) = text.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    Some(Line {
        name,
        labels,
        value,
    })
}

/// `a="b",c="d"}`, and what follows.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.insert(name.trim(), value);
        rest = after;
    }
}

/// The text up to the closing quote, with escapes resolved, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::intake::AppUnit;

    fn scrape(metrics: &[(&str, &[(&str, &str)])]) -> Scrape {
        let meter = |(metric, labels): &(&str, &[(&str, &str)])| ScrapeMeter {
            metric: (*metric).to_owned(),
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            meter: "sent".parse().unwrap(),
            unit: AppUnit::Bytes,
        };
        Scrape {
            url: "http://127.0.0.1:9100/metrics".to_owned(),
            interval_seconds: 60,
            workload: "node".to_owned(),
            meters: metrics.iter().map(meter).collect(),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_seconds(1_795_348_800).unwrap()
    }

    const TEXT: &str = r#"
# HELP sent_bytes_total Sent.
# TYPE sent_bytes_total counter
sent_bytes_total{device="eth0"} 1.5e+06
sent_bytes_total{device="eth\"1\\",path="a,b} c"} 7 1795348800000
sent_bytes_total{device="lo"} 0.5
sent_bytes_created{device="eth0"} 1.7953487001234567e+09
# TYPE load gauge
load 3
plain 12
"#;

    #[test]
    fn the_configured_counters_are_read_exactly() {
        let found = read(
            TEXT,
            &scrape(&[("sent_bytes_total", &[("device", "eth0")])]),
            now(),
        );
        assert_eq!(found.troubles, [""; 0]);
        let [count] = found.counts.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(count.register.0.as_str(), "app/node/sent");
        assert_eq!(count.point.value, 1_500_000);
        assert_eq!(
            count.point.start.unwrap().as_micros(),
            1_795_348_700_123_456
        );
        let escaped = scrape(&[("sent_bytes_total", &[("device", "eth\"1\\")])]);
        let found = read(TEXT, &escaped, now());
        assert_eq!(
            (found.counts[0].point.value, found.counts[0].point.start),
            (7, None)
        );
        let all = read(
            TEXT,
            &scrape(&[("sent_bytes_total", &[]), ("plain", &[])]),
            now(),
        );
        assert_eq!(all.counts.len(), 3);
        assert!(all.troubles[0].contains("not a whole number"), "{all:?}");
    }

    #[test]
    fn what_is_no_counter_or_not_there_is_said() {
        let found = read(TEXT, &scrape(&[("load", &[]), ("absent", &[])]), now());
        assert_eq!(found.counts, []);
        assert!(found.troubles[0].contains("gauge"), "{found:?}");
        assert!(found.troubles[1].contains("not there"), "{found:?}");
    }

    #[test]
    fn openmetrics_names_the_family_without_its_ending() {
        let text =
            "# TYPE foo counter\nfoo_total 17 # {id=\"x\"} 1\nfoo_created 1795348000\n# EOF\n";
        let found = read(text, &scrape(&[("foo_total", &[])]), now());
        assert_eq!(found.troubles, [""; 0]);
        assert_eq!(found.counts[0].point.value, 17);
        let start = found.counts[0].point.start.unwrap();
        assert_eq!(start, Timestamp::from_seconds(1_795_348_000).unwrap());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|[{}=\",#\\\\\n])*") {
            let _ = read(&text, &scrape(&[("a", &[]), ("", &[])]), now());
        }
    }
}
