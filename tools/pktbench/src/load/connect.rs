//! Makes the connections, with TLS if the plan has it. An error says why a connection could not be made and what to do.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use pktconn::Addr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

use crate::load::stream::{Socket, Stream};
use crate::load::tls;
use crate::plan::Plan;
use crate::record::tls_problem::TlsProblem;

/// Concurrent connection attempts of a worker without `--connect-rate`: enough to hide the round-trip time of a distant
/// server, and few compared with the backlog of a listener even with many workers.
const MAX_CONCURRENT: usize = 32;

/// A server, with its name resolved.
pub(crate) struct Target {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

enum Address {
    Tcp(Vec<SocketAddr>),
    Unix(PathBuf),
}

impl Target {
    /// The targets of `plan`.
    pub(crate) fn of(plan: &Plan) -> anyhow::Result<Vec<Self>> {
        let tls = match &plan.tls {
            None => None,
            Some(tls) => Some((tls::client_config(tls)?, tls.server_name.as_deref())),
        };
        plan.connect.iter().map(|addr| Self::new(addr, tls.as_ref())).collect()
    }

    fn new(addr: &Addr, tls: Option<&(Arc<ClientConfig>, Option<&str>)>) -> anyhow::Result<Self> {
        let name = addr.to_string();
        let (address, host) = match addr.unix_path() {
            Some(path) => (Address::Unix(path.to_owned()), None),
            None => (Address::Tcp(resolve(&name)?), name.rsplit_once(':').map(|(host, _port)| host)),
        };
        let tls = tls.map(|(config, server_name)| {
            let name = server_name.or(host).unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let server_name = ServerName::try_from(name.clone()).with_context(|| {
                format!("{name:?} is not a valid server name; give one with --tls-server-name")
            })?;
            anyhow::Ok((Arc::clone(config).into(), server_name))
        });
        Ok(Self { address, tls: tls.transpose()? })
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self { address: Address::Tcp(vec![addr]), tls: None }
    }
}

/// Resolves `HOST:PORT`.
pub(crate) fn resolve(addr: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addrs = addr.to_socket_addrs();
    let addrs: Vec<_> = addrs
        .with_context(|| format!("cannot resolve {addr}; check the name, or give an IP address"))?
        .collect();
    ensure!(!addrs.is_empty(), "{addr} has no address; check the name, or give an IP address");
    Ok(addrs)
}

/// Makes the connections with the numbers `conns`, and calls `connected` after each. Connection `n` goes to target
/// `n % targets.len()`. With a `rate`, it is started `n / rate` seconds after the call. Each connection has `timeout`,
/// including its TLS handshake.
///
/// Returns the connections in the order in which they were made, or the first error: one line that says what is wrong
/// and what to do.
pub(crate) async fn connect(
    targets: &Arc<[Target]>,
    conns: impl Iterator<Item = usize>,
    rate: Option<f64>,
    timeout: Duration,
    connected: impl Fn(),
) -> Result<Vec<(usize, Stream)>, String> {
    let mut streams = Vec::new();
    let mut connecting = JoinSet::new();
    let mut conns = conns.fuse();
    let start = Instant::now();
    loop {
        // With a rate, all tasks are started: each one waits until its connection is due.
        while rate.is_some() || connecting.len() < MAX_CONCURRENT {
            let Some(conn) = conns.next() else { break };
            let targets = Arc::clone(targets);
            connecting.spawn(async move {
                if let Some(rate) = rate {
                    tokio::time::sleep_until(start + Duration::from_secs_f64(conn as f64 / rate)).await;
                }
                let target = &targets[conn % targets.len()];
                target
                    .connect(Instant::now() + timeout)
                    .await
                    .map(|stream| (conn, stream))
                    .map_err(|error| target.problem(&error))
            });
        }
        match connecting.join_next().await {
            None => return Ok(streams),
            Some(Ok(stream)) => streams.push(stream?),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
        connected();
    }
}

/// Why a connection could not be made.
struct ConnectError {
    error: io::Error,
    in_handshake: bool,
}

impl ConnectError {
    /// What the user can do about it.
    fn advice(&self) -> &'static str {
        use io::ErrorKind as Kind;
        match self.error.kind() {
            _ if is_file_limit(&self.error) => "raise the limit with 'ulimit -n', or lower --conns",
            Kind::TimedOut if self.in_handshake => "check that the server speaks TLS, or raise --timeout",
            Kind::UnexpectedEof | Kind::ConnectionReset if self.in_handshake => {
                "the server closed the connection; check that it speaks TLS, and its limits"
            }
            _ if self.in_handshake => {
                "check that the server speaks TLS, and whether it requires a client certificate"
            }
            Kind::ConnectionRefused | Kind::NotFound => {
                "start the server, or leave out the address to use the built-in echo server"
            }
            Kind::ConnectionReset => {
                "the server accepts no more connections; check its limits, or lower --conns"
            }
            Kind::TimedOut => "check the address and the firewall, or raise --timeout",
            Kind::AddrNotAvailable => {
                "no local port is free; lower --conns, or wait until closed connections free their ports"
            }
            _ => "check the address and the network",
        }
    }
}

/// The result of `operation`, or a timeout error at `deadline`.
async fn with_deadline<T>(
    deadline: Instant,
    operation: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "no response within --timeout");
    tokio::time::timeout_at(deadline, operation).await.map_err(timed_out)?
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self { error, in_handshake: false }
    }
}

