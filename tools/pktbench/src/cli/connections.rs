//! The options of connections: how many, how they are opened, and for how long they are open.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use pktconn_tools::values::whole_number;

use crate::plan::ConnectTo;
use crate::traffic::parse::{parse_rate, parse_time};

#[derive(Debug, Args)]
pub(super) struct ConnectionOptions {
    /// Number of connections
    ///
    /// The soft limit on open files is raised if needed, up to the hard limit.
    #[arg(help_heading = "Connections", short = 'c', long, value_name = "N", default_value = "64", default_value_if("conns_per_second", clap::builder::ArgPredicate::IsPresent, "1024"), value_parser = whole_number::<u32>(1.., 64))]
    pub(super) conns: u32,

    /// Connections to open per second, such as 500 or 2k [default: unlimited]
    #[arg(help_heading = "Connections", long, value_name = "RATE", value_parser = parse_rate)]
    pub(super) connect_rate: Option<f64>,

    /// Connections to open per second during the whole run: an open loop of connections
    ///
    /// Each connection sends packets in a closed loop and is closed after --conn-packets or --conn-lifetime. At most
    /// --conns [then by default 1024] are open at the same time; a connection that is due beyond that waits, and the wait
    /// is part of its connect latency. Cannot be combined with --rate, --stages, --replay, --packets, --search-max,
    /// --connect-rate or --start-at.
    #[arg(help_heading = "Connections", long, value_name = "RATE", value_parser = parse_rate, conflicts_with_all = ["rate", "packets", "search_max", "connect_rate", "start_at", "stages", "replay"])]
    pub(super) conns_per_second: Option<f64>,

    /// Packets after which a connection is closed and replaced by a new one
    #[arg(help_heading = "Connections", long, value_name = "N", value_parser = whole_number::<u64>(1.., 100))]
    pub(super) conn_packets: Option<u64>,

    /// Time after which a connection is closed and replaced by a new one
    ///
    /// It first waits for the answers to its packets.
    #[arg(help_heading = "Connections", long, value_name = "TIME", value_parser = parse_time)]
    pub(super) conn_lifetime: Option<Duration>,

    /// Threads that send and receive, 1 to 1024 [default: half of the cores, at least 1]
    ///
    /// No more threads than connections are started. The built-in echo server uses the other cores.
    #[arg(help_heading = "Connections", short = 't', long, value_name = "N", value_parser = whole_number::<u16>(1..=1024, 4))]
    pub(super) threads: Option<u16>,

    /// Address to dial instead of those that the name of ADDR resolves to: IP or IP:PORT
    ///
    /// A name may have several addresses. Connection i dials address i mod n, in the order of the resolver, and the result
    /// shows each address. Repeat the option for several addresses.
    #[arg(help_heading = "Connections", long, value_name = "IP[:PORT]", value_parser = parse_connect_to)]
    pub(super) connect_to: Vec<ConnectTo>,

    /// Local IP addresses to connect from, in turn, separated by commas
    ///
    /// One address has about 28,000 ports for connections to the same server; several allow more connections.
    #[arg(help_heading = "Connections", long, value_name = "IP", value_delimiter = ',')]
    pub(super) source_addr: Vec<IpAddr>,
}

/// An IP address with an optional port.
fn parse_connect_to(text: &str) -> Result<ConnectTo, String> {
    let socket = |addr: SocketAddr| ConnectTo { ip: addr.ip(), port: Some(addr.port()) };
    let ip = |ip| ConnectTo { ip, port: None };
    let bare = text.trim_matches(['[', ']']).parse().map(ip);
    text.parse()
        .map(socket)
        .or(bare)
        .map_err(|_| "write an IP address, such as 10.0.0.7 or 10.0.0.7:14572".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_address_may_have_a_port() {
        let pinned = |text| parse_connect_to(text).map(|to| (to.ip.to_string(), to.port));
        assert_eq!(pinned("10.0.0.7"), Ok(("10.0.0.7".to_owned(), None)));
        assert_eq!(pinned("10.0.0.7:80"), Ok(("10.0.0.7".to_owned(), Some(80))));
        assert_eq!(pinned("[::1]:80"), Ok(("::1".to_owned(), Some(80))));
        assert_eq!(pinned("::1"), Ok(("::1".to_owned(), None)));
        assert!(pinned("example.org").unwrap_err().contains("such as 10.0.0.7"));
    }
}
