//! Throughput and latency over time: the intervals so far, or the last ones where the terminal has no room for all.
//!
//! Both have the same time below them, so that a stall is at the same place in both.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph, Sparkline, SparklineBar};

use crate::result::document::{Config, Interval, Mode};
use crate::result::units;

/// For the figures on the left, and the axis.
const MARGIN: u16 = 11;

/// A chart of less has its figures over each other.
const MIN_WIDTH: u16 = 40;

/// Intervals that there is room for from the start where their number is not known.
const FEW: usize = 10;

type Figure = fn(&Interval) -> Option<u64>;

pub(super) const PERCENTILES: [(&str, Color, Figure); 3] = [
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

/// How many intervals there is room for on the axis of time.
fn span(config: &Config, so_far: usize, columns: usize) -> usize {
    let in_all = config
        .duration_s
        .map_or(so_far.max(FEW), |duration_s| (duration_s / config.interval_s).ceil() as usize);
    in_all.clamp(1, columns)
}

fn titled(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(Style::new().dim()).title(Line::from(title))
}

fn throughput(frame: &mut Frame<'_>, area: Rect, shown: &[Interval], span: usize, interval_s: f64) {
    let block = titled(" packets/s, received ".to_owned());
    let [figures, bars] =
        Layout::horizontal([Constraint::Length(MARGIN), Constraint::Fill(1)]).areas(block.inner(area));
    frame.render_widget(block, area);
    let most = shown.iter().map(|interval| interval.received).max().unwrap_or(0);
    let mut labels = vec![Line::from("│"); usize::from(figures.height)];
    if let [first, .., last] = &mut *labels {
        if most > 0 {
            *first = format!("{}│", units::rate(most as f64 / interval_s)).into();
        }
        *last = "0│".into();
    }
    frame.render_widget(Paragraph::new(labels).alignment(Alignment::Right), figures);
    let columns = usize::from(bars.width);
    let bar = |column: usize| shown.get(column * span / columns).map(|interval| interval.received);
    let bars_shown: Vec<SparklineBar> = (0..columns).map(|column| bar(column).into()).collect();
    let widget = Sparkline::default().data(bars_shown).max(most.max(1)).absent_value_symbol(" ");
    frame.render_widget(widget.fg(Color::Cyan), bars);
}

fn latency(frame: &mut Frame<'_>, area: Rect, shown: &[Interval], span: usize, config: &Config) {
    let series = PERCENTILES.map(|(_, colour, figure)| (colour, lines(shown, figure)));
    let points = || series.iter().flat_map(|(_, lines)| lines.iter().flatten());
    let least = points().map(|(_, y)| y.floor()).reduce(f64::min);
    let most = points().map(|(_, y)| y.ceil()).reduce(f64::max);
    // Whole powers of ten, of which there are two at least.
    let (least, most) = (least.unwrap_or(3.0), most.unwrap_or(6.0));
    let most = most.max(least + 1.0);
    let labels = (least as i32..=most as i32).map(|power| {
        let time = units::time(10_f64.powi(power));
        format!("{time:>width$}", width = usize::from(MARGIN) - 1)
    });
    let datasets = series.iter().flat_map(|(colour, lines)| {
        lines.iter().map(|line| {
            let dataset = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line);
            dataset.style(Style::new().fg(*colour)).data(line)
        })
    });
    let title = format!(" {} latency, of each {} ", kind(config), units::time(config.interval_s * 1e9));
    let chart = Chart::new(datasets.collect())
        .block(titled(title))
        .x_axis(Axis::default().bounds([0.0, span as f64]))
        .y_axis(Axis::default().bounds([least, most]).labels(labels))
        .legend_position(None);
    frame.render_widget(chart, area);
}

/// The points of a figure in powers of ten, in lines that do not go on where there was no sample.
fn lines(shown: &[Interval], figure: Figure) -> Vec<Vec<(f64, f64)>> {
    let points = shown
        .iter()
        .enumerate()
        .map(|(place, interval)| figure(interval).map(|ns| (place as f64 + 0.5, (ns.max(1) as f64).log10())));
    let points: Vec<_> = points.collect();
    let lines = points.split(Option::is_none).filter(|line| !line.is_empty());
    lines.map(|line| line.iter().flatten().copied().collect()).collect()
}

/// The latency that users of the server see, as far as the mode shows it.
pub(super) fn kind(config: &Config) -> &'static str {
    match config.mode {
        Mode::Closed => "service",
        Mode::Open => "response",
    }
}
