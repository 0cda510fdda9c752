//! The report that people read: a result as text in 80 columns. It computes nothing; programs read the JSON instead.

use std::fmt::{self, Write};

use pktconn_tools::printable::{self, printable};

use crate::judge::threshold;
use crate::report::comparison;
use crate::report::connections;
use crate::report::load_generator;
use crate::report::search;
use crate::report::stages;
use crate::report::verdict;
use crate::result::document::{Config, Document, Limit, Mode, Offered, Search, SearchEnd, Totals, Window};
use crate::result::latency::{Bounded, Latency};
use crate::result::units::{self, plural};
use crate::traffic::arrivals::Arrival;
use crate::traffic::verify::{Integrity, Verify};

/// The default width of a terminal.
const WIDTH: usize = 80;

/// What the mark of a percentile means.
pub(crate) const FEW_SAMPLES: &str = "~: few samples; fewer than 10 packets are beyond this percentile";

/// Width of the column with the row names.
const NAME_WIDTH: usize = 12;

/// The most characters of a message, and of a list such as the addresses of the server: half of a row.
const MAX_LIST: usize = printable::MAX_LINE / 2;

pub(crate) fn text(document: &Document) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, document);
    text
}

fn write(text: &mut String, document: &Document) -> fmt::Result {
    let Document { config, window, totals, integrity, errors, latency_ns, .. } = document;
    row(text, "mode", &mode(config))?;
    row(text, "load", &load(config))?;
    row(text, "server", &server(config))?;
    writeln!(text)?;
    row(text, "packets", &packets(totals, window))?;
    row(text, "throughput", &throughput(totals, window))?;
    if let Some(offered) = &document.offered {
        row(text, "offered", &offered_text(offered, config))?;
    }
    writeln!(text)?;
    latencies(text, &latency_ns.service, latency_ns.response.as_ref())?;
    writeln!(text)?;
    if !document.stages.is_empty() {
        for line in stages::lines(&document.stages) {
            writeln!(text, "{line}")?;
        }
        writeln!(text)?;
    }
    for (name, value) in connections::rows(document) {
        row(text, name, &value)?;
    }
    row(text, "integrity", &integrity_text(integrity, config.verify))?;
    if errors.count() > 0 {
        row(text, "errors", &errors_text(document))?;
        // Includes the warm-up, which the totals do not.
        if integrity.verified == 0 && integrity.violations() == 0 && errors.connect == 0 {
            row(
                text,
                "",
                "no response at all: check that the server uses the same --header, --crc and --tls; \
                 'pktbench conform' tests its wire format",
            )?;
        }
    }
    row(text, "generator", &load_generator::text(document))?;
    if let Some(search) = &document.search {
        row(text, "search", &search_text(search))?;
        for line in search::curve(search) {
            writeln!(text, "{line}")?;
        }
    }
    if let Some(aborted) = &document.aborted {
        row(text, "abort-on", &verdict::aborted(aborted))?;
    }
    for threshold in &document.thresholds {
        row(text, "threshold", &threshold::describe(threshold))?;
    }
    if let Some(comparison) = &document.baseline {
        writeln!(
            text,
            "\ncompared with {}\n{}\n",
            printable::name(&comparison.base),
            comparison::text(comparison)
        )?;
    }
    row(text, "verdict", &verdict::text(document))?;
    // The caller ends the last line.
    text.pop();
    Ok(())
}

/// Writes a row: its name, and its value wrapped between words. Parts of the value may be text of others.
fn row(text: &mut String, name: &str, value: &str) -> fmt::Result {
    let mut column = NAME_WIDTH;
    write!(text, "{name:NAME_WIDTH$}")?;
    for (index, word) in printable::line(value).split(' ').enumerate() {
        let width = word.chars().count();
        if index == 0 {
            column += width;
        } else if column + 1 + width > WIDTH {
            write!(text, "\n{:NAME_WIDTH$}", "")?;
            column = NAME_WIDTH + width;
        } else {
            text.push(' ');
            column += 1 + width;
        }
        text.push_str(word);
    }
    writeln!(text)
}

pub(crate) fn mode(config: &Config) -> String {
    if let Some(rate) = config.conns_per_second {
        return format!(
            "open loop of connections: {} connections/s, regardless of how long they last; on each of them a packet is \
             sent when a response arrives",
            units::rate(rate)
        );
    }
    match config.mode {
        Mode::Closed => {
            "closed loop: a connection sends its next packet when a response arrives; nothing is sent while the \
             server stalls, so high percentiles hide stalls"
                .to_owned()
        }
        Mode::Open => {
            let arrival = config.arrival.map_or("", |arrival| match arrival {
                Arrival::Constant => " with constant gaps",
                Arrival::Poisson => " with Poisson arrivals",
            });
            let rate = config.rate.map_or_else(String::new, units::rate);
            let course = match (replay(config), &config.stages) {
                (Some(replay), _) => replay,
                (None, Some(stages)) => {
                    format!("{}; {rate} packets/s on average,{arrival}", printable(stages, MAX_LIST))
                },
                (None, None) => format!("{rate} packets/s{arrival}"),
            };
            format!("open loop: {course}, regardless of responses; response times start when a packet was due")
        }
    }
}

