//! Computes where everything is in the picture, in pixels.

use pktconn_benches::{plan::SizeRange, report::median};

use crate::results::{ServerResult, WorkloadResult};

use super::scale::{Scale, ratio_label, tick_label};

/// Text, axes and whiskers.
pub(super) const INK: u32 = 0x22_22_22;
const GRID: u32 = 0xdd_dd_dd;

/// The palette of Okabe and Ito, which color-blind readers can distinguish, without yellow, which is too pale on white.
const COLORS: [u32; 7] = [0x00_72_b2, 0xe6_9f_00, 0x00_9e_73, 0xd5_5e_00, 0xcc_79_a7, 0x56_b4_e9, 0x80_80_80];

const MARGIN: i32 = 24;
const AXIS_LEFT: i32 = 84;
const PLOT_HEIGHT: i32 = 360;
/// Space above the highest and below the lowest whisker, for the figure.
const LABEL_ROOM: i32 = 26;
/// Slightly wider than four characters of `VALUE_SIZE`.
const SLOT_WIDTH: i32 = 30;
const BAR_WIDTH: i32 = 22;
const GROUP_GAP: i32 = 36;
const LEGEND_ROW: i32 = 22;
const SWATCH: i32 = 14;

const TITLE_SIZE: i32 = 18;
const TEXT_SIZE: i32 = 13;
const VALUE_SIZE: i32 = 11;

/// Which point of a text is at its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A line of text, vertically centered at its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) at: (i32, i32),
    pub(super) content: String,
    pub(super) size: i32,
    pub(super) bold: bool,
    pub(super) anchor: Anchor,
    /// Reads from bottom to top.
    pub(super) upwards: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Rect { from: (i32, i32), to: (i32, i32), color: u32 },
    Line { from: (i32, i32), to: (i32, i32), width: u32, color: u32 },
    Text(Label),
}

/// The whole picture. Later shapes are drawn over earlier ones.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) width: i32,
    pub(super) height: i32,
    pub(super) shapes: Vec<Shape>,
}

impl Layout {
    pub(super) fn new(regimes: &[WorkloadResult], round_seconds: f64) -> Self {
        let servers = regimes.first().map_or(&[][..], |regime| &regime.servers);
        let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
        let (first, others) = names.split_first().map_or(("", &[][..]), |(first, others)| (*first, others));
        let rounds = servers.first().map_or(0, |server| server.rounds.len());

        let title = format!("CPU time of the server per echoed packet, as a ratio to {first}");
        let notes = format!(
            "bar: median of {rounds} rounds of {round_seconds} s; whisker: lowest and highest; lower is better"
        );
        let entries: Vec<String> =
            [format!("{first} = 1")].into_iter().chain(others.iter().map(|&name| name.to_owned())).collect();
        let entry_width =
            entries.iter().map(|entry| text_width(entry, TEXT_SIZE)).max().unwrap_or(0) + SWATCH + 32;

        let group_width = others.len().max(2) as i32 * SLOT_WIDTH + GROUP_GAP;
        let plot_width = (regimes.len() as i32 * group_width)
            .max(text_width(&title, TITLE_SIZE) + 2 * MARGIN - AXIS_LEFT)
            .max(text_width(&notes, TEXT_SIZE) + 2 * MARGIN - AXIS_LEFT)
            .max(entry_width);
        let width = AXIS_LEFT + plot_width + MARGIN;
        let mut layout = Self { width, height: 0, shapes: Vec::new() };

        layout.text((width / 2, 28), title, TITLE_SIZE, Anchor::Middle, true);
        layout.text((width / 2, 52), notes, TEXT_SIZE, Anchor::Middle, false);
        let plot_top = layout.legend(&entries, entry_width, 80);
        let plot_bottom = plot_top + PLOT_HEIGHT;
        layout.height = plot_bottom + 84;

        let bounds = regimes.iter().flat_map(|regime| regime.servers.iter().skip(1)).flat_map(ratios);
        let scale = Scale::new(bounds, plot_top + LABEL_ROOM, plot_bottom - LABEL_ROOM);
        layout.axis(&scale, plot_top, plot_bottom);
        for (index, regime) in regimes.iter().enumerate() {
            let left = AXIS_LEFT + plot_width * index as i32 / regimes.len() as i32;
            let right = AXIS_LEFT + plot_width * (index as i32 + 1) / regimes.len() as i32;
            layout.group(regime, &scale, (left, right), plot_bottom);
        }
        // After the bars, so that it is drawn over their ends.
        let one = scale.y(1.0);
        layout.line((AXIS_LEFT, one), (width - MARGIN, one), 2, INK);
        layout
    }

