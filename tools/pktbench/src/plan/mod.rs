//! The plan of a run: the options, checked against each other, and each part's share of connections, packets and time.
//!
//! It is plain data: nothing here connects, sends or measures.

pub(crate) mod clock;

pub(crate) mod schedule;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use pktconn::{Addr, Checksum, CodecConfig, HeaderFormat, TlsClientConfig};
use pktconn_tools::printable::print_warning;

use crate::plan::clock::{Clock, whole_ns};
use crate::plan::schedule::{Grid, Schedule};
use crate::traffic::arrivals::Arrival;
pub(crate) use crate::traffic::parse::MAX_RATE;
use crate::traffic::profile::{ENDLESS_NS, Piece, Profile, Shape};
use crate::traffic::recorded::Replay;
use crate::traffic::sizes::{Distribution, Sizes};
use crate::traffic::stages::Stages;
use crate::traffic::verify::Verify;

/// The shortest `--interval`. People do not need shorter ones, and the work at the end of each interval must not show
/// in the figures.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The most intervals of a run. Each needs about 120 bytes of memory, and twice as much in the result.
pub(crate) const MAX_INTERVALS: u32 = 100_000;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The servers to load; if empty, the built-in echo server.
    pub(crate) connect: Vec<Addr>,
    /// Addresses to dial instead of those that the names in `connect` resolve to.
    pub(crate) connect_to: Vec<ConnectTo>,
    /// Local addresses to connect from, in turn; empty for the choice of the system.
    pub(crate) source_addrs: Vec<IpAddr>,
    pub(crate) tls: Option<Tls>,
    /// The number of connections at the same time.
    pub(crate) conns: usize,
    /// Connections to open per second; `None` for no limit.
    pub(crate) connect_rate: Option<f64>,
    /// Connections to open per second during the whole run (an open loop of connections); `None` to keep `conns` open.
    pub(crate) conns_per_second: Option<f64>,
    /// After how many packets a connection is closed and replaced.
    pub(crate) conn_packets: Option<u64>,
    /// After what time a connection is closed and replaced.
    pub(crate) conn_lifetime: Option<Duration>,
    /// How long an answer may take before its connection fails.
    pub(crate) packet_timeout: Option<Duration>,
    pub(crate) pace: Pace,
    /// The course of the rate of an open loop; `None` if it is constant. `amount` is its duration then.
    pub(crate) stages: Option<Arc<Stages>>,
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
    /// Whether the ages of outstanding packets are recorded at the end of each interval, for `--abort-on`.
    pub(crate) watches_outstanding: bool,
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

