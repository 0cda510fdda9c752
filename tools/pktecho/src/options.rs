//! What the command line says, checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use pktconn::{
    Addr, Checksum, CodecConfig, ConnConfig, HeaderFormat, IpNet, ServerConfig, SlowConsumer, TlsServerConfig,
};
use pktconn_tools::usage;
use pktconn_tools::values::{parse_duration, parse_listen_addr, parse_size, whole_number};

use crate::threads::Sharing;

/// An echo server for length-prefixed packets.
///
/// Sends every packet back to where it came from, in order. SIGINT and SIGTERM stop it: it accepts no more, answers what
/// it has received, closes its connections, prints totals and exits 0. A second signal ends it at once.
///
/// Exit code: 0 after a signal, 1 when it cannot listen, 2 bad usage.
#[derive(Debug, Parser)]
#[command(
    version,
    allow_negative_numbers = true,
    after_help = "Example:\n  pktecho --listen 127.0.0.1:0 --threads 1 --stats"
)]
pub(crate) struct Options {
    /// The address to listen on, HOST:PORT or unix:PATH; port 0 asks for a free port. May be given several times. Sockets
    /// that systemd hands over are listened on as well [default: 0.0.0.0:14572, where none is handed over]
    #[arg(long, value_name = "ADDR", value_parser = parse_listen_addr)]
    pub(crate) listen: Vec<Addr>,

    /// Let other servers listen on the same port; the kernel deals the connections out
    #[arg(long)]
    pub(crate) reuse_port: bool,

    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "N", default_value_t = cores(), value_parser = whole_number::<usize>(1..=1024, 4), hide_default_value = true)]
    pub(crate) threads: usize,

    /// How several threads share the connections
    #[arg(long, value_enum, default_value_t = Sharing::One)]
    pub(crate) runtimes: Sharing,

    /// Put a CRC-32 behind each packet, and expect one. Clients must do the same.
    #[arg(long)]
    crc: bool,

    /// The length in front of each packet: u32le, u32be, u16le or u16be
    #[arg(long, value_name = "FORMAT", default_value_t = HeaderFormat::U32Le)]
    header: HeaderFormat,

    /// The largest payload accepted, in bytes; suffixes such as KiB and MiB work [default: 32MiB, or what --header can say]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_payload: Option<u32>,

    /// What becomes of replies that a client does not read, beyond 1 MiB
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = SlowClient::Block)]
    slow_consumer: SlowClient,

    /// Connections at most; those beyond are closed at once [default: no limit of its own]
    #[arg(long, value_name = "N", value_parser = whole_number::<usize>(1.., 1000))]
    max_conns: Option<usize>,

    /// Connections at most of one IPv4 address, or of one IPv6 network of 64 bits [default: no limit]
    #[arg(long, value_name = "N", value_parser = whole_number::<usize>(1.., 1000))]
    max_conns_per_ip: Option<usize>,

    /// What all connections together may hold in memory, such as 256MiB; those that hold the most give way [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_budget)]
    memory_budget: Option<usize>,

    /// The certificate chain of the server, PEM; clients have to speak TLS then. SIGHUP has it and the key read again
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// The authorities, PEM, of the certificates that clients have to show
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// Expect the header of the PROXY protocol, version 1 or 2, in front of each connection
    #[arg(long, requires = "trusted_proxy")]
    proxy_protocol: bool,

    /// A network that proxies connect from, such as 10.0.0.0/8 or 127.0.0.1; others are closed. May be given several times
    #[arg(long, value_name = "NET", requires = "proxy_protocol", value_parser = parse_network)]
    trusted_proxy: Vec<IpNet>,

    /// How long a client may take for TLS and the header of a proxy, or 'off'.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_deadline)]
    handshake_timeout: Deadline,

    /// How long a packet may take from its first byte to its last, or 'off'.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_deadline)]
    frame_timeout: Deadline,

    /// How long a client may send nothing, or 'off'.
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = parse_deadline)]
    idle_timeout: Deadline,

    /// How long a client may read nothing of what waits for it, or 'off'.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_deadline)]
    write_timeout: Deadline,

    /// Serve figures for Prometheus on this address, such as 127.0.0.1:9100, under /metrics; port 0 asks for a free port [default: off]
    #[arg(long, value_name = "ADDR", value_parser = parse_tcp_addr)]
    pub(crate) metrics: Option<Addr>,

    /// Print a line a second: connections, packets/s, MB/s of payload.
    #[arg(long)]
    pub(crate) stats: bool,

    /// How long connections may take to finish when the server is stopped.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain_timeout: Duration,
}

