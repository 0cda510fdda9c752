//! Connections in pairs, frames written by hand, and what to assert about time.
#![allow(dead_code, reason = "each test crate uses its own part of this")]

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pktconn::{ConnConfig, Packet, PacketConn, PacketServer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The longest that a test waits for anything. It only ends a test that hangs, so it is far above what a slow machine takes.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(60);

/// A deadline that no test waits for. Where all other deadlines are this long, a connection that ends has ended by the one that
/// the test is about.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Whether to assert times of the real clock, which a busy machine can break. `.ci/nightly times` sets `PKTCONN_TIMES=1`.
pub(crate) fn asserts_times() -> bool {
    std::env::var_os("PKTCONN_TIMES").is_some_and(|value| value == "1")
}

/// Where a server over TCP is reached.
pub(crate) fn tcp_addr(server: &PacketServer) -> SocketAddr {
    server.local_addr().socket_addr().unwrap()
}

/// A connection over TCP, and the raw socket at its other end.
pub(crate) async fn tcp_and_raw(config: ConnConfig) -> (PacketConn, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (conn, accepted) = tokio::join!(PacketConn::connect_with(addr, config), listener.accept());
    (conn.unwrap(), accepted.unwrap().0)
}

/// Both ends of a connection over TCP.
pub(crate) async fn tcp_pair(config: ConnConfig) -> (PacketConn, PacketConn) {
    let (conn, raw) = tcp_and_raw(config.clone()).await;
    (conn, PacketConn::from_tcp(raw, config).unwrap())
}

/// A connection over a pipe in memory that holds `capacity` bytes, and the other end of the pipe.
pub(crate) fn piped_and_raw(capacity: usize, config: ConnConfig) -> (PacketConn, DuplexStream) {
    let (here, there) = tokio::io::duplex(capacity);
    (PacketConn::new(here, config).unwrap(), there)
}

/// Both ends of a connection over such a pipe.
pub(crate) fn piped_pair(capacity: usize, config: ConnConfig) -> (PacketConn, PacketConn) {
    let (conn, raw) = piped_and_raw(capacity, config.clone());
    (conn, PacketConn::new(raw, config).unwrap())
}

/// The frame of `payload` in the default format, made without the codec.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes(), payload].concat()
}

/// A packet that says which one it is, of a length that varies with its number.
pub(crate) fn numbered(number: u32) -> Packet {
    let len = 4 + (number as usize * 37) % 700;
    let mut payload = vec![number as u8; len];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    payload.into()
}

/// Polls `future` at most `polls` times and then drops it; `None` when it was not ready by then.
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

/// A peer that sends without a pause, and takes nothing.
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