/// A value of `--connect-to`: an IP address, and a port if it is not that of `--connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectTo {
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
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
        /// Packets per second over all connections; with stages, the mean.
        rate: f64,
        arrival: Arrival,
        /// Per connection; packets that are due beyond this limit wait.
        max_outstanding: usize,
    },
    /// When it is due by the capture, regardless of responses.
    Replay {
        replay: Replay,
        /// As in `Open`.
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
        self.check_sizes()?;
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
            // The end of each stage is the end of an interval, too.
            let stages = self.stages.as_ref().map_or(0, |stages| stages.stages.len() as u32);
            let most = MAX_INTERVALS - stages;
            if duration > self.interval * most {
                return Err(format!(
                    "{} has more than {MAX_INTERVALS} intervals, the limit; raise --interval to {}s",
                    if stages == 0 { "--duration" } else { "--stages" },
                    duration.as_secs().div_ceil(most.into())
                ));
            }
        }
        for (option, time) in
            [("--conn-lifetime", self.conn_lifetime), ("--packet-timeout", self.packet_timeout)]
        {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(format!("{option} 0s allows no packet; give it a time, such as 1s"));
            }
        }
        if self.conns_per_second.is_some() && !self.has_churn() {
            return Err(
                "--conns-per-second needs --conn-packets or --conn-lifetime: without them no connection ever ends"
                    .to_owned(),
            );
        }
        if self.connect.len() > 1 && !self.connect_to.is_empty() {
            return Err("--connect-to is for one --connect; give it the addresses of that server".to_owned());
        }
        if let Pace::Replay { replay, .. } = self.pace {
            let (lasts, most) = (Duration::from_nanos(replay.last_due_ns()), self.interval * MAX_INTERVALS);
            if lasts > most {
                return Err(format!(
                    "--replay lasts {} s at this --speed, more than {MAX_INTERVALS} intervals, the limit; raise \
                     --speed or --interval",
                    lasts.as_secs()
                ));
            }
        }
        if self.start_at.is_some_and(|start_at| start_at <= SystemTime::now()) {
            return Err("--start-at is in the past; give a later time, in UTC".to_owned());
        }
        let servers = self.connect.len();
        if self.conns < servers && matches!(self.pace, Pace::Replay { .. }) {
            return Err(format!(
                "--replay has {} connections, too few for {servers} servers (--connect); leave out some servers",
                self.conns
            ));
        }
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

    /// Rejects payloads that the wire format or the server does not allow.
    fn check_sizes(&self) -> Result<(), String> {
        let (len, max) = (self.sizes.distribution.max_len(), self.max_payload_len);
        let what = match (self.sizes.distribution, self.pace) {
            (Distribution::Own(own), _) => format!("{} has {len} bytes", own.largest_name),
            (_, Pace::Replay { replay, .. }) => format!("{} has packets of up to {len} bytes", replay.file),
            _ => format!("--sizes has payloads of up to {len} bytes"),
        };
        if len > max {
            let enough = match len.is_power_of_two() && len >= 1 << 20 {
                true => format!("{}MiB", len >> 20),
                false => len.to_string(),
            };
            return Err(format!("{what}, above the limit of {max}; raise it with --max-payload {enough}"));
        }
        let header_max = self.header.max_payload_len();
        if len as usize > header_max {
            return Err(format!(
                "{what}, but --header {} allows up to {header_max}; use smaller sizes, or --header u32le or u32be",
                self.header
            ));
        }
        Ok(())
    }

    /// Prints what the options give up. Called once, before the run.
    pub(crate) fn warn(&self) {
        if self.tls.as_ref().is_some_and(Tls::is_insecure) {
            print_warning(
                "--tls-insecure accepts any certificate: anyone on the network path can pose as the server",
            );
        }
    }

    pub(crate) fn has_own_server(&self) -> bool {
        self.connect.is_empty()
    }

    /// The wire format, for the load and for the built-in echo server.
    pub(crate) fn codec(&self) -> CodecConfig {
        codec(self.header, self.crc, self.max_payload_len)
    }

    /// The connections of a worker. They are dealt out in turn: connections with consecutive numbers are due one after
    /// the other, and must not all belong to the same worker.
    pub(crate) fn conns_of(&self, worker: usize) -> impl Iterator<Item = usize> + use<> {
        (worker..self.conns).step_by(self.threads)
    }

    /// How many packets a connection sends after the warm-up; `None` if a duration ends the run. If the number does not
    /// divide evenly, the first connections send one packet more.
    pub(crate) fn packets_of(&self, conn: usize) -> Option<u64> {
        if let Pace::Replay { replay, .. } = self.pace {
            return Some(replay.flows[conn].packets.len() as u64);
        }
        let Amount::Packets(packets) = self.amount else { return None };
        let conns = self.conns as u64;
        Some(packets / conns + u64::from((conn as u64) < packets % conns))
    }

    /// Whether opening connections is part of the load.
    pub(crate) fn has_churn(&self) -> bool {
        self.conn_packets.is_some() || self.conn_lifetime.is_some()
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.pace, Pace::Closed)
    }

    /// Maximum number of packets outstanding on a connection.
    pub(crate) fn most_outstanding(&self) -> usize {
        match self.pace {
            Pace::Closed => self.pipeline,
            Pace::Open { max_outstanding, .. } | Pace::Replay { max_outstanding, .. } => max_outstanding,
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
            grid: self.grid(),
            profile: self.profile(),
        }
    }

    /// The intervals of the time series.
    pub(crate) fn grid(&self) -> Grid {
        Grid::new(whole_ns(self.interval), self.stages.iter().flat_map(|stages| stages.ends_ns()))
    }

    /// The course of the rate, ramp and warm-up included; `None` in a closed loop. It is never freed: all connections
    /// refer to it, and a run needs only one.
    fn profile(&self) -> Option<&'static Profile> {
        let rate = match self.pace {
            Pace::Open { rate, .. } => rate,
            Pace::Closed => self.conns_per_second?,
            Pace::Replay { .. } => return None,
        };
        let (measured, start_rate) = match &self.stages {
            Some(stages) => (stages.pieces(), stages.start_rate()),
            None => (vec![Piece { shape: Shape::Constant(rate), length_ns: ENDLESS_NS }], rate),
        };
        let before = [
            Piece { shape: Shape::Linear { from: 0.0, to: rate }, length_ns: whole_ns(self.ramp) },
            Piece { shape: Shape::Constant(start_rate), length_ns: whole_ns(self.warmup) },
        ];
        Some(Box::leak(Box::new(Profile::new(&before, &measured))))
    }
}

pub(crate) fn codec(header: HeaderFormat, crc: bool, max_payload_len: u32) -> CodecConfig {
    let checksum = if crc { Checksum::Crc32 } else { Checksum::None };
    CodecConfig::new().header(header).checksum(checksum).max_payload_len(max_payload_len as usize)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::traffic::capture::{Flow, RecordedPacket};

    /// A valid plan; tests change what they need.
    pub(crate) fn plan() -> Plan {
        Plan {
            connect: Vec::new(),
            connect_to: Vec::new(),
            source_addrs: Vec::new(),
            tls: None,
            conns: 10,
            connect_rate: None,
            conns_per_second: None,
            conn_packets: None,
            conn_lifetime: None,
            packet_timeout: None,
            pace: Pace::Closed,
            stages: None,
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
            watches_outstanding: false,
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
    fn a_connection_of_a_replay_sends_the_packets_of_its_flow() {
        let flow = |count| Flow { packets: vec![RecordedPacket { offset_ns: 1, len: 9 }; count] };
        let flows = vec![flow(3), flow(1)].leak();
        let replay = Replay { file: "a.pcap", tcp_port: 1, speed: 1.0, flows, by_segment: 0 };
        let plan = Plan {
            pace: Pace::Replay { replay, max_outstanding: 8 },
            amount: Amount::Packets(replay.packets()),
            sizes: Sizes::recorded(flows),
            conns: 2,
            ..plan()
        };
        assert_eq!([0, 1].map(|conn| plan.packets_of(conn)), [Some(3), Some(1)]);
        assert_eq!((plan.is_open(), plan.most_outstanding(), plan.check()), (true, 8, Ok(())));
        let problem = Plan { max_payload_len: 8, ..plan }.check().unwrap_err();
        assert!(
            problem.starts_with("a.pcap has packets of up to 9 bytes, above the limit of 8; "),
            "{problem}"
        );
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
