//! The echo itself.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pktconn::{Packet, PacketConn, PacketReceiver, PacketServer, ShutdownReport};

use crate::messages::say;
use crate::tally::{Board, Tally, Totals, connections};

/// Packets that are taken at a time, if so many have arrived.
const BATCH: usize = 64;

/// Serves until the server is shut down and its connections have finished.
pub(crate) async fn serve(server: PacketServer, board: Arc<Board>) -> ShutdownReport {
    server.serve(move |conn| echo(conn, board.open())).await
}

/// One connection, until its peer closes or the server stops. An `async fn` would hold each of its arguments twice, and all
/// connections idle in here.
fn echo(conn: PacketConn, tally: Tally) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> {
    let (sender, mut receiver) = conn.split();
    async move {
        loop {
            let mut packets = poll_fn(|cx| poll_batch(&mut receiver, cx)).await?;
            if packets.is_empty() {
                break;
            }
            let (count, payload_len) = (packets.len(), packets.iter().map(Packet::len).sum());
            sender.send_many(&mut packets).await?;
            tally.add(count, payload_len);
            SPARE.set(packets);
        }
        // What still arrives is the close's to discard.
        drop(receiver);
        Ok(sender.close().await?)
    }
}

thread_local! {
    /// The memory of a batch, for the next one on this thread: connections that idle hold none.
    static SPARE: Cell<Vec<Packet>> = const { Cell::new(Vec::new()) };
}

/// The packets that have arrived; none at the end of the stream.
fn poll_batch(
    receiver: &mut PacketReceiver,
    cx: &mut Context<'_>,
) -> Poll<Result<Vec<Packet>, pktconn::Error>> {
    let mut packets = SPARE.take();
    let received = receiver.poll_recv_many(cx, &mut packets, BATCH);
    if received.is_pending() {
        SPARE.set(packets);
        return Poll::Pending;
    }
    received.map_ok(|_| packets)
}

/// Prints a line a second, for ever.
pub(crate) async fn print_stats(board: Arc<Board>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    let mut last = Totals::default();
    seconds.tick().await;
    loop {
        seconds.tick().await;
        let now = board.totals();
        say(&format!(
            "{}, {} packets/s, {:.1} MB/s",
            connections(now.open),
            now.packets - last.packets,
            (now.bytes - last.bytes) as f64 / 1e6
        ));
        last = now;
    }
}
