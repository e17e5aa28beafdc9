//! Charts: how latencies are distributed, and how a group bears more clients.

use hdrhistogram::Histogram;

use super::chart::{Axis, Ink, Line, Panel, draw};
use super::report::Report;
use crate::duration::short;
use crate::output::thousands;

/// The latency below which a share of the operations lies, for every share. The more nines a share
/// has the further to the right it is, so that the many do not hide the slowest.
pub(super) fn latencies(histogram: &Histogram<u64>, report: &Report) -> String {
    let us = |ns: u64| ns.clamp(1, histogram.max().max(1)) as f64 / 1e3;
    let ops = histogram.len().max(1) as f64;
    // All of them would be infinitely many nines: the slowest stands where its neighbour ends.
    let last = 1.0 - 1.0 / ops;
    let steps = histogram.iter_quantiles(STEPS_TO_HALF);
    let mut points = vec![(0.0, us(histogram.min()))];
    points.extend(steps.map(|step| {
        let share = step.quantile_iterated_to().min(last);
        (share, us(step.value_iterated_to()))
    }));
    let named = [
        (0.5, "p50"),
        (0.9, "p90"),
        (0.99, "p99"),
        (0.999, "p99.9"),
        (1.0, "max"),
    ];
    // A share that is no more than a few operations is not worth a name.
    let named = named
        .iter()
        .filter(|(share, _)| *share == 1.0 || ops * (1.0 - share) >= 5.0);
    let notes = named.map(|&(share, name)| {
        let us = us(histogram.value_at_quantile(share));
        ((share.min(last), us), format!("{name} {}", short(us)))
    });
    let panel = Panel {
        heading: "Latency",
        caption: "share of operations that were answered within it",
        x: Axis::shares(last),
        y: Axis::magnitudes(us(histogram.min()), us(histogram.max()), round),
        notes: notes.collect(),
        lines: vec![Line {
            name: "",
            ink: Ink::Blue,
            points,
            dots: false,
        }],
    };
    let rate = thousands(report.summary.ops_per_sec.round() as u64);
    let (ops, load) = (thousands(report.summary.ops), report.load());
    let clients = report.clients();
    let title = format!("{ops} operations, {rate} a second");
    draw(&title, &format!("{clients} {load}"), &[panel])
}

/// How finely a share is cut, before it is halved.
const STEPS_TO_HALF: u32 = 10;

/// Operations a second, and latencies, by the number of clients, which rises.
pub(super) fn sweep(reports: &[Report]) -> String {
    let line = |name, ink, value: fn(&Report) -> f64| Line {
        name,
        ink,
        points: reports
            .iter()
            .map(|report| (report.clients.into(), value(report)))
            .collect(),
        dots: true,
    };
    let rates = line("", Ink::Blue, |report| report.summary.ops_per_sec);
    let p50 = line("p50", Ink::Blue, |report| report.summary.latency_us.p50);
    let p99 = line("p99", Ink::Orange, |report| report.summary.latency_us.p99);
    let latencies = p50.points.iter().chain(&p99.points);
    let (mut least, mut most) = (f64::MAX, 0.001);
    for &(_, us) in latencies {
        (least, most) = (us.clamp(0.001, least), us.max(most));
    }
    let highest = rates.points.iter().copied();
    let highest = highest.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let rate = |rate: f64| thousands(rate.round() as u64);
    let clients: Vec<u32> = reports.iter().map(|report| report.clients).collect();
    let throughput = Panel {
        heading: "Operations a second",
        caption: "clients",
        x: Axis::counts(&clients),
        y: Axis::from_zero(highest.map_or(0.0, |(_, rate)| rate), rate),
        notes: highest.map(|at| (at, rate(at.1))).into_iter().collect(),
        lines: vec![rates],
    };
    let latency = Panel {
        heading: "Latency",
        caption: "clients",
        x: Axis::counts(&clients),
        y: Axis::magnitudes(least.min(most), most, round),
        notes: Vec::new(),
        lines: vec![p99, p50],
    };
    let load = reports.first().map_or_else(String::new, Report::load);
    draw(
        "Throughput and latency by clients",
        &format!("Clients {load}"),
        &[throughput, latency],
    )
}

