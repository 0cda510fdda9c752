//! Echoes the packets of a connection, and prints statistics once a second.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pktconn::{HandlerResult, Packet, PacketConn, PacketReceiver, PacketServer, Session, ShutdownReport};

use crate::counters::{ConnCounter, Counters, Totals};
use crate::output::{format_connections, print_line};

/// Maximum number of packets that are received and sent together.
const BATCH: usize = 64;

/// Serves until the server is shut down and its connections have finished.
pub(crate) async fn serve(server: PacketServer, counters: Arc<Counters>) -> ShutdownReport {
    server.serve(move |conn| echo(conn, counters.connection())).await
}

/// Serves one connection until its peer closes or the server stops. Not an `async fn`, whose future would hold each
/// argument twice: every idle connection holds this future in memory.
fn echo(
    conn: PacketConn,
    counter: ConnCounter,
) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> {
    let (sender, mut receiver) = conn.split();
    async move {
        loop {
            let mut packets = poll_fn(|cx| poll_batch(&mut receiver, cx)).await?;
            if packets.is_empty() {
                break;
            }
            let (count, payload_len) = (packets.len(), packets.iter().map(Packet::len).sum());
            sender.send_many(&mut packets).await?;
            counter.add(count, payload_len);
            SPARE_BATCH.set(packets);
        }
        // Without a receiver, `close` discards what still arrives.
        drop(receiver);
        Ok(sender.close().await?)
    }
}

thread_local! {
    /// The empty vector of the last batch, for the next batch on this thread. So idle connections hold no vector.
    static SPARE_BATCH: Cell<Vec<Packet>> = const { Cell::new(Vec::new()) };
}

/// Like [`serve`], with sessions.
pub(crate) async fn serve_sessions(server: PacketServer, counters: Arc<Counters>) -> ShutdownReport {
    server.serve_sessions(move |session| echo_session(session, counters.connection())).await
}

/// Not an `async fn`, as [`echo`].
#[expect(clippy::manual_async_fn, reason = "its future would hold each argument twice")]
fn echo_session(mut session: Session, counter: ConnCounter) -> impl Future<Output = HandlerResult> {
    async move {
        loop {
            let mut packets = Vec::new();
            if session.recv_many(&mut packets, BATCH).await? == 0 {
                return Ok(session.close().await?);
            }
            let (count, payload_len) = (packets.len(), packets.iter().map(Packet::len).sum());
            session.send_many(&mut packets).await?;
            counter.add(count, payload_len);
        }
    }
}

/// Receives the packets that have arrived. Returns an empty vector at the end of the stream.
fn poll_batch(
    receiver: &mut PacketReceiver,
    cx: &mut Context<'_>,
) -> Poll<Result<Vec<Packet>, pktconn::Error>> {
    let mut packets = SPARE_BATCH.take();
    let received = receiver.poll_recv_many(cx, &mut packets, BATCH);
    if received.is_pending() {
        SPARE_BATCH.set(packets);
        return Poll::Pending;
    }
    received.map_ok(|_| packets)
}

/// Prints a line per second until it is aborted.
pub(crate) async fn print_stats(counters: Arc<Counters>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut last = Totals::default();
    seconds.tick().await;
    loop {
        seconds.tick().await;
        let now = counters.totals();
        print_line(&format!(
            "{}, {} packets/s, {:.1} MB/s",
            format_connections(now.open),
            now.packets - last.packets,
            (now.payload_bytes - last.payload_bytes) as f64 / 1e6
        ));
        last = now;
    }
}
