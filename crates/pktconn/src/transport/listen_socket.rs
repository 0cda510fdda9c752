//! Listening sockets: TCP or Unix.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use crate::TcpConfig;
use crate::error::Reason;
use crate::error::failure::Operation;
use crate::transport::addr::{Addr, resolve};
use crate::transport::canonical::canonical;
use crate::transport::parsed_addr::{ParsedAddr, Purpose};
use crate::transport::plain_stream::PlainStream;
#[cfg(unix)]
use crate::transport::socket_file::SocketFile;
use crate::transport::unix_options::UnixOptions;

/// A listening socket.
#[derive(Debug)]
pub(crate) enum ListenSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        /// Removes the file and its lock file, if `bind` created them. Declared before the listener, and so dropped before
        /// it: while the listener is open, no other file can get the same inode number.
        _file: Option<SocketFile>,
        listener: UnixListener,
    },
}

impl ListenSocket {
    pub(crate) async fn bind(addr: &Addr) -> Result<Self, Reason> {
        let target = addr.parse_for(Purpose::Listen)?;
        let addrs = match target {
            ParsedAddr::Name { host, port } => resolve(host, port).await?,
            ParsedAddr::Socket(addr) => vec![addr],
            ParsedAddr::Unix { path, options } => {
                return Self::bind_unix(path, &options).await.map_err(|error| listen_error(target, error));
            }
        };
        let listener = TcpListener::bind(&addrs[..]).await.map_err(|error| listen_error(target, error))?;
        Ok(Self::Tcp(listener))
    }

    #[cfg(unix)]
    async fn bind_unix(path: &Path, options: &UnixOptions<'_>) -> io::Result<Self> {
        let (listener, file) = SocketFile::bind(path, options).await?;
        Ok(Self::Unix { listener, _file: Some(file) })
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_async, reason = "it is async where Unix sockets exist")]
    async fn bind_unix(_: &Path, _: &UnixOptions<'_>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets the options that accepted sockets inherit from the listening socket.
    pub(crate) fn set_inherited_options(&self, config: &TcpConfig) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => config.set_inherited(&SockRef::from(listener)),
            #[cfg(unix)]
            Self::Unix { .. } => Ok(()),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<Addr> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.into()),
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                let addr = listener.local_addr()?;
                #[cfg(any(target_os = "linux", target_os = "android"))]
                if let Some(name) = addr.as_abstract_name() {
                    // As in an `Addr` to connect to.
                    let name = [b"\0", name].concat();
                    return Ok(Addr::unix(<OsStr as OsStrExt>::from_bytes(&name)));
                }
                // An unnamed socket has no path: report an empty one.
                Ok(Addr::unix(addr.as_pathname().unwrap_or("".as_ref())))
            }
        }
    }

    /// Accepts a connection. Returns the address of the peer, or `None` for a Unix socket.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(PlainStream, Option<SocketAddr>)>> {
        match self {
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, peer)| (PlainStream::Tcp(stream), Some(canonical(peer)))),
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _peer)| (PlainStream::Unix(stream), None))
            }
        }
    }
}

fn listen_error(target: ParsedAddr<'_>, error: io::Error) -> Reason {
    Reason::io(Operation::Listen, Some(target), error)
}
