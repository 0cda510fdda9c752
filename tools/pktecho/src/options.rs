//! The command line: the options, their checks, and the configuration that they stand for.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use pktconn::{
    Addr, Checksum, CodecConfig, ConnConfig, ConnRate, HeaderFormat, IpNet, ServerConfig, SlowConsumer,
    TlsServerConfig,
};
use pktconn_tools::usage;
use pktconn_tools::values::{parse_duration, parse_listen_addr, parse_size, parse_tcp_addr, whole_number};

/// An echo server for length-prefixed packets.
///
/// Sends every packet back to its sender, in order. SIGINT or SIGTERM stops it: it accepts no new connections, echoes
/// the packets that it has received, closes its connections, prints totals and exits with 0. A second signal ends it at
/// once.
///
/// Exit codes: 0 after a signal, 1 if it cannot start, 2 for bad usage.
#[derive(Debug, Parser)]
#[command(
    version,
    allow_negative_numbers = true,
    after_help = "Example:\n  pktecho --listen 127.0.0.1:0 --threads 1 --stats"
)]
pub(crate) struct Options {
    /// Address to listen on, HOST:PORT or unix:PATH; port 0 asks for a free port. May be given several times. The
    /// server also listens on sockets that systemd passes [default: 0.0.0.0:14572, unless systemd passes a socket]
    #[arg(long, value_name = "ADDR", value_parser = parse_listen_addr)]
    pub(crate) listen: Vec<Addr>,

    /// Let other servers listen on the same port; the kernel distributes the connections
    #[arg(long)]
    pub(crate) reuse_port: bool,

    /// Number of threads that serve connections [default: number of cores]
    #[arg(long, value_name = "N", default_value_t = cores(), value_parser = whole_number::<usize>(1..=1024, 4), hide_default_value = true)]
    pub(crate) threads: usize,

    /// How several threads share the connections
    #[arg(long, value_enum, default_value_t = Runtimes::Shared)]
    pub(crate) runtimes: Runtimes,

    /// Send a CRC-32 after each payload, and expect one. Clients must do the same
    #[arg(long)]
    crc: bool,

    /// Format of the length in the header: u32le, u32be, u16le or u16be
    #[arg(long, value_name = "FORMAT", default_value_t = HeaderFormat::U32Le)]
    header: HeaderFormat,

    /// Maximum length of a payload in bytes, such as 4096, 64KiB or 32MiB [default: 32MiB, or the maximum of --header
    /// if that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_payload: Option<u32>,

    /// What to do with a client that reads too slowly, once 1 MiB of replies is queued
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = SlowConsumerPolicy::Block)]
    slow_consumer: SlowConsumerPolicy,

    /// Maximum number of connections; further ones are closed immediately [default: limited only by open files]
    #[arg(long, value_name = "N", value_parser = whole_number::<usize>(1.., 1000))]
    max_conns: Option<usize>,

    /// Maximum number of connections per client: per IPv4 address, or per IPv6 /64 network. An IPv6 /56 may have 4 times
    /// as many, and a /48 16 times [default: no limit]
    #[arg(long, value_name = "N", value_parser = whole_number::<usize>(1.., 1000))]
    max_conns_per_ip: Option<usize>,

    /// Maximum number of new connections per second and client, counted like those of --max-conns-per-ip. 5 times as
    /// many may come at once; a client that goes on at more than twice the rate is refused for 10 s [default: no limit]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1.., 20))]
    conn_rate_per_ip: Option<u32>,

    /// Maximum memory of all connections together, such as 256MiB. Beyond it, the connections that hold the most are
    /// not read, then closed, and new ones are refused [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    memory_budget: Option<usize>,

    /// Certificate chain of the server, a PEM file; clients must then use TLS. SIGHUP reloads the chain and the key
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Certificate authorities of the clients, a PEM file; clients must then present a certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// Expect a PROXY protocol header, version 1 or 2, at the beginning of each connection
    #[arg(long, requires = "trusted_proxy")]
    proxy_protocol: bool,

    /// Network of the proxies, such as 10.0.0.0/8 or 127.0.0.1; connections from other addresses are closed. May be
    /// given several times
    #[arg(long, value_name = "NET", requires = "proxy_protocol", value_parser = parse_network)]
    trusted_proxy: Vec<IpNet>,

    /// Timeout of the TLS handshake and of the PROXY header, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    handshake_timeout: Timeout,

    /// Maximum time from the first to the last byte of a packet, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    frame_timeout: Timeout,

    /// Maximum time in which the client sends nothing and receives nothing, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = parse_timeout)]
    idle_timeout: Timeout,

    /// Maximum time in which the client reads none of the waiting replies, or 'off'
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    write_timeout: Timeout,

    /// Address for Prometheus metrics under /metrics, such as 127.0.0.1:9100; port 0 asks for a free port. It has no
    /// access control [default: off]
    #[arg(long, value_name = "ADDR", value_parser = parse_tcp_addr)]
    pub(crate) metrics: Option<Addr>,

    /// Print a line per second: connections, packets/s, MB/s of payload
    #[arg(long)]
    pub(crate) stats: bool,

    /// Print a line for each connection at its end: client, duration, packets, bytes, reason. At most 1,000 lines per
    /// second
    #[arg(long)]
    pub(crate) access_log: bool,

    /// How long connections may take to finish after the server was stopped
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain_timeout: Duration,
}

/// How several threads share the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Runtimes {
    /// Each thread has its own runtime, and the kernel distributes the connections among them (Linux)
    #[value(name = "own")]
    PerThread,
    /// All threads share one runtime, which moves work between them
    #[value(name = "one")]
    Shared,
}

