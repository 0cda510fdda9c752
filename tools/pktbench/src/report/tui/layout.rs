//! The layout of the terminal for `--tui`, for every size of terminal.
//!
//! ```text
//!   server, mode, load                  one line each, if the terminal is high enough
//!   ###################-------------    how much of the run is done
//!   phase, throughput, latency, packets one line each
//!   charts of throughput and latency    the rest of the terminal
//! ```

use pktconn_tools::printable::visible;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::charts::{self, PERCENTILES, kind};
use super::phase::PhaseTracker;
use crate::report::status::{RunStatus, Running};
use crate::report::text;
use crate::result::document::Config;
use crate::result::units::{self, plural};

/// Width of the column with the row names, as in the report.
const NAME_WIDTH: usize = 12;

/// A lower terminal does not show the configuration, or the charts.
const MIN_ROWS_FOR_CONFIG: u16 = 10;
const MIN_ROWS_FOR_CHARTS: u16 = 16;

const STOP_HINT: &str = "press q to stop";

/// What is drawn.
pub(super) struct FrameData<'a> {
    pub(super) config: &'a Config,
    pub(super) metrics_url: Option<&'a str>,
    pub(super) tracker: &'a PhaseTracker,
    pub(super) status: &'a RunStatus<'a>,
}

pub(super) fn draw(frame: &mut Frame<'_>, data: &FrameData<'_>) {
    let area = frame.area();
    let configuration = if area.height >= MIN_ROWS_FOR_CONFIG { 3 } else { 0 };
    let rows =
        Layout::vertical([Constraint::Length(configuration), Constraint::Length(5), Constraint::Fill(1)]);
    let [top, middle, rest] = rows.areas(area);
    draw_config(frame, top, data.config, data.metrics_url);
    let rows: [Rect; 5] = Layout::vertical([Constraint::Length(1); 5]).areas(middle);
    let phase_status = data.tracker.phase_status(data.status);
    frame.render_widget(gauge(phase_status.done, rows[0].width), rows[0]);
    frame.render_widget(row(phase_status.phase, vec![phase_status.left.bold()]), rows[1]);
    let running = match data.status {
        RunStatus::Connecting(_) => None,
        RunStatus::Running(running) => Some(running),
    };
    if let Some(running) = running {
        let lines = [speed(data, running), latency(data.config, running), packets(data.config, running)];
        for (line, row) in lines.into_iter().zip(&rows[2..]) {
            frame.render_widget(line, *row);
        }
        if area.height >= MIN_ROWS_FOR_CHARTS {
            charts::draw(frame, rest, data.config, running.intervals);
        }
    }
}

fn draw_config(frame: &mut Frame<'_>, area: Rect, config: &Config, metrics_url: Option<&str>) {
    let [first, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let width = usize::from(area.width);
    let room = width.saturating_sub(STOP_HINT.len() + 2);
    // Before the server, which may be long and is cut.
    let metrics = metrics_url.map_or(String::new(), |url| format!("metrics on {url}, "));
    let server = cut(&format!("pktbench: {metrics}{}", text::server(config)), room);
    frame.render_widget(Line::from(server).bold(), first);
    frame.render_widget(Line::from(STOP_HINT).dim().right_aligned(), first);
    let lines = [text::mode(config), text::load(config)].map(|text| Line::from(cut(&text, width)).dim());
    frame.render_widget(Paragraph::new(lines.to_vec()), rest);
}

/// A progress bar. The gauge of `ratatui` would leave a gap for a label.
fn gauge(done: f64, width: u16) -> Line<'static> {
    let full = (done * f64::from(width)) as usize;
    let rest = usize::from(width) - full;
    vec!["█".repeat(full).cyan(), "░".repeat(rest).dim()].into()
}

fn speed(data: &FrameData<'_>, running: &Running<'_>) -> Line<'static> {
    let now = data.tracker.packets_per_s().map_or("-".to_owned(), units::rate);
    let mut text = format!("{now} packets/s now");
    if let Some(last) = running.intervals.last() {
        let received: u64 = running.intervals.iter().map(|interval| interval.received).sum();
        text += &format!(", {} on average", units::rate(received as f64 / last.t_s));
    }
    row("throughput", vec![text.into()])
}

/// The percentiles of the last interval.
fn latency(config: &Config, running: &Running<'_>) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, (name, color, percentile)) in PERCENTILES.into_iter().enumerate() {
        if index > 0 {
            spans.push(", ".into());
        }
        let ns = running.intervals.last().and_then(percentile);
        let time = ns.map_or("-".to_owned(), |ns| units::time(ns as f64));
        spans.push(Span::from(format!("{name} {time}")).fg(color));
    }
    row(kind(config), spans)
}

