//! The colors of the charts. Charts are drawn in the colors of a light page. In an HTML page each color becomes a CSS
//! variable, so that the page can follow the reader's preference for light or dark.

use plotters::style::RGBColor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChartColor {
    Text,
    Muted,
    Grid,
    Blue,
    Orange,
    Teal,
    Green,
    Violet,
    Magenta,
}

impl ChartColor {
    pub(super) const ALL: [Self; 9] = [
        Self::Text,
        Self::Muted,
        Self::Grid,
        Self::Blue,
        Self::Orange,
        Self::Teal,
        Self::Green,
        Self::Violet,
        Self::Magenta,
    ];

    /// The name of the variable in `style.css`, and the value on a light page.
    fn named(self) -> (&'static str, u32) {
        match self {
            Self::Text => ("text", 0x1F_23_28),
            Self::Muted => ("muted", 0x5B_64_70),
            Self::Grid => ("grid", 0xE3_E6_EA),
            Self::Blue => ("blue", 0x24_6B_D6),
            Self::Orange => ("orange", 0xD1_55_1B),
            Self::Teal => ("teal", 0x0B_72_85),
            Self::Green => ("green", 0x1A_93_61),
            Self::Violet => ("violet", 0x5B_45_C9),
            Self::Magenta => ("magenta", 0xC2_37_7B),
        }
    }

    pub(super) fn rgb(self) -> RGBColor {
        let [_, red, green, blue] = self.named().1.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// Replaces the colors in `svg` by CSS variables.
pub(super) fn as_variables(svg: &str) -> String {
    ChartColor::ALL.iter().fold(svg.to_owned(), |svg, color| {
        let (name, value) = color.named();
        svg.replace(&format!("\"#{value:06X}\""), &format!("\"var(--{name})\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_color_is_a_css_variable_for_light_and_for_dark() {
        let style = include_str!("style.css");
        let (light, dark) = style.split_once("@media (prefers-color-scheme: dark)").unwrap();
        for color in ChartColor::ALL {
            let (name, value) = color.named();
            assert!(light.contains(&format!("--{name}: #{value:06x};")), "{name}");
            assert!(dark.contains(&format!("--{name}: #")), "{name}");
        }
    }

    #[test]
    fn all_colors_differ() {
        for color in ChartColor::ALL {
            assert_eq!(
                ChartColor::ALL.iter().filter(|other| other.rgb() == color.rgb()).count(),
                1,
                "{color:?}"
            );
        }
    }
}
