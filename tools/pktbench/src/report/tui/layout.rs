//! A frame: what is where, in a terminal of any size.
//!
//! ```text
//!   server, mode, load                  a line each, where there is room for them
//!   ###################-------------    how much of the run is done
//!   phase, throughput, latency, packets a line each
//!   charts of both over time            what is left of the terminal
//! ```

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Stylize;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::charts::{self, PERCENTILES, kind};
use super::phase::PhaseTracker;
use crate::report::status::{RunStatus, Running};
use crate::report::text::{self, plural};
use crate::result::document::Config;
use crate::result::units;

/// Of the names on the left, as in the report.
const INDENT: usize = 12;

/// Lines of a terminal that has room for the configuration, and for charts besides.
const MIN_ROWS_FOR_CONFIG: u16 = 10;
const MIN_ROWS_FOR_CHARTS: u16 = 16;

const STOP_HINT: &str = "q ends the run";

/// What a frame shows.
pub(super) struct View<'a> {
    pub(super) config: &'a Config,
    pub(super) tracker: &'a PhaseTracker,
    pub(super) status: &'a RunStatus<'a>,
}

pub(super) fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let area = frame.area();
    let configuration = if area.height >= MIN_ROWS_FOR_CONFIG { 3 } else { 0 };
    let rows =
        Layout::vertical([Constraint::Length(configuration), Constraint::Length(5), Constraint::Fill(1)]);
    let [top, middle, rest] = rows.areas(area);
    configured(frame, top, view.config);
    let rows: [Rect; 5] = Layout::vertical([Constraint::Length(1); 5]).areas(middle);
    let phase_status = view.tracker.phase_status(view.status);
    frame.render_widget(gauge(phase_status.done, rows[0].width), rows[0]);
    frame.render_widget(row(phase_status.phase, vec![phase_status.left.bold()]), rows[1]);
    let running = match view.status {
        RunStatus::Connecting(_) => None,
        RunStatus::Running(running) => Some(running),
    };
    if let Some(running) = running {
        let lines = [speed(view, running), latency(view.config, running), packets(view.config, running)];
        for (line, row) in lines.into_iter().zip(&rows[2..]) {
            frame.render_widget(line, *row);
        }
        if area.height >= MIN_ROWS_FOR_CHARTS {
            charts::draw(frame, rest, view.config, running.intervals);
        }
    }
}

fn configured(frame: &mut Frame<'_>, area: Rect, config: &Config) {
    let [first, rest] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let width = usize::from(area.width);
    let room = width.saturating_sub(STOP_HINT.len() + 2);
    let server = cut(&format!("pktbench: {}", text::server(config)), room);
    frame.render_widget(Line::from(server).bold(), first);
    frame.render_widget(Line::from(STOP_HINT).dim().right_aligned(), first);
    let lines = [text::mode(config), text::load(config)].map(|text| Line::from(cut(&text, width)).dim());
    frame.render_widget(Paragraph::new(lines.to_vec()), rest);
}

/// By hand: that of the library leaves a gap for a label.
fn gauge(done: f64, width: u16) -> Line<'static> {
    let full = (done * f64::from(width)) as usize;
    let rest = usize::from(width) - full;
    vec!["█".repeat(full).cyan(), "░".repeat(rest).dim()].into()
}

fn speed(view: &View<'_>, running: &Running<'_>) -> Line<'static> {
    let now = view.tracker.packets_per_s().map_or("-".to_owned(), units::rate);
    let mut text = format!("{now} packets/s now");
    if let Some(last) = running.intervals.last() {
        let received: u64 = running.intervals.iter().map(|interval| interval.received).sum();
        text += &format!(", {} on average", units::rate(received as f64 / last.t_s));
    }
    row("throughput", vec![text.into()])
}

/// That of the last interval.
fn latency(config: &Config, running: &Running<'_>) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, (name, colour, figure)) in PERCENTILES.into_iter().enumerate() {
        if index > 0 {
            spans.push(", ".into());
        }
        let ns = running.intervals.last().and_then(figure);
        let time = ns.map_or("-".to_owned(), |ns| units::time(ns as f64));
        spans.push(Span::from(format!("{name} {time}")).fg(colour));
    }
    row(kind(config), spans)
}

