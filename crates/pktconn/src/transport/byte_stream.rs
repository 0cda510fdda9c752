//! What a connection runs over before it is one: a byte stream that was connected or accepted, with TLS or without.

use std::any::Any;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::halves::{Reader, Writer, split, split_tcp};
use super::plain_stream::PlainStream;
use super::shared_stream::Foreign;
use super::tcp::TcpConfig;
#[cfg(feature = "tls")]
use super::tls::Tls;

pub(crate) enum ByteStream {
    Plain(PlainStream),
    #[cfg(feature = "tls")]
    Tls(Box<Tls>),
}

impl ByteStream {
    /// The socket of it.
    fn below(&self) -> &PlainStream {
        match self {
            Self::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.below(),
        }
    }

    pub(crate) fn set_options(&self, config: &TcpConfig) -> io::Result<()> {
        self.below().set_options(config)
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.below().local_addr()
    }

    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        self.below().peer_addr()
    }

    /// The halves of a connection's transport.
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
        return split(PlainStream::Unix(unix));
    }
    // It was not taken.
    stream.map_or_else(|| split(Foreign::new(tokio::io::empty())), |stream| split(Foreign::new(stream)))
}