/// [`SlowConsumer`] as a value of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SlowConsumerPolicy {
    /// Read nothing more from the client until it reads
    Block,
    /// Drop the newest replies
    DropNewest,
    /// Drop the oldest replies
    DropOldest,
    /// Close the connection
    Disconnect,
}

impl From<SlowConsumerPolicy> for SlowConsumer {
    fn from(policy: SlowConsumerPolicy) -> Self {
        match policy {
            SlowConsumerPolicy::Block => Self::Block,
            SlowConsumerPolicy::DropNewest => Self::DropNewest,
            SlowConsumerPolicy::DropOldest => Self::DropOldest,
            SlowConsumerPolicy::Disconnect => Self::Disconnect,
        }
    }
}

/// A duration, or `None` for 'off'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeout(Option<Duration>);

impl Options {
    /// Parses the command line. `Err` is the exit code after help, or after a line on standard error.
    pub(crate) fn from_args() -> Result<Self, ExitCode> {
        Self::try_parse().and_then(Self::check).map_err(|error| usage::exit_code("pktecho", &error))
    }

    /// Refuses options that contradict each other.
    fn check(self) -> Result<Self, clap::Error> {
        let has_own_runtimes = self.runtimes == Runtimes::PerThread && self.threads > 1;
        if has_own_runtimes && self.listen.iter().any(|addr| addr.unix_path().is_some()) {
            let problem = "--listen unix:PATH works only with one runtime, not with --runtimes own";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        let header_limit = self.header.max_payload_len();
        if let Some(len) = self.max_payload.filter(|&len| len as usize > header_limit) {
            let problem = format!(
                "--max-payload {len} exceeds {header_limit}, the maximum of --header {}",
                self.header
            );
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        if self.reuse_port
            && !self.listen.is_empty()
            && self.listen.iter().all(|addr| addr.unix_path().is_some())
        {
            let problem = "--reuse-port works only with TCP: a Unix socket has no port";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        let is_limited = self.max_conns.is_some()
            || self.max_conns_per_ip.is_some()
            || self.conn_rate_per_ip.is_some()
            || self.memory_budget.is_some();
        if is_limited && has_own_runtimes {
            let problem = "--max-conns, --max-conns-per-ip, --conn-rate-per-ip and --memory-budget work only with one \
                           runtime, not with --runtimes own";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        Ok(self)
    }

    pub(crate) fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::new()
            .conn(self.conn_config())
            .max_conns(self.max_conns)
            .max_conns_per_ip(self.max_conns_per_ip)
            .conn_rate_per_ip(self.conn_rate_per_ip.map(ConnRate::per_second))
            .memory_budget(self.memory_budget)
            .access_log(self.access_log);
        if let Some(tls) = self.tls() {
            config = config.tls(tls);
        }
        if self.proxy_protocol {
            config = config.proxy_protocol(self.trusted_proxy.iter().copied());
        }
        config
    }

    pub(crate) fn tls(&self) -> Option<TlsServerConfig> {
        let tls = TlsServerConfig::new(self.tls_cert.as_ref()?, self.tls_key.as_ref()?);
        Some(match &self.tls_client_ca {
            Some(ca) => tls.client_ca(ca),
            None => tls,
        })
    }

    fn codec_config(&self) -> CodecConfig {
        let checksum = if self.crc { Checksum::Crc32 } else { Checksum::None };
        let config = CodecConfig::new().header(self.header).checksum(checksum);
        self.max_payload.map_or(config, |len| config.max_payload_len(len as usize))
    }

    fn conn_config(&self) -> ConnConfig {
        ConnConfig::new()
            .codec(self.codec_config())
            .close_timeout(self.drain_timeout)
            .handshake_timeout(self.handshake_timeout.0)
            .frame_timeout(self.frame_timeout.0)
            .idle_timeout(self.idle_timeout.0)
            .write_timeout(self.write_timeout.0)
            .slow_consumer(self.slow_consumer.into())
    }
}

fn parse_budget(text: &str) -> Result<usize, String> {
    match text.parse::<bytesize::ByteSize>().map(|size| usize::try_from(size.as_u64())) {
        Ok(Ok(bytes)) if bytes >= 1 << 20 => Ok(bytes),
        _ => Err("expected a size of at least 1MiB, such as 256MiB or 4GiB".to_owned()),
    }
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| ip.into()));
    network.map_err(|_| "expected a network or address, such as 10.0.0.0/8, fd00::/8 or 127.0.0.1".to_owned())
}

fn parse_timeout(text: &str) -> Result<Timeout, String> {
    match parse_duration(text) {
        _ if text == "off" => Ok(Timeout(None)),
        Ok(Duration::ZERO) => Err("the timeout must be longer than 0s; 'off' turns it off".to_owned()),
        Ok(duration) => Ok(Timeout(Some(duration))),
        Err(_) => Err("expected a duration with a unit, such as 500ms, 30s or 5m, or 'off'".to_owned()),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_may_be_a_single_address() {
        assert_eq!(parse_network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("::1").unwrap().to_string(), "::1/128");
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert!(parse_network(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn timeouts_are_durations_or_off() {
        assert_eq!(parse_timeout("30s"), Ok(Timeout(Some(Duration::from_secs(30)))));
        assert_eq!(parse_timeout("off"), Ok(Timeout(None)));
        for text in ["", "30", "0s", "never"] {
            assert!(parse_timeout(text).is_err(), "{text:?}");
        }
    }
}
