//! Making a connection to an address: a stream, and TLS over it.

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpSocket, TcpStream};

use crate::addr::{Addr, resolve};
use crate::byte_stream::ByteStream;
use crate::error::{Reason, Timeout};
use crate::failure::Operation;
use crate::target::{Target, Use};
use crate::{ConnConfig, Error, TcpConfig};

/// Connects to the first of `addr`'s addresses that answers, and shakes hands where that is asked for.
pub(crate) async fn connect(addr: &Addr, config: &ConnConfig) -> Result<ByteStream, Error> {
    let target = check(addr, config)?;
    let late = || format!("not connected to {target}");
    let connecting = connect_to_first(target, &config.tcp);
    let stream = within(config.connect_timeout, Timeout::Connect, late, connecting).await?;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        let late = || format!("the TLS handshake with {target} has not ended");
        let handshake = tls.handshake(stream, target);
        return Ok(within(config.handshake_timeout, Timeout::Handshake, late, handshake).await?);
    }
    Ok(stream)
}

/// Refuses an address that can never be connected to, before it is tried.
pub(crate) fn check<'a>(addr: &'a Addr, config: &ConnConfig) -> Result<Target<'a>, Reason> {
    let target = addr.target(Use::Connect)?;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        tls.name_for(target)?;
    }
    #[cfg(not(feature = "tls"))]
    let _ = config;
    Ok(target)
}

/// `future`, or the deadline that passed before it was ready, and what had not happened by then.
pub(crate) async fn within<T>(
    timeout: Option<Duration>,
    deadline: Timeout,
    late: impl FnOnce() -> String,
    future: impl Future<Output = Result<T, Reason>>,
) -> Result<T, Reason> {
    let Some(timeout) = timeout else { return future.await };
    match tokio::time::timeout(timeout, future).await {
        Ok(result) => result,
        Err(_) => Err(Reason::TimeoutOf(deadline, timeout, late().into())),
    }
}

async fn connect_to_first(target: Target<'_>, config: &TcpConfig) -> Result<ByteStream, Reason> {
    let failed = |error| Reason::io(Operation::Connect, Some(target), error);
    let addrs = match target {
        Target::Socket(addr) => vec![addr],
        Target::Name { host, port } => resolve(host, port).await?,
        #[cfg(unix)]
        Target::Unix(path) => return Ok(ByteStream::Unix(connect_at(path).await.map_err(failed)?)),
        #[cfg(not(unix))]
        Target::Unix(_) => return Err(failed(io::ErrorKind::Unsupported.into())),
    };
    let mut failure = io::ErrorKind::NotFound.into();
    for addr in addrs {
        match connect_to(addr, config).await {
            Ok(stream) => return Ok(ByteStream::Tcp(stream)),
            Err(error) => failure = error,
        }
    }
    Err(failed(failure))
}

async fn connect_to(addr: SocketAddr, config: &TcpConfig) -> io::Result<TcpStream> {
    // A system may have none of IPv6.
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    config.set_buffers(&SockRef::from(&socket))?;
    socket.connect(addr).await
}

/// A server whose backlog is full is said to block, and nothing tells when it does no more: it is asked again.
#[cfg(unix)]
async fn connect_at(path: &Path) -> io::Result<UnixStream> {
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
    use super::*;

    #[tokio::test]
    async fn the_buffers_are_set_before_connecting() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = TcpConfig::new().recv_buffer(50_000);
        let stream = connect_to(listener.local_addr().unwrap(), &config).await.unwrap();
        assert!([50_000, 100_000].contains(&SockRef::from(&stream).recv_buffer_size().unwrap()));
    }

    /// Linux refuses at once there, instead of waiting as it does for TCP.
    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_unix_socket_with_a_full_backlog_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _first = connect_at(&path).await.unwrap();
        let mut second = std::pin::pin!(connect_at(&path));
        tokio::select! {
            _ = &mut second => panic!("there was room"),
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
        listener.accept().unwrap();
        second.await.unwrap();
    }
}
