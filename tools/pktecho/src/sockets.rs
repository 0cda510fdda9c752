//! The sockets that the server listens on: those of `--listen`, and those that systemd passes.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;
use pktconn::Addr;
use socket2::{Domain, Type};

/// The largest backlog that Linux allows by default (`net.core.somaxconn`): many clients may connect at once.
const BACKLOG: i32 = 4096;

/// A socket for one worker to listen on.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// The address of a Unix socket. The server creates the socket, because it knows how to replace a stale file.
    UnixAddr(Addr),
}

/// Listens on `addr` with `count` sockets, among which the kernel distributes the connections. With `reuse_port`, other
/// servers may listen on the same port.
pub(crate) fn listen(addr: &Addr, count: usize, reuse_port: bool) -> io::Result<Vec<Socket>> {
    if addr.unix_path().is_some() {
        return Ok(vec![Socket::UnixAddr(addr.clone())]);
    }
    let mut failure = None;
    for addr in addr.to_string().to_socket_addrs()? {
        match listen_on(addr, count, reuse_port) {
            Ok(listeners) => return Ok(listeners.into_iter().map(Socket::Tcp).collect()),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

fn listen_on(addr: SocketAddr, count: usize, reuse_port: bool) -> io::Result<Vec<TcpListener>> {
    // Without `reuse_port`, the first socket does not share its port, so that it fails if another server uses the port.
    // Sockets that share their port would silently join the sockets of that server.
    let first = bind(addr, reuse_port)?;
    if count == 1 {
        return Ok(vec![first]);
    }
    let addr = first.local_addr()?;
    drop(first);
    (0..count).map(|_| bind(addr, true)).collect()
}

fn bind(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The sockets that the parent process passes (`LISTEN_FDS`, as systemd does). For each socket, one clone for each of
/// `count` workers.
pub(crate) fn from_parent(count: usize) -> io::Result<Vec<Vec<Socket>>> {
    let mut fds = ListenFd::from_env();
    let mut all = Vec::new();
    for index in 0..fds.len() {
        // If the socket is not a TCP listener, this fails and leaves it in place.
        let sockets = if let Ok(listener) = fds.take_tcp_listener(index) {
            let Some(listener) = listener else { continue };
            listener.set_nonblocking(true)?;
            (0..count).map(|_| Ok(Socket::Tcp(listener.try_clone()?))).collect()
        } else {
            let Some(listener) = fds.take_unix_listener(index)? else { continue };
            listener.set_nonblocking(true)?;
            (0..count).map(|_| Ok(Socket::Unix(listener.try_clone()?))).collect()
        };
        all.push(sockets);
    }
    all.into_iter().collect()
}
