//! Draws lines, areas, dots and text as SVG. The unit is a pixel of a text that is 12 pixels high.

use plotters::coord::Shift;
use plotters::prelude::{
    Circle, Color, DrawingArea, IntoDrawingArea, IntoFont, PathElement, Polygon, SVGBackend, Text, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::palette::ChartColor;

/// `plotters` accepts only integer coordinates. Each unit has this many steps, so that curves look smooth.
pub(super) const SUBUNITS: f64 = 10.0;

/// `plotters` divides a font size by this before it writes it.
const FONT_SCALE: f64 = 1.24;

pub(super) const FONT_SIZE: f64 = 12.0;

/// The average width of a letter in `DejaVu` Sans, the widest font that browsers fall back on.
const LETTER_WIDTH: f64 = 7.4;

pub(super) type Point = (f64, f64);

pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

const DRAWING_IN_MEMORY: &str = "drawing into a string does not fail";

impl Canvas<'_> {
    /// Calls `draw` and returns what it has drawn: the content of an `svg` element.
    pub(super) fn content(width: f64, height: f64, draw: impl FnOnce(&Canvas<'_>)) -> String {
        let mut svg = String::new();
        {
            let (width, height) = to_subunits((width, height));
            let area = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
            draw(&Canvas { area });
        }
        let content = svg.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</svg>"));
        content.map_or_else(String::new, |(content, _)| content.trim().to_owned())
    }

    pub(super) fn line(&self, points: &[Point], width: f64, color: ChartColor) {
        let points: Vec<_> = points.iter().copied().map(to_subunits).collect();
        let style = color.rgb().stroke_width((width * SUBUNITS) as u32);
        self.area.draw(&PathElement::new(points, style)).expect(DRAWING_IN_MEMORY);
    }

    pub(super) fn area(&self, points: &[Point], opacity: f64, color: ChartColor) {
        let points: Vec<_> = points.iter().copied().map(to_subunits).collect();
        self.area.draw(&Polygon::new(points, color.rgb().mix(opacity))).expect(DRAWING_IN_MEMORY);
    }

    pub(super) fn dot(&self, at: Point, radius: f64, color: ChartColor) {
        let dot = Circle::new(to_subunits(at), radius * SUBUNITS, color.rgb().filled());
        self.area.draw(&dot).expect(DRAWING_IN_MEMORY);
    }

    pub(super) fn text(&self, text: &str, at: Point, anchor: HPos, color: ChartColor) {
        let font = ("sans-serif", FONT_SIZE * SUBUNITS * FONT_SCALE).into_font();
        let color = color.rgb();
        let style = TextStyle::from(font).color(&color).pos(Pos::new(anchor, VPos::Center));
        self.area.draw(&Text::new(text, to_subunits(at), style)).expect(DRAWING_IN_MEMORY);
    }
}

/// The approximate width of `text`.
pub(super) fn width_of(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER_WIDTH
}

fn to_subunits((x, y): Point) -> (i32, i32) {
    ((x * SUBUNITS).round() as i32, (y * SUBUNITS).round() as i32)
}
