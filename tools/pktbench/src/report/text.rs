//! The result as a text for people, in 80 columns.

use std::fmt::{self, Write};

use crate::judge::threshold;
use crate::report::comparison;
use crate::report::search;
use crate::result::document::{Client, Config, Document, Errors, Mode, Search, Totals, Window};
use crate::result::latency::Latency;
use crate::result::units;
use crate::result::verdict::Verdict;
use crate::traffic::arrivals::Arrival;
use crate::traffic::verify::{Integrity, Verify};

/// The width of a terminal, unless its owner has made it wider.
const WIDTH: usize = 80;

/// Threads that are less busy than that did not lack a thread more.
const BUSY_PCT: f64 = 80.0;

/// Of the names on the left.
const NAME_WIDTH: usize = 12;

pub(crate) fn text(document: &Document) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, document);
    text
}

fn write(text: &mut String, document: &Document) -> fmt::Result {
    let Document { config, window, totals, integrity, errors, latency_ns, client, .. } = document;
    row(text, "mode", &mode(config))?;
    row(text, "load", &load(config))?;
    row(text, "server", &server(config))?;
    writeln!(text)?;
    row(text, "packets", &packets(totals, window))?;
    row(text, "throughput", &throughput(totals, window))?;
    writeln!(text)?;
    latencies(text, &latency_ns.service, latency_ns.response.as_ref())?;
    writeln!(text)?;
    row(text, "integrity", &integrity_text(integrity, config.verify))?;
    if errors.count() > 0 {
        row(text, "errors", &errors_text(errors, config))?;
        if totals.received == 0 && errors.connect == 0 {
            row(
                text,
                "",
                "nothing came back: does the server speak this --header, --crc and --tls? 'pktbench conform' tells",
            )?;
        }
    }
    row(text, "client", &client_text(client))?;
    if let Some(search) = &document.search {
        row(text, "search", &search_text(search))?;
        for line in search::curve(search) {
            writeln!(text, "{line}")?;
        }
    }
    for threshold in &document.thresholds {
        row(text, "threshold", &threshold::describe(threshold))?;
    }
    if let Some(comparison) = &document.baseline {
        writeln!(text, "\nagainst {}\n{}\n", comparison.base, comparison::text(comparison))?;
    }
    row(text, "verdict", &verdict(document))?;
    // The caller ends the last line.
    text.pop();
    Ok(())
}

/// A name and what there is to say, wrapped between words.
fn row(text: &mut String, name: &str, value: &str) -> fmt::Result {
    let mut column = NAME_WIDTH;
    write!(text, "{name:NAME_WIDTH$}")?;
    for (index, word) in value.split(' ').enumerate() {
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
    match config.mode {
        Mode::Closed => {
            "closed loop: a packet is sent when one has come back, so nothing is sent during a stall, \
                         and high percentiles hide it"
                .to_owned()
        }
        Mode::Open => {
            let arrival = config.arrival.map_or("", |arrival| match arrival {
                Arrival::Constant => " with constant gaps",
                Arrival::Poisson => " with Poisson arrivals",
            });
            format!(
                "open loop: {} packets/s{arrival}, whatever comes back; response times run from when a packet was \
                 due",
                units::rate(config.rate.unwrap_or_default())
            )
        }
    }
}

pub(crate) fn load(config: &Config) -> String {
    let seconds = |seconds: f64| units::time(seconds * 1e9);
    let amount = match (config.duration_s, config.packets) {
        (_, Some(packets)) => format!("{} packets in all", units::count(packets)),
        (duration_s, None) => format!("for {}", seconds(duration_s.unwrap_or_default())),
    };
    let warmup = match config.warmup_s {
        0.0 => String::new(),
        warmup_s if config.ramp_s > 0.0 => format!(" and {} of warm-up", seconds(warmup_s)),
        warmup_s => format!(" after {} of warm-up", seconds(warmup_s)),
    };
    let header = match config.header.as_str() {
        "u32le" => String::new(),
        header => format!(" behind a length of {header}"),
    };
    let ramp = match config.ramp_s {
        0.0 => String::new(),
        ramp_s => format!(" after a ramp of {}", seconds(ramp_s)),
    };
    let outstanding = match (config.pipeline, config.max_outstanding) {
        (Some(pipeline), _) => format!("{} outstanding", plural(pipeline, "packet")),
        (None, most) => format!("up to {} outstanding", plural(most.unwrap_or_default(), "packet")),
    };
    format!(
        "{} x {outstanding}, payloads of {}{header}{}, {amount}{ramp}{warmup}, on {}, seed {}",
        plural(config.conns, "connection"),
        sizes(&config.sizes),
        if config.crc { " with CRC-32" } else { "" },
        plural(config.threads, "thread"),
        config.seed,
    )
}

/// A number gets its unit; a law says that it is one.
fn sizes(sizes: &str) -> String {
    if sizes.contains(':') { sizes.to_owned() } else { format!("{sizes} B") }
}

pub(crate) fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", units::count(count as u64))
}