/// A round number of microseconds, in few digits.
fn round(us: f64) -> String {
    let (number, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    // A power of ten may be off by its last bit.
    format!("{} {unit}", (number * 1e3).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Report;

    fn histogram(latencies_ns: impl Iterator<Item = u64>) -> Histogram<u64> {
        let histogram = Histogram::new_with_bounds(1, 600_000_000_000, 3);
        let mut histogram = histogram.expect("sound bounds");
        latencies_ns.for_each(|ns| histogram.saturating_record(ns));
        histogram
    }

    /// The points of each line.
    fn lines(svg: &str) -> Vec<Vec<(f64, f64)>> {
        let point = |text: &str| {
            let (x, y) = text.split_once(',').expect("two numbers");
            let [x, y] = [x, y].map(|number| number.parse().expect("a number"));
            (x, y)
        };
        let lines = svg.split("points=\"").skip(1);
        lines
            .map(|rest| rest.split('"').next().expect("an attribute"))
            .map(|points| points.split(' ').map(point).collect())
            .collect()
    }

    #[test]
    fn latencies_rise_with_the_share_and_the_known_ones_are_named() {
        let report = Report::example(64, 1000.0, (500.0, 990.0));
        let svg = latencies(&histogram((1..=1000).map(|us| us * 1000)), &report);
        let [line] = &lines(&svg)[..] else {
            panic!("one line: {svg}");
        };
        assert!(
            line.is_sorted_by(|a, b| a.0 <= b.0 && a.1 >= b.1),
            "{line:?}"
        );
        assert!(line.len() > 50, "{line:?}");
        for name in [
            "p50 500 µs",
            "p90 900 µs",
            "p99 990 µs",
            "max 1.00 ms",
            "99.9 %",
        ] {
            assert!(svg.contains(name), "{name} is not in {svg}");
        }
        // Of a thousand, it would be one alone.
        assert!(!svg.contains("p99.9 "), "{svg}");
    }

    #[test]
    fn one_latency_and_even_none_can_be_drawn() {
        let report = Report::example(1, 0.0, (0.0, 0.0));
        for latencies_ns in [&[][..], &[1], &[u64::MAX >> 1]] {
            let svg = latencies(&histogram(latencies_ns.iter().copied()), &report);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert_eq!(lines(&svg).len(), 1);
        }
        assert!(!sweep(&[report]).contains("NaN"));
    }

    #[test]
    fn a_sweep_has_a_point_a_run_and_names_the_highest() {
        let reports = [
            Report::example(1, 9_000.0, (90.0, 120.0)),
            Report::example(16, 120_000.0, (100.0, 900.0)),
            Report::example(256, 110_000.0, (2_000.0, 9_000.0)),
        ];
        let svg = sweep(&reports);
        let lines = lines(&svg);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3]);
        // The vertical axis points up.
        assert!(
            lines[0][1].1 < lines[0][2].1 && lines[0][2].1 < lines[0][0].1,
            "{lines:?}"
        );
        assert!(
            svg.contains(">120,000</text>") && svg.contains(">p99</text>"),
            "{svg}"
        );
        // Above its point: behind it the line falls.
        let (before, _) = svg.split_once(">120,000</text>").expect("it is named");
        let (_, y) = before.rsplit_once(" y=\"").expect("it is somewhere");
        let y: f64 = y.split('"').next().unwrap_or(y).parse().expect("a number");
        assert!((lines[0][1].1 - y - 12.0).abs() < 0.2, "{svg}");
        let middles = lines.iter().map(|line| line[1].0);
        assert!(
            middles.into_iter().all(|x| (x - 480.0).abs() < 0.2),
            "{lines:?}"
        );
    }
}
