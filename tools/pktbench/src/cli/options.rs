//! The options of a run, and how they become a [`Job`]: parsing, defaults, and checks that involve several options.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use pktconn::{Addr, HeaderFormat};
use pktconn_tools::printable::print_warning;
use pktconn_tools::values::{parse_connect_addr, parse_size, parse_tcp_addr, whole_number};

use crate::cli::connections::ConnectionOptions;
use crate::cli::job::Job;
use crate::cli::source::{Recording, SourceOptions};
use crate::cli::tls::TlsOptions;
use crate::judge::gate::GateOptions;
use crate::judge::threshold::Condition;
use crate::plan::{Amount, Pace, Plan, codec};
use crate::report::metrics::MetricsOptions;
use crate::report::output::{Format, Output};
use crate::report::paths::is_stdout;
use crate::report::view;
use crate::result::config::config;
use crate::result::latency::PERCENTILES;
use crate::result::limits::MAX_PERCENTILES;
use crate::traffic::arrivals::Arrival;
use crate::traffic::parse::{parse_rate, parse_time};
use crate::traffic::recorded::Replay;
use crate::traffic::sizes::Sizes;
use crate::traffic::stages::Stages;
use crate::traffic::verify::Verify;

/// A constant rather than a doc comment, so that `--help` keeps the lines.
const SIZES_HELP: &str = "\
Payload sizes in bytes; units such as 64KiB are accepted

  512 or fixed:512    all payloads have 512 bytes
  0-2048              uniform, both ends included
  list:64@9,1024@1    one of these sizes, by weight: here 9 of 10 have 64 bytes
  exp:512             exponential with a mean of 512, at most 9 times the mean
  file:SIZES.csv      the first field of each line, in file order, repeated";

