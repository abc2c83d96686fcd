//! Three plots as SVG: the latency distribution, throughput by size, the cost of a send by subscribers.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::report::{fans, sizes};
use crate::results::{CURVE, Results};

const SIZE: (u32, u32) = (900, 560);
const GIB: f64 = (1_u64 << 30) as f64;

/// One line of a plot.
struct Line {
    name: String,
    color: RGBColor,
    /// A thin line, for the same contender in another role.
    thin: bool,
    points: Vec<(f64, f64)>,
}

/// Draws all three into `folder`. A plot without a single line is not drawn.
pub(crate) fn draw_all(folder: &Path, results: &Results) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    draw(
        &folder.join("latency.svg"),
        "Round trip of 64 B: how many readings take how long",
        ("share of the readings", |nines| format!("{}%", percent(nines))),
        ("multiples of the raw floor", plain),
        &latency(results),
    )?;
    draw(
        &folder.join("throughput.svg"),
        "One way, one message a call, nothing lost",
        ("bytes a message", |power| bytes(2_f64.powf(power))),
        ("GiB/s", plain),
        &throughput(results),
    )?;
    draw(
        &folder.join("send_cost.svg"),
        "Cost of one send of 64 B (thin: nobody reads)",
        ("subscribers", |power| plain(2_f64.powf(power))),
        ("nanoseconds", plain),
        &send_cost(results),
    )
}

/// The horizontal place of a share: how many nines it has.
fn nines(of_a_million: u64) -> f64 {
    -(1.0 - of_a_million as f64 / 1e6).log10()
}

fn percent(nines: f64) -> String {
    let share = 100.0 * (1.0 - 10_f64.powf(-nines));
    let text = format!("{share:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn plain(figure: f64) -> String {
    if figure >= 1.0 { format!("{figure:.0}") } else { format!("{figure}") }
}

fn bytes(count: f64) -> String {
    match count {
        large if large >= (1 << 20) as f64 => format!("{:.0} MiB", large / (1 << 20) as f64),
        middle if middle >= 1024.0 => format!("{:.0} KiB", middle / 1024.0),
        small => format!("{small:.0} B"),
    }
}

/// Colours that stay apart on white; hivemind's is black.
const COLORS: &[RGBColor] = &[
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0xe3, 0x77, 0xc2),
    RGBColor(0x7f, 0x7f, 0x7f),
    RGBColor(0xbc, 0xbd, 0x22),
    RGBColor(0x17, 0xbe, 0xcf),
    RGBColor(0x39, 0x3b, 0x79),
    RGBColor(0x63, 0x79, 0x39),
    RGBColor(0xb8, 0x86, 0x0b),
    RGBColor(0x84, 0x3c, 0x39),
    RGBColor(0x7b, 0x41, 0x73),
    RGBColor(0x31, 0xa3, 0x54),
];

fn color(index: usize, name: &str) -> RGBColor {
    if name == "hivemind" { BLACK } else { COLORS[index % COLORS.len()] }
}

/// The same contender has the same colour everywhere.
fn lines(results: &Results, points: impl Fn(&str) -> Vec<(f64, f64)>, thin: bool) -> Vec<Line> {
    let all = results.contenders.iter().enumerate();
    let lines = all.map(|(index, contender)| {
        let name = contender.name.clone();
        Line { color: color(index, &name), thin, points: points(&name), name }
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn latency(results: &Results) -> Vec<Line> {
    let points = |name: &str| {
        let curve = results.cell(name, "round_trip_64B").map(|cell| cell.curve()).unwrap_or_default();
        // A reading of zero (cheaper than the clock) has no place on a logarithmic axis.
        CURVE.iter().map(|share| nines(*share)).zip(curve).filter(|(_, x)| *x > 0.0).collect()
    };
    lines(results, points, false)
}

fn throughput(results: &Results) -> Vec<Line> {
    let points = |name: &str| {
        let rate =
            |case: &str, bytes: usize| Some(results.cell(name, case)?.per_second() * bytes as f64 / GIB);
        let point =
            |(case, bytes)| Some(((bytes as f64).log2(), rate(case, bytes).filter(|rate| *rate > 0.0)?));
        sizes().into_iter().filter_map(point).collect()
    };
    lines(results, points, false)
}

fn send_cost(results: &Results) -> Vec<Line> {
    let points = |draining: bool| {
        move |name: &str| {
            let chosen = fans().into_iter().filter(|(_, drains, _)| *drains == draining);
            let point = |(count, _, case): (usize, bool, &str)| {
                let cost = results.cell(name, case)?.p50();
                (cost > 0.0).then(|| ((count as f64).log2(), cost))
            };
            chosen.filter_map(point).collect()
        }
    };
    let mut all = lines(results, points(true), false);
    all.extend(lines(results, points(false), true));
    all
}

/// A horizontal axis with a label at every whole number (or every second one, if they are many).
struct Whole(Range<f64>);

impl Ranged for Whole {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.0.start) / (self.0.end - self.0.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let (first, last) = (self.0.start.ceil() as i32, self.0.end.floor() as i32);
        let step = if last - first > 8 { 2 } else { 1 };
        (first..=last).step_by(step).map(f64::from).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

fn draw(
    file: &Path,
    title: &str,
    (x_name, x_label): (&str, fn(f64) -> String),
    (y_name, y_label): (&str, fn(f64) -> String),
    lines: &[Line],
) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    if points().next().is_none() {
        return Ok(());
    }
    let bounds = |pick: fn((f64, f64)) -> f64| {
        points().map(pick).fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point), high.max(point)))
    };
    let (left, right) = bounds(|point| point.0);
    let (bottom, top) = bounds(|point| point.1);
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(160)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(Whole(left..right + 1e-9), (bottom * 0.7..top * 1.4).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(&|value| x_label(*value))
        .y_label_formatter(&|value| y_label(*value))
        .light_line_style(WHITE.mix(0.0))
        .draw()?;
    for line in lines {
        let style = ShapeStyle {
            color: line.color.to_rgba(),
            filled: true,
            stroke_width: if line.thin { 1 } else { 2 },
        };
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        chart.draw_series(
            line.points.iter().map(|point| Circle::new(*point, if line.thin { 1 } else { 2 }, style)),
        )?;
    }
    // The legend stands beside the plot, in the order of the lines' right ends, so that it can be read
    // across.
    let mut named: Vec<&Line> = Vec::new();
    for line in lines {
        if !named.iter().any(|other| other.name == line.name) {
            named.push(line);
        }
    }
    named.sort_by(|one, other| end(other).total_cmp(&end(one)));
    for (index, line) in named.iter().enumerate() {
        let y = 60 + 24 * index as i32;
        let x = SIZE.0 as i32 - 150;
        area.draw(&PathElement::new([(x, y), (x + 22, y)], line.color.stroke_width(3)))?;
        area.draw(&Text::new(line.name.clone(), (x + 30, y - 7), ("sans-serif", 14)))?;
    }
    area.present()?;
    Ok(())
}

fn end(line: &Line) -> f64 {
    line.points.last().map_or(0.0, |point| point.1)
}