/// `None` if the run is no replay.
fn replay(config: &Config) -> Option<String> {
    let file = printable::name(config.replay.as_ref()?);
    let port = config.tcp_port.unwrap_or_default();
    let by_segment = match config.by_segment.unwrap_or_default() {
        0 => String::new(),
        count => format!(" ({} by TCP segment, not by frame)", plural(count, "connection")),
    };
    Some(format!(
        "replay of {file}, TCP port {port}, at {}x speed{by_segment}",
        config.speed.unwrap_or_default()
    ))
}

pub(crate) fn load(config: &Config) -> String {
    let seconds = |seconds: f64| units::time(seconds * 1e9);
    let amount = match (config.duration_s, config.packets) {
        (_, Some(packets)) => format!("{} packets in total", units::count(packets)),
        (duration_s, None) => format!("for {}", seconds(duration_s.unwrap_or_default())),
    };
    let warmup = match config.warmup_s {
        0.0 => String::new(),
        warmup_s if config.ramp_s > 0.0 => format!(" and {} of warm-up", seconds(warmup_s)),
        warmup_s => format!(" after {} of warm-up", seconds(warmup_s)),
    };
    let header = match config.header.as_str() {
        "u32le" => String::new(),
        header => format!(", header {}", printable::name(header)),
    };
    let ramp = match config.ramp_s {
        0.0 => String::new(),
        ramp_s => format!(" after a ramp of {}", seconds(ramp_s)),
    };
    let outstanding = match (config.pipeline, config.max_outstanding) {
        (Some(pipeline), _) => format!("{} outstanding", plural(pipeline, "packet")),
        (None, most) => format!("up to {} outstanding", plural(most.unwrap_or_default(), "packet")),
    };
    let source = match (&config.payload, &config.replay) {
        (Some(payload), _) => format!(" from {}", printable::name(payload)),
        (None, Some(_)) => " as captured".to_owned(),
        (None, None) => String::new(),
    };
    format!(
        "{} with {outstanding} each, payloads of {}{source}{header}{}, {amount}{ramp}{warmup}, on {}, seed {}",
        connections_of_load(config),
        sizes(&config.sizes),
        if config.crc { ", CRC-32" } else { "" },
        plural(config.threads, "thread"),
        config.seed,
    )
}

fn connections_of_load(config: &Config) -> String {
    let mut text = match config.conns_per_second {
        None => plural(config.conns, "connection"),
        Some(rate) => format!(
            "{} connections/s (at most {} at a time)",
            units::rate(rate),
            units::count(config.conns as u64)
        ),
    };
    if let Some(packets) = config.conn_packets {
        text += &format!(", each closed after {}", plural(packets as usize, "packet"));
    }
    if let Some(lifetime_s) = config.conn_lifetime_s {
        text += &format!(", each closed after {}", units::time(lifetime_s * 1e9));
    }
    text
}

/// Adds the unit to a size or a range; `list:`, `exp:` and `file:` are printed as they are.
fn sizes(sizes: &str) -> String {
    let shown = printable(sizes, MAX_LIST).into_owned();
    if sizes.contains(':') { shown } else { format!("{shown} B") }
}

pub(crate) fn server(config: &Config) -> String {
    let server = printable(&config.server, MAX_LIST);
    match config.builtin_server_threads {
        None if config.tls_insecure => format!("{server} (TLS, any certificate accepted)"),
        None if config.tls => format!("{server} (TLS)"),
        None => server.into_owned(),
        Some(threads) => {
            format!("{server} (built-in echo server in this process, on {})", plural(threads, "thread"))
        }
    }
}

fn packets(totals: &Totals, window: &Window) -> String {
    let (sent, received) = (units::count(totals.sent), units::count(totals.received));
    let drained = match totals.drained {
        0 => String::new(),
        drained => {
            format!("; {} more in the {} after", units::count(drained), units::time(window.drain_s * 1e9))
        }
    };
    format!("{sent} sent, {received} received, in {:.3} s{drained}", window.seconds)
}

fn throughput(totals: &Totals, window: &Window) -> String {
    let rate = |bytes| units::bytes_per_s(window.per_second(bytes));
    format!(
        "{} packets/s, payload {} sent and {} received",
        units::rate(totals.packets_per_s),
        rate(totals.bytes_sent),
        rate(totals.bytes_received)
    )
}

