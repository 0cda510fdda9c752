//! The plan of a run: the options, checked against each other, and each part's share of connections, packets and time.
//!
//! It is plain data: nothing here connects, sends or measures.

pub(crate) mod clock;

pub(crate) mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use pktconn::{Addr, Checksum, CodecConfig, HeaderFormat, TlsClientConfig};

use crate::plan::clock::{Clock, whole_ns};
use crate::plan::schedule::Schedule;
use crate::traffic::arrivals::Arrival;
use crate::traffic::sizes::Sizes;
use crate::traffic::verify::Verify;

/// The highest `--rate`, in packets per second: more than any machine sends.
pub(crate) const MAX_RATE: f64 = 1e9;

/// The shortest `--interval`. People do not need shorter ones, and the work at the end of each interval must not show
/// in the figures.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The most intervals of a run. Each needs about 100 bytes of memory, and as much in the result.
pub(crate) const MAX_INTERVALS: u32 = 100_000;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The servers to load; if empty, the built-in echo server.
    pub(crate) connect: Vec<Addr>,
    pub(crate) tls: Option<Tls>,
    pub(crate) conns: usize,
    /// Connections to open per second; `None` for no limit.
    pub(crate) connect_rate: Option<f64>,
    pub(crate) pace: Pace,
    /// Closed loop: packets outstanding on each connection.
    pub(crate) pipeline: usize,
    pub(crate) verify: Verify,
    pub(crate) sizes: Sizes,
    pub(crate) amount: Amount,
    /// When to send the first packet; `None` for as soon as all connections are open.
    pub(crate) start_at: Option<SystemTime>,
    /// The time in which the load grows to its full level, before the warm-up.
    pub(crate) ramp: Duration,
    pub(crate) warmup: Duration,
    /// The length of an interval of the time series.
    pub(crate) interval: Duration,
    /// How long to wait for a connection to open, and for outstanding packets at the end.
    pub(crate) timeout: Duration,
    pub(crate) seed: u64,
    pub(crate) header: HeaderFormat,
    pub(crate) crc: bool,
    pub(crate) max_payload_len: u32,
    /// Open loop: how much of the load must be sent, in percent.
    pub(crate) min_offered_pct: f64,
    /// Whether a saturated load generator fails the run.
    pub(crate) strict_client: bool,
    /// Whether the run is shown live on the whole terminal.
    pub(crate) tui: bool,
    pub(crate) labels: BTreeMap<String, String>,
    /// The percentiles that the result lists, in percent, sorted.
    pub(crate) percentiles: Vec<f64>,
    /// Threads of the load generator, each with at least one connection.
    pub(crate) threads: usize,
    /// Threads of the built-in echo server.
    pub(crate) server_threads: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) trust: Trust,
    /// The name to expect in the server's certificate; `None` for the host of `--connect`.
    pub(crate) server_name: Option<String>,
}

/// Which certificates of a server are accepted.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Those that the configuration verifies.
    Verified(TlsClientConfig),
    /// Any, with `--tls-insecure`. The files are the client's own certificate chain and its key.
    Any { identity: Option<(PathBuf, PathBuf)> },
}

impl Tls {
    pub(crate) fn is_insecure(&self) -> bool {
        matches!(self.trust, Trust::Any { .. })
    }
}

/// When a connection sends its next packet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As soon as one has come back.
    Closed,
    /// When it is due by the schedule, regardless of responses.
    Open {
        /// Packets per second over all connections.
        rate: f64,
        arrival: Arrival,
        /// Per connection; packets that are due beyond this limit wait.
        max_outstanding: usize,
    },
}

/// How much to send after ramp and warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Time(Duration),
    /// The sum over all connections.
    Packets(u64),
}

