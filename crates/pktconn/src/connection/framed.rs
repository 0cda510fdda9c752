//! From tokio-util's `Framed` to a connection, and back.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;

use futures_sink::Sink;
use pktconn_codec::{CodecError, Packet, PacketCodec};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::{Framed, FramedParts};

use crate::error::{Reason, Timeout};
use crate::transport::conn_stream::ConnStream;
use crate::{ConnConfig, Error, PacketConn};

impl PacketConn {
    /// Makes a connection of tokio-util's `Framed`. Nothing in its buffers is lost: this waits until its write buffer
    /// is written, and the connection receives the packets that were read and not returned.
    ///
    /// The format of the frames is that of the `Framed`: it replaces [`ConnConfig::codec`]. As with
    /// [`new`](Self::new), no TCP options are set, and the connection has no addresses.
    ///
    /// # Errors
    ///
    /// - [`is_io`](Error::is_io): writing failed.
    /// - [`is_timeout`](Error::is_timeout): the peer did not read the write buffer within
    ///   [`write_timeout`](ConnConfig::write_timeout).
    /// - [`is_config`](Error::is_config): the configuration is invalid.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future drops the stream.
    ///
    /// # Example
    ///
    /// ```
    /// use pktconn::{ConnConfig, PacketCodec, PacketConn};
    /// use tokio::net::TcpStream;
    /// use tokio_util::codec::Framed;
    ///
    /// # async fn example(stream: TcpStream) -> Result<(), pktconn::Error> {
    /// let framed = Framed::new(stream, PacketCodec::default());
    /// let conn = PacketConn::from_framed(framed, ConnConfig::new()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn from_framed<T>(mut framed: Framed<T, PacketCodec>, config: ConnConfig) -> Result<Self, Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let config = config.codec(*framed.codec().config());
        config.check_without_connect()?;
        let flush = poll_fn(|cx| Sink::<Packet>::poll_flush(Pin::new(&mut framed), cx));
        let flushed = match config.timeouts.write {
            Some(limit) => timeout(limit, flush).await.map_err(|_| Reason::Timeout(Timeout::Write, limit))?,
            None => flush.await,
        };
        flushed.map_err(|error| match error {
            CodecError::Io(error) => Reason::from(error),
            // A flush encodes nothing.
            other => Reason::from(io::Error::other(other)),
        })?;
        let FramedParts { io, codec, read_buf, .. } = framed.into_parts();
        let mut conn = Self::new(io, config)?;
        conn.receiver.resume(codec, read_buf);
        Ok(conn)
    }

    /// Takes the byte stream out of the connection, as tokio-util's `Framed`. Nothing is lost: this waits until all
    /// accepted packets are written, and the `Framed` returns the packets that have arrived and were not received. Stop
    /// other senders first: while they keep the send queue filled, this waits.
    ///
    /// The connection ends for its [senders](Self::sender), with [`is_local_close`](Error::is_local_close), and for the
    /// [limits and counts](crate::ServerConfig::max_conns) of its server. The deadlines and the heartbeat of its
    /// configuration no longer apply.
    ///
    /// # Errors
    ///
    /// The connection has ended, and this is the reason.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropping the future [drops](Self#dropping) the connection.
    pub async fn into_framed(mut self) -> Result<Framed<ConnStream, PacketCodec>, Error> {
        let writer = loop {
            self.flush().await?;
            if let Some(writer) = self.core().detach_writer()? {
                break writer;
            }
        };
        let (reader, codec, read_buf) = self.receiver.detach();
        let mut parts = FramedParts::new::<Packet>(ConnStream::new(reader, writer), codec);
        parts.read_buf = read_buf;
        Ok(Framed::from_parts(parts))
    }
}
