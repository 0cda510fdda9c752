//! The options of a run, as they are written and as they become a plan.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args};
use pktconn::{Addr, HeaderFormat, TlsClientConfig};

use crate::cli::job::Job;
use crate::judge::gate::GateOptions;
use crate::judge::threshold::Condition;
use crate::plan::{Amount, MAX_RATE, Pace, Plan, Tls};
use crate::report::output::{Format, Output};
use crate::report::view;
use crate::result::document::Mode;
use crate::traffic::arrivals::Arrival;
use crate::traffic::parse::{parse_addr, parse_size, parse_time};
use crate::traffic::sizes::Sizes;
use crate::traffic::verify::Verify;

/// No doc comment, in which the name of the file would be taken for a link.
const SIZES_HELP: &str = "Payload sizes in bytes, and 64KiB and the like work: one (512 or fixed:512), LOW-HIGH (uniform, \
both ends included), list:64@9,1024@1 (each with its weight), exp:512 (exponential with this mean, up to 9 times as much), \
or file:SIZES.csv (the first field of each line, in the order of the file, again and again)";

/// How to load a server.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("open").args(["rate", "search_max"]).multiple(true)))]
pub(crate) struct Options {
    /// The server to load, HOST:PORT or unix:PATH. May be given several times: connections are spread evenly [default: an echo
    /// server of its own on 127.0.0.1]
    #[arg(help_heading = "Server", long, value_name = "ADDR", value_parser = parse_addr)]
    connect: Vec<Addr>,

    /// Speak TLS
    #[arg(help_heading = "Server", long)]
    tls: bool,

    /// The authorities, PEM, that the server's certificate is trusted by [default: those of the system]
    #[arg(help_heading = "Server", long, value_name = "FILE", requires = "tls")]
    tls_ca: Option<PathBuf>,

    /// Whom the server's certificate must be for [default: the host of --connect]
    #[arg(help_heading = "Server", long, value_name = "NAME", requires = "tls")]
    tls_server_name: Option<String>,

    /// A certificate chain to show to the server, PEM
    #[arg(help_heading = "Server", long, value_name = "FILE", requires_all = ["tls", "tls_key"])]
    tls_cert: Option<PathBuf>,

    /// The private key of the certificate, PEM
    #[arg(help_heading = "Server", long, value_name = "FILE", requires_all = ["tls", "tls_cert"])]
    tls_key: Option<PathBuf>,

    /// The length in front of each packet: u32le, u32be, u16le or u16be; the server must do the same
    #[arg(help_heading = "Server", long, value_name = "FORMAT", default_value_t = HeaderFormat::U32Le)]
    header: HeaderFormat,

    /// Put a CRC-32 behind each packet, and expect one; the server must do the same
    #[arg(help_heading = "Server", long)]
    crc: bool,

    /// The largest payload that is accepted, in bytes; 64KiB and the like work
    #[arg(help_heading = "Server", long, value_name = "SIZE", default_value = "32MiB", value_parser = parse_size)]
    max_payload: u32,

    /// Connections
    #[arg(help_heading = "Load", short = 'c', long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(1..))]
    conns: u32,

    /// Connections to make in a second, such as 500 or 2k [default: as many as can be]
    #[arg(help_heading = "Load", long, value_name = "RATE", value_parser = parse_rate)]
    connect_rate: Option<f64>,

    /// Packets outstanding on each connection, up to 65536 (closed loop)
    #[arg(help_heading = "Load", long, value_name = "N", default_value = "1", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pipeline: u32,

    /// Packets to send in a second over all connections, such as 50k or 1.5M, whatever comes back: an open loop
    #[arg(help_heading = "Load", short = 'r', long, value_name = "RATE", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Find the highest rate at which a condition holds, such as 'p99<5ms', by runs of --duration each, from --rate or 1k on
    #[arg(help_heading = "Load", long, value_name = "CONDITION", conflicts_with_all = ["packets", "pipeline", "start_at", "threshold", "baseline"])]
    search_max: Option<Condition>,

    /// The gaps between packets of an open loop: the same each, or those of many users that do not know of each other
    #[arg(help_heading = "Load", long, value_name = "LAW", requires = "open", default_value = "constant")]
    arrival: Arrival,

    /// Packets outstanding on each connection of an open loop; what is due beyond waits, and its response time runs
    #[arg(help_heading = "Load", long, value_name = "N", requires = "open", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_outstanding: u32,

    #[arg(help_heading = "Load", long, value_name = "SIZES", default_value = "0-2048", help = SIZES_HELP)]
    sizes: Sizes,