fn packets(config: &Config, running: &Running<'_>) -> Line<'static> {
    let Running { sent, answers, failed, .. } = *running;
    let outstanding = units::count(sent.saturating_sub(answers));
    let text = format!("{outstanding} outstanding, {} sent, ", units::count(sent));
    let failed = match failed {
        0 => "no failed connections".into(),
        _ => {
            format!("{} of {} failed", units::count(failed), plural(config.conns, "connection")).red().bold()
        }
    };
    row("packets", vec![text.into(), failed])
}

fn row(name: &str, mut spans: Vec<Span<'static>>) -> Line<'static> {
    spans.insert(0, format!("{name:NAME_WIDTH$}").into());
    spans.into()
}

/// Cuts `text` to `width` characters, with `…` at the end if something was cut. Control characters are replaced: text
/// from outside must not control the terminal.
fn cut(text: &str, width: usize) -> String {
    let mut symbols: Vec<char> = text.chars().map(visible).take(width + 1).collect();
    if symbols.len() > width {
        symbols.truncate(width);
        symbols.pop();
        symbols.extend((width > 0).then_some('…'));
    }
    symbols.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Cell;

    use super::*;
    use crate::plan::tests::plan;
    use crate::plan::{Amount, Pace, Plan};
    use crate::result::config;
    use crate::result::document::Interval;
    use crate::traffic::arrivals::Arrival;

    /// A plan of ten seconds after a warm-up of two.
    fn ten_seconds() -> Plan {
        let (amount, warmup) = (Amount::Time(Duration::from_secs(10)), Duration::from_secs(2));
        Plan { amount, warmup, ..plan() }
    }

    /// Each second receives 1,000 packets more than the one before. The third second receives nothing.
    fn intervals(count: u64) -> Vec<Interval> {
        let interval = |second: u64| {
            let some = second != 3;
            let ns = |ns: u64| some.then_some(ns * second);
            let received = if some { second * 1000 } else { 0 };
            let (p50_ns, p99_ns, p999_ns) = (ns(10_000), ns(200_000), ns(3_000_000));
            Interval {
                t_s: second as f64,
                received,
                p50_ns,
                p99_ns,
                p999_ns,
                max_ns: p999_ns,
                ..Interval::default()
            }
        };
        (1..=count).map(interval).collect()
    }

    fn running(seconds: u64, intervals: &[Interval]) -> RunStatus<'_> {
        let elapsed = Duration::from_secs(seconds);
        RunStatus::Running(Running { elapsed, sent: 21_010, answers: 21_000, open: 64, intervals, failed: 0 })
    }

    fn drawn(plan: &Plan, status: &RunStatus<'_>, (width, height): (u16, u16)) -> Vec<String> {
        let mut config = config::config(plan, "127.0.0.1:14572".parse().ok());
        config.threads = 1;
        let mut tracker = PhaseTracker::new(plan);
        if let RunStatus::Running(running) = status {
            let elapsed = running.elapsed.saturating_sub(Duration::from_millis(500));
            tracker.record(&RunStatus::Running(Running {
                elapsed,
                answers: running.answers - 500,
                ..*running
            }));
        }
        tracker.record(status);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let data = FrameData { config: &config, metrics_url: None, tracker: &tracker, status };
        terminal.draw(|frame| draw(frame, &data)).unwrap();
        let cells = terminal.backend().buffer().content();
        let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(Cell::symbol).collect::<String>();
        cells.chunks(usize::from(width).max(1)).map(|cells| row(cells).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_terminal_of_80_by_24_shows_everything() {
        let shown = intervals(6);
        let lines = drawn(&ten_seconds(), &running(8, &shown), (80, 24));
        let expected = "\
pktbench: 127.0.0.1:14572 (built-in echo server in this proces…  press q to stop
closed loop: a connection sends its next packet when a response arrives; nothin…
10 connections with 1 packet outstanding each, payloads of 0-2048 B, for 10.0 s…
█████████████████████████████████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░
measuring   4s left
throughput  1,000 packets/s now, 3,000 on average
service     p50 60.0 µs, p99 1.20 ms, p99.9 18.0 ms
packets     10 outstanding, 21,010 sent, no failed connections
 received packets/s ────────────────────────────────────────────────────────────
     6,000│                            ▁▁▁▁▁▁▁███████
          │                     ▂▂▂▂▂▂▂██████████████
          │                     █████████████████████
          │       ▅▅▅▅▅▅▅       █████████████████████
         0│▆▆▆▆▆▆▆███████       █████████████████████
 service latency per 1.00 s interval ───────────────────────────────────────────
    100 ms│
          │                           ⢀⣀⣀⣀⣀⣀⣀⡠⠤⠤⠤
   10.0 ms│       ⣀⣀⠤⠄            ⠈⠉⠉⠉⠁
          │   ⠒⠊⠉⠉
   1.00 ms│                       ⠠⠤⠤⠤⠔⠒⠒⠒⠒⠒⠒⠊⠉⠉⠉
          │   ⣀⡠⠤⠤⠒⠒⠉⠁
    100 µs│
          │                       ⠐⠒⠒⠒⠊⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉
   10.0 µs│   ⣀⡠⠤⠤⠒⠒⠉⠁";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn each_phase_is_shown_with_the_remaining_time() {
        let plan = ten_seconds();
        let cases = [
            (RunStatus::Connecting(3), "connecting", "3 of 10 connections"),
            (running(1, &[]), "warm-up", "11s left"),
            (running(4, &[]), "measuring", "8s left"),
            (running(13, &[]), "waiting", "for 10 responses, up to 9s"),
        ];
        for (status, phase, left) in cases {
            let lines = drawn(&plan, &status, (80, 24));
            assert!(lines[4].starts_with(phase) && lines[4].ends_with(left), "{lines:#?}");
        }
    }

    #[test]
    fn an_open_loop_shows_response_times_and_its_rate() {
        let pace = Pace::Open { rate: 50_000.0, arrival: Arrival::Poisson, max_outstanding: 9 };
        let shown = intervals(2);
        let lines = drawn(&Plan { pace, ..ten_seconds() }, &running(5, &shown), (80, 24));
        assert!(lines[1].starts_with("open loop: 50,000 packets/s with Poisson arrivals"), "{lines:#?}");
        assert_eq!(lines[6], "response    p50 20.0 µs, p99 400 µs, p99.9 6.00 ms");
        assert!(lines.iter().any(|line| line.contains("response latency")), "{lines:#?}");
    }

    #[test]
    fn failed_connections_are_shown() {
        let status = running(5, &[]);
        let RunStatus::Running(running) = status else { unreachable!("it is one") };
        let lines = drawn(&ten_seconds(), &RunStatus::Running(Running { failed: 2, ..running }), (80, 24));
        assert_eq!(lines[7], "packets     10 outstanding, 21,010 sent, 2 of 10 connections failed");
    }

    #[test]
    fn drawing_never_panics_at_any_terminal_size() {
        let shown = intervals(200);
        for status in [RunStatus::Connecting(3), running(8, &shown[..1]), running(9, &shown)] {
            for width in (0..14).chain(38..42).chain([20, 80, 300]) {
                for height in (0..7).chain(8..12).chain(14..19).chain([24, 100]) {
                    drawn(&ten_seconds(), &status, (width, height));
                }
            }
        }
    }

    #[test]
    fn a_small_terminal_shows_only_the_numbers() {
        let shown = intervals(2);
        let lines = drawn(&ten_seconds(), &running(5, &shown), (20, 5));
        let rows =
            ["measuring   7s left", "throughput  1,000 pa", "service     p50 20.0", "packets     10 outst"];
        assert_eq!(lines[1..], rows);
    }

    #[test]
    fn a_long_server_name_is_cut_and_its_control_characters_are_replaced() {
        let path = format!("unix:/\x1b[2J\n{}", "long/".repeat(100));
        let plan = Plan { connect: vec![path.as_str().into()], ..ten_seconds() };
        let lines = drawn(&plan, &running(5, &[]), (80, 24));
        assert!(lines[0].contains("…") && lines[0].ends_with(STOP_HINT), "{lines:#?}");
        assert!(!lines.concat().contains(['\x1b', '\n']), "{lines:#?}");
    }

    #[test]
    fn the_last_intervals_are_shown_if_there_is_no_room_for_all() {
        let shown = intervals(200);
        let plan = Plan { amount: Amount::Packets(1_000_000), ..plan() };
        let lines = drawn(&plan, &running(9, &shown), (80, 24));
        let bars = lines.iter().find(|line| line.contains(",000│")).unwrap();
        assert!(bars.ends_with('█'), "{lines:#?}");
        let bottom = lines.iter().rev().find(|line| line.contains("         0│")).unwrap();
        assert_eq!(bottom.chars().filter(|symbol| *symbol == '█').count(), 69, "{lines:#?}");
    }
}
