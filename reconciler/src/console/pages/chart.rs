//! The live chart as SVG: whole-number coordinates, no script.

use crate::overview::{Chart, Series};

/// Width and height of the drawing area in SVG units.
pub(super) const WIDTH: u64 = 720;
/// Height.
pub(super) const HEIGHT: u64 = 180;
/// Series with a colour of their own; the smaller ones are summed into the last.
const COLOURS: usize = 6;

/// The chart, laid out.
pub(super) struct Drawing {
    pub(super) curves: Vec<Curve>,
    /// Heading of the scale's top: so many CPUs.
    pub(super) top: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// One workload's curve.
pub(super) struct Curve {
    pub(super) colour: usize,
    pub(super) label: String,
    /// The last value, as CPUs.
    pub(super) now: String,
    /// SVG path of the stacked area.
    pub(super) path: String,
}

impl Drawing {
    pub(super) fn of(chart: &Chart) -> Self {
        let rows = ranked(&chart.series);
        let length = rows
            .iter()
            .map(|(_, points)| points.len())
            .max()
            .unwrap_or(0);
        let sums = (0..length).map(|at| {
            rows.iter()
                .map(|(_, points)| value(points, at))
                .sum::<u64>()
        });
        let step = chart.step.0.max(1);
        // The scale ends at a quarter CPU more than the highest point, at least at a quarter.
        let quarter = step.div_ceil(4);
        let top = (sums.max().unwrap_or(0) / quarter + 1) * quarter;
        let mut below = vec![0; length];
        let curves = rows
            .iter()
            .enumerate()
            .map(|(colour, (label, points))| {
                let path = area(&mut below, points, top);
                let now = points.iter().rev().find_map(|point| *point).unwrap_or(0);
                Curve {
                    colour,
                    label: label.clone(),
                    now: cpus(now, step),
                    path,
                }
            })
            .collect();
        Self {
            curves,
            top: cpus(top, step),
            from: chart.from.to_string(),
            to: chart.to.to_string(),
        }
    }
}

/// Largest first; those beyond the colours are summed.
fn ranked(series: &[Series]) -> Vec<(String, Vec<Option<u64>>)> {
    let mut rows: Vec<(String, Vec<Option<u64>>)> = series
        .iter()
        .map(|series| {
            (
                format!("{} · {}", series.node_name, series.workload),
                series.points.clone(),
            )
        })
        .collect();
    rows.sort_by_key(|(_, points)| std::cmp::Reverse(points.iter().flatten().sum::<u64>()));
    if rows.len() <= COLOURS {
        return rows;
    }
    let rest = rows.split_off(COLOURS - 1);
    let length = rest
        .iter()
        .map(|(_, points)| points.len())
        .max()
        .unwrap_or(0);
    let sum = |at| {
        let known: Vec<u64> = rest
            .iter()
            .filter_map(|(_, points)| *points.get(at)?)
            .collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    rows.push((
        format!("{} more", rest.len()),
        (0..length).map(sum).collect(),
    ));
    rows
}

fn value(points: &[Option<u64>], at: usize) -> u64 {
    points.get(at).copied().flatten().unwrap_or(0)
}

/// The area between `below` and `below` + points; raises `below`.
fn area(below: &mut [u64], points: &[Option<u64>], top: u64) -> String {
    let last = (below.len().max(2) - 1) as u64;
    let x = |at: usize| at as u64 * WIDTH / last;
    let y = |value: u64| {
        HEIGHT
            - u64::try_from(u128::from(value) * u128::from(HEIGHT) / u128::from(top.max(1)))
                .unwrap_or(HEIGHT)
    };
    let floor: Vec<String> = below
        .iter()
        .enumerate()
        .rev()
        .map(|(at, value)| format!("{} {}", x(at), y(*value)))
        .collect();
    let ceiling: Vec<String> = below
        .iter_mut()
        .enumerate()
        .map(|(at, sum)| {
            *sum += value(points, at);
            format!("{} {}", x(at), y(*sum))
        })
        .collect();
    if ceiling.is_empty() {
        return String::new();
    }
    format!("M{}L{}Z", ceiling.join("L"), floor.join("L"))
}

/// Microseconds in a step as a number of CPUs, three decimals.
fn cpus(us: u64, step: u64) -> String {
    let milli = u64::try_from(u128::from(us) * 1000 / u128::from(step)).unwrap_or(u64::MAX);
    format!("{}.{:03}", milli / 1000, milli % 1000)
}

#[cfg(test)]
mod tests {
    use tallystick_common::ids::WorkloadName;
    use tallystick_common::meter::Meter;
    use tallystick_common::time::{Micros, Timestamp};

    use super::*;

    fn chart(series: &[&[Option<u64>]]) -> Chart {
        Chart {
            meter: Meter::CPU_TIME,
            from: Timestamp::EPOCH,
            to: Timestamp::EPOCH,
            step: Micros(1_000_000),
            series: series
                .iter()
                .enumerate()
                .map(|(index, points)| Series {
                    node_name: "n".to_owned(),
                    workload: WorkloadName::new(format!("cgroup/{index}")).unwrap(),
                    points: points.to_vec(),
                })
                .collect(),
        }
    }

    #[test]
    fn curves_are_stacked_within_the_scale() {
        let drawing = Drawing::of(&chart(&[
            &[Some(500_000), Some(250_000)],
            &[None, Some(600_000)],
        ]));
        assert_eq!(drawing.top, "1.000");
        assert_eq!(drawing.curves[0].path, "M0 90L720 135L720 180L0 180Z");
        assert_eq!(drawing.curves[1].path, "M0 90L720 27L720 135L0 90Z");
        assert_eq!(drawing.curves[1].now, "0.600");
    }

    #[test]
    fn many_series_end_in_one_sum() {
        let one: &[Option<u64>] = &[Some(10)];
        let drawing = Drawing::of(&chart(&[one; 9]));
        assert_eq!(drawing.curves.len(), COLOURS);
        assert_eq!(drawing.curves[COLOURS - 1].label, "4 more");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(Drawing::of(&chart(&[])).curves.is_empty());
        assert_eq!(Drawing::of(&chart(&[&[]])).curves[0].path, "");
    }
}
