//! Draws a chart: series between two axes, and a legend.
//!
//! ```text
//!  unit of y                 -- one  -- other     legend
//!  20 ms |---------------------------------
//!        |            __/
//!  10 ms |-------____/---------------------
//!        |______/__________________________
//!        0        10        20        30
//!                 name of x
//! ```

use plotters::style::text_anchor::HPos;

use super::canvas::{Canvas, FONT_SIZE, Point, SUBUNITS, width_of};
use super::palette::ChartColor;
use super::scale::Scale;

/// A chart, drawn in the colors of a light page.
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) note: String,
    /// The content of an `svg` element.
    pub(super) content: String,
}

pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) name: &'static str,
}

pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) color: ChartColor,
    pub(super) shape: Shape,
    /// `None` where nothing was measured: the line has a gap there.
    pub(super) points: Vec<Option<Point>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Line,
    Filled,
    Dotted,
}

/// Small enough for readable text on a phone. Two charts fit next to each other on a wide screen.
pub(super) const WIDTH: f64 = 480.0;
pub(super) const HEIGHT: f64 = 280.0;

/// The ends of the axes, in units of the canvas.
const LEFT: f64 = 60.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = HEIGHT - 44.0;

/// Space between two labels.
const GAP: f64 = 8.0;

/// Length of the colored line in the legend.
const SWATCH: f64 = 16.0;

/// The `viewBox` attribute for the content of a chart.
pub(super) fn view_box() -> String {
    format!("0 0 {} {}", WIDTH * SUBUNITS, HEIGHT * SUBUNITS)
}

/// `marks` are values of x with a vertical line.
pub(super) fn draw(x: &Axis, y: &Axis, series: &[Series], marks: &[f64]) -> String {
    Canvas::content(WIDTH, HEIGHT, |canvas| {
        draw_y(canvas, y);
        for x in marks.iter().map(|mark| x_of(x, *mark)) {
            canvas.line(&[(x, TOP), (x, BOTTOM)], 1.0, ChartColor::Muted);
        }
        for series in series {
            draw_series(canvas, x, y, series);
        }
        draw_x(canvas, x);
        draw_legend(canvas, series);
    })
}

fn draw_y(canvas: &Canvas<'_>, axis: &Axis) {
    canvas.text(axis.name, (2.0, FONT_SIZE), HPos::Left, ChartColor::Muted);
    for (value, name) in &axis.scale.ticks {
        let y = y_of(axis, *value);
        canvas.line(&[(LEFT, y), (RIGHT, y)], 1.0, ChartColor::Grid);
        canvas.text(name, (LEFT - 8.0, y), HPos::Right, ChartColor::Muted);
    }
}

fn draw_x(canvas: &Canvas<'_>, axis: &Axis) {
    canvas.line(&[(LEFT, BOTTOM), (RIGHT, BOTTOM)], 1.0, ChartColor::Muted);
    let label_step = label_step(axis);
    for (index, (value, name)) in axis.scale.ticks.iter().enumerate() {
        let x = x_of(axis, *value);
        canvas.line(&[(x, BOTTOM), (x, BOTTOM + 4.0)], 1.0, ChartColor::Muted);
        if index % label_step == 0 {
            canvas.text(name, (x, BOTTOM + 14.0), HPos::Center, ChartColor::Muted);
        }
    }
    canvas.text(axis.name, ((LEFT + RIGHT) / 2.0, HEIGHT - 9.0), HPos::Center, ChartColor::Muted);
}

/// Label every n-th tick, so that the labels do not overlap.
fn label_step(axis: &Axis) -> usize {
    let ticks = &axis.scale.ticks;
    let fits = |every: &usize| {
        let names: Vec<_> = ticks.iter().step_by(*every).collect();
        names.windows(2).all(|pair| {
            let halves = (width_of(&pair[0].1) + width_of(&pair[1].1)) / 2.0;
            x_of(axis, pair[1].0) - x_of(axis, pair[0].0) >= halves + GAP
        })
    };
    (1..=ticks.len()).find(fits).unwrap_or(1)
}

fn draw_series(canvas: &Canvas<'_>, x: &Axis, y: &Axis, series: &Series) {
    let placed = |point: &Option<Point>| point.map(|(at, value)| (x_of(x, at), y_of(y, value)));
    let points: Vec<_> = series.points.iter().map(placed).collect();
    for line in points.split(Option::is_none) {
        let line: Vec<_> = line.iter().copied().flatten().collect();
        let [first, .., last] = line[..] else {
            line.iter().for_each(|point| canvas.dot(*point, 2.5, series.color));
            continue;
        };
        if series.shape == Shape::Filled {
            let ground = [(last.0, BOTTOM), (first.0, BOTTOM)];
            canvas.area(&[&line[..], &ground].concat(), 0.12, series.color);
        }
        canvas.line(&line, 1.8, series.color);
        if series.shape == Shape::Dotted {
            line.iter().for_each(|point| canvas.dot(*point, 3.0, series.color));
        }
    }
}

/// Drawn at the right, because the name of the y axis is at the left. A single series needs no legend: the title names
/// it.
fn draw_legend(canvas: &Canvas<'_>, series: &[Series]) {
    if series.len() < 2 {
        return;
    }
    let mut right = RIGHT;
    for series in series.iter().rev() {
        let name = right - width_of(series.name);
        canvas.text(series.name, (name, FONT_SIZE), HPos::Left, ChartColor::Text);
        let swatch = name - 6.0;
        canvas.line(&[(swatch - SWATCH, FONT_SIZE), (swatch, FONT_SIZE)], 2.5, series.color);
        right = swatch - SWATCH - GAP;
    }
}

fn x_of(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.scale.at(value) * (RIGHT - LEFT)
}

fn y_of(axis: &Axis, value: f64) -> f64 {
    BOTTOM - axis.scale.at(value) * (BOTTOM - TOP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label_step_of(names: usize, name: &str) -> usize {
        label_step(&Axis { scale: Scale::categories(vec![name.to_owned(); names]), name: "" })
    }

    #[test]
    fn labels_that_would_overlap_are_left_out() {
        assert_eq!(
            (label_step_of(7, "64–127"), label_step_of(14, "64–127"), label_step_of(22, "64–127")),
            (1, 2, 3)
        );
        assert_eq!((label_step_of(1, &"long ".repeat(99)), label_step_of(0, "")), (1, 1));
    }
}
