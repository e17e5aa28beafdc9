//! Draws charts with few lines, each of which says what it is, as SVG.
//!
//! Elements and their attributes are written by hand: what a plotting library adds to that, axes
//! and legends, is what these charts want otherwise.

use std::fmt::{self, Write as _};

/// What a line is drawn in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ink {
    Blue,
    Orange,
}

/// Where numbers lie on an axis, and which are named.
#[derive(Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    /// Those that are named.
    ticks: Vec<(f64, String)>,
    /// How far along a number lies.
    place: fn(f64) -> f64,
}

/// Points joined.
#[derive(Debug)]
pub(super) struct Line {
    /// Written at its end.
    pub(super) name: &'static str,
    pub(super) ink: Ink,
    pub(super) points: Vec<(f64, f64)>,
    /// Whether each point is marked.
    pub(super) dots: bool,
}

/// One system of axes.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) heading: &'static str,
    /// Of the horizontal axis.
    pub(super) caption: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    /// Points that are named.
    pub(super) notes: Vec<((f64, f64), String)>,
}

impl Axis {
    /// Shares up to `last`, which is below one: 0, 0.9, 0.99 … are as far from one another.
    pub(super) fn shares(last: f64) -> Self {
        let ticks = [
            (0.0, "0 %"),
            (0.5, "50 %"),
            (0.9, "90 %"),
            (0.99, "99 %"),
            (0.999, "99.9 %"),
            (0.9999, "99.99 %"),
            (0.99999, "99.999 %"),
            (0.999999, "99.9999 %"),
        ];
        let shown = ticks.iter().filter(|(share, _)| *share <= last.max(0.9));
        Self {
            from: 0.0,
            to: last.max(0.9),
            ticks: shown
                .map(|&(share, name)| (share, name.to_owned()))
                .collect(),
            place: |share| -(1.0 - share).log10(),
        }
    }

    /// Counts, in rising order, each of which is named.
    pub(super) fn counts(counts: &[u32]) -> Self {
        let ends = counts.first().zip(counts.last());
        let (first, last) = ends.map_or((1.0, 1.0), |(&a, &b)| (f64::from(a), f64::from(b)));
        // Room beside the first and the last, also if they are the same.
        let room = (last / first).powf(0.03).max(1.1);
        Self {
            from: first / room,
            to: last * room,
            ticks: counts.iter().map(|&n| (n.into(), n.to_string())).collect(),
            place: f64::log10,
        }
    }

    /// From zero to `top` or a little more, in some five round steps.
    pub(super) fn from_zero(top: f64, name: impl Fn(f64) -> String) -> Self {
        let rough = top.max(1.0) / 5.0;
        let decade = 10f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
        let step = steps
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        let count = (top.max(1.0) / step).ceil() as u32;
        let numbers = (0..=count).map(|n| f64::from(n) * step);
        Self {
            from: 0.0,
            to: f64::from(count) * step,
            ticks: numbers.map(|number| (number, name(number))).collect(),
            place: |number| number,
        }
    }

    /// From `least` to `most`, both above zero, by magnitude: at 1, 2, 5, 10 …, or, if they are far
    /// apart, at 1, 10, 100 ….
    pub(super) fn magnitudes(least: f64, most: f64, name: impl Fn(f64) -> String) -> Self {
        let (from, to) = (least.log10().floor() as i32, most.log10().floor() as i32);
        let steps: &[f64] = if to - from > 3 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let round = (from..=to + 1).flat_map(|decade| {
            let steps = steps.iter();
            steps.map(move |step| step * 10f64.powi(decade))
        });
        let round: Vec<f64> = round.collect();
        let first = round.iter().rposition(|&number| number <= least);
        let last = round.iter().position(|&number| number > most);
        let shown = &round[first.unwrap_or(0)..=last.unwrap_or(round.len() - 1)];
        Self {
            from: shown[0],
            to: shown[shown.len() - 1],
            ticks: shown.iter().map(|&number| (number, name(number))).collect(),
            place: f64::log10,
        }
    }

