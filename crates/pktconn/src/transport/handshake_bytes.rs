//! The bytes that arrive before the handshakes of a connection are complete: counted, and limited.

use std::io;
#[cfg(feature = "proxy-protocol")]
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
#[cfg(feature = "proxy-protocol")]
use std::task::{Context, Poll, ready};

#[cfg(feature = "proxy-protocol")]
use tokio::io::{AsyncRead, ReadBuf};

/// The most bytes that a peer may send before its handshakes are complete. A `ClientHello` has up to 2 KiB, a chain of
/// client certificates rarely more than 10 KiB, and a PROXY header up to a few KiB.
const MAX_HANDSHAKE_BYTES: usize = 32 * 1024;

/// Counts the bytes. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandshakeBytes(Arc<AtomicUsize>);

impl HandshakeBytes {
    /// How many bytes have arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Counts bytes that have arrived.
    ///
    /// # Errors
    ///
    /// More than [`MAX_HANDSHAKE_BYTES`] have arrived.
    pub(crate) fn add(&self, bytes: usize) -> io::Result<()> {
        let arrived = self.0.fetch_add(bytes, Relaxed) + bytes;
        if arrived <= MAX_HANDSHAKE_BYTES {
            return Ok(());
        }
        let problem = format!(
            "the peer sent {arrived} bytes of its handshake; at most {MAX_HANDSHAKE_BYTES} are allowed"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, problem))
    }
}

/// Reads from `stream`, and counts the bytes.
#[cfg(feature = "proxy-protocol")]
pub(crate) struct CountedReader<'a, S> {
    stream: &'a mut S,
    bytes: &'a HandshakeBytes,
}

#[cfg(feature = "proxy-protocol")]
impl<'a, S> CountedReader<'a, S> {
    pub(crate) fn new(stream: &'a mut S, bytes: &'a HandshakeBytes) -> Self {
        Self { stream, bytes }
    }
}

#[cfg(feature = "proxy-protocol")]
impl<S: AsyncRead + Unpin> AsyncRead for CountedReader<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.bytes.add(buf.filled().len() - before))
    }
}

#[cfg(all(test, feature = "proxy-protocol"))]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn the_bytes_of_all_readers_count_together_up_to_the_limit() {
        let bytes = HandshakeBytes::default();
        let mut first = &[7; 1000][..];
        CountedReader::new(&mut first, &bytes).read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(bytes.arrived(), 1000);
        let mut rest = &vec![7; MAX_HANDSHAKE_BYTES - 1000][..];
        CountedReader::new(&mut rest, &bytes).read_to_end(&mut Vec::new()).await.unwrap();
        let error = bytes.clone().add(1).unwrap_err();
        assert!(error.to_string().contains("32769 bytes of its handshake; at most 32768"), "{error}");
    }
}