pub(crate) fn server(config: &Config) -> String {
    match config.own_server_threads {
        None if config.tls => format!("{}, by TLS", config.server),
        None => config.server.clone(),
        Some(threads) => format!(
            "{}, an echo server of its own, in this process on {}",
            config.server,
            plural(threads, "thread")
        ),
    }
}

fn packets(totals: &Totals, window: &Window) -> String {
    let (sent, received) = (units::count(totals.sent), units::count(totals.received));
    format!("{sent} sent, {received} received, in {:.3} s", window.seconds)
}

fn throughput(totals: &Totals, window: &Window) -> String {
    let rate = |bytes| units::bytes_per_s(window.per_second(bytes));
    format!(
        "{} packets/s, payloads of {} sent and {} received",
        units::rate(totals.packets_per_s),
        rate(totals.bytes_sent),
        rate(totals.bytes_received)
    )
}

fn latencies(text: &mut String, service: &Latency, response: Option<&Latency>) -> fmt::Result {
    if service.count == 0 {
        return row(text, "latency", "no sample");
    }
    let percents = service.percentiles.iter().map(|(percent, _)| format!("p{percent}"));
    let names = ["min", "mean"].map(str::to_owned).into_iter().chain(percents).chain(["max".to_owned()]);
    cells(text, "latency", names)?;
    cells(text, "service", times(service))?;
    response.map_or(Ok(()), |response| cells(text, "response", times(response)))
}

fn cells(text: &mut String, name: &str, cells: impl Iterator<Item = String>) -> fmt::Result {
    write!(text, "{name:NAME_WIDTH$}")?;
    for (index, cell) in cells.enumerate() {
        let width = if index == 0 { 7 } else { 8 };
        write!(text, "{cell:>width$}")?;
    }
    writeln!(text)
}

fn times(latency: &Latency) -> impl Iterator<Item = String> {
    let whole = |ns: Option<u64>| ns.map(|ns| ns as f64);
    let percentiles = latency.percentiles.iter().map(move |(_, ns)| whole(*ns));
    [whole(latency.min), latency.mean]
        .into_iter()
        .chain(percentiles)
        .chain([whole(latency.max)])
        .map(|ns| ns.map_or("-".to_owned(), units::time))
}

fn integrity_text(integrity: &Integrity, verify: Verify) -> String {
    let whole = match verify {
        Verify::Full => "verified",
        Verify::Len => "verified by length",
        Verify::Off => "came back unverified",
    };
    let fates = [
        (whole, integrity.verified),
        ("altered", integrity.corrupted),
        ("reordered", integrity.reordered),
        ("doubled", integrity.duplicated),
        ("lost", integrity.lost),
        ("unanswered", integrity.unanswered),
    ];
    let packets = fates.map(|(fate, count)| format!("{} {fate}", units::count(count))).join(", ");
    format!("{packets} (packets)")
}