/// [`SlowConsumer`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SlowClient {
    /// Nothing more is read of it until it reads
    Block,
    /// The newest are dropped
    DropNewest,
    /// The oldest are dropped
    DropOldest,
    /// It is disconnected
    Disconnect,
}

impl From<SlowClient> for SlowConsumer {
    fn from(policy: SlowClient) -> Self {
        match policy {
            SlowClient::Block => Self::Block,
            SlowClient::DropNewest => Self::DropNewest,
            SlowClient::DropOldest => Self::DropOldest,
            SlowClient::Disconnect => Self::Disconnect,
        }
    }
}

/// A duration that can be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadline(Option<Duration>);

impl Options {
    /// Parses the command line. `Err` is the exit code after help, or after a line on standard error.
    pub(crate) fn from_args() -> Result<Self, ExitCode> {
        Self::try_parse().and_then(Self::check).map_err(|error| usage::exit_code("pktecho", &error))
    }

    /// Refuses what does not go together.
    fn check(self) -> Result<Self, clap::Error> {
        let has_runtimes = self.runtimes == Sharing::Own && self.threads > 1;
        if has_runtimes && self.listen.iter().any(|addr| addr.unix_path().is_some()) {
            let problem = "--listen unix:PATH is for one runtime: not with --runtimes own";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        let sayable = self.header.max_payload_len();
        if let Some(len) = self.max_payload.filter(|&len| len as usize > sayable) {
            let problem =
                format!("--max-payload {len} is more than --header {} can say, {sayable}", self.header);
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        if self.reuse_port
            && !self.listen.is_empty()
            && self.listen.iter().all(|addr| addr.unix_path().is_some())
        {
            let problem = "--reuse-port is for TCP: a Unix socket has no port";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        let is_limited =
            self.max_conns.is_some() || self.max_conns_per_ip.is_some() || self.memory_budget.is_some();
        if is_limited && has_runtimes {
            let problem = "--max-conns, --max-conns-per-ip and --memory-budget are limits of one runtime: not with --runtimes own";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        Ok(self)
    }

    pub(crate) fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::new()
            .conn(self.conn_config())
            .max_conns(self.max_conns)
            .max_conns_per_ip(self.max_conns_per_ip)
            .memory_budget(self.memory_budget);
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

fn parse_tcp_addr(text: &str) -> Result<Addr, String> {
    let addr = parse_listen_addr(text).ok().filter(|addr| addr.unix_path().is_none());
    addr.ok_or_else(|| "an address is HOST:PORT, such as 127.0.0.1:9100".to_owned())
}

fn parse_budget(text: &str) -> Result<usize, String> {
    match text.parse::<bytesize::ByteSize>().map(|size| usize::try_from(size.as_u64())) {
        Ok(Ok(bytes)) if bytes >= 1 << 20 => Ok(bytes),
        _ => Err("a memory budget is at least 1MiB, such as 256MiB or 4GiB".to_owned()),
    }
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| ip.into()));
    network.map_err(|_| "a network is such as 10.0.0.0/8, fd00::/8 or 127.0.0.1".to_owned())
}

fn parse_deadline(text: &str) -> Result<Deadline, String> {
    match parse_duration(text) {
        _ if text == "off" => Ok(Deadline(None)),
        Ok(Duration::ZERO) => Err("a deadline is longer than nothing; 'off' is without one".to_owned()),
        Ok(duration) => Ok(Deadline(Some(duration))),
        Err(_) => Err("a duration is such as 500ms, 30s or 5m, or 'off'".to_owned()),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_one_or_a_single_address() {
        assert_eq!(parse_network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(parse_network("::1").unwrap().to_string(), "::1/128");
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert!(parse_network(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn deadlines_are_durations_or_off() {
        assert_eq!(parse_deadline("30s"), Ok(Deadline(Some(Duration::from_secs(30)))));
        assert_eq!(parse_deadline("off"), Ok(Deadline(None)));
        for text in ["", "30", "0s", "never"] {
            assert!(parse_deadline(text).is_err(), "{text:?}");
        }
    }
}
