//! The charts of `--tui`: throughput and latency over time. If the terminal has no room for all intervals, the charts
//! show the last ones. Both charts have the same time axis, so a stall is at the same position in both.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph, Sparkline, SparklineBar};

use crate::result::document::{Config, Interval, Mode};
use crate::result::units;

/// Columns for the labels on the left and the axis.
const MARGIN: u16 = 11;

/// The labels of a narrower chart would overlap.
const MIN_WIDTH: u16 = 40;

/// The least length of the time axis, in intervals, if the length of the run is not known.
const MIN_SPAN: usize = 10;

type Percentile = fn(&Interval) -> Option<u64>;

pub(super) const PERCENTILES: [(&str, Color, Percentile); 3] = [
    ("p50", Color::Green, |interval| interval.p50_ns),
    ("p99", Color::Yellow, |interval| interval.p99_ns),
    ("p99.9", Color::Magenta, |interval| interval.p999_ns),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, config: &Config, intervals: &[Interval]) {
    if area.width < MIN_WIDTH {
        return;
    }
    let columns = usize::from(area.width - MARGIN);
    let span = span(config, intervals.len(), columns);
    let shown = &intervals[intervals.len().saturating_sub(span)..];
    let [above, below] = Layout::vertical([Constraint::Fill(2), Constraint::Fill(3)]).areas(area);
    throughput(frame, above, shown, span, config.interval_s);
    latency(frame, below, shown, span, config);
}

/// The length of the time axis, in intervals.
fn span(config: &Config, so_far: usize, columns: usize) -> usize {
    let total = config
        .duration_s
        .map_or(so_far.max(MIN_SPAN), |duration_s| (duration_s / config.interval_s).ceil() as usize);
    total.clamp(1, columns)
}

fn titled(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(Style::new().dim()).title(Line::from(title))
}

fn throughput(frame: &mut Frame<'_>, area: Rect, shown: &[Interval], span: usize, interval_s: f64) {
    let block = titled(" received packets/s ".to_owned());
    let [labels_area, bars] =
        Layout::horizontal([Constraint::Length(MARGIN), Constraint::Fill(1)]).areas(block.inner(area));
    frame.render_widget(block, area);
    let most = shown.iter().map(|interval| interval.received).max().unwrap_or(0);
    let mut labels = vec![Line::from("│"); usize::from(labels_area.height)];
    if let [first, .., last] = &mut *labels {
        if most > 0 {
            *first = format!("{}│", units::rate(most as f64 / interval_s)).into();
        }
        *last = "0│".into();
    }
    frame.render_widget(Paragraph::new(labels).alignment(Alignment::Right), labels_area);
    let columns = usize::from(bars.width);
    let bar = |column: usize| shown.get(column * span / columns).map(|interval| interval.received);
    let bars_shown: Vec<SparklineBar> = (0..columns).map(|column| bar(column).into()).collect();
    let widget = Sparkline::default().data(bars_shown).max(most.max(1)).absent_value_symbol(" ");
    frame.render_widget(widget.fg(Color::Cyan), bars);
}

fn latency(frame: &mut Frame<'_>, area: Rect, shown: &[Interval], span: usize, config: &Config) {
    let series = PERCENTILES.map(|(_, color, percentile)| (color, lines(shown, percentile)));
    let points = || series.iter().flat_map(|(_, lines)| lines.iter().flatten());
    let least = points().map(|(_, y)| y.floor()).reduce(f64::min);
    let most = points().map(|(_, y)| y.ceil()).reduce(f64::max);
    // The axis is logarithmic and covers at least one power of ten.
    let (least, most) = (least.unwrap_or(3.0), most.unwrap_or(6.0));
    let most = most.max(least + 1.0);
    let labels = (least as i32..=most as i32).map(|power| {
        let time = units::time(10_f64.powi(power));
        format!("{time:>width$}", width = usize::from(MARGIN) - 1)
    });
    let datasets = series.iter().flat_map(|(color, lines)| {
        lines.iter().map(|line| {
            let dataset = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line);
            dataset.style(Style::new().fg(*color)).data(line)
        })
    });
    let title = format!(" {} latency per {} interval ", kind(config), units::time(config.interval_s * 1e9));
    let chart = Chart::new(datasets.collect())
        .block(titled(title))
        .x_axis(Axis::default().bounds([0.0, span as f64]))
        .y_axis(Axis::default().bounds([least, most]).labels(labels))
        .legend_position(None);
    frame.render_widget(chart, area);
}

/// The points of a percentile, as logarithms to base 10. An interval without a sample ends a line.
fn lines(shown: &[Interval], percentile: Percentile) -> Vec<Vec<(f64, f64)>> {
    let points = shown.iter().enumerate().map(|(index, interval)| {
        percentile(interval).map(|ns| (index as f64 + 0.5, (ns.max(1) as f64).log10()))
    });
    let points: Vec<_> = points.collect();
    let lines = points.split(Option::is_none).filter(|line| !line.is_empty());
    lines.map(|line| line.iter().flatten().copied().collect()).collect()
}

/// The name of the latency that is shown: the response time in an open loop, the service time in a closed loop.
pub(super) fn kind(config: &Config) -> &'static str {
    match config.mode {
        Mode::Closed => "service",
        Mode::Open => "response",
    }
}