fn packets(config: &Config, running: &Running<'_>) -> Line<'static> {
    let Running { sent, answers, failed, .. } = *running;
    let outstanding = units::count(sent.saturating_sub(answers));
    let text = format!("{outstanding} outstanding, {} sent, ", units::count(sent));
    let failed = match failed {
        0 => "no connection failed".into(),
        _ => {
            format!("{} of {} failed", units::count(failed), plural(config.conns, "connection")).red().bold()
        }
    };
    row("packets", vec![text.into(), failed])
}

fn row(name: &str, mut spans: Vec<Span<'static>>) -> Line<'static> {
    spans.insert(0, format!("{name:INDENT$}").into());
    spans.into()
}

/// At most `width` characters, of which the last one tells that there are more, and none that a terminal obeys.
fn cut(text: &str, width: usize) -> String {
    let plain = |symbol: char| if symbol.is_control() { char::REPLACEMENT_CHARACTER } else { symbol };
    let mut symbols: Vec<char> = text.chars().map(plain).take(width + 1).collect();
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

    /// Ten seconds after a warm-up of two.
    fn ten_seconds() -> Plan {
        let (amount, warmup) = (Amount::Time(Duration::from_secs(10)), Duration::from_secs(2));
        Plan { amount, warmup, ..plan() }
    }

    /// In each second 1,000 more came back than in the one before; in the third one nothing did.
    fn intervals(count: u64) -> Vec<Interval> {
        let interval = |second: u64| {
            let some = second != 3;
            let ns = |ns: u64| some.then_some(ns * second);
            let received = if some { second * 1000 } else { 0 };
            let (p50_ns, p99_ns, p999_ns) = (ns(10_000), ns(200_000), ns(3_000_000));
            Interval { t_s: second as f64, received, p50_ns, p99_ns, p999_ns, max_ns: p999_ns }
        };
        (1..=count).map(interval).collect()
    }

    fn running(seconds: u64, intervals: &[Interval]) -> RunStatus<'_> {
        let elapsed = Duration::from_secs(seconds);
        RunStatus::Running(Running { elapsed, sent: 21_010, answers: 21_000, intervals, failed: 0 })
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
        let view = View { config: &config, tracker: &tracker, status };
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let cells = terminal.backend().buffer().content();
        let row = |cells: &[ratatui::buffer::Cell]| cells.iter().map(Cell::symbol).collect::<String>();
        cells.chunks(usize::from(width).max(1)).map(|cells| row(cells).trim_end().to_owned()).collect()
    }

    #[test]
    fn a_terminal_of_80_by_24_has_room_for_all_of_it() {
        let shown = intervals(6);
        let lines = drawn(&ten_seconds(), &running(8, &shown), (80, 24));
        let expected = "\
pktbench: 127.0.0.1:14572, an echo server of its own, in this p…  q ends the run
closed loop: a packet is sent when one has come back, so nothing is sent during…
10 connections x 1 packet outstanding, payloads of 0-2048 B, for 10.0 s after 2…
█████████████████████████████████████████████████████░░░░░░░░░░░░░░░░░░░░░░░░░░░
measuring   4s left
throughput  1,000 packets/s now, 3,000 on average
service     p50 60.0 µs, p99 1.20 ms, p99.9 18.0 ms
packets     10 outstanding, 21,010 sent, no connection failed
 packets/s, received ───────────────────────────────────────────────────────────
     6,000│                            ▁▁▁▁▁▁▁███████
          │                     ▂▂▂▂▂▂▂██████████████
          │                     █████████████████████
          │       ▅▅▅▅▅▅▅       █████████████████████
         0│▆▆▆▆▆▆▆███████       █████████████████████
 service latency, of each 1.00 s ───────────────────────────────────────────────
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
    fn each_phase_is_named_beside_what_is_left() {
        let plan = ten_seconds();
        let cases = [
            (RunStatus::Connecting(3), "connecting", "3 of 10 connections"),
            (running(1, &[]), "warm-up", "11s left"),
            (running(4, &[]), "measuring", "8s left"),
            (running(13, &[]), "waiting", "for 10 answers, 9s at most"),
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
    fn a_failed_connection_is_told() {
        let status = running(5, &[]);
        let RunStatus::Running(running) = status else { unreachable!("it is one") };
        let lines = drawn(&ten_seconds(), &RunStatus::Running(Running { failed: 2, ..running }), (80, 24));
        assert_eq!(lines[7], "packets     10 outstanding, 21,010 sent, 2 of 10 connections failed");
    }

    #[test]
    fn no_size_of_a_terminal_is_a_panic() {
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
    fn a_small_terminal_has_the_figures_alone() {
        let shown = intervals(2);
        let lines = drawn(&ten_seconds(), &running(5, &shown), (20, 5));
        let figures =
            ["measuring   7s left", "throughput  1,000 pa", "service     p50 20.0", "packets     10 outst"];
        assert_eq!(lines[1..], figures);
    }

    #[test]
    fn a_long_name_is_cut_where_the_hint_begins_and_no_byte_of_it_is_a_command() {
        let path = format!("unix:/\x1b[2J\n{}", "long/".repeat(100));
        let plan = Plan { connect: vec![path.as_str().into()], ..ten_seconds() };
        let lines = drawn(&plan, &running(5, &[]), (80, 24));
        assert!(lines[0].contains("…") && lines[0].ends_with(STOP_HINT), "{lines:#?}");
        assert!(!lines.concat().contains(['\x1b', '\n']), "{lines:#?}");
    }

    #[test]
    fn the_last_intervals_are_shown_where_there_is_no_room_for_all() {
        let shown = intervals(200);
        let plan = Plan { amount: Amount::Packets(1_000_000), ..plan() };
        let lines = drawn(&plan, &running(9, &shown), (80, 24));
        let bars = lines.iter().find(|line| line.contains(",000│")).unwrap();
        assert!(bars.ends_with('█'), "{lines:#?}");
        let bottom = lines.iter().rev().find(|line| line.contains("         0│")).unwrap();
        assert_eq!(bottom.chars().filter(|symbol| *symbol == '█').count(), 69, "{lines:#?}");
    }
}
