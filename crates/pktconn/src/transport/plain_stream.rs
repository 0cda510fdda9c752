//! A connected TCP or Unix socket, without TLS.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::peer_credentials::PeerCredentials;
#[cfg(feature = "tls")]
use super::socket::read_now_into;
use super::socket::{has_unread, read_now, write_now};
use super::tcp_config::TcpConfig;
use super::transport_stream::TransportStream;

pub(crate) enum PlainStream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl PlainStream {
    pub(crate) fn set_options(&self, config: &TcpConfig) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => config.set_all(stream),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
        }
    }

    /// Makes the drop of a TCP connection a reset. The kernel then forgets the connection at once.
    pub(crate) fn reset_on_close(&self) {
        if let Some(stream) = self.tcp() {
            // This fails only for a socket that has failed already.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    pub(crate) fn peer_credentials(&self) -> Option<PeerCredentials> {
        match self {
            Self::Tcp(_) => None,
            #[cfg(unix)]
            Self::Unix(stream) => PeerCredentials::of(stream),
        }
    }

    /// Reads once without blocking, and bypasses tokio's readiness. For the TLS layer above.
    #[cfg(feature = "tls")]
    pub(crate) fn read_now_into(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => read_now_into(stream, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => read_now_into(stream, buffer),
        }
    }

    /// Writes directly after tokio has reported no room. Tokio learns of new room only when its I/O driver runs, and a
    /// slow-consumer policy must not judge the peer by that.
    fn write_ignoring_readiness(&self, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self {
            Self::Tcp(stream) => write_now(stream, buf),
            #[cfg(unix)]
            Self::Unix(stream) => write_now(stream, buf),
        };
        match written {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn as_async_write(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl TransportStream for PlainStream {
    fn read_now(self: Pin<&mut Self>, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        Some(match self.get_mut() {
            Self::Tcp(stream) => read_now(&*stream, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => read_now(&*stream, buffer),
        })
    }

    fn can_read_now(&self) -> bool {
        cfg!(unix)
    }

    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        Some(match self {
            Self::Tcp(stream) => write_now(stream, bytes),
            #[cfg(unix)]
            Self::Unix(stream) => write_now(stream, bytes),
        })
    }

    fn can_write_now(&self) -> bool {
        cfg!(unix)
    }

    fn may_buffer(&self) -> bool {
        false
    }

    fn has_unread(&self) -> bool {
        match self {
            Self::Tcp(stream) => has_unread(stream),
            #[cfg(unix)]
            Self::Unix(stream) => has_unread(stream),
        }
    }

    fn is_unix_socket(&self) -> bool {
        self.tcp().is_none()
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.as_mut().as_async_write().poll_write(cx, buf) {
            Poll::Pending => self.write_ignoring_readiness(buf),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.as_mut().as_async_write().poll_write_vectored(cx, bufs) {
            Poll::Pending => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                first.map_or(Poll::Pending, |buf| self.write_ignoring_readiness(buf))
            }
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_async_write().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_async_write().poll_shutdown(cx)
    }
}
