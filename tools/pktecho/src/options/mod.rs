//! The command line: the options, their checks, and the configuration that they stand for.

mod deadlines;
mod limits;
mod sessions;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use pktconn::{
    Addr, Checksum, CodecConfig, ConnConfig, HeaderFormat, IpNet, ServerConfig, SlowConsumer,
    TlsServerConfig, TlsVersion,
};
use pktconn_tools::usage;
use pktconn_tools::values::{parse_duration, parse_listen_addr, parse_size, parse_tcp_addr, whole_number};

use deadlines::DeadlineOptions;
use limits::LimitOptions;
pub(crate) use limits::Limits;
use sessions::SessionOptions;

/// An echo server for length-prefixed packets.
///
/// Sends every packet back to its sender, in order. SIGINT or SIGTERM stops it: it accepts no new connections, echoes
/// the packets that it has received, closes its connections, prints totals and exits with 0. A second signal ends it at
/// once. SIGUSR1 does the same as SIGTERM, but gives the clients of sessions half of --drain-timeout to move to another
/// server one after the other. SIGHUP reloads the certificate; without one, it is ignored.
///
/// Exit codes: 0 after a signal, 1 if it cannot start, 2 for bad usage.
#[derive(Debug, Parser)]
#[command(
    version,
    allow_negative_numbers = true,
    after_help = "Example:\n  pktecho --listen 127.0.0.1:0 --threads 1 --stats"
)]
pub(crate) struct Options {
    /// Address to listen on, HOST:PORT or unix:PATH; port 0 asks for a free port. unix:PATH?mode=0660&group=www sets the
    /// permissions of the socket file (mode, owner, group). May be given several times. The server also listens on
    /// sockets that systemd passes [default: 0.0.0.0:14572, unless systemd passes a socket]
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

    #[command(flatten)]
    pub(crate) limits: LimitOptions,

    /// Certificate chain of the server, a PEM file; clients must then use TLS. SIGHUP reloads all TLS files
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Certificate authorities of the clients, a PEM file; clients must then present a certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// Like --tls-client-ca, but also accept clients that present no certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert", conflicts_with = "tls_client_ca")]
    tls_optional_client_ca: Option<PathBuf>,

    /// Certificate revocation lists (CRLs) of the authorities of the clients, a PEM file; clients whose certificate is
    /// revoked are refused. May be given several times
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_crl: Vec<PathBuf>,

    /// Oldest version of TLS that is accepted
    #[arg(long, value_enum, value_name = "VERSION", default_value_t = MinTlsVersion::Tls12, requires = "tls_cert")]
    tls_min_version: MinTlsVersion,

    /// Application protocol (ALPN); clients that offer only others are refused. May be given several times, the
    /// preferred one first
    #[arg(long, value_name = "PROTOCOL", requires = "tls_cert", value_parser = parse_protocol)]
    tls_alpn: Vec<String>,

    /// Expect a PROXY protocol header, version 1 or 2, of at most 16KiB, at the beginning of each connection
    #[arg(long, requires = "trusted_proxy")]
    proxy_protocol: bool,

    /// Network of the proxies, such as 10.0.0.0/8 or 127.0.0.1; connections from other addresses are closed. May be
    /// given several times
    #[arg(long, value_name = "NET", requires = "proxy_protocol", value_parser = parse_network)]
    trusted_proxy: Vec<IpNet>,

    #[command(flatten)]
    pub(crate) sessions: SessionOptions,

    #[command(flatten)]
    deadlines: DeadlineOptions,

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

/// [`TlsVersion`] as a value of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MinTlsVersion {
    /// TLS 1.2 and 1.3
    #[value(name = "1.2")]
    Tls12,
    /// Only TLS 1.3
    #[value(name = "1.3")]
    Tls13,
}

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
        if !self.tls_crl.is_empty() && self.tls_client_ca.is_none() && self.tls_optional_client_ca.is_none() {
            let problem = "--tls-crl needs --tls-client-ca or --tls-optional-client-ca";
            return Err(Self::command().error(ErrorKind::MissingRequiredArgument, problem));
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
        if self.sessions.has_any() && has_own_runtimes {
            let problem = "--sessions works only with one runtime, not with --runtimes own";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        if self.limits.has_total() && has_own_runtimes {
            let problem = "--max-conns, --max-conns-per-ip, --conn-rate-per-ip and --memory-budget work only with one \
                           runtime, not with --runtimes own";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, problem));
        }
        Ok(self)
    }

    /// The configuration of each of `servers`. Reads the certificate files, so that the session tickets of each server are
    /// valid for all.
    pub(crate) async fn server_config(
        &self,
        limits: &Limits,
        servers: usize,
    ) -> Result<ServerConfig, pktconn::Error> {
        let mut config =
            limits.apply(ServerConfig::new().conn(self.conn_config()).access_log(self.access_log), servers);
        if let Some(tls) = self.tls() {
            config = config.tls(tls.load().await?);
        }
        config = config.sessions(self.sessions.config());
        if self.proxy_protocol {
            config = config.proxy_protocol(self.trusted_proxy.iter().copied());
        }
        Ok(config)
    }

    pub(crate) fn tls(&self) -> Option<TlsServerConfig> {
        let mut tls = TlsServerConfig::new(self.tls_cert.as_ref()?, self.tls_key.as_ref()?);
        if let Some(ca) = &self.tls_client_ca {
            tls = tls.client_ca(ca);
        }
        if let Some(ca) = &self.tls_optional_client_ca {
            tls = tls.optional_client_ca(ca);
        }
        tls = self.tls_crl.iter().fold(tls, TlsServerConfig::crl);
        let min_version = match self.tls_min_version {
            MinTlsVersion::Tls12 => TlsVersion::Tls12,
            MinTlsVersion::Tls13 => TlsVersion::Tls13,
        };
        Some(tls.min_version(min_version).alpn(self.tls_alpn.iter().map(String::as_str)))
    }

    fn codec_config(&self) -> CodecConfig {
        let checksum = if self.crc { Checksum::Crc32 } else { Checksum::None };
        let config = CodecConfig::new().header(self.header).checksum(checksum);
        self.max_payload.map_or(config, |len| config.max_payload_len(len as usize))
    }

    fn conn_config(&self) -> ConnConfig {
        let config = if self.limits.edge { ConnConfig::edge() } else { ConnConfig::new() };
        let config = config
            .codec(self.codec_config())
            .close_timeout(self.drain_timeout)
            .slow_consumer(self.slow_consumer.into());
        self.deadlines.apply(config)
    }
}

/// An ALPN protocol has 1 to 255 bytes (RFC 7301).
fn parse_protocol(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err("expected a protocol of 1 to 255 bytes, such as pktconn/1".to_owned())
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| ip.into()));
    network.map_err(|_| "expected a network or address, such as 10.0.0.0/8, fd00::/8 or 127.0.0.1".to_owned())
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
}
