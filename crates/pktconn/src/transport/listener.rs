//! Listening sockets: TCP or Unix.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::error::Reason;
use crate::error::failure::Operation;
use crate::transport::addr::{Addr, resolve};
use crate::transport::endpoints::canonical;
use crate::transport::parsed_addr::{ParsedAddr, Purpose};
use crate::transport::plain_stream::PlainStream;
#[cfg(unix)]
use crate::transport::socket_file::SocketFile;
use crate::{Error, TcpConfig};

/// A listening socket for [`PacketServer::from_listener`](crate::PacketServer::from_listener).
///
/// Made by [`bind`](Self::bind), or from tokio's `TcpListener` or `UnixListener`. The socket file that
/// [`bind`](Self::bind) creates is removed when the listener is dropped; that of a converted `UnixListener` stays.
#[derive(Debug)]
pub struct Listener(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        /// Removes the file, if `bind` created it. Declared before the listener, and so dropped before it: while the
        /// listener is open, no other file can get the same inode number.
        _file: Option<SocketFile>,
        listener: UnixListener,
    },
}

impl Listener {
    /// Listens on an [address](Addr), without making a server yet.
    ///
    /// Port 0 selects a free port. At the path of a Unix socket, a socket file that nobody listens on is replaced, for
    /// example one that a killed program left.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): the address does not resolve, does not belong to this machine, or is in use; or the
    ///   path of a Unix socket is taken by a file that is not a socket.
    /// - [`is_config`](Error::is_config): nothing can ever listen on the address.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: dropping the future leaves no listening socket behind.
    pub async fn bind(addr: impl Into<Addr>) -> Result<Self, Error> {
        let addr = addr.into();
        let target = addr.parse_for(Purpose::Listen)?;
        let addrs = match target {
            ParsedAddr::Name { host, port } => resolve(host, port).await?,
            ParsedAddr::Socket(addr) => vec![addr],
            ParsedAddr::Unix(path) => {
                return Self::bind_unix(path).await.map_err(|error| listen_error(target, error).into());
            }
        };
        let listener = TcpListener::bind(&addrs[..]).await.map_err(|error| listen_error(target, error))?;
        Ok(listener.into())
    }

    #[cfg(unix)]
    async fn bind_unix(path: &Path) -> io::Result<Self> {
        let (listener, file) = SocketFile::bind(path).await?;
        Ok(Self(Socket::Unix { listener, _file: Some(file) }))
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_async, reason = "it is async where Unix sockets exist")]
    async fn bind_unix(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets the options that accepted sockets inherit from the listening socket.
    pub(crate) fn set_inherited_options(&self, config: &TcpConfig) -> io::Result<()> {
        match &self.0 {
            Socket::Tcp(listener) => config.set_buffers(&SockRef::from(listener)),
            #[cfg(unix)]
            Socket::Unix { .. } => Ok(()),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match &self.0 {
            Socket::Tcp(listener) => Ok(listener.local_addr()?.into()),
            #[cfg(unix)]
            Socket::Unix { listener, .. } => {
                // An unnamed socket, or one with an abstract name, has no path: report an empty one.
                Ok(Addr::unix(listener.local_addr()?.as_pathname().unwrap_or("".as_ref())))
            }
        }
    }

    /// Accepts a connection. Returns the address of the peer, or `None` for a Unix socket.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(PlainStream, Option<SocketAddr>)>> {
        match &self.0 {
            Socket::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, peer)| (PlainStream::Tcp(stream), Some(canonical(peer)))),
            #[cfg(unix)]
            Socket::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _peer)| (PlainStream::Unix(stream), None))
            }
        }
    }
}

fn listen_error(target: ParsedAddr<'_>, error: io::Error) -> Reason {
    Reason::io(Operation::Listen, Some(target), error)
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Socket::Tcp(listener))
    }
}

/// The socket file stays when the listener is dropped: the caller created it and may still use it.
#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self(Socket::Unix { listener, _file: None })
    }
}