    /// Adds the names and their colors in columns; the first server is a line. Returns the top of the plot.
    fn legend(&mut self, entries: &[String], entry_width: i32, top: i32) -> i32 {
        let columns = ((self.width - AXIS_LEFT - MARGIN) / entry_width).clamp(1, entries.len() as i32);
        for (index, entry) in entries.iter().enumerate() {
            let x = AXIS_LEFT + index as i32 % columns * entry_width;
            let y = top + index as i32 / columns * LEGEND_ROW;
            match index.checked_sub(1) {
                None => self.line((x, y), (x + SWATCH, y), 2, INK),
                Some(series) => {
                    let half = SWATCH / 2;
                    self.rect((x, y - half), (x + SWATCH, y + half), COLORS[series % COLORS.len()]);
                }
            }
            self.text((x + SWATCH + 8, y), entry.clone(), TEXT_SIZE, Anchor::Start, false);
        }
        let rows = (entries.len() as i32 + columns - 1) / columns;
        top + rows * LEGEND_ROW + 4
    }

    fn axis(&mut self, scale: &Scale, top: i32, bottom: i32) {
        let right = self.width - MARGIN;
        for tick in scale.ticks() {
            let y = scale.y(tick);
            self.line((AXIS_LEFT, y), (right, y), 1, GRID);
            self.text((AXIS_LEFT - 8, y), tick_label(tick), TEXT_SIZE, Anchor::End, false);
        }
        self.line((AXIS_LEFT, top), (AXIS_LEFT, bottom), 1, INK);
        self.line((AXIS_LEFT, bottom), (right, bottom), 1, INK);
        self.shapes.push(Shape::Text(Label {
            at: (24, (top + bottom) / 2),
            content: "ratio of CPU ns/packet (log scale)".to_owned(),
            size: TEXT_SIZE,
            bold: false,
            anchor: Anchor::Middle,
            upwards: true,
        }));
        let axis_title = "connections x packets outstanding on each, and bytes of payload";
        self.text(
            ((AXIS_LEFT + right) / 2, bottom + 64),
            axis_title.to_owned(),
            TEXT_SIZE,
            Anchor::Middle,
            false,
        );
    }

    fn group(&mut self, regime: &WorkloadResult, scale: &Scale, (left, right): (i32, i32), bottom: i32) {
        let center = (left + right) / 2;
        let counts = format!("{} x {}", regime.workload.regime.conns, regime.workload.regime.pipeline);
        self.text((center, bottom + 18), counts, TEXT_SIZE, Anchor::Middle, true);
        self.text((center, bottom + 37), sizes_label(regime.sizes), TEXT_SIZE, Anchor::Middle, false);
        let others = regime.servers.iter().skip(1);
        let bars_left = center - others.len() as i32 * SLOT_WIDTH / 2;
        for (series, server) in others.enumerate() {
            let x = bars_left + series as i32 * SLOT_WIDTH + SLOT_WIDTH / 2;
            self.bar(server, scale, x, COLORS[series % COLORS.len()]);
        }
    }

    fn bar(&mut self, server: &ServerResult, scale: &Scale, x: i32, color: u32) {
        let Some(ratio) = median(ratios(server)) else { return };
        let lowest = ratios(server).fold(f64::INFINITY, f64::min);
        let highest = ratios(server).fold(f64::NEG_INFINITY, f64::max);
        let (one, y) = (scale.y(1.0), scale.y(ratio));
        // Thick enough that its color is visible next to the line at 1.
        let y = if ratio < 1.0 { y.max(one + 4) } else { y.min(one - 4) };
        let half = BAR_WIDTH / 2;
        self.rect((x - half, one.min(y)), (x + half, one.max(y)), color);
        let (top, bottom) = (scale.y(highest), scale.y(lowest));
        self.line((x, top), (x, bottom), 1, INK);
        self.line((x - 4, top), (x + 4, top), 1, INK);
        self.line((x - 4, bottom), (x + 4, bottom), 1, INK);
        // On the same side of the line as the bar, so that the line never crosses the label.
        let label_y = if ratio < 1.0 { bottom.max(y) + 12 } else { top.min(y) - 12 };
        self.text((x, label_y), ratio_label(ratio), VALUE_SIZE, Anchor::Middle, false);
    }

    fn text(&mut self, at: (i32, i32), content: String, size: i32, anchor: Anchor, bold: bool) {
        self.shapes.push(Shape::Text(Label { at, content, size, bold, anchor, upwards: false }));
    }

    fn line(&mut self, from: (i32, i32), to: (i32, i32), width: u32, color: u32) {
        self.shapes.push(Shape::Line { from, to, width, color });
    }

    fn rect(&mut self, from: (i32, i32), to: (i32, i32), color: u32) {
        self.shapes.push(Shape::Rect { from, to, color });
    }
}

