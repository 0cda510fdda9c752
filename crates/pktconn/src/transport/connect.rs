//! Connects to an address: to the first address of a host that answers, or to a Unix socket.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpSocket, TcpStream};

use crate::TcpConfig;
use crate::error::failure::Operation;
use crate::error::{Reason, Timeout};
use crate::transport::addr::resolve;
use crate::transport::connect_first::connect_first;
use crate::transport::happy_eyeballs::Attempts;
use crate::transport::parsed_addr::ParsedAddr;
use crate::transport::plain_stream::PlainStream;

/// Connects to the first address of `target` that answers, within `timeout` if there is one.
pub(crate) async fn connect(
    target: ParsedAddr<'_>,
    config: &TcpConfig,
    timeout: Option<Duration>,
) -> Result<PlainStream, Reason> {
    let mut attempts = None;
    let connected = with_timeout(timeout, connect_any(target, config, &mut attempts)).await;
    connected.unwrap_or_else(|timeout| {
        Err(Reason::NamedTimeout(Timeout::Connect, timeout, timeout_text(target, attempts.as_ref()).into()))
    })
}

/// Runs `future` with a timeout. Returns the timeout as the error if it passed.
pub(crate) async fn with_timeout<F: Future>(
    timeout: Option<Duration>,
    future: F,
) -> Result<F::Output, Duration> {
    match timeout {
        None => Ok(future.await),
        Some(timeout) => tokio::time::timeout(timeout, future).await.map_err(|_| timeout),
    }
}

/// Connects to the first address of `target` that answers. Stores the attempts in `attempts` once the name is resolved,
/// so that they are available after a timeout.
async fn connect_any(
    target: ParsedAddr<'_>,
    config: &TcpConfig,
    attempts: &mut Option<Attempts>,
) -> Result<PlainStream, Reason> {
    let failed = |of, error| Reason::io(Operation::Connect, Some(of), error);
    let addrs = match target {
        ParsedAddr::Socket(addr) => vec![addr],
        ParsedAddr::Name { host, port } => resolve(host, port).await?,
        #[cfg(unix)]
        ParsedAddr::Unix { path, .. } => {
            let connected = connect_unix(path).await;
            return connected.map(PlainStream::Unix).map_err(|error| failed(target.to_string(), error));
        }
        #[cfg(not(unix))]
        ParsedAddr::Unix { .. } => return Err(failed(target.to_string(), io::ErrorKind::Unsupported.into())),
    };
    let attempts = attempts.insert(Attempts::new(addrs));
    if let Some(stream) = connect_first(attempts, |addr| connect_tcp(addr, config)).await {
        return Ok(PlainStream::Tcp(stream));
    }
    let tried = attempts.started();
    let Some((addr, error)) = attempts.take_most_informative_error() else {
        return Err(failed(target.to_string(), io::ErrorKind::NotFound.into()));
    };
    Err(match target {
        ParsedAddr::Name { .. } if tried == 1 => failed(format!("{target} at {addr}"), error),
        ParsedAddr::Name { .. } => failed(format!("{target}, tried {tried} addresses; {addr}"), error),
        ParsedAddr::Socket(_) | ParsedAddr::Unix { .. } => failed(target.to_string(), error),
    })
}

/// Describes the state of the attempts when the timeout passed.
fn timeout_text(target: ParsedAddr<'_>, attempts: Option<&Attempts>) -> String {
    let (ParsedAddr::Name { host, .. }, attempts) = (target, attempts) else {
        return format!("not connected to {target}");
    };
    let Some(attempts) = attempts else { return format!("{host:?} was not resolved") };
    let (started, total) = (attempts.started(), attempts.total());
    let tried = match total {
        1 => String::new(),
        _ => format!(", tried {started} of {total} addresses"),
    };
    match attempts.most_informative_error() {
        None => format!("not connected to {target}{tried}"),
        Some((addr, error)) => format!("not connected to {target}{tried}; {addr}: {error}"),
    }
}

async fn connect_tcp(addr: SocketAddr, config: &TcpConfig) -> io::Result<TcpStream> {
    // Opened for this family only: a system without IPv6 cannot open an IPv6 socket.
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    config.set_buffers(&SockRef::from(&socket))?;
    socket.connect(addr).await
}