impl Plan {
    /// Rejects combinations that cannot work. The error says what is wrong and what to do.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (len, max) = (self.sizes.distribution.max_len(), self.max_payload_len);
        if len > max {
            let enough = match len.is_power_of_two() && len >= 1 << 20 {
                true => format!("{}MiB", len >> 20),
                false => len.to_string(),
            };
            return Err(format!(
                "--sizes has payloads of up to {len} bytes, above the limit of {max}; raise it with \
                 --max-payload {enough}"
            ));
        }
        let header_max = self.header.max_payload_len();
        if len as usize > header_max {
            return Err(format!(
                "--sizes has payloads of up to {len} bytes, but --header {} allows up to {header_max}; use smaller \
                 sizes, or --header u32le or u32be",
                self.header
            ));
        }
        if self.amount == Amount::Time(Duration::ZERO) {
            return Err("--duration 0s sends nothing; give it a time, such as 10s".to_owned());
        }
        if self.timeout.is_zero() {
            return Err("--timeout 0s leaves no time for an answer; give it a time, such as 10s".to_owned());
        }
        if self.interval < MIN_INTERVAL {
            return Err(format!("--interval must be at least {}ms, such as 1s", MIN_INTERVAL.as_millis()));
        }
        if let Amount::Time(duration) = self.amount {
            let most = self.interval * MAX_INTERVALS;
            if duration > most {
                return Err(format!(
                    "--duration has more than {MAX_INTERVALS} intervals, the limit; raise --interval to {}s",
                    duration.as_secs().div_ceil(MAX_INTERVALS.into())
                ));
            }
        }
        if self.start_at.is_some_and(|start_at| start_at <= SystemTime::now()) {
            return Err("--start-at is in the past; give a later time, in UTC".to_owned());
        }
        let servers = self.connect.len();
        if self.conns < servers {
            return Err(format!(
                "--conns {} is below the number of servers (--connect); raise it to {servers}",
                self.conns
            ));
        }
        if let Some(tls) = &self.tls {
            if self.has_own_server() {
                return Err("--tls needs --connect HOST:PORT; the built-in echo server has no TLS".to_owned());
            }
            if tls.server_name.is_none() && self.connect.iter().any(|addr| addr.unix_path().is_some()) {
                return Err(
                    "--tls over a Unix socket needs --tls-server-name NAME, the name in the certificate \
                            of the server"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }

    /// Prints what the options give up. Called once, before the run.
    pub(crate) fn warn(&self) {
        if self.tls.as_ref().is_some_and(Tls::is_insecure) {
            eprintln!(
                "warning: --tls-insecure accepts any certificate: anyone on the network path can pose as the server"
            );
        }
    }

    pub(crate) fn has_own_server(&self) -> bool {
        self.connect.is_empty()
    }

    /// The wire format, for the load and for the built-in echo server.
    pub(crate) fn codec(&self) -> CodecConfig {
        let checksum = if self.crc { Checksum::Crc32 } else { Checksum::None };
        CodecConfig::new()
            .header(self.header)
            .checksum(checksum)
            .max_payload_len(self.max_payload_len as usize)
    }

    /// The connections of a worker. They are dealt out in turn: connections with consecutive numbers are due one after
    /// the other, and must not all belong to the same worker.
    pub(crate) fn conns_of(&self, worker: usize) -> impl Iterator<Item = usize> + use<> {
        (worker..self.conns).step_by(self.threads)
    }

    /// How many packets a connection sends after the warm-up; `None` if a duration ends the run. If the number does not
    /// divide evenly, the first connections send one packet more.
    pub(crate) fn packets_of(&self, conn: usize) -> Option<u64> {
        let Amount::Packets(packets) = self.amount else { return None };
        let conns = self.conns as u64;
        Some(packets / conns + u64::from((conn as u64) < packets % conns))
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.pace, Pace::Open { .. })
    }

    /// Maximum number of packets outstanding on a connection.
    pub(crate) fn most_outstanding(&self) -> usize {
        match self.pace {
            Pace::Closed => self.pipeline,
            Pace::Open { max_outstanding, .. } => max_outstanding,
        }
    }

    pub(crate) fn schedule(&self, start: Instant) -> Schedule {
        let measure_from_ns = whole_ns(self.ramp + self.warmup);
        let stop_at_ns = match self.amount {
            Amount::Time(duration) => Some(measure_from_ns + whole_ns(duration)),
            Amount::Packets(_) => None,
        };
        Schedule {
            clock: Clock::new(start),
            measure_from_ns,
            stop_at_ns,
            interval_ns: whole_ns(self.interval),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A valid plan; tests change what they need.
    pub(crate) fn plan() -> Plan {
        Plan {
            connect: Vec::new(),
            tls: None,
            conns: 10,
            connect_rate: None,
            pace: Pace::Closed,
            pipeline: 1,
            verify: Verify::Full,
            sizes: "0-2048".parse().unwrap(),
            amount: Amount::Packets(1000),
            start_at: None,
            ramp: Duration::ZERO,
            warmup: Duration::ZERO,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            seed: 1,
            header: HeaderFormat::U32Le,
            crc: false,
            max_payload_len: 32 * 1024 * 1024,
            min_offered_pct: 99.0,
            strict_client: false,
            tui: false,
            labels: BTreeMap::new(),
            percentiles: crate::result::latency::PERCENTILES.to_vec(),
            threads: 1,
            server_threads: 1,
        }
    }

    #[test]
    fn every_connection_belongs_to_one_worker_and_every_worker_has_one() {
        for (conns, threads) in [(1, 1), (10, 3), (7, 7), (1000, 64)] {
            let plan = Plan { conns, threads, ..plan() };
            let shares: Vec<Vec<_>> = (0..threads).map(|worker| plan.conns_of(worker).collect()).collect();
            assert!(shares.iter().all(|share| !share.is_empty()), "{conns} on {threads}: {shares:?}");
            let mut all: Vec<_> = shares.into_iter().flatten().collect();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..conns), "{conns} on {threads}");
        }
    }

    #[test]
    fn the_shares_of_the_connections_add_up_to_the_packets() {
        for (packets, conns) in [(1000, 10), (1003, 10), (3, 10), (1, 1)] {
            let plan = Plan { amount: Amount::Packets(packets), conns, ..plan() };
            let shares: Vec<_> = (0..conns).map(|conn| plan.packets_of(conn).unwrap()).collect();
            assert_eq!(shares.iter().sum::<u64>(), packets);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
        assert_eq!(Plan { amount: Amount::Time(Duration::from_secs(1)), ..plan() }.packets_of(0), None);
    }

    #[test]
    fn a_plan_that_cannot_work_is_rejected_with_advice() {
        let sizes = |text: &str| text.parse().unwrap();
        let cases = [
            (Plan { sizes: sizes("0-64MiB"), ..plan() }, "--max-payload 64MiB"),
            (Plan { sizes: sizes("9"), max_payload_len: 8, ..plan() }, "--max-payload 9"),
            (Plan { amount: Amount::Time(Duration::ZERO), ..plan() }, "such as 10s"),
        ];
        for (plan, expected) in cases {
            let problem = plan.check().unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        assert_eq!(plan().check(), Ok(()));
    }
}