    /// How far along a number lies: 0 at the beginning, 1 at the end.
    fn part(&self, number: f64) -> f64 {
        let [from, to, number] = [self.from, self.to, number].map(self.place);
        ((number - from) / (to - from)).clamp(0.0, 1.0)
    }
}

const WIDTH: f64 = 960.0;
/// For title and subtitle.
const HEADER: f64 = 84.0;
/// The height of a panel.
const PANEL: f64 = 430.0;
const SMALL_PANEL: f64 = 300.0;
/// What a panel has around its axes.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 84.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 52.0;
/// How long the name of a point is at most.
const NOTE: f64 = 120.0;

const STYLE: &str = "\
text { font: 13px Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #4b5563 }
.title { font-size: 20px; font-weight: bold; fill: #111827 }
.strong { fill: #111827; font-weight: bold }
.paper { fill: #ffffff }
.grid { stroke: #e5e7eb }
.axis { stroke: #9ca3af }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }
.dot { stroke: #ffffff; stroke-width: 1.5 }
";

/// The panels, one below the other: a whole SVG file.
pub(super) fn draw(title: &str, subtitle: &str, panels: &[Panel]) -> String {
    let panel_height = if panels.len() > 1 { SMALL_PANEL } else { PANEL };
    let height = HEADER + panel_height * panels.len() as f64;
    let mut svg = Svg(String::new());
    svg.raw(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">"
    ));
    svg.raw(format_args!("<style>{STYLE}</style>"));
    svg.raw("<rect class=\"paper\" width=\"100%\" height=\"100%\"/>");
    svg.text((28.0, 38.0), "title", "start", title);
    svg.text((28.0, 62.0), "", "start", subtitle);
    for (index, panel) in panels.iter().enumerate() {
        let top = HEADER + panel_height * index as f64;
        panel.draw(top + TOP, top + panel_height - BOTTOM, &mut svg);
    }
    svg.raw("</svg>");
    svg.0
}

impl Panel {
    /// Draws it with its axes between `top` and `bottom`.
    fn draw(&self, top: f64, bottom: f64, svg: &mut Svg) {
        let right = WIDTH - RIGHT;
        let x = |number: f64| LEFT + self.x.part(number) * (right - LEFT);
        let y = |number: f64| bottom - self.y.part(number) * (bottom - top);
        svg.text((28.0, top - 18.0), "strong", "start", self.heading);
        for (number, name) in &self.y.ticks {
            let y = y(*number);
            svg.line((LEFT, y), (right, y), "grid");
            svg.text((LEFT - 10.0, y + 4.5), "", "end", name);
        }
        svg.line((LEFT, bottom), (right, bottom), "axis");
        for (number, name) in &self.x.ticks {
            let x = x(*number);
            svg.line((x, bottom), (x, bottom + 5.0), "axis");
            svg.text((x, bottom + 21.0), "", "middle", name);
        }
        let middle = (LEFT + right) / 2.0;
        svg.text((middle, bottom + 42.0), "", "middle", self.caption);
        for line in &self.lines {
            let points: Vec<_> = line.points.iter().map(|&(a, b)| (x(a), y(b))).collect();
            svg.polyline(&points, line.ink);
            if line.dots {
                points.iter().for_each(|&point| svg.dot(point, line.ink));
            }
            if let Some(&(x, y)) = points.last() {
                let color = line.ink.color();
                let style = format!("\" style=\"fill: {color}; font-weight: bold");
                svg.text((x + 12.0, y + 4.5), &style, "start", line.name);
            }
        }
        for (point, name) in &self.notes {
            let (x, y) = (x(point.0), y(point.1));
            svg.dot((x, y), Ink::Blue);
            // Where the line rises to the right there is room below a point, and above the last.
            if self.falls_after(*point) {
                svg.text((x, y - 12.0), "strong", "middle", name);
            } else if x < right - NOTE {
                svg.text((x + 10.0, y + 20.0), "strong", "start", name);
            } else {
                svg.text((x + 4.0, y - 12.0), "strong", "end", name);
            }
        }
    }
}

impl Panel {
    /// Whether a line falls behind this point of it.
    fn falls_after(&self, (x, y): (f64, f64)) -> bool {
        let of_it = |line: &&Line| line.points.contains(&(x, y));
        let line = self.lines.iter().find(of_it);
        let next = line.and_then(|line| line.points.iter().find(|point| point.0 > x));
        next.is_some_and(|next| next.1 < y)
    }
}

impl Ink {
    fn color(self) -> &'static str {
        match self {
            Self::Blue => "#1d4ed8",
            Self::Orange => "#c2410c",
        }
    }
}

/// An SVG file that is being written.
struct Svg(String);

impl Svg {
    fn raw(&mut self, element: impl fmt::Display) {
        writeln!(self.0, "{element}").expect("a string takes everything");
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.raw(format_args!(
            "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>"
        ));
    }

    fn polyline(&mut self, points: &[(f64, f64)], ink: Ink) {
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
        let (points, color) = (points.collect::<Vec<_>>().join(" "), ink.color());
        self.raw(format_args!(
            "<polyline class=\"line\" stroke=\"{color}\" points=\"{points}\"/>"
        ));
    }

    fn dot(&mut self, (x, y): (f64, f64), ink: Ink) {
        let color = ink.color();
        self.raw(format_args!(
            "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{color}\"/>"
        ));
    }

    fn text(&mut self, (x, y): (f64, f64), class: &str, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.raw(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
             class=\"{class}\">{text}</text>"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, name)| &**name).collect()
    }

    #[test]
    fn magnitudes_are_named_in_round_numbers_that_leave_nothing_out() {
        let axis = |least, most| Axis::magnitudes(least, most, |number| format!("{number:.0}"));
        assert_eq!(
            names(&axis(92.8, 620.0)),
            ["50", "100", "200", "500", "1000"]
        );
        assert_eq!(names(&axis(20.0, 20.0)), ["20", "50"]);
        assert_eq!(
            names(&axis(3.0, 2e5)),
            ["1", "10", "100", "1000", "10000", "100000", "1000000"]
        );
        let axis = axis(100.0, 9_000.0);
        assert_eq!(
            [100.0, 1_000.0, 10_000.0].map(|n| axis.part(n)),
            [0.0, 0.5, 1.0]
        );
    }

    #[test]
    fn an_axis_from_zero_has_some_five_round_steps() {
        let axis = |top| Axis::from_zero(top, |number| format!("{number:.0}"));
        let (high, even, none) = (axis(90_650.0), axis(500.0), axis(0.0));
        assert_eq!(
            names(&high),
            ["0", "20000", "40000", "60000", "80000", "100000"]
        );
        assert_eq!(names(&even), ["0", "100", "200", "300", "400", "500"]);
        assert!(none.part(0.0) == 0.0 && none.to > 0.0);
    }

    #[test]
    fn every_nine_of_a_share_is_as_far_from_the_last() {
        let axis = Axis::shares(0.9999);
        let parts = [0.0, 0.9, 0.99, 0.999, 0.9999].map(|share| axis.part(share));
        for (nines, part) in parts.into_iter().enumerate() {
            assert!((part - nines as f64 / 4.0).abs() < 1e-6, "{parts:?}");
        }
        assert_eq!(names(&axis)[1], "50 %");
        assert_eq!(names(&axis).last(), Some(&"99.99 %"));
        assert_eq!(names(&Axis::shares(0.0)), ["0 %", "50 %", "90 %"]);
    }

    #[test]
    fn one_count_alone_stands_in_the_middle() {
        let axis = Axis::counts(&[16]);
        assert!((axis.part(16.0) - 0.5).abs() < 1e-9);
        let axis = Axis::counts(&[1, 16, 256]);
        assert!((axis.part(16.0) - 0.5).abs() < 1e-9);
        assert!(axis.part(1.0) > 0.0 && axis.part(256.0) < 1.0);
    }

    #[test]
    fn what_stands_for_markup_is_written_otherwise() {
        let svg = draw("a <b> & c", "", &[]);
        assert!(svg.contains(">a &lt;b> &amp; c</text>"), "{svg}");
        assert!(
            svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
    }
}
