//! `pktbench merge`: adds up the results of several load generators that loaded a server at the same time.
//!
//! ```text
//!   A.json --> histogram --.
//!   B.json --> histogram ---added--> percentiles of the sum      percentiles are never averaged
//!   C.json --> histogram --'
//! ```
//!
//! Counts are added. The window lasts from the earliest start to the latest end, by the clocks of the machines.

mod connections;
mod intervals;
mod latencies;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use pktconn_tools::printable::print_warning;

use crate::judge::gate::Gate;
use crate::judge::threshold::Condition;
use crate::report::paths::is_same_file;
use crate::report::sink::Sink;
use crate::report::text;
use crate::result::document::{
    Config, Document, Errors, Host, LoadGenerator, Offered, SCHEMA, StageResult, Tool, Totals, Window,
};
use crate::result::json;
use crate::result::latency::Latencies;
use crate::result::verdict::{Verdict, WORST_FIRST};
use crate::traffic::verify::Integrity;

/// The options of `pktbench merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeOptions {
    /// Two or more results, written with --json or --format ndjson
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,

    /// File to write the sum to, or - for standard output [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Format of the sum [default: json with --output, else text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<SumFormat>,

    /// Condition on the sum, such as 'p99<2ms' or 'rate>=50k'; may be repeated
    #[arg(long, value_name = "CONDITION")]
    threshold: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SumFormat {
    Text,
    Json,
}

/// A sum, and where to write it.
pub(crate) struct Sum {
    document: Document,
    output: Option<PathBuf>,
    format: SumFormat,
}

impl MergeOptions {
    /// Reads the files and adds them up. Fails for files that cannot be read, and for results of different loads.
    pub(crate) fn into_sum(self) -> anyhow::Result<Sum> {
        let document = self.merged()?;
        let default = if self.output.is_some() { SumFormat::Json } else { SumFormat::Text };
        let format = self.format.unwrap_or(default);
        Ok(Sum { document, output: self.output, format })
    }

    fn merged(&self) -> anyhow::Result<Document> {
        let output = self.output.as_deref().unwrap_or(Path::new("-"));
        if let Some(path) = self.files.iter().find(|path| is_same_file(path, output)) {
            bail!(
                "--output {} would overwrite the result {}; use another file",
                output.display(),
                path.display()
            );
        }
        let documents =
            self.files.iter().map(|path| Document::read(path)).collect::<anyhow::Result<Vec<_>>>()?;
        for (path, document) in self.files.iter().zip(&documents) {
            let (first, name) = (self.files[0].display(), path.display());
            if let Some(option) = first_difference(&documents[0].config, &document.config) {
                bail!("{first} and {name} differ in {option}; merge only runs with the same load options");
            }
            latencies(std::slice::from_ref(document)).with_context(|| format!("cannot merge {name}"))?;
        }
        for (index, document) in documents.iter().enumerate() {
            if documents[..index].contains(document) {
                bail!(
                    "{} has the same result as an earlier file; give each result once",
                    self.files[index].display()
                );
            }
        }
        if !overlap(&documents) {
            print_warning(
                "the runs did not overlap in time; the rate of the sum is averaged from the first start \
                 to the last end",
            );
        }
        let mut sum = sum(&documents)?;
        Gate::of(&self.threshold).judge(&mut sum);
        Ok(sum)
    }
}

impl Sum {
    pub(crate) fn write(&self) -> anyhow::Result<ExitCode> {
        let text = match self.format {
            SumFormat::Json => json::to_line(&self.document),
            SumFormat::Text => text::text(&self.document),
        };
        self.output.as_deref().map_or_else(|| Ok(Sink::stdout()), Sink::whole)?.all(&text)?;
        Ok(ExitCode::from(self.document.exit_code))
    }
}

/// Whether there was a time at which all parts were measuring. Parts that measured nothing are ignored.
fn overlap(parts: &[Document]) -> bool {
    let windows = || parts.iter().map(|part| part.window).filter(|window| window.seconds > 0.0);
    let last_start = windows().map(|window| window.start_unix_ns).max();
    last_start <= windows().map(|window| window.end_unix_ns).min()
}