    /// Seed of sizes, contents and Poisson arrivals: the same seed sends the same packets
    #[arg(help_heading = "Load", long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// How much of a packet that comes back is checked: every byte, its length, or nothing
    #[arg(help_heading = "Load", long, value_name = "HOW", default_value = "full")]
    verify: Verify,

    /// Threads that send and receive [default: half of the cores, at least 1]
    #[arg(help_heading = "Load", short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// How long to send, after the warm-up [default: 10s]
    #[arg(help_heading = "Time", short = 'd', long, value_name = "TIME", value_parser = parse_time)]
    duration: Option<Duration>,

    /// How many packets to send, over all connections and after the warm-up, instead of a duration
    #[arg(help_heading = "Time", long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,

    /// When to start, in UTC, such as 2026-01-31T12:00:00Z: several machines then load a server together [default: when all
    /// connections are made]
    #[arg(help_heading = "Time", long, value_name = "TIME", value_parser = parse_start)]
    start_at: Option<SystemTime>,

    /// Over how long a time the load grows to its full, before the warm-up: the rate, or the connections that take part
    #[arg(help_heading = "Time", long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    ramp: Duration,

    /// How long to send before anything counts
    #[arg(help_heading = "Time", long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    warmup: Duration,

    /// How long to wait for a connection, and for what is outstanding at the end
    #[arg(help_heading = "Time", long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    timeout: Duration,

    /// Show the run as it goes on, over the whole terminal; q, Esc or Ctrl-C ends it. The result is printed as ever
    #[arg(help_heading = "Result", long, conflicts_with = "search_max")]
    tui: bool,

    /// What to print: a text, one JSON document at the end, a JSON line an interval as it runs, or a row of CSV an interval
    /// [default: text, or what the name of --output ends in: .json, .ndjson or .csv]
    #[arg(help_heading = "Result", long, value_name = "FORMAT")]
    format: Option<Format>,

    /// The same as --format json
    #[arg(help_heading = "Result", long, conflicts_with = "format")]
    json: bool,

    /// Write the result into a file, and the text to standard output
    #[arg(help_heading = "Result", short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// How long an interval of what is shown over time is
    #[arg(help_heading = "Result", long, value_name = "TIME", default_value = "1s", value_parser = parse_time)]
    interval: Duration,

    /// A word on the run, which the result repeats: KEY=VALUE. May be given several times
    #[arg(help_heading = "Result", long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,

    /// Write the histogram of each interval into a log, as the tools of HdrHistogram read it
    #[arg(help_heading = "Result", long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,

    /// Write the distribution of latencies into a table, as the plotter of HdrHistogram reads it
    #[arg(help_heading = "Result", long, value_name = "FILE")]
    hgrm: Option<PathBuf>,

    /// Write a report with charts too, a page for a browser; a name that ends in .svg is for its charts alone
    #[arg(help_heading = "Result", long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Fail with exit code 4 when the figures are those of this program: a busy thread, or a schedule that is late
    #[arg(help_heading = "Verdict", long)]
    strict_client: bool,

    #[command(flatten)]
    gate: GateOptions,
}

/// Where a search begins: every server holds it.
const FIRST_RATE: f64 = 1000.0;

/// What `--duration` and `--packets` leave to be said when neither is given.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

impl Options {
    fn tls(&self) -> Option<Tls> {
        if !self.tls {
            return None;
        }
        let mut config = TlsClientConfig::new();
        if let Some(ca) = &self.tls_ca {
            config = config.ca(ca);
        }
        if let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) {
            config = config.client_cert(chain, key);
        }
        Some(Tls { config, server_name: self.tls_server_name.clone() })
    }

    pub(crate) fn into_job(self) -> Result<Job, String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let conns = self.conns as usize;
        let threads = self.threads.map_or(cores / 2, usize::from).clamp(1, conns);
        let amount = match (self.packets, self.duration) {
            (Some(packets), _) => Amount::Packets(packets),
            (None, duration) => Amount::Time(duration.unwrap_or(DEFAULT_DURATION)),
        };
        let plan = Plan {
            tls: self.tls(),
            connect: self.connect,
            conns,
            connect_rate: self.connect_rate,
            pace: match self.rate.or(self.search_max.as_ref().map(|_| FIRST_RATE)) {
                None => Pace::Closed,
                Some(rate) => {
                    Pace::Open { rate, arrival: self.arrival, max_outstanding: self.max_outstanding as usize }
                }
            },
            pipeline: self.pipeline as usize,
            verify: self.verify,
            sizes: self.sizes,
            amount,
            start_at: self.start_at,
            ramp: self.ramp,
            warmup: self.warmup,
            interval: self.interval,
            timeout: self.timeout,
            seed: self.seed,
            header: self.header,
            crc: self.crc,
            max_payload_len: self.max_payload,
            strict_client: self.strict_client,
            tui: self.tui,
            labels: self.labels.into_iter().collect(),
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
            path: self.output,
            hdr_log: self.hdr_log,
            hgrm: self.hgrm,
            html: self.html,
        };
        output.check()?;
        if plan.tui {
            view::check(&output)?;
        }
        let mode = if plan.is_open() { Mode::Open } else { Mode::Closed };
        let (plan, gate) = (Box::new(plan), self.gate.into_gate(mode)?);
        Ok(match self.search_max {
            None => Job::Run { plan, output, gate },
            Some(condition) => {
                condition.check_for_search()?;
                if output.is_live() {
                    return Err("--search-max has no lines of one run; write its result as text or json, \
                                without --hdr-log"
                        .to_owned());
                }
                Job::Search { plan, output, condition }
            }
        })
    }
}

