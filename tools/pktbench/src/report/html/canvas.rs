//! What a chart is drawn on: lines, areas, dots and words, in units of which text is 12 high.

use plotters::coord::Shift;
use plotters::prelude::{
    Circle, Color, DrawingArea, IntoDrawingArea, IntoFont, PathElement, Polygon, SVGBackend, Text, TextStyle,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::palette::ChartColor;

/// plotters places things at whole numbers: so many of them are one unit, for curves without stairs.
pub(super) const SUBUNITS: f64 = 10.0;

/// What plotters divides a font size by before it writes it.
const FONT_SCALE: f64 = 1.24;

pub(super) const FONT_SIZE: f64 = 12.0;

/// Of a letter in the widest font that browsers fall back on, `DejaVu` Sans.
const LETTER_WIDTH: f64 = 7.4;

pub(super) type Point = (f64, f64);

pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
}

/// Why drawing does not fail.
const INTO_A_STRING: &str = "a string takes what is drawn into it";

impl Canvas<'_> {
    /// What `draw` has drawn, as the content of an `svg` element.
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
        self.area.draw(&PathElement::new(points, style)).expect(INTO_A_STRING);
    }

    pub(super) fn area(&self, points: &[Point], opacity: f64, color: ChartColor) {
        let points: Vec<_> = points.iter().copied().map(to_subunits).collect();
        self.area.draw(&Polygon::new(points, color.rgb().mix(opacity))).expect(INTO_A_STRING);
    }

    pub(super) fn dot(&self, at: Point, radius: f64, color: ChartColor) {
        let dot = Circle::new(to_subunits(at), radius * SUBUNITS, color.rgb().filled());
        self.area.draw(&dot).expect(INTO_A_STRING);
    }

    pub(super) fn text(&self, words: &str, at: Point, anchor: HPos, color: ChartColor) {
        let font = ("sans-serif", FONT_SIZE * SUBUNITS * FONT_SCALE).into_font();
        let color = color.rgb();
        let style = TextStyle::from(font).color(&color).pos(Pos::new(anchor, VPos::Center));
        self.area.draw(&Text::new(words, to_subunits(at), style)).expect(INTO_A_STRING);
    }
}

/// How wide words are, about.
pub(super) fn width_of(words: &str) -> f64 {
    words.chars().count() as f64 * LETTER_WIDTH
}

fn to_subunits((x, y): Point) -> (i32, i32) {
    ((x * SUBUNITS).round() as i32, (y * SUBUNITS).round() as i32)
}