/// The first of the options that must be equal and is not.
fn first_difference(one: &Config, other: &Config) -> Option<&'static str> {
    let options = [
        ("mode", one.mode == other.mode),
        ("sizes", one.sizes == other.sizes),
        ("payload", one.payload == other.payload),
        ("replay", one.replay == other.replay),
        ("tcp_port", one.tcp_port == other.tcp_port),
        ("speed", one.speed == other.speed),
        ("header", one.header == other.header),
        ("crc", one.crc == other.crc),
        ("tls", one.tls == other.tls),
        ("pipeline", one.pipeline == other.pipeline),
        ("stages", one.stages == other.stages),
        ("arrival", one.arrival == other.arrival),
        ("verify", one.verify == other.verify),
        ("conn-packets", one.conn_packets == other.conn_packets),
        ("conn-lifetime", one.conn_lifetime_s == other.conn_lifetime_s),
        ("packet-timeout", one.packet_timeout_s == other.packet_timeout_s),
    ];
    options.into_iter().find(|(_, alike)| !alike).map(|(name, _)| name)
}

/// Adds up one or more documents.
fn sum(parts: &[Document]) -> anyhow::Result<Document> {
    let window = window(parts);
    let load_generator = load_generator(parts);
    let least = if load_generator.saturated { Verdict::PassSaturated } else { Verdict::Pass };
    let verdict = parts.iter().map(|part| part.verdict).fold(least, Verdict::worse);
    Ok(Document {
        schema: SCHEMA.to_owned(),
        tool: Tool {
            name: joined(parts, |part| part.tool.name.clone()),
            version: joined(parts, |part| part.tool.version.clone()),
        },
        host: host(parts),
        labels: labels(parts),
        config: config(parts),
        totals: totals(parts, window),
        window,
        integrity: integrity(parts),
        errors: errors(parts),
        latency_ns: latencies(parts)?,
        connections: connections::sum(parts)?,
        addresses: connections::addresses(parts, window)?,
        offered: offered(parts),
        load_generator,
        intervals: intervals::sum(parts, window),
        stages: stages(parts)?,
        // It has percentiles without histograms, which cannot be added.
        sizes: Vec::new(),
        search: None,
        aborted: parts.iter().find_map(|part| part.aborted.clone()),
        thresholds: Vec::new(),
        baseline: None,
        verdict,
        problems: problems(parts),
        exit_code: verdict.exit_code(),
    })
}

fn window(parts: &[Document]) -> Window {
    // A part that measured nothing has no window.
    let windows = || parts.iter().map(|part| part.window).filter(|window| window.seconds > 0.0);
    let start_unix_ns = windows().map(|window| window.start_unix_ns).min().unwrap_or_default();
    let end_unix_ns = windows().map(|window| window.end_unix_ns).max().unwrap_or_default();
    let seconds = end_unix_ns.saturating_sub(start_unix_ns) as f64 / 1e9;
    let drain_s = windows().map(|window| window.drain_s).fold(0.0, f64::max);
    Window { start_unix_ns, end_unix_ns, seconds, drain_s }
}

