//! Helpers of the tests: pairs of connections, frames and packets, and limits of time.
#![allow(dead_code, reason = "each test crate uses only some of these helpers")]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use pktconn::{ConnConfig, Packet, PacketConn, PacketServer, ServerConfig, ServerHandle};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The time limit for a step of a test. It only ends a test that hangs: even a slow machine needs far less.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(60);

/// A deadline that no test reaches. If all deadlines except one are this long, that one ended the connection.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Returns true if tests assert times of the real clock, which fails on a busy machine. `.ci/nightly times` sets
/// `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// The address of a TCP server.
pub(crate) fn tcp_addr(server: &PacketServer) -> SocketAddr {
    server.local_addr().socket_addr().unwrap()
}

/// An echo server on a TCP port of the loopback, which runs until its runtime ends.
pub(crate) async fn serve_echo(config: ServerConfig) -> (SocketAddr, ServerHandle) {
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    tokio::spawn(server.serve_conn(async |conn: &mut PacketConn| {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(())
    }));
    (addr, handle)
}

/// The log lines that a subscriber writes. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A TCP connection, and the raw socket at its other end.
pub(crate) async fn tcp_and_raw(config: ConnConfig) -> (PacketConn, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (conn, accepted) = tokio::join!(PacketConn::connect_with(addr, config), listener.accept());
    (conn.unwrap(), accepted.unwrap().0)
}

/// Both ends of a TCP connection.
pub(crate) async fn tcp_pair(config: ConnConfig) -> (PacketConn, PacketConn) {
    let (conn, raw) = tcp_and_raw(config.clone()).await;
    (conn, PacketConn::from_tcp(raw, config).unwrap())
}

/// A connection over an in-memory pipe that holds `capacity` bytes per direction, and the other end of the pipe.
pub(crate) fn piped_and_raw(capacity: usize, config: ConnConfig) -> (PacketConn, DuplexStream) {
    let (here, there) = tokio::io::duplex(capacity);
    (PacketConn::new(here, config).unwrap(), there)
}

/// Both ends of a connection over an in-memory pipe that holds `capacity` bytes per direction.
pub(crate) fn piped_pair(capacity: usize, config: ConnConfig) -> (PacketConn, PacketConn) {
    let (conn, raw) = piped_and_raw(capacity, config.clone());
    (conn, PacketConn::new(raw, config).unwrap())
}

/// A frame with `payload` in the default format, built without the codec.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes(), payload].concat()
}

/// A packet with its number in the first 4 bytes. The length depends on the number.
pub(crate) fn numbered(number: u32) -> Packet {
    let len = 4 + (number as usize * 37) % 700;
    let mut payload = vec![number as u8; len];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    payload.into()
}

/// Polls `future` up to `polls` times and then drops it. Returns `None` if it was still pending.
pub(crate) async fn drop_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    DropAfter { polls, future: Box::pin(future) }.await
}

struct DropAfter<F> {
    polls: usize,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for DropAfter<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A peer that always sends empty packets and never reads.
pub(crate) struct Flood;

impl AsyncRead for Flood {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(&[0; 4].repeat(buf.remaining() / 4));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}