impl Target {
    async fn connect(&self, deadline: Instant) -> Result<Stream, ConnectError> {
        match &self.address {
            Address::Tcp(addrs) => {
                let stream = with_deadline(deadline, TcpStream::connect(&addrs[..])).await?;
                stream.set_nodelay(true)?;
                let (stream, tls) = self.tls_handshake(stream, deadline).await?;
                Ok(Stream::new(Socket::Tcp(mio::net::TcpStream::from_std(stream.into_std()?)), tls))
            }
            Address::Unix(path) => {
                let (stream, tls) =
                    self.tls_handshake(with_deadline(deadline, connect_unix(path)).await?, deadline).await?;
                Ok(Stream::new(Socket::Unix(mio::net::UnixStream::from_std(stream.into_std()?)), tls))
            }
        }
    }

    async fn tls_handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        deadline: Instant,
    ) -> Result<(S, Option<ClientConnection>), ConnectError> {
        let Some((connector, server_name)) = &self.tls else { return Ok((stream, None)) };
        let handshake = with_deadline(deadline, connector.connect(server_name.clone(), stream)).await;
        let (stream, tls) =
            handshake.map_err(|error| ConnectError { error, in_handshake: true })?.into_inner();
        Ok((stream, Some(tls)))
    }

    /// The error message: what failed, why, and what to do.
    fn problem(&self, connect_error: &ConnectError) -> String {
        let name = match &self.address {
            Address::Tcp(addrs) => addrs.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" or "),
            Address::Unix(path) => Addr::unix(path).to_string(),
        };
        let ConnectError { error, in_handshake } = connect_error;
        let action = if *in_handshake { "speak TLS with" } else { "connect to" };
        match TlsProblem::of(error) {
            Some(TlsProblem { reason, advice }) => format!("cannot {action} {name}: {reason}; {advice}"),
            None => format!("cannot {action} {name}: {error}; {}", connect_error.advice()),
        }
    }
}

/// Connects to a Unix socket. `connect` fails with `WouldBlock` while the backlog of the server is full, and no event
/// announces that there is room, so it is retried.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            connected => return connected,
        }
    }
}

/// Whether the error is EMFILE (limit of the process) or ENFILE (limit of the system). They have no `ErrorKind`, and
/// the same numbers on every Unix.
fn is_file_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(error: io::Error) -> &'static str {
        ConnectError::from(error).advice()
    }

    #[test]
    fn too_many_open_files_are_reported_with_the_command_that_raises_the_limit() {
        for os_error in [23, 24] {
            let error = io::Error::from_raw_os_error(os_error);
            assert!(error.to_string().to_lowercase().contains("too many open files"), "{error}");
            assert!(advice(error).contains("ulimit -n"));
        }
    }

    #[test]
    fn every_failure_has_its_own_advice() {
        use io::ErrorKind as Kind;
        let kinds = [
            Kind::ConnectionRefused,
            Kind::ConnectionReset,
            Kind::TimedOut,
            Kind::AddrNotAvailable,
            Kind::NetworkUnreachable,
        ];
        let no_tls = [Kind::UnexpectedEof, Kind::TimedOut, Kind::InvalidData]
            .map(|kind| ConnectError { error: kind.into(), in_handshake: true }.advice());
        let mut all: std::collections::HashSet<_> = kinds.map(|kind| advice(kind.into())).into();
        all.extend(no_tls);
        assert_eq!(all.len(), kinds.len() + 3);
    }

    #[test]
    fn an_unknown_host_is_an_error_that_names_it() {
        // `.invalid` is reserved for names that do not exist (RFC 2606).
        let error = resolve("nowhere.invalid:80").unwrap_err().to_string();
        assert!(error.starts_with("cannot resolve nowhere.invalid:80; "), "{error}");
        assert_eq!(resolve("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_rate_each_connection_starts_at_its_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let targets: Arc<[Target]> = [listener.local_addr().unwrap().into()].into();
        let (begun, times) = (Instant::now(), std::cell::RefCell::new(Vec::new()));
        // The connections of the second worker of two.
        let connected = connect(&targets, [1, 3, 5].into_iter(), Some(10.0), Duration::from_secs(10), || {
            times.borrow_mut().push(begun.elapsed().as_millis() as u64);
        });
        assert!(connected.await.is_ok());
        let times = times.take();
        assert!(times.iter().zip([100, 300, 500]).all(|(ms, due)| ms.abs_diff(due) <= 5), "{times:?}");
        assert_eq!(times.len(), 3);
    }

    #[tokio::test]
    async fn connections_are_spread_evenly_over_the_targets() {
        let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let targets: Arc<[Target]> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().into()).collect();
        let streams = connect(&targets, 5..9, None, Duration::from_secs(10), || {})
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let mut conns: Vec<_> = streams.iter().map(|(conn, _)| *conn).collect();
        conns.sort_unstable();
        assert_eq!(conns, [5, 6, 7, 8]);
        for (listener, expected) in listeners.iter().zip([1, 1, 2]) {
            listener.set_nonblocking(true).unwrap();
            assert_eq!(std::iter::from_fn(|| listener.accept().ok()).count(), expected);
        }
    }
}
