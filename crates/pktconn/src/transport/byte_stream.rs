//! A byte stream that was connected or accepted, with or without TLS, before it is split into a connection's halves.

use std::any::Any;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::conn_stream::ConnStream;
use super::halves::{Reader, Writer, split, split_tcp};
use super::peer_credentials::PeerCredentials;
use super::plain_stream::PlainStream;
use super::tcp_config::TcpConfig;
#[cfg(feature = "tls")]
use super::tls::Tls;
use super::transport_stream::CustomStream;

pub(crate) enum ByteStream {
    Plain(PlainStream),
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
}

impl ByteStream {
    fn socket(&self) -> &PlainStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }

    pub(crate) fn set_options(&self, config: &TcpConfig) -> io::Result<()> {
        self.socket().set_options(config)
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket().local_addr()
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.socket().peer_addr()
    }

    pub(crate) fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.socket().peer_credentials()
    }

    pub(crate) fn split(self) -> (Reader, Writer) {
        match self {
            Self::Plain(PlainStream::Tcp(stream)) => split_tcp(stream),
            #[cfg(unix)]
            Self::Plain(stream) => split(stream),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => split(*stream),
        }
    }
}

impl From<PlainStream> for ByteStream {
    fn from(stream: PlainStream) -> Self {
        Self::Plain(stream)
    }
}

#[cfg(feature = "tls")]
impl From<Tls> for ByteStream {
    fn from(stream: Tls) -> Self {
        Self::Tls(Box::new(stream))
    }
}

/// The credentials of the peer, if the stream of the application is a Unix socket of tokio.
#[cfg_attr(not(unix), expect(unused_variables, reason = "there are no Unix sockets"))]
pub(crate) fn peer_credentials_of_any<T: 'static>(stream: &T) -> Option<PeerCredentials> {
    #[cfg(unix)]
    return PeerCredentials::of((stream as &dyn Any).downcast_ref::<UnixStream>()?);
    #[cfg(not(unix))]
    return None;
}

/// Splits any stream into halves. Recognizes tokio's sockets and streams of connections that the application passes, so
/// that they get the same treatment as those that this crate opens.
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
        return split(PlainStream::Unix(unix));
    }
    if let Some(conn_stream) = any.downcast_mut::<Option<ConnStream>>().and_then(Option::take) {
        return conn_stream.into_halves().unwrap_or_else(|stream| split(CustomStream::new(stream)));
    }
    // `stream` is still `Some` here: the default is never used.
    stream.map_or_else(
        || split(CustomStream::new(tokio::io::empty())),
        |stream| split(CustomStream::new(stream)),
    )
}