fn errors_text(errors: &Errors, config: &Config) -> String {
    let kinds = [
        ("connect", errors.connect),
        ("reset", errors.reset),
        ("timeout", errors.timeout),
        ("eof", errors.eof),
        ("truncated", errors.truncated),
        ("checksum", errors.checksum),
        ("protocol", errors.protocol),
        ("io", errors.io),
    ];
    let kinds = kinds.iter().filter(|(_, count)| *count > 0);
    let kinds: Vec<_> = kinds.map(|(kind, count)| format!("{} {kind}", units::count(*count))).collect();
    format!(
        "{} of {} failed ({}); {}",
        units::count(errors.count()),
        plural(config.conns, "connection"),
        kinds.join(", "),
        errors.first.as_deref().unwrap_or_default()
    )
}

fn client_text(client: &Client) -> String {
    let cpu = format!("threads {:.0} % busy", client.cpu_pct);
    let lag = client.schedule_lag_p99_ns.map_or(String::new(), |ns| {
        format!(
            ", schedule p99 {} late, {} packets due and not sent",
            units::time(ns as f64),
            units::count(client.not_sent)
        )
    });
    let saturated = match client.saturated {
        true if client.cpu_pct < BUSY_PCT => {
            "; the load is the bottleneck: it was late without being busy, so give it cores of its own"
        }
        true => "; the load is the bottleneck: give --threads more, or another machine",
        false => "",
    };
    format!("{cpu}{lag}{saturated}")
}

fn search_text(search: &Search) -> String {
    let condition = &search.condition;
    let Some(max_rate) = search.max_rate.map(units::rate) else {
        return format!("no rate at which {condition} was found; shown above is the last one");
    };
    match search::limit(search) {
        Some(step) if search::is_bottleneck(step) => format!(
            "at least {max_rate} packets/s, shown above, at which {condition}: at {} this program is the \
             bottleneck",
            units::rate(step.rate)
        ),
        _ => format!("{max_rate} packets/s is the highest rate at which {condition}, shown above"),
    }
}

pub(crate) fn verdict(document: &Document) -> String {
    let value = match document.verdict {
        Verdict::Pass => match document.config.verify {
            Verify::Full => "pass: every packet came back whole, in order and once",
            Verify::Len => "pass: every packet came back in its length, in order and once",
            Verify::Off => "pass: as many packets came back as were sent, unverified",
        },
        Verdict::Failed => "failed: a connection ended before it was done",
        Verdict::NoSamples => "failed: no packet came back that counts",
        Verdict::Integrity => "integrity violated: packets were lost, altered, reordered or doubled",
        Verdict::ClientSaturated => "client saturated: the cells are those of this program",
        Verdict::Regression => "regression: worse than the baseline by more than is allowed",
        Verdict::Undecided => "undecided: too few intervals to compare with the baseline",
        Verdict::Threshold => "threshold: a condition does not hold",
        Verdict::Interrupted => "interrupted: these are the results so far",
    };
    format!("{value} (exit code {})", document.exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::outcome::tests::{nothing, outcome};
    use crate::run::to_document::document;

    #[test]
    fn a_report_has_a_unit_on_every_figure_and_80_columns() {
        let expected = "\
mode        closed loop: a packet is sent when one has come back, so nothing is
            sent during a stall, and high percentiles hide it
load        10 connections x 1 packet outstanding, payloads of 0-2048 B, 1,000
            packets in all, on 1 thread, seed 1
server      127.0.0.1:14572, an echo server of its own, in this process on 1
            thread

packets     2 sent, 2 received, in 2.000 s
throughput  1.00 packets/s, payloads of 2.00 KiB/s sent and 2.00 KiB/s received

latency         min    mean     p50     p90     p99   p99.9  p99.99     max
service     10.0 µs 20.0 µs 10.0 µs 30.0 µs 30.0 µs 30.0 µs 30.0 µs 30.0 µs

integrity   2 verified, 0 altered, 0 reordered, 0 doubled, 0 lost, 0 unanswered
            (packets)
client      threads 0 % busy
verdict     pass: every packet came back whole, in order and once (exit code 0)";
        assert_eq!(text(&document(&outcome())), expected);
        assert!(expected.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn a_run_without_a_sample_shows_no_latency() {
        let text = text(&document(&nothing()));
        assert!(text.contains("\nlatency     no sample\n"), "{text}");
        assert!(text.ends_with("(exit code 1)"), "{text}");
    }
}
