//! Sockets that listen: over TCP, or at a path.

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
use crate::transport::plain_stream::PlainStream;
#[cfg(unix)]
use crate::transport::socket_file::SocketFile;
use crate::transport::target::{Target, Use};
use crate::{Error, TcpConfig};

/// A socket that listens: bound here, or tokio's `TcpListener` or `UnixListener`. For
/// [`PacketServer::from_listener`](crate::PacketServer::from_listener).
#[derive(Debug)]
pub struct Listener(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        /// Gone with the listener, where that was bound here, and before it: as long as somebody listens, no other file has
        /// its number.
        _file: Option<SocketFile>,
        listener: UnixListener,
    },
}

impl Listener {
    /// Listens on an [address](Addr), as [`PacketServer::bind`](crate::PacketServer::bind) does.
    ///
    /// # Errors
    ///
    /// [`is_io`](Error::is_io): the address does not resolve, is not of this machine, or is in use; or at the path of a Unix
    /// socket is another file. [`is_config`](Error::is_config): the address can never be listened on.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn bind(addr: impl Into<Addr>) -> Result<Self, Error> {
        let addr = addr.into();
        let target = addr.target(Use::Listen)?;
        let addrs = match target {
            Target::Name { host, port } => resolve(host, port).await?,
            Target::Socket(addr) => vec![addr],
            Target::Unix(path) => {
                return Self::bind_at(path).await.map_err(|error| cannot_listen(target, error).into());
            }
        };
        let listener = TcpListener::bind(&addrs[..]).await.map_err(|error| cannot_listen(target, error))?;
        Ok(listener.into())
    }

    #[cfg(unix)]
    async fn bind_at(path: &Path) -> io::Result<Self> {
        let (listener, file) = SocketFile::bind(path).await?;
        Ok(Self(Socket::Unix { listener, _file: Some(file) }))
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_async, reason = "it is where there are Unix sockets")]
    async fn bind_at(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets what connections take over from the socket that they are accepted of.
    pub(crate) fn set_options(&self, config: &TcpConfig) -> io::Result<()> {
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
                // One without a name, or with one that is no path, is reached by those alone who know of it.
                Ok(Addr::unix(listener.local_addr()?.as_pathname().unwrap_or("".as_ref())))
            }
        }
    }

    /// Accepts a connection, and tells the address of its peer where there is one.
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

fn cannot_listen(target: Target<'_>, error: io::Error) -> Reason {
    Reason::io(Operation::Listen, Some(target), error)
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Socket::Tcp(listener))
    }
}

/// Its file stays when the server is gone: whoever made it may use it again.
#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self(Socket::Unix { listener, _file: None })
    }
}
