//! The options that limit what clients may use. By default, the machine decides: its memory and its open files.

use std::fmt;

use bytesize::ByteSize;
use clap::Args;
use pktconn::{ConnRate, MachineLimits, ServerConfig};
use pktconn_tools::values::whole_number;

#[derive(Debug, Args)]
pub(crate) struct LimitOptions {
    /// Use the limits for the open Internet: the defaults marked with --edge
    #[arg(long)]
    pub(super) edge: bool,

    /// Maximum number of connections, or 'off'; further ones are closed immediately. 'auto': the limit on open files
    /// (ulimit -Hn), less 64 or half of it
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_number)]
    max_conns: Limit,

    /// Maximum number of connections per client: per IPv4 address, or per IPv6 /64 network. An IPv6 /56 may have 4 times
    /// as many, and a /48 16 times. 'auto': 'off', or 100 with --edge
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_number)]
    max_conns_per_ip: Limit,

    /// Maximum number of new connections per second and client, counted like those of --max-conns-per-ip. 5 times as
    /// many may come at once; a client that goes on at more than twice the rate is refused for 10 s. 'auto': 'off', or 20
    /// with --edge
    #[arg(long, value_name = "N", default_value = "auto", value_parser = parse_number)]
    conn_rate_per_ip: Limit,

    /// Maximum memory of all connections together, such as 256MiB, or 'off'. At three quarters of it, the clients that
    /// hold the most are not read, and their new connections are refused; beyond it, their connections are closed.
    /// 'auto': a quarter of the memory of the machine or of the limit of its cgroup
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = parse_memory)]
    memory_budget: Limit,

    /// Maximum number of running TLS and PROXY handshakes; a new one ends the oldest one of the client that has the most
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole_number::<usize>(1.., 1024))]
    max_handshakes: usize,

    /// Maximum memory of the whole process, such as 2GiB, or 'off'. While it uses more, new connections are refused, and
    /// open ones are served. 'auto': three quarters of the memory of the machine or of the limit of its cgroup
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = parse_memory)]
    max_process_memory: Limit,
}

/// The value of a limit that the machine can decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Auto,
    Off,
    At(usize),
}

impl Limit {
    fn or(self, auto: Option<usize>) -> Option<usize> {
        match self {
            Self::Auto => auto,
            Self::Off => None,
            Self::At(limit) => Some(limit),
        }
    }
}

/// The limits of all servers of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    max_conns: Option<usize>,
    memory_budget: Option<usize>,
    max_conns_per_ip: Option<usize>,
    conn_rate_per_ip: Option<usize>,
    max_handshakes: usize,
    max_process_memory: Option<usize>,
}

impl LimitOptions {
    /// Whether the user has chosen a limit that counts for all connections together.
    pub(super) fn has_total(&self) -> bool {
        let limits = [self.max_conns, self.max_conns_per_ip, self.conn_rate_per_ip, self.memory_budget];
        limits.iter().any(|limit| matches!(limit, Limit::At(_)))
    }

    pub(crate) fn on(&self, machine: MachineLimits) -> Limits {
        Limits {
            max_conns: self.max_conns.or(machine.max_conns()),
            memory_budget: self.memory_budget.or(Some(machine.memory_budget())),
            max_conns_per_ip: self.max_conns_per_ip.or(self.edge.then_some(EDGE_CONNS_PER_IP)),
            conn_rate_per_ip: self.conn_rate_per_ip.or(self.edge.then_some(EDGE_CONN_RATE_PER_IP)),
            max_handshakes: self.max_handshakes,
            max_process_memory: self.max_process_memory.or(machine.max_process_memory()),
        }
    }
}

impl Limits {
    /// Sets the limits of one of `servers` that share the machine.
    pub(crate) fn apply(&self, config: ServerConfig, servers: usize) -> ServerConfig {
        let share = |limit: usize| (limit / servers).max(1);
        let rate = |per_second| ConnRate::per_second(u32::try_from(per_second).unwrap_or(u32::MAX));
        config
            .max_conns(self.max_conns.map(share))
            .max_conns_per_ip(self.max_conns_per_ip)
            .conn_rate_per_ip(self.conn_rate_per_ip.map(rate))
            .memory_budget(self.memory_budget.map(|bytes| share(bytes).max(MIN_BUDGET)))
            .max_handshakes(self.max_handshakes)
            // Not shared: each server looks at the memory of the whole process.
            .max_process_memory(self.max_process_memory)
    }

    /// Whether a single client can use up what the others need.
    pub(crate) fn allow_one_client_all(&self) -> bool {
        self.max_conns_per_ip.is_none()
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max_conns {
            Some(conns) => write!(f, "{conns} connections")?,
            None => write!(f, "any number of connections")?,
        }
        if let Some(conns) = self.max_conns_per_ip {
            write!(f, " ({conns} per client)")?;
        }
        if let Some(rate) = self.conn_rate_per_ip {
            write!(f, ", {rate} new ones per second and client")?;
        }
        match self.memory_budget {
            Some(bytes) => write!(f, ", {} of memory for them", ByteSize(bytes as u64).display().iec()),
            None => write!(f, ", any amount of memory for them"),
        }?;
        match self.max_process_memory {
            Some(bytes) => write!(f, ", no new ones above {} in all", ByteSize(bytes as u64).display().iec()),
            None => Ok(()),
        }
    }
}

/// As in `ServerConfig::edge`.
const EDGE_CONNS_PER_IP: usize = 100;
const EDGE_CONN_RATE_PER_IP: usize = 20;

/// The smallest budget that a server accepts.
const MIN_BUDGET: usize = 1 << 20;

fn parse_number(text: &str) -> Result<Limit, String> {
    parse_limit(text, |text| text.parse().ok().filter(|&conns| conns > 0))
        .ok_or_else(|| "expected a whole number of at least 1, such as 1000, or 'auto' or 'off'".to_owned())
}

fn parse_memory(text: &str) -> Result<Limit, String> {
    let bytes = |text: &str| usize::try_from(text.parse::<ByteSize>().ok()?.as_u64()).ok();
    parse_limit(text, |text| bytes(text).filter(|&bytes| bytes >= MIN_BUDGET)).ok_or_else(|| {
        "expected a size of at least 1MiB, such as 256MiB or 4GiB, or 'auto' or 'off'".to_owned()
    })
}

fn parse_limit(text: &str, parse: impl Fn(&str) -> Option<usize>) -> Option<Limit> {
    match text {
        "auto" => Some(Limit::Auto),
        "off" => Some(Limit::Off),
        _ => parse(text).map(Limit::At),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_off_or_left_to_the_machine() {
        assert_eq!(parse_number("1000"), Ok(Limit::At(1000)));
        assert_eq!(parse_memory("1MiB"), Ok(Limit::At(1 << 20)));
        for (text, limit) in [("auto", Limit::Auto), ("off", Limit::Off)] {
            assert_eq!((parse_number(text), parse_memory(text)), (Ok(limit), Ok(limit)));
        }
        for text in ["", "0", "-1", "none", "1.5"] {
            assert!(parse_number(text).is_err(), "{text:?}");
            assert!(parse_memory(text).is_err(), "{text:?}");
        }
        assert!(parse_memory("1023KiB").unwrap_err().contains("256MiB"));
    }
}