/// The options of a run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Server to load: HOST:PORT or unix:PATH [default: a built-in echo server]
    ///
    /// The connections are spread evenly over several servers. Examples: 127.0.0.1:14572, unix:echo.sock
    #[arg(help_heading = "Server", value_name = "ADDR", display_order = 0, value_parser = parse_connect_addr)]
    addrs: Vec<Addr>,

    /// The same as ADDR; may be repeated
    #[arg(help_heading = "Server", long, value_name = "ADDR", value_parser = parse_connect_addr)]
    connect: Vec<Addr>,

    #[command(flatten)]
    tls: TlsOptions,

    /// Length field before each payload: u32le, u32be, u16le or u16be; the server must use the same
    #[arg(help_heading = "Server", long, value_name = "FORMAT", default_value_t = HeaderFormat::U32Le)]
    header: HeaderFormat,

    /// Append a CRC-32 to each packet and require one in each response; the server must do the same
    #[arg(help_heading = "Server", long)]
    crc: bool,

    /// Largest payload to accept, in bytes or with a unit such as 64KiB
    #[arg(help_heading = "Server", long, value_name = "SIZE", default_value = "32MiB", value_parser = parse_size)]
    max_payload: u32,

    #[command(flatten)]
    connections: ConnectionOptions,

    /// Packets outstanding per connection in a closed loop
    ///
    /// From 1 to 65536.
    #[arg(help_heading = "Load", long, value_name = "N", default_value = "1", conflicts_with = "rate", value_parser = whole_number::<u32>(1..=65_536, 32))]
    pipeline: u32,

    /// Packets per second over all connections, such as 50k: an open loop
    ///
    /// Packets are sent when they are due, regardless of responses. Latency is also measured from the time at which
    /// each packet was due (the response time).
    #[arg(help_heading = "Load", short = 'r', long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Course of the rate of an open loop, as stages; instead of --rate and --duration
    ///
    /// Stages are separated by commas: 'ramp 0..10k 30s, hold 10k 2m, step 2k every 10s to 20k, spike 50k 5s, sine
    /// 5k..15k period 60s for 5m'. Steps begin after the rate of the stage before; a rate of 0 is a pause. The result
    /// has figures per stage. The warm-up holds the rate at which the first stage starts.
    #[arg(help_heading = "Load", long, value_name = "STAGES", conflicts_with_all = ["rate", "duration", "packets", "ramp", "search_max", "pipeline"])]
    stages: Option<Stages>,

    /// Find the highest rate at which a condition holds, such as p99<5ms
    ///
    /// Runs an open loop for --duration at each rate that is tried, beginning with --rate (1k if not given). Cannot be
    /// combined with --packets, --pipeline, --start-at, --threshold, --baseline, --abort-on, --tui, --metrics, --hdr-log or
    /// the formats ndjson and csv.
    #[arg(help_heading = "Load", long, value_name = "CONDITION", conflicts_with_all = ["packets", "pipeline", "start_at", "threshold", "baseline", "abort_on"])]
    search_max: Option<Condition>,

    /// Distribution of the gaps between packets in an open loop [default: constant]
    #[arg(help_heading = "Load", long, value_name = "LAW")]
    arrival: Option<Arrival>,

    /// Packets outstanding per connection in an open loop, 1 to 65536 [default: 1024]
    ///
    /// A packet that is due beyond this limit waits until a response arrives; its response time includes the wait.
    #[arg(help_heading = "Load", long, value_name = "N", value_parser = whole_number::<u32>(1..=65_536, 1024))]
    max_outstanding: Option<u32>,

    #[arg(
        help_heading = "Payloads",
        long,
        value_name = "SIZES",
        default_value = "0-2048",
        help = "Payload sizes, such as 512, 0-2048 or file:SIZES.csv",
        long_help = SIZES_HELP
    )]
    sizes: Sizes,

    #[command(flatten)]
    source: SourceOptions,

    /// Seed for payload sizes, contents and Poisson arrivals
    ///
    /// The same seed sends the same packets on each connection.
    #[arg(help_heading = "Payloads", long, value_name = "N", default_value_t = 1, value_parser = whole_number::<u64>(0.., 1))]
    seed: u64,

    /// How to check each packet that comes back
    #[arg(help_heading = "Payloads", long, value_name = "HOW", default_value = "full")]
    verify: Verify,

    /// How long to measure, such as 30 or 5m [default: 10s]
    ///
    /// The time begins after ramp and warm-up.
    ///
    /// A number without a unit is seconds, in all options of time; the units are ms, s, m and h.
    #[arg(help_heading = "Time", short = 'd', long, value_name = "TIME", value_parser = parse_time)]
    duration: Option<Duration>,

    /// Packets to send over all connections, instead of --duration
    ///
    /// They are counted from the end of ramp and warm-up.
    /// The run ends when all have come back, or when packets are outstanding and none has come back for --timeout.
    #[arg(help_heading = "Time", long, value_name = "N", conflicts_with = "duration", value_parser = whole_number::<u64>(1.., 100_000))]
    packets: Option<u64>,

    /// When to send the first packet, in UTC [default: when all connections are open]
    ///
    /// Use it to start several load generators at the same time. Example: --start-at 2026-01-31T12:00:00Z
    #[arg(help_heading = "Time", long, value_name = "TIME", value_parser = parse_start)]
    start_at: Option<SystemTime>,

    /// Time in which the load grows to its full level, before the warm-up
    ///
    /// In an open loop the rate grows; in a closed loop the connections start one after the other. Packets sent in this
    /// time are checked but not measured.
    #[arg(help_heading = "Time", long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    ramp: Duration,

    /// How long to send before measuring [default: 1s; 0s with --packets]
    ///
    /// Packets sent in this time are checked but not measured.
    #[arg(help_heading = "Time", long, value_name = "TIME", value_parser = parse_time)]
    warmup: Option<Duration>,

    /// How long to wait for a connection to open, and for outstanding packets at the end
    #[arg(help_heading = "Time", long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    timeout: Duration,

    /// How long an answer may take; later, its connection fails and is replaced [default: no limit]
    ///
    /// Answers carry no number, so a connection on which an answer is missing cannot go on.
    #[arg(help_heading = "Time", long, value_name = "TIME", value_parser = parse_time)]
    packet_timeout: Option<Duration>,

    /// How much of the load of an open loop must be sent, such as 95%; 0% accepts everything
    ///
    /// A packet is missed if it is due and not sent, because the server is too slow, too few packets may be outstanding,
    /// or the load generator is too slow. The run then did not show how the server behaves at this rate. Exit code 6.
    #[arg(help_heading = "Verdict", long, value_name = "PERCENT", default_value = "99%", value_parser = parse_percent)]
    min_offered: f64,

    /// Exit with code 4 if the load generator was saturated
    ///
    /// It is saturated if one of its threads was busy for 95 % of the time or waited for a CPU for 10 % of it, if the p99
    /// of the schedule lag of an open loop is above 1 ms, if the hypervisor stole 10 % of the CPU time, if its cgroup was
    /// throttled for 1 % of the time, or if it stood still for 250 ms or 5 % of the time. The figures then show the load
    /// generator, not the server. Without this option the exit code is 0, and the verdict says it.
    #[arg(help_heading = "Verdict", long)]
    strict_client: bool,

    #[command(flatten)]
    gate: GateOptions,

    /// Show the run live on the whole terminal; q, Esc or Ctrl-C ends the run
    ///
    /// The view is drawn on standard error. The result is printed as usual.
    #[arg(help_heading = "Result", long, conflicts_with = "search_max")]
    tui: bool,

    /// Format of the result [default: from the extension of --output (.json, .ndjson, .csv), else text]
    #[arg(help_heading = "Result", long, value_name = "FORMAT")]
    format: Option<Format>,

    /// Same as --format json
    #[arg(help_heading = "Result", long, conflicts_with = "format")]
    json: bool,

    /// Write the result to a file, and the text report to standard output
    ///
    /// The name - is standard output, here and in --hdr-log, --hgrm and --html; only one of them may have it, and the text
    /// report is left out then.
    #[arg(help_heading = "Result", short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Length of an interval in charts, NDJSON, CSV, --hdr-log and comparisons; at least 100ms
    #[arg(help_heading = "Result", long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    interval: Duration,

    /// Percentiles of the result [default: 50,90,95,99,99.9,99.99]
    ///
    /// For text, JSON and HTML. A percentile with fewer than 10 packets beyond it is marked with ~ in text and HTML.
    /// Conditions may use any percentile.
    #[arg(help_heading = "Result", long, value_name = "LIST", value_delimiter = ',', value_parser = parse_percentile)]
    percentiles: Vec<f64>,

    /// Label to copy into the result, such as build=1234; may be repeated
    #[arg(help_heading = "Result", long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,

    /// Write the histogram of each interval to a file, in the log format of HdrHistogram
    #[arg(help_heading = "Result", long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,

    /// Write the latency distribution to a file, as a table for the plotter of HdrHistogram
    #[arg(help_heading = "Result", long, value_name = "FILE")]
    hgrm: Option<PathBuf>,

    /// Write an HTML report with charts; if the name ends in .svg, only the charts
    #[arg(help_heading = "Result", long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Address to serve live metrics for Prometheus at, under /metrics, such as 127.0.0.1:9100
    ///
    /// Port 0 asks for a free port; the address is printed on standard error. It has no access control and ends with the
    /// run.
    #[arg(help_heading = "Result", long, value_name = "ADDR", value_parser = parse_tcp_addr, conflicts_with = "search_max")]
    metrics: Option<Addr>,
}