fn config(parts: &[Document]) -> Config {
    let first = &parts[0].config;
    let configs = || parts.iter().map(|part| &part.config);
    let add = |count: fn(&Config) -> usize| configs().map(count).fold(0, usize::saturating_add);
    let longest = |time: fn(&Config) -> f64| configs().map(time).fold(0.0, f64::max);
    // Every field is listed, so that a new field does not compile until its sum is defined.
    Config {
        mode: first.mode,
        server: joined(parts, |part| part.config.server.clone()),
        tls: first.tls,
        tls_insecure: configs().any(|config| config.tls_insecure),
        builtin_server: configs().any(|config| config.builtin_server),
        builtin_server_threads: configs()
            .filter_map(|config| config.builtin_server_threads)
            .reduce(usize::saturating_add),
        conns: add(|config| config.conns),
        connect_rate: rates(parts, |config| config.connect_rate),
        conns_per_second: rates(parts, |config| config.conns_per_second),
        conn_packets: first.conn_packets,
        conn_lifetime_s: first.conn_lifetime_s,
        packet_timeout_s: first.packet_timeout_s,
        source_addrs: configs().flat_map(|config| config.source_addrs.clone()).collect(),
        pipeline: first.pipeline,
        rate: rates(parts, |config| config.rate),
        stages: first.stages.clone(),
        arrival: first.arrival,
        max_outstanding: configs().filter_map(|config| config.max_outstanding).max(),
        verify: first.verify,
        sizes: first.sizes.clone(),
        payload: first.payload.clone(),
        replay: first.replay.clone(),
        tcp_port: first.tcp_port,
        speed: first.speed,
        by_segment: configs().filter_map(|config| config.by_segment).reduce(usize::saturating_add),
        duration_s: configs().filter_map(|config| config.duration_s).reduce(f64::max),
        // `None` if a part ran for a duration: then the number to send is not known.
        packets: configs()
            .map(|config| config.packets)
            .reduce(|sum, one| Some(sum?.saturating_add(one?)))
            .flatten(),
        ramp_s: longest(|config| config.ramp_s),
        interval_s: longest(|config| config.interval_s),
        warmup_s: longest(|config| config.warmup_s),
        timeout_s: longest(|config| config.timeout_s),
        seed: first.seed,
        header: first.header.clone(),
        crc: first.crc,
        max_payload_bytes: configs().map(|config| config.max_payload_bytes).max().unwrap_or_default(),
        threads: add(|config| config.threads),
    }
}

/// The sum of the rates; `None` if a part has no rate.
fn rates(parts: &[Document], rate: fn(&Config) -> Option<f64>) -> Option<f64> {
    parts.iter().map(|part| rate(&part.config)).sum()
}

/// The distinct texts, separated by commas.
fn joined(parts: &[Document], text: impl Fn(&Document) -> String) -> String {
    let mut all: Vec<String> = Vec::new();
    for text in parts.iter().map(text) {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all.join(", ")
}

fn host(parts: &[Document]) -> Host {
    let cores: BTreeMap<&str, usize> =
        parts.iter().map(|part| (part.host.name.as_str(), part.host.cores)).collect();
    Host {
        name: joined(parts, |part| part.host.name.clone()),
        os: joined(parts, |part| part.host.os.clone()),
        arch: joined(parts, |part| part.host.arch.clone()),
        cores: cores.into_values().fold(0, usize::saturating_add),
    }
}

fn labels(parts: &[Document]) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (key, value) in parts.iter().flat_map(|part| &part.labels) {
        let values = labels.entry(key.clone()).or_default();
        if !values.contains(&value.as_str()) {
            values.push(value);
        }
    }
    labels.into_iter().map(|(key, values)| (key, values.join(","))).collect()
}

/// Saturates, so that no number in a file can make the sum panic.
fn add<T>(parts: &[Document], of: fn(&Document) -> &T, count: fn(&T) -> u64) -> u64 {
    parts.iter().map(|part| count(of(part))).fold(0, u64::saturating_add)
}

fn totals(parts: &[Document], window: Window) -> Totals {
    let add = |count| add(parts, |part| &part.totals, count);
    let received = add(|totals| totals.received);
    Totals {
        sent: add(|totals| totals.sent),
        received,
        packets_per_s: window.per_second(received),
        bytes_sent: add(|totals| totals.bytes_sent),
        bytes_received: add(|totals| totals.bytes_received),
        warmup_sent: add(|totals| totals.warmup_sent),
        drained: add(|totals| totals.drained),
    }
}

fn integrity(parts: &[Document]) -> Integrity {
    parts.iter().fold(Integrity::default(), |mut sum, part| {
        sum += part.integrity;
        sum
    })
}

fn errors(parts: &[Document]) -> Errors {
    parts.iter().fold(Errors::default(), |mut sum, part| {
        sum.merge(part.errors.clone());
        sum
    })
}

