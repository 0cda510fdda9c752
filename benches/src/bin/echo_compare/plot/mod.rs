//! Draws the ratios as an SVG: a group of bars per regime, a bar per server. Each bar begins at the line of the first
//! server.
//!
//! ```text
//!  5 |            |
//!  2 |  |         #
//!  1 |--#--#------#--#--   the first server
//!    |     |         |
//!      64x1      64x32
//! ```
//!
//! `layout` computes the positions, and this module draws them.

mod layout;
mod scale;

use anyhow::Result;
use plotters::{
    prelude::{
        Color as _, FontStyle, FontTransform, IntoDrawingArea, IntoFont, PathElement, RGBColor, Rectangle,
        SVGBackend, Text, TextStyle, WHITE,
    },
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::results::WorkloadResult;
use layout::{Anchor, Layout, Shape};

/// plotters divides font sizes by this factor.
const FONT_SCALE: f64 = 1.24;

/// Draws the CPU time of each server in each regime, as a ratio to the first server, on a white background.
///
/// `round_seconds` is how long the client sent in each round; the title shows it.
///
/// # Errors
///
/// plotters cannot draw it.
pub(crate) fn plot_svg(regimes: &[WorkloadResult], round_seconds: f64) -> Result<String> {
    let layout = Layout::new(regimes, round_seconds);
    let (mut svg, ink) = (String::new(), rgb(layout::INK));
    {
        let size = (layout.width as u32, layout.height as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        for shape in layout.shapes {
            match shape {
                Shape::Rect { from, to, color } => {
                    area.draw(&Rectangle::new([from, to], rgb(color).filled()))?;
                }
                Shape::Line { from, to, width, color } => {
                    area.draw(&PathElement::new([from, to], rgb(color).stroke_width(width)))?;
                }
                Shape::Text(text) => {
                    let style = match text.bold {
                        true => FontStyle::Bold,
                        false => FontStyle::Normal,
                    };
                    let transform = match text.upwards {
                        true => FontTransform::Rotate270,
                        false => FontTransform::None,
                    };
                    let font = ("sans-serif", f64::from(text.size) * FONT_SCALE).into_font();
                    let anchor = match text.anchor {
                        Anchor::Start => HPos::Left,
                        Anchor::Middle => HPos::Center,
                        Anchor::End => HPos::Right,
                    };
                    let style = TextStyle::from(font.style(style).transform(transform))
                        .color(&ink)
                        .pos(Pos::new(anchor, VPos::Center));
                    area.draw(&Text::new(text.content, text.at, style))?;
                }
            }
        }
        area.present()?;
    }
    Ok(svg)
}

fn rgb(color: u32) -> RGBColor {
    let [_, red, green, blue] = color.to_be_bytes();
    RGBColor(red, green, blue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_in_names_are_escaped() {
        let svg = plot_svg(&[layout::tests::regime("64x1", &["bare", "a<b> & \"c\""])], 3.0).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(svg.contains("a&lt;b&gt; &amp; &quot;c&quot;"), "{svg}");
    }

    #[test]
    fn colors_are_written_as_rgb() {
        assert_eq!(rgb(0x12_34_56), RGBColor(0x12, 0x34, 0x56));
    }
}