/// The first rate of a search without `--rate`: low enough for every server.
const FIRST_RATE: f64 = 1000.0;

/// Used if neither `--duration` nor `--packets` is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Used by runs of a duration: the first packets of a connection, and caches that are still empty, are slower. A run of
/// a number of packets sends that number and no more.
const DEFAULT_WARMUP: Duration = Duration::from_secs(1);

/// Used if an open loop has no `--max-outstanding`.
const DEFAULT_MAX_OUTSTANDING: u32 = 1024;

impl Options {
    /// A search begins at a rate, and is therefore an open loop, too.
    fn pace(&self, replay: Option<Replay>) -> Result<Pace, String> {
        let max_outstanding = self.max_outstanding.unwrap_or(DEFAULT_MAX_OUTSTANDING) as usize;
        if let Some(replay) = replay {
            return Ok(Pace::Replay { replay, max_outstanding });
        }
        let of_stages = self.stages.as_ref().map(Stages::mean_rate);
        let of_search = self.search_max.as_ref().map(|_| FIRST_RATE);
        if let Some(rate) = self.rate.or(of_stages).or(of_search) {
            return Ok(Pace::Open {
                rate,
                arrival: self.arrival.unwrap_or(Arrival::Constant),
                max_outstanding,
            });
        }
        let unused =
            [("--arrival", self.arrival.is_some()), ("--max-outstanding", self.max_outstanding.is_some())];
        match unused.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(format!(
                "{option} is for an open loop; add --rate, such as --rate 10k, --stages or --search-max"
            )),
            None => Ok(Pace::Closed),
        }
    }

    pub(crate) fn into_job(self) -> Result<Job, String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let recording = self.source.recording(&codec(self.header, self.crc, self.max_payload))?;
        let replay = recording.as_ref().map(|recording| recording.replay);
        let pace = self.pace(replay)?;
        let connections = self.connections;
        let conns = replay.map_or(connections.conns as usize, |replay| replay.flows.len());
        let threads = connections.threads.map_or(cores / 2, usize::from).clamp(1, conns);
        let duration = self.duration.or(self.stages.as_ref().map(Stages::duration));
        let amount = match replay.map(|replay| replay.packets()).or(self.packets) {
            Some(packets) => Amount::Packets(packets),
            None => Amount::Time(duration.unwrap_or(DEFAULT_DURATION)),
        };
        let plan = Plan {
            tls: self.tls.settings()?,
            pace,
            stages: self.stages.map(Arc::new),
            connect: self.addrs.into_iter().chain(self.connect).collect(),
            connect_to: connections.connect_to,
            source_addrs: connections.source_addr,
            conns,
            connect_rate: connections.connect_rate,
            conns_per_second: connections.conns_per_second,
            conn_packets: connections.conn_packets,
            conn_lifetime: connections.conn_lifetime,
            packet_timeout: self.packet_timeout,
            pipeline: self.pipeline as usize,
            verify: self.verify,
            sizes: match (self.source.payload(), replay) {
                (Some(own), _) => Sizes::own(own),
                (None, Some(replay)) => Sizes::recorded(replay.flows),
                (None, None) => self.sizes,
            },
            amount,
            start_at: self.start_at,
            ramp: self.ramp,
            warmup: self.warmup.unwrap_or(match amount {
                Amount::Time(_) => DEFAULT_WARMUP,
                Amount::Packets(_) => Duration::ZERO,
            }),
            interval: self.interval,
            timeout: self.timeout,
            seed: self.seed,
            header: self.header,
            crc: self.crc,
            max_payload_len: self.max_payload,
            min_offered_pct: self.min_offered,
            strict_client: self.strict_client,
            tui: self.tui,
            labels: self.labels.into_iter().collect(),
            percentiles: listed(self.percentiles)?,
            watches_outstanding: self.gate.watches_outstanding(),
            threads,
            server_threads: cores.saturating_sub(threads).max(1),
        };
        plan.check()?;
        let output = Output {
            format: match self.format {
                _ if self.json => Format::Json,
                Some(format) => format,
                None => self.output.as_deref().map_or(Format::Text, Format::of_file),
            },
            is_stdout_asked: self.format.is_some()
                || self.json
                || self.output.as_deref().is_some_and(is_stdout),
            path: self.output.filter(|path| !is_stdout(path)),
            hdr_log: self.hdr_log,
            hgrm: self.hgrm,
            html: self.html,
            metrics: self.metrics.map(|addr| MetricsOptions { addr, config: config(&plan, None) }),
        };
        let sizes = plan.sizes.to_string();
        let inputs = [
            ("--baseline", self.gate.baseline()),
            ("--sizes", sizes.strip_prefix("file:").map(Path::new)),
            ("--replay", self.source.capture()),
            ("--payload", self.source.payload_file()),
        ];
        let inputs = inputs.into_iter().chain(self.tls.files());
        let inputs: Vec<_> = inputs.filter_map(|(option, path)| Some((option, path?))).collect();
        output.check(&inputs)?;
        if plan.tui {
            view::check(&output)?;
        }
        for warning in recording.iter().flat_map(|Recording { warnings, .. }| warnings) {
            print_warning(warning);
        }
        let gate = self.gate.into_gate(&config(&plan, None))?;
        let plan = Box::new(plan);
        Ok(match self.search_max {
            None => Job::Run { plan, output, gate },
            Some(condition) => {
                condition.check_for_search()?;
                if output.is_live() {
                    return Err("--search-max cannot write a line per interval; use --format text or json, and leave \
                                out --hdr-log"
                        .to_owned());
                }
                Job::Search { plan, output, condition }
            }
        })
    }
}