fn problems(parts: &[Document]) -> Vec<Verdict> {
    let has = |verdict: &Verdict| parts.iter().any(|part| part.problems.contains(verdict));
    WORST_FIRST.into_iter().filter(has).collect()
}

fn latencies(parts: &[Document]) -> anyhow::Result<Latencies> {
    let parts: Vec<_> = parts.iter().map(|part| &part.latency_ns).collect();
    latencies::added_latencies(&parts)
}

/// The sums of the stages with the same number. A part that ended early has no stages from there on.
fn stages(parts: &[Document]) -> anyhow::Result<Vec<StageResult>> {
    let count = parts.iter().map(|part| part.stages.len()).max().unwrap_or_default();
    let of = |index: usize| parts.iter().filter_map(move |part| part.stages.get(index)).collect::<Vec<_>>();
    (0..count).map(|index| stage(&of(index))).collect()
}

fn stage(parts: &[&StageResult]) -> anyhow::Result<StageResult> {
    let add =
        |count: fn(&StageResult) -> u64| parts.iter().map(|part| count(part)).fold(0, u64::saturating_add);
    let (asked, sent) = (add(|stage| stage.asked), add(|stage| stage.sent));
    Ok(StageResult {
        name: parts[0].name.clone(),
        start_s: parts[0].start_s,
        end_s: parts.iter().map(|part| part.end_s).fold(0.0, f64::max),
        asked,
        sent,
        received: add(|stage| stage.received),
        packets_per_s: parts.iter().map(|part| part.packets_per_s).sum(),
        offered_pct: (asked > 0).then(|| sent as f64 / asked as f64 * 100.0),
        errors: add(|stage| stage.errors),
        latency_ns: latencies::added_latencies(
            &parts.iter().map(|part| &part.latency_ns).collect::<Vec<_>>(),
        )?,
    })
}

/// `None` if a part has no such figure. The limit is that of the part that missed most.
fn offered(parts: &[Document]) -> Option<Offered> {
    let offered: Vec<_> = parts.iter().map(|part| part.offered).collect::<Option<_>>()?;
    let worst = offered.iter().max_by_key(|offered| offered.missed);
    // Files of an older version have no `asked`, and count packets.
    let sent = |part: &Document, offered: &Offered| match offered.asked {
        0 => part.totals.sent,
        asked => asked.saturating_sub(offered.missed),
    };
    let sent =
        parts.iter().zip(&offered).map(|(part, offered)| sent(part, offered)).fold(0, u64::saturating_add);
    let missed = offered.iter().fold(0_u64, |sum, offered| sum.saturating_add(offered.missed));
    Some(Offered::of(sent, missed, worst.and_then(|offered| offered.limit)))
}

