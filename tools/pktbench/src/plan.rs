//! What a run is to do: the options, checked against each other, and what follows from them for each part of the run.

use std::ops::Range;
use std::time::{Duration, Instant};

use pktconn::{Addr, Checksum, CodecConfig, HeaderFormat, TlsClientConfig};

use crate::sizes::Sizes;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The servers to load; without one, a server of its own.
    pub(crate) connect: Vec<Addr>,
    pub(crate) tls: Option<Tls>,
    pub(crate) conns: usize,
    /// Packets outstanding on each connection.
    pub(crate) pipeline: usize,
    pub(crate) sizes: Sizes,
    pub(crate) amount: Amount,
    pub(crate) warmup: Duration,
    /// How long to wait for a connection, and for what is outstanding at the end.
    pub(crate) timeout: Duration,
    pub(crate) seed: u64,
    pub(crate) header: HeaderFormat,
    pub(crate) crc: bool,
    pub(crate) max_payload_len: u32,
    /// Threads of the load, each with at least one connection.
    pub(crate) threads: usize,
    /// Threads of the server of its own.
    pub(crate) server_threads: usize,
}

/// How to speak TLS.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: TlsClientConfig,
    /// Whom the certificate must be for, if not the host that is connected to.
    pub(crate) server_name: Option<String>,
}

/// How much to send after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Time(Duration),
    /// Over all connections.
    Packets(u64),
}

/// The plan on the clock: known once all connections are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Packets sent from here on count.
    pub(crate) measure_from: Instant,
    /// Nothing is sent from here on; `None` where a number of packets ends the run.
    pub(crate) stop_at: Option<Instant>,
}

impl Plan {
    /// Refuses what cannot work. The error says what, and what to do.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.sizes.max_len > self.max_payload_len {
            let (len, max) = (self.sizes.max_len, self.max_payload_len);
            let enough = match len.is_power_of_two() && len >= 1 << 20 {
                true => format!("{}MiB", len >> 20),
                false => len.to_string(),
            };
            return Err(format!(
                "--sizes of up to {len} bytes are above the limit of {max}; raise it with --max-payload {enough}"
            ));
        }
        let sayable = self.header.max_payload_len();
        if self.sizes.max_len as usize > sayable {
            let len = self.sizes.max_len;
            return Err(format!(
                "--sizes of up to {len} bytes are more than --header {} can say, {sayable}",
                self.header
            ));
        }
        if self.amount == Amount::Time(Duration::ZERO) {
            return Err("--duration 0s sends nothing; give it a time, such as 10s".to_owned());
        }
        if self.timeout.is_zero() {
            return Err("--timeout 0s waits for no packet; give it a time, such as 10s".to_owned());
        }
        let servers = self.connect.len();
        if self.conns < servers {
            return Err(format!("--conns {} are fewer than the servers; raise it to {servers}", self.conns));
        }
        if let Some(tls) = &self.tls {
            if self.has_own_server() {
                return Err(
                    "--tls is for a server that --connect names; that of its own speaks none".to_owned()
                );
            }
            if tls.server_name.is_none() && self.connect.iter().any(|addr| addr.unix_path().is_some()) {
                return Err("--tls over a Unix socket needs --tls-server-name".to_owned());
            }
        }
        Ok(())
    }

    pub(crate) fn has_own_server(&self) -> bool {
        self.connect.is_empty()
    }

    /// The format of the packets, on both sides.
    pub(crate) fn codec(&self) -> CodecConfig {
        let checksum = if self.crc { Checksum::Crc32 } else { Checksum::None };
        CodecConfig::new()
            .header(self.header)
            .checksum(checksum)
            .max_payload_len(self.max_payload_len as usize)
    }

    /// The connections of a worker, of `threads` in all.
    pub(crate) fn conns_of(&self, worker: usize) -> Range<usize> {
        let first_of = |worker| self.conns * worker / self.threads;
        first_of(worker)..first_of(worker + 1)
    }

    /// How many packets a connection sends after the warm-up, where their number is given: the same on each, and one
    /// more on the first ones where they do not divide.
    pub(crate) fn packets_of(&self, conn: usize) -> Option<u64> {
        let Amount::Packets(packets) = self.amount else { return None };
        let conns = self.conns as u64;
        Some(packets / conns + u64::from((conn as u64) < packets % conns))
    }

    pub(crate) fn schedule(&self, start: Instant) -> Schedule {
        let measure_from = start + self.warmup;
        let stop_at = match self.amount {
            Amount::Time(duration) => Some(measure_from + duration),
            Amount::Packets(_) => None,
        };
        Schedule { measure_from, stop_at }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan for tests to change.
    pub(crate) fn plan() -> Plan {
        Plan {
            connect: Vec::new(),
            tls: None,
            conns: 10,
            pipeline: 1,
            sizes: Sizes { min_len: 0, max_len: 2048 },
            amount: Amount::Packets(1000),
            warmup: Duration::ZERO,
            timeout: Duration::from_secs(10),
            seed: 1,
            header: HeaderFormat::U32Le,
            crc: false,
            max_payload_len: 32 * 1024 * 1024,
            threads: 1,
            server_threads: 1,
        }
    }

    #[test]
    fn every_connection_belongs_to_one_worker_and_every_worker_has_one() {
        for (conns, threads) in [(1, 1), (10, 3), (7, 7), (1000, 64)] {
            let plan = Plan { conns, threads, ..plan() };
            let shares: Vec<_> = (0..threads).map(|worker| plan.conns_of(worker)).collect();
            assert!(shares.iter().all(|share| !share.is_empty()), "{conns} on {threads}: {shares:?}");
            assert!(shares.into_iter().flatten().eq(0..conns), "{conns} on {threads}");
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
    fn what_cannot_work_is_refused_with_a_way_out() {
        let large = Sizes { min_len: 0, max_len: 64 << 20 };
        let cases = [
            (Plan { sizes: large, ..plan() }, "--max-payload 64MiB"),
            (
                Plan { sizes: Sizes { min_len: 9, max_len: 9 }, max_payload_len: 8, ..plan() },
                "--max-payload 9",
            ),
            (Plan { amount: Amount::Time(Duration::ZERO), ..plan() }, "such as 10s"),
        ];
        for (plan, expected) in cases {
            let problem = plan.check().unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        assert_eq!(plan().check(), Ok(()));
    }
}