/// A percentile, with or without its p.
fn parse_percentile(text: &str) -> Result<f64, String> {
    let number = text.strip_prefix('p').unwrap_or(text).parse().ok();
    number
        .filter(|percent| (0.0..100.0).contains(percent) && *percent > 0.0)
        .ok_or_else(|| "expected percentiles above 0 and below 100, such as 50,95,99,99.9".to_owned())
}

/// Sorted, each once.
fn listed(mut percentiles: Vec<f64>) -> Result<Vec<f64>, String> {
    if percentiles.is_empty() {
        return Ok(PERCENTILES.to_vec());
    }
    percentiles.sort_by(f64::total_cmp);
    percentiles.dedup();
    match percentiles.len() <= MAX_PERCENTILES {
        true => Ok(percentiles),
        false => {
            Err(format!("--percentiles: {} are more than {MAX_PERCENTILES}, the limit", percentiles.len()))
        }
    }
}

fn parse_start(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text)
        .map_err(|_| "write a date and time in UTC, such as 2026-01-31T12:00:00Z".to_owned())
}

/// A percentage, with or without its sign.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "expected a percentage from 0% to 100%, such as 95%".to_owned())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as build=1234".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use pktconn_tools::usage::one_line;

    fn plan(args: &[&str]) -> Plan {
        let Job::Run { plan, .. } = job(args).unwrap() else { panic!("{args:?} is not a plain run") };
        *plan
    }

    fn job(args: &[&str]) -> Result<Job, String> {
        let args = ["pktbench"].iter().chain(args);
        let cli = Cli::try_parse_from(args).map_err(|error| one_line(&error.to_string()))?;
        cli.run.into_job()
    }

    fn rejected(args: &[&str]) -> String {
        let problem = job(args).err().unwrap_or_else(|| panic!("{args:?} was accepted"));
        assert!(!problem.contains('\n') && !problem.contains("Usage"), "{problem}");
        problem
    }

    #[test]
    fn the_defaults_load_the_built_in_server_for_ten_seconds() {
        let plan = plan(&[]);
        assert_eq!((plan.connect, plan.conns, plan.pipeline), (Vec::new(), 64, 1));
        assert_eq!(plan.sizes.to_string(), "0-2048");
        assert_eq!(plan.amount, Amount::Time(Duration::from_secs(10)));
        assert_eq!((plan.warmup, plan.timeout), (Duration::from_secs(1), Duration::from_secs(10)));
        assert_eq!(plan.max_payload_len, 32 * 1024 * 1024);
    }

    #[test]
    fn addresses_may_be_given_without_an_option() {
        let addrs = |args: &[&str]| plan(args).connect.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(addrs(&["127.0.0.1:1", "-c", "10", "-d", "30"]), ["127.0.0.1:1"]);
        assert_eq!(addrs(&["-c", "10", "a:1", "-d", "5", "unix:b"]), ["a:1", "unix:b"]);
        assert_eq!(addrs(&["--connect", "a:1", "b:2"]), ["b:2", "a:1"]);
    }

    #[test]
    fn percentiles_are_sorted_and_listed_once() {
        assert_eq!(plan(&["--percentiles", "99.9,p50,95,50"]).percentiles, [50.0, 95.0, 99.9]);
        assert_eq!(plan(&[]).percentiles, PERCENTILES);
        let many = (1..=101).map(|percent| format!("{percent}e-1")).collect::<Vec<_>>().join(",");
        assert_eq!(rejected(&["--percentiles", &many]), "--percentiles: 101 are more than 100, the limit");
        for text in ["0", "100", "-1", "many", "50,", ""] {
            assert!(rejected(&["--percentiles", text]).contains("such as 50,95,99,99.9"), "{text}");
        }
    }

    #[test]
    fn times_without_a_unit_are_seconds() {
        let plan =
            plan(&["-d", "30", "--warmup", "2", "--timeout", "0.5", "--ramp", "3", "--interval", "0.25"]);
        assert_eq!(plan.amount, Amount::Time(Duration::from_secs(30)));
        assert_eq!((plan.warmup, plan.ramp), (Duration::from_secs(2), Duration::from_secs(3)));
        assert_eq!((plan.timeout, plan.interval), (Duration::from_millis(500), Duration::from_millis(250)));
    }

    #[test]
    fn a_run_of_a_number_of_packets_has_no_warm_up_unless_it_is_asked_for() {
        assert_eq!(plan(&["--packets", "5"]).warmup, Duration::ZERO);
        assert_eq!(plan(&["--packets", "5", "--warmup", "1"]).warmup, Duration::from_secs(1));
        assert_eq!(plan(&["--warmup", "0"]).warmup, Duration::ZERO);
    }

    #[test]
    fn a_thread_without_a_connection_is_not_started() {
        assert_eq!(plan(&["--threads", "8", "--conns", "3"]).threads, 3);
    }

    #[test]
    fn a_usage_error_is_one_line_that_says_what_to_do() {
        let cases: [(&[&str], &str); 29] = [
            (&["--conn", "1"], "similar argument exists: '--conns'"),
            (&["--conns", "0"], "expected a whole number of at least 1"),
            (&["--connect", "nowhere"], "an address is HOST:PORT"),
            (&["--duration", "soon"], "such as 30, 30s, 500ms or 2m"),
            (&["--duration", "99999days"], "at most 365 days"),
            (&["--packets", "5", "--duration", "1s"], "cannot be used with"),
            (&["--sizes", "9-2"], "write 2-9"),
            (&["--header", "u8"], "u32le, u32be, u16le or u16be"),
            (&["--header", "u16be", "--sizes", "64KiB"], "65535"),
            (&["--sizes", "64MB"], "--max-payload 64000000"),
            (&["--conns", "1", "--connect", "a:1", "--connect", "b:1"], "raise it to 2"),
            (&["--rate", "0"], "such as 500, 50k or 1.5M"),
            (&["--rate", "2000M"], "such as 500, 50k or 1.5M"),
            (&["--rate", "k"], "such as 500, 50k or 1.5M"),
            (&["--rate", "1k", "--pipeline", "2"], "cannot be used with"),
            (&["--arrival", "poisson"], "--rate"),
            (&["--max-outstanding", "9"], "--rate"),
            (&["--interval", "1ms"], "at least 100ms"),
            (&["--duration", "2days"], "raise --interval to 2s"),
            (&["--start-at", "12:00"], "such as 2026-01-31T12:00:00Z"),
            (&["-o", "a", "--hgrm", "a"], "a is given twice"),
            (&["--search-max", "rate>1k"], "write an upper bound of a latency"),
            (&["--start-at", "2020-01-31T12:00:00Z"], "--start-at is in the past"),
            (&["--tls-ca", "x"], "add --tls"),
            (&["--label", "fast"], "such as build=1234"),
            (&["--tls"], "--tls needs --connect"),
            (&["--tls", "--connect", "unix:socket"], "--tls-server-name"),
            (&["--tls-key", "key.pem"], "add --tls"),
            (&["--tls", "--tls-cert", "chain.pem"], "--tls-key"),
        ];
        for (args, expected) in cases {
            let problem = rejected(args);
            assert!(problem.contains(expected), "{args:?}: {problem}");
        }
    }
}