fn offered_text(offered: &Offered, config: &Config) -> String {
    let Offered { pct, missed, limit, .. } = offered;
    let missed = units::count(*missed);
    if let Some(rate) = config.conns_per_second {
        let limit =
            limit.map_or("", |_| "; all --conns were in use: raise --conns, or the server is the limit");
        let rate = units::rate(rate);
        return format!(
            "{pct:.1} % of {rate} connections/s, {missed} connections missed (due but not opened){limit}"
        );
    }
    let limit = match limit {
        None => "",
        Some(Limit::Server) => "; the server was the limit",
        Some(Limit::Window) => {
            "; the number of outstanding packets was the limit: raise --max-outstanding or --conns"
        }
        Some(Limit::LoadGenerator) => "; the load generator was the limit",
    };
    let due = match config.replay {
        Some(_) => "the recorded packets".to_owned(),
        None => format!("{} packets/s", units::rate(config.rate.unwrap_or_default())),
    };
    format!("{pct:.1} % of {due}, {missed} packets missed (due but not sent){limit}")
}

fn latencies(text: &mut String, service: &Latency, response: Option<&Latency>) -> fmt::Result {
    if service.count == 0 && service.censored == 0 {
        return row(text, "latency", "no samples");
    }
    let columns: Vec<_> = [service].into_iter().chain(response).collect();
    let names = ["service", "response"].map(str::to_owned);
    cells(text, "latency", names.into_iter().take(columns.len()))?;
    let mut line = |name: &str, value: &dyn Fn(&Latency) -> Option<Bounded>| {
        let values = columns.iter().map(|latency| value(latency));
        cells(text, name, values.map(|value| value.map_or("-".to_owned(), |value| value.to_string())))
    };
    line("min", &|latency| latency.min.map(|ns| Bounded::measured(ns as f64)))?;
    line("mean", &Latency::mean_bounded)?;
    for (percent, _) in &service.percentiles {
        line(&format!("p{percent}"), &|latency| latency.listed_bounded(*percent))?;
    }
    line("max", &Latency::max_bounded)?;
    if columns.iter().any(|latency| latency.lists_few_samples()) {
        row(text, "", FEW_SAMPLES)?;
    }
    if let Some(note) = lower_bounds(service, response) {
        row(text, "", &note)?;
    }
    Ok(())
}

/// What the mark of a lower bound means, if there may be one.
fn lower_bounds(service: &Latency, response: Option<&Latency>) -> Option<String> {
    let missed = response.map_or(0, |response| response.never_sent);
    let without_answer = match (service.censored, missed) {
        (0, 0) => return None,
        (unanswered, 0) => format!("{} without an answer", plural(unanswered as usize, "packet")),
        (0, missed) => format!("{} never sent", plural(missed as usize, "packet")),
        (unanswered, missed) => {
            format!(
                "{} without an answer and {} never sent",
                plural(unanswered as usize, "packet"),
                units::count(missed)
            )
        }
    };
    Some(format!("\u{2265}: a lower bound; {without_answer} count with their age"))
}

/// A row of the latencies: right-aligned, with room for the marks of a value.
fn cells(text: &mut String, name: &str, cells: impl Iterator<Item = String>) -> fmt::Result {
    write!(text, "{name:NAME_WIDTH$}")?;
    for (index, cell) in cells.enumerate() {
        let width = if index == 0 { 9 } else { 12 };
        write!(text, "{cell:>width$}")?;
    }
    writeln!(text)
}

fn integrity_text(integrity: &Integrity, verify: Verify) -> String {
    let verified = match verify {
        Verify::Full => "packets verified",
        Verify::Len => "packets verified by length",
        Verify::Off => "packets received, not verified",
    };
    let counts = [
        (verified, integrity.verified),
        ("corrupted", integrity.corrupted),
        ("reordered", integrity.reordered),
        ("duplicated", integrity.duplicated),
        ("lost", integrity.lost),
        ("unanswered", integrity.unanswered),
    ];
    counts.map(|(name, count)| format!("{} {name}", units::count(count))).join(", ")
}