fn ratios(server: &ServerResult) -> impl Iterator<Item = f64> {
    server.rounds.iter().map(|round| round.ratio)
}

fn sizes_label(sizes: SizeRange) -> String {
    let (min, max) = sizes.range().into_inner();
    if min == max { format!("{min} B") } else { format!("{min}-{max} B") }
}

/// An upper bound of the width, for the wide fonts that some systems use as `sans-serif`: 3/5 of the font size per
/// character.
fn text_width(text: &str, size: i32) -> i32 {
    text.chars().count() as i32 * size * 3 / 5
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::results::tests::round;

    /// A regime of servers with these names and very different ratios.
    pub(crate) fn regime(regime: &str, names: &[&str]) -> WorkloadResult {
        let first = round(1000.0, 1);
        let server = |(index, name): (usize, &&str)| {
            let factor = [1.0, 1.02, 0.97, 13.4, 0.3, 1.3, 2.5, 1.0][index % 8];
            let measured =
                [0.9, 1.0, 1.2].map(|spread| round(1000.0 * factor * spread, 1).with_ratios_to(Some(&first)));
            ServerResult {
                name: (*name).to_owned(),
                command: Vec::new(),
                peak_rss_bytes: 0,
                rounds: measured.to_vec(),
                half_rate_rounds: Vec::new(),
            }
        };
        let workload: pktconn_benches::plan::Workload = regime.parse().unwrap();
        let sizes = workload.regime.sizes.unwrap_or("0-2048".parse().unwrap());
        let servers = names.iter().enumerate().map(server).collect();
        WorkloadResult { workload, sizes, half_rate_per_s: None, servers }
    }

    /// Returns left, top, right, bottom.
    fn text_box(text: &Label) -> (i32, i32, i32, i32) {
        let (width, half_height) = (text_width(&text.content, text.size), text.size / 2);
        let (x, y) = text.at;
        if text.upwards {
            return (x - half_height, y - width / 2, x + half_height, y + width / 2);
        }
        let left = match text.anchor {
            Anchor::Start => x,
            Anchor::Middle => x - width / 2,
            Anchor::End => x - width,
        };
        (left, y - half_height, left + width, y + half_height)
    }

    fn pictures() -> Vec<Layout> {
        const NAMES: [&str; 9] =
            ["bare", "pktecho", "one by one", "split", "LengthDelimitedCodec forward", "f", "g", "h", "i"];
        const REGIMES: [&str; 5] = ["1000x1", "64x1", "64x32", "8x4:1048576", "10000x10000:1000000-33554432"];
        let counts =
            (1..=NAMES.len()).flat_map(|names| (1..=REGIMES.len()).map(move |regimes| (names, regimes)));
        counts
            .map(|(names, regimes)| {
                let regimes: Vec<_> =
                    REGIMES[..regimes].iter().map(|text| regime(text, &NAMES[..names])).collect();
                Layout::new(&regimes, 3.0)
            })
            .collect()
    }

    #[test]
    fn no_text_overlaps_another_or_exceeds_the_picture() {
        for layout in pictures() {
            let texts: Vec<&Label> = layout
                .shapes
                .iter()
                .filter_map(|shape| if let Shape::Text(text) = shape { Some(text) } else { None })
                .collect();
            for (index, text) in texts.iter().enumerate() {
                let (left, top, right, bottom) = text_box(text);
                assert!(
                    left >= 0 && top >= 0 && right <= layout.width && bottom <= layout.height,
                    "{text:?}"
                );
                for other in &texts[..index] {
                    let (other_left, other_top, other_right, other_bottom) = text_box(other);
                    let apart = right <= other_left
                        || other_right <= left
                        || bottom <= other_top
                        || other_bottom <= top;
                    assert!(apart, "{text:?} and {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_bar_reaches_from_the_line_at_one_to_its_ratio() {
        let layout = Layout::new(&[regime("64x1", &["bare", "a", "b", "c"])], 3.0);
        let line = layout.shapes.iter().rev().find_map(|shape| match shape {
            Shape::Line { from, width: 2, .. } => Some(from.1),
            _ => None,
        });
        let bars: Vec<(i32, i32)> = layout
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Rect { from, to, .. } if to.0 - from.0 == BAR_WIDTH => Some((from.1, to.1)),
                _ => None,
            })
            .collect();
        let one = line.unwrap();
        assert_eq!(bars.len(), 3, "the first server has a line and no bar");
        assert!(bars[0].1 == one && bars[0].0 <= one - 4, "1.02 is visible above the line");
        assert!(bars[1].0 == one && bars[1].1 >= one + 4, "0.97 is visible below the line");
        assert!(bars[2].0 < one - 200, "13.4 is far above the line");
    }
}
