//! What a connection runs over before it is one: a byte stream that was connected or accepted.

use std::any::Any;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::TcpConfig;
#[cfg(feature = "tls")]
use crate::transport::recv_now;
use crate::transport::{Duplex, Foreign, Reader, Writer, has_unread, read_now, split, split_tcp, write_now};

pub(crate) enum ByteStream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    #[cfg(feature = "tls")]
    Tls(Box<crate::tls::Tls>),
}

impl ByteStream {
    pub(crate) fn set_options(&self, config: &TcpConfig) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => config.set_all(stream),
            #[cfg(unix)]
            Self::Unix(_) => Ok(()),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().set_options(config),
        }
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().local_addr(),
        }
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().peer_addr(),
        }
    }

    /// The halves of a connection's transport.
    pub(crate) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Tcp(stream) => split_tcp(stream),
            other => split(other),
        }
    }

    /// Reads what has arrived for the TLS above it, whatever tokio knows of the socket.
    #[cfg(feature = "tls")]
    pub(crate) fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => recv_now(stream, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => recv_now(stream, buffer),
            // TLS runs over none of its own.
            Self::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Takes another way where tokio knows of no room: it learns of room in a turn of its driver alone, and whoever judges a
    /// peer slow cannot wait for that. TLS has this stream below it.
    fn write_past_readiness(&self, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self {
            Self::Tcp(stream) => write_now(stream, buf),
            #[cfg(unix)]
            Self::Unix(stream) => write_now(stream, buf),
            #[cfg(feature = "tls")]
            Self::Tls(_) => return Poll::Pending,
        };
        match written {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Poll::Pending
            }
            written => Poll::Ready(written),
        }
    }

    fn as_read(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream),
        }
    }

    fn as_write(self: Pin<&mut Self>) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream.stream_mut()),
        }
    }
}

impl Duplex for ByteStream {
    fn read_now(self: Pin<&mut Self>, buffer: &mut BytesMut) -> Option<io::Result<usize>> {
        Some(match self.get_mut() {
            Self::Tcp(stream) => read_now(&*stream, buffer),
            #[cfg(unix)]
            Self::Unix(stream) => read_now(&*stream, buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read_now(buffer),
        })
    }

    fn can_read_now(&self) -> bool {
        match self {
            Self::Tcp(_) => cfg!(unix),
            #[cfg(unix)]
            Self::Unix(_) => true,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().can_read_now(),
        }
    }

    fn write_now(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Some(write_now(stream, bytes)),
            #[cfg(unix)]
            Self::Unix(stream) => Some(write_now(stream, bytes)),
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }

    #[cfg(feature = "tls")]
    fn held_back(&self) -> Option<usize> {
        match self {
            Self::Tls(stream) => Some(stream.held_back()),
            _ => None,
        }
    }

    /// TLS writes into a stream of this kind, which does.
    fn can_write_now(&self) -> bool {
        cfg!(unix)
    }

    fn may_gather(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            #[cfg(unix)]
            Self::Unix(_) => false,
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
        }
    }

    fn has_unread(&self) -> bool {
        match self {
            Self::Tcp(stream) => has_unread(stream),
            #[cfg(unix)]
            Self::Unix(stream) => has_unread(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().has_unread(),
        }
    }

    fn is_local(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            #[cfg(unix)]
            Self::Unix(_) => true,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().is_local(),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below().tcp(),
        }
    }
}

/// The halves of any stream. Sockets are known for what they are, also where the application has made them.
pub(crate) fn split_any<T>(stream: T) -> (Reader, Writer)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = Some(stream);
    let any: &mut dyn Any = &mut stream;
    if let Some(tcp) = any.downcast_mut::<Option<TcpStream>>().and_then(Option::take) {
        return split_tcp(tcp);
    }
    #[cfg(unix)]
    if let Some(unix) = any.downcast_mut::<Option<UnixStream>>().and_then(Option::take) {
        return split(ByteStream::Unix(unix));
    }
    // It was not taken.
    stream.map_or_else(|| split(Foreign::new(tokio::io::empty())), |stream| split(Foreign::new(stream)))
}

/// For handshakes, and for what TLS has below it.
impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.as_read().poll_read(cx, buf)
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.as_mut().as_write().poll_write(cx, buf) {
            Poll::Pending => self.write_past_readiness(buf),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.as_mut().as_write().poll_write_vectored(cx, bufs) {
            Poll::Pending => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                first.map_or(Poll::Pending, |buf| self.write_past_readiness(buf))
            }
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.stream().is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_write().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.as_write().poll_shutdown(cx)
    }
}