fn errors_text(document: &Document) -> String {
    let Document { errors, config, connections, .. } = document;
    let kinds = [
        ("connect", errors.connect),
        ("reset", errors.reset),
        ("eof", errors.eof),
        ("truncated", errors.truncated),
        ("checksum", errors.checksum),
        ("protocol", errors.protocol),
        ("io", errors.io),
    ];
    let kinds = kinds.iter().filter(|(_, count)| *count > 0);
    let kinds: Vec<_> = kinds.map(|(kind, count)| format!("{} {kind}", units::count(*count))).collect();
    let opened = connections.as_ref().map_or(config.conns as u64, |connections| connections.opened);
    let tried = opened.saturating_add(errors.connect).max(config.conns as u64);
    let conns = plural(usize::try_from(tried).unwrap_or(usize::MAX), "connection");
    let failed = (errors.failed_conns() > 0)
        .then(|| format!("{} of {conns} failed ({})", units::count(errors.failed_conns()), kinds.join(", ")));
    let limit = if config.packet_timeout_s.is_some() { "--packet-timeout" } else { "--timeout" };
    let mute = (errors.timeout > 0)
        .then(|| format!("{} of {conns} without an answer within {limit}", units::count(errors.timeout)));
    let first = errors.first.as_ref().map(|first| format!("first error: {}", printable(first, MAX_LIST)));
    [failed, mute, first].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn search_text(search: &Search) -> String {
    let condition = printable::name(&search.condition);
    let Some(max_rate) = search.max_rate.map(units::rate) else {
        return format!(
            "no rate found at which {condition} holds; the figures above are from the last rate tried"
        );
    };
    let next = search::limit(search).map_or_else(String::new, |step| units::rate(step.rate));
    match search.ended_by {
        Some(SearchEnd::LoadGenerator) => format!(
            "{condition} holds at {max_rate} packets/s (shown above), the highest rate that the load generator can \
             test: at {next} packets/s it may be the limit"
        ),
        Some(SearchEnd::Window) => format!(
            "{condition} holds at {max_rate} packets/s (shown above); at {next} packets/s the number of outstanding \
             packets is the limit: raise --max-outstanding or --conns"
        ),
        Some(SearchEnd::MaxRate) => format!(
            "{condition} holds at {max_rate} packets/s (shown above), the highest rate that can be asked for"
        ),
        Some(SearchEnd::Incomplete) => format!(
            "the search did not end: {condition} holds at {max_rate} packets/s (shown above), higher rates may hold, too"
        ),
        Some(SearchEnd::Server) | None => {
            format!("{max_rate} packets/s is the highest rate at which {condition} holds (shown above)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::outcome::tests::{nothing, outcome};
    use crate::run::to_document::document;

    #[test]
    fn a_report_has_a_unit_on_every_figure_and_80_columns() {
        let expected = "\
mode        closed loop: a connection sends its next packet when a response
            arrives; nothing is sent while the server stalls, so high
            percentiles hide stalls
load        10 connections with 1 packet outstanding each, payloads of 0-2048 B,
            1,000 packets in total, on 1 thread, seed 1
server      127.0.0.1:14572 (built-in echo server in this process, on 1 thread)

packets     2 sent, 2 received, in 2.000 s
throughput  1.00 packets/s, payload 2.00 KiB/s sent and 2.00 KiB/s received

latency       service
min           10.0 µs
mean          20.0 µs
p50          ~10.0 µs
p90          ~30.0 µs
p95          ~30.0 µs
p99          ~30.0 µs
p99.9        ~30.0 µs
p99.99       ~30.0 µs
max           30.0 µs
            ~: few samples; fewer than 10 packets are beyond this percentile

integrity   2 packets verified, 0 corrupted, 0 reordered, 0 duplicated, 0 lost,
            0 unanswered
generator   threads 0 % busy
verdict     pass: every packet came back intact, in order and exactly once (exit
            code 0)";
        assert_eq!(text(&document(&outcome())), expected);
        assert!(expected.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn latencies_of_an_open_loop_have_two_columns_and_the_percentiles_of_the_document() {
        let mut document = document(&outcome());
        let mut histogram = crate::record::histogram::new_histogram();
        histogram.record_n(3_000_000_000, 100_000).unwrap();
        let mut ages = crate::record::histogram::new_histogram();
        ages.record_n(7_000_000_000, 3).unwrap();
        document.latency_ns.service = Latency::listing(&[75.0, 99.999], &histogram, Some(&ages), 0);
        document.latency_ns.response = Some(Latency::listing(&[75.0, 99.999], &histogram, None, 0));
        let text = text(&document);
        let expected = "
latency       service    response
min            3.00 s      3.00 s
mean          \u{2265}3.00 s      3.00 s
p75            3.00 s      3.00 s
p99.999      ~\u{2265}7.00 s     ~3.00 s
max           \u{2265}7.00 s      3.00 s
            ~: few samples; fewer than 10 packets are beyond this percentile
            \u{2265}: a lower bound; 3 packets without an answer count with their age
";
        assert!(text.contains(expected), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn a_run_without_a_sample_shows_no_latency() {
        let text = text(&document(&nothing()));
        assert!(text.contains("\nlatency     no samples\n"), "{text}");
        assert!(text.ends_with("(exit code 1)"), "{text}");
    }
}