/// Per second; from one in a year to more than any machine sends.
fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'M']) {
        None => (text, 1.0),
        Some(number) if text.ends_with('k') => (number, 1e3),
        Some(number) => (number, 1e6),
    };
    let rate = number.parse::<f64>().map_or(f64::NAN, |number| number * factor);
    let problem = "a rate is a number a second, up to 1000M, such as 500, 50k or 1.5M";
    (3e-8..=MAX_RATE).contains(&rate).then_some(rate).ok_or_else(|| problem.to_owned())
}

fn parse_start(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|_| {
        "a time to start at is a date and a time in UTC, such as 2026-01-31T12:00:00Z".to_owned()
    })
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE, such as build=1234".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, one_line};
    use clap::Parser;

    fn plan(args: &[&str]) -> Plan {
        let Job::Run { plan, .. } = job(args).unwrap() else { panic!("{args:?} is no run") };
        *plan
    }

    fn job(args: &[&str]) -> Result<Job, String> {
        let args = ["pktbench"].iter().chain(args);
        let cli = Cli::try_parse_from(args).map_err(|error| one_line(&error.to_string()))?;
        cli.run.into_job()
    }

    fn refused(args: &[&str]) -> String {
        let problem = job(args).err().unwrap_or_else(|| panic!("{args:?} were accepted"));
        assert!(!problem.contains('\n') && !problem.contains("Usage"), "{problem}");
        problem
    }

    #[test]
    fn the_defaults_load_an_own_server_for_ten_seconds() {
        let plan = plan(&[]);
        assert_eq!((plan.connect, plan.conns, plan.pipeline), (Vec::new(), 64, 1));
        assert_eq!(plan.sizes.to_string(), "0-2048");
        assert_eq!(plan.amount, Amount::Time(Duration::from_secs(10)));
        assert_eq!((plan.warmup, plan.timeout), (Duration::ZERO, Duration::from_secs(10)));
        assert_eq!(plan.max_payload_len, 32 * 1024 * 1024);
    }

    #[test]
    fn a_thread_without_a_connection_is_not_started() {
        assert_eq!(plan(&["--threads", "8", "--conns", "3"]).threads, 3);
    }

    #[test]
    fn a_rate_is_a_number_with_a_suffix_for_thousands_or_millions() {
        for (text, rate) in [("500", 500.0), ("50k", 50e3), ("1.5M", 1.5e6), ("0.1", 0.1)] {
            assert_eq!(parse_rate(text), Ok(rate));
        }
        for text in ["", "k", "-1", "0", "1e12", "inf", "NaN", "5G", "5 k"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        for text in ["", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", ":80", "14572", "unix:"]
        {
            assert!(parse_addr(text).is_err(), "{text:?}");
        }
        for text in ["127.0.0.1:1", "[::1]:14572", "localhost:80", "unix:socket"] {
            assert!(parse_addr(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_usage_error_is_one_line_that_says_what_to_do() {
        let cases: [(&[&str], &str); 29] = [
            (&["--conn", "1"], "similar argument exists: '--conns'"),
            (&["--conns", "0"], "0 is not in 1.."),
            (&["--connect", "nowhere"], "an address is HOST:PORT"),
            (&["--duration", "30"], "such as 30s"),
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
            (&["--start-at", "2020-01-31T12:00:00Z"], "--start-at has passed"),
            (&["--tls-ca", "x"], "not provided: --tls"),
            (&["--label", "fast"], "such as build=1234"),
            (&["--tls"], "--tls is for a server that --connect names"),
            (&["--tls", "--connect", "unix:socket"], "--tls-server-name"),
            (&["--tls-ca", "ca.pem"], "--tls"),
            (&["--tls", "--tls-cert", "chain.pem"], "--tls-key"),
        ];
        for (args, expected) in cases {
            let problem = refused(args);
            assert!(problem.contains(expected), "{args:?}: {problem}");
        }
    }
}