fn load_generator(parts: &[Document]) -> LoadGenerator {
    let threads = |part: &Document| part.config.threads as f64;
    let all_threads: f64 = parts.iter().map(threads).sum();
    let cpu_pct: f64 = parts.iter().map(|part| part.load_generator.cpu_pct * threads(part)).sum();
    let clients = || parts.iter().map(|part| &part.load_generator);
    let most = |share: fn(&LoadGenerator) -> Option<f64>| clients().filter_map(share).reduce(f64::max);
    let longest = |time: fn(&LoadGenerator) -> Option<u64>| clients().filter_map(time).max();
    let mut saturated_by: Vec<_> = clients().flat_map(|client| client.saturated_by.clone()).collect();
    saturated_by.sort_unstable();
    saturated_by.dedup();
    LoadGenerator {
        cpu_pct: if all_threads > 0.0 { cpu_pct / all_threads } else { 0.0 },
        busiest_thread_pct: most(|client| client.busiest_thread_pct),
        schedule_lag_p99_ns: longest(|client| client.schedule_lag_p99_ns),
        run_queue_pct: most(|client| client.run_queue_pct),
        steal_pct: most(|client| client.steal_pct),
        throttled_ns: longest(|client| client.throttled_ns),
        clock_gap_ns: longest(|client| client.clock_gap_ns),
        saturated: clients().any(|client| client.saturated),
        saturated_by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;
    use crate::result::document::tests::{document, interval};
    use crate::result::document::{Interval, Mode};
    use crate::result::latency::Latency;
    use crate::result::saturation::Reason;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn histogram(latencies_ns: &[u64]) -> hdrhistogram::Histogram<u64> {
        let mut histogram = new_histogram();
        latencies_ns.iter().for_each(|ns| histogram.saturating_record(*ns));
        histogram
    }

    fn part(latencies_ns: &[u64]) -> Document {
        let mut document = document();
        document.latency_ns.service = Latency::of(&histogram(latencies_ns), None);
        document
    }

    proptest! {
        // Fewer cases than the default: each one compresses and reads histograms, which is slow.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_sum_has_the_figures_of_all_samples_together(
            parts in vec(vec(1..4_000_000_000_000_u64, 0..50), 2..5),
            is_open: bool,
        ) {
            let of = |latencies_ns: &Vec<u64>| {
                let mut part = part(latencies_ns);
                part.latency_ns.response = is_open.then(|| part.latency_ns.service.clone());
                part
            };
            let sum = sum(&parts.iter().map(of).collect::<Vec<_>>()).unwrap();
            let union = Latency::of(&histogram(&parts.concat()), None);
            prop_assert_eq!(&sum.latency_ns.service, &union);
            prop_assert_eq!(sum.latency_ns.response, is_open.then_some(union));
        }
    }

    #[test]
    fn counts_are_added_and_the_window_spans_all_parts() {
        let (one, mut other) = (document(), document());
        other.window = Window {
            start_unix_ns: 11_000_000_000,
            end_unix_ns: 14_000_000_000,
            seconds: 3.0,
            drain_s: 0.25,
        };
        other.totals.received = 6;
        other.integrity.lost = 1;
        (other.errors.eof, other.errors.first) = (1, Some("gone".to_owned()));
        (other.config.threads, other.config.server) = (3, "b:1".to_owned());
        other.host = Host { name: "elsewhere".to_owned(), cores: 5, ..other.host };
        other.load_generator = LoadGenerator {
            cpu_pct: 80.0,
            busiest_thread_pct: Some(81.0),
            schedule_lag_p99_ns: Some(7),
            throttled_ns: Some(9),
            saturated: true,
            saturated_by: vec![Reason::Throttled],
            ..LoadGenerator::default()
        };
        let sum = sum(&[one.clone(), other]).unwrap();
        assert_eq!(
            sum.window,
            Window {
                start_unix_ns: 10_000_000_000,
                end_unix_ns: 14_000_000_000,
                seconds: 4.0,
                drain_s: 0.25
            }
        );
        assert_eq!((sum.totals.sent, sum.totals.received, sum.totals.packets_per_s), (4, 8, 2.0));
        assert_eq!((sum.integrity.verified, sum.integrity.lost), (4, 1));
        assert_eq!((sum.errors.count(), sum.errors.first.as_deref()), (1, Some("gone")));
        assert_eq!((sum.config.conns, sum.config.threads, sum.config.packets), (20, 4, Some(2000)));
        assert_eq!(sum.config.server, "127.0.0.1:14572, b:1");
        assert_eq!(sum.host.name, format!("{}, elsewhere", one.host.name));
        assert_eq!(sum.host.cores, one.host.cores + 5);
        let client = LoadGenerator {
            cpu_pct: 60.0,
            busiest_thread_pct: Some(81.0),
            run_queue_pct: Some(0.0),
            schedule_lag_p99_ns: Some(7),
            throttled_ns: Some(9),
            saturated: true,
            saturated_by: vec![Reason::Throttled],
            ..LoadGenerator::default()
        };
        assert_eq!(sum.verdict, Verdict::PassSaturated, "a part was saturated");
        assert_eq!(sum.load_generator, client, "cpu_pct is weighted by threads: (1 x 0 + 3 x 80) / 4");
    }

    #[test]
    fn labels_with_different_values_are_joined() {
        let labelled = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Document { labels: labels.collect(), ..document() }
        };
        let parts = [
            labelled(&[("build", "a1"), ("zone", "x")]),
            labelled(&[("build", "a1"), ("zone", "y"), ("note", "second")]),
        ];
        assert_eq!(
            sum(&parts).unwrap().labels,
            labelled(&[("build", "a1"), ("note", "second"), ("zone", "x,y")]).labels
        );
    }

    #[test]
    fn a_part_that_measured_nothing_does_not_widen_the_window_and_a_gap_is_noticed() {
        let part = |start_s: u64, end_s: u64| {
            let window = Window {
                start_unix_ns: start_s * 1_000_000_000,
                end_unix_ns: end_s * 1_000_000_000,
                seconds: (end_s - start_s) as f64,
                drain_s: 0.0,
            };
            Document { window, ..document() }
        };
        let with_nothing = [part(10, 12), part(60, 60)];
        assert_eq!(window(&with_nothing).seconds, 2.0);
        assert!(overlap(&with_nothing) && overlap(&[part(10, 12), part(11, 13)]));
        assert!(!overlap(&[part(10, 12), part(13, 14)]));
    }

    #[test]
    fn the_verdict_is_the_worst_one() {
        use crate::result::verdict::WORST_FIRST;

        for (index, worse) in WORST_FIRST.iter().enumerate() {
            for better in &WORST_FIRST[index..] {
                let parts = [*better, *worse].map(|verdict| Document { verdict, ..document() });
                let sum = sum(&parts).unwrap();
                assert_eq!((sum.verdict, sum.exit_code), (*worse, worse.exit_code()));
            }
        }
    }

    #[test]
    fn the_sum_has_no_response_times_if_a_part_lacks_them() {
        let mut open = document();
        open.latency_ns.response = Some(open.latency_ns.service.clone());
        assert_eq!(sum(&[open, document()]).unwrap().latency_ns.response, None);
    }

    #[test]
    fn only_runs_of_the_same_load_add_up() {
        let base = document().config;
        assert_eq!(first_difference(&base, &Config { conns: 99, seed: 3, ..base.clone() }), None);
        let cases = [
            ("mode", Config { mode: Mode::Open, ..base.clone() }),
            ("sizes", Config { sizes: "9".to_owned(), ..base.clone() }),
            ("payload", Config { payload: Some("hex:00".to_owned()), ..base.clone() }),
            ("replay", Config { replay: Some("a.pcap".to_owned()), ..base.clone() }),
            ("tcp_port", Config { tcp_port: Some(1), ..base.clone() }),
            ("speed", Config { speed: Some(2.0), ..base.clone() }),
            ("header", Config { header: "u16be".to_owned(), ..base.clone() }),
            ("crc", Config { crc: true, ..base.clone() }),
            ("tls", Config { tls: true, ..base.clone() }),
            ("pipeline", Config { pipeline: Some(9), ..base.clone() }),
        ];
        for (option, config) in cases {
            assert_eq!(first_difference(&base, &config), Some(option));
        }
    }

    #[test]
    fn numbers_at_the_end_of_their_range_do_not_panic() {
        let mut odd = document();
        (odd.totals.received, odd.integrity.lost, odd.errors.io) = (u64::MAX, u64::MAX, u64::MAX);
        (odd.window.start_unix_ns, odd.window.end_unix_ns) = (u64::MAX, 0);
        (odd.config.conns, odd.config.packets, odd.config.threads) = (usize::MAX, Some(u64::MAX), 0);
        odd.intervals = vec![Interval { max_ns: Some(u64::MAX), ..interval(1.0, u64::MAX) }];
        let sum = sum(&[odd.clone(), odd]).unwrap();
        assert_eq!((sum.totals.received, sum.window.seconds), (u64::MAX, 0.0));
        assert!(crate::report::text::text(&sum).contains("verdict"));
    }
}