/// Connects to a Unix socket. If the server's backlog is full, connecting fails with `WouldBlock` and no event follows
/// when there is room: retry with growing pauses.
#[cfg(unix)]
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            connected => return connected,
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    #[cfg(target_os = "linux")]
    use std::time::Instant;

    use super::*;
    use crate::PacketConn;
    use crate::transport::addr::fake_dns;
    #[cfg(target_os = "linux")]
    use crate::{Client, ClientConfig, ClientEvent, ConnConfig};

    /// An address that refuses connections.
    fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// A listener whose backlog is full, and the connections that fill it. Linux drops the SYNs of further clients.
    #[cfg(target_os = "linux")]
    struct Silent {
        addr: SocketAddr,
        _listener: socket2::Socket,
        _filling: Vec<TcpStream>,
    }

    #[cfg(target_os = "linux")]
    async fn silent() -> Silent {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut filling = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(addr)).await
        {
            filling.push(stream.unwrap());
        }
        Silent { addr, _listener: listener, _filling: filling }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_host_whose_first_address_does_not_answer_is_reached() {
        let silent = silent().await;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = listener.local_addr().unwrap();
        fake_dns::set("two.test", &[silent.addr, live]);
        let started = Instant::now();
        let conn = PacketConn::connect("two.test:1").await.unwrap();
        assert_eq!(conn.peer_addr(), Some(live));
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_reaches_a_host_whose_first_address_does_not_answer() {
        let silent = silent().await;
        let server = crate::PacketServer::bind("127.0.0.1:0").await.unwrap();
        fake_dns::set("two.test", &[silent.addr, server.local_addr().socket_addr().unwrap()]);
        tokio::spawn(server.serve(|mut conn| async move {
            while let Some(packet) = conn.recv().await? {
                conn.send(packet).await?;
            }
            Ok(conn.close().await?)
        }));
        let conn = ConnConfig::new().connect_timeout(Duration::from_secs(3));
        let config = ClientConfig::new().conn(conn).max_tries(1);
        let mut client = Client::new("two.test:1", config).unwrap();
        client.send(b"hello").await.unwrap();
        assert!(matches!(client.recv().await, Some(ClientEvent::Connected)));
        assert!(
            matches!(client.recv().await, Some(ClientEvent::Packet(packet)) if packet.payload() == b"hello")
        );
        assert!(client.state().borrow().is_connected());
        client.close().await.unwrap();
    }

    #[tokio::test]
    async fn the_error_says_how_many_addresses_were_tried() {
        let (first, second) = (refusing(), refusing());
        fake_dns::set("two.test", &[first, second]);
        let error = PacketConn::connect("two.test:1").await.unwrap_err();
        assert!(error.is_io());
        let expected = format!("cannot connect to two.test:1, tried 2 addresses; {first}: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
        fake_dns::set("one.test", &[first, first]);
        let error = PacketConn::connect("one.test:1").await.unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("cannot connect to one.test:1 at {first}: ")),
            "{error}"
        );
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_timeout_error_says_how_many_addresses_were_tried() {
        let (silent, refusing) = (silent().await, refusing());
        fake_dns::set("two.test", &[refusing, silent.addr, silent.addr]);
        let config = ConnConfig::new().connect_timeout(Duration::from_millis(50));
        let error = PacketConn::connect_with("two.test:1", config).await.unwrap_err();
        assert!(error.is_timeout());
        let text = error.to_string();
        let expected = format!("not connected to two.test:1, tried 2 of 2 addresses; {refusing}: ");
        assert!(text.starts_with(&expected) && text.ends_with(" within 50ms (connect_timeout)"), "{text}");
    }

    #[tokio::test]
    async fn the_buffers_are_set_before_connecting() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = TcpConfig::new().recv_buffer(50_000);
        let stream = connect_tcp(listener.local_addr().unwrap(), &config).await.unwrap();
        assert!([50_000, 100_000].contains(&SockRef::from(&stream).recv_buffer_size().unwrap()));
    }

    /// For Unix sockets Linux refuses at once if the backlog is full. For TCP it waits.
    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_unix_socket_with_a_full_backlog_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _first = connect_unix(&path).await.unwrap();
        let mut second = std::pin::pin!(connect_unix(&path));
        tokio::select! {
            _ = &mut second => panic!("there was room"),
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        listener.accept().unwrap();
        second.await.unwrap();
    }
}
