//! The echo itself.

use std::cell::Cell;
use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use pktconn::{Packet, PacketConn, PacketReceiver, PacketServer, ServerHandle, ShutdownReport};

use crate::say;
use crate::tally::{Board, Totals, connections};

/// Packets that are taken at a time, if so many have arrived.
const BATCH: usize = 64;

/// Serves until the server is shut down and its connections have finished.
pub(crate) async fn serve(server: PacketServer, board: Arc<Board>) -> ShutdownReport {
    let handle = server.handle();
    server.serve(move |conn| echo(conn, Arc::clone(&board), handle.clone())).await
}

/// One connection. An `async fn` would hold each of its arguments twice, and all connections idle in here.
fn echo(
    conn: PacketConn,
    board: Arc<Board>,
    server: ServerHandle,
) -> impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>> {
    let (sender, mut receiver) = conn.split();
    async move {
        let tally = board.open();
        let mut stopping = pin!(server.stopping());
        loop {
            // What has arrived is answered before the stop is looked at. A peer that never pauses cannot put it off for
            // ever: tokio has each task wait once in a while, but not for this stop.
            let mut packets = tokio::select! {
                biased;
                received = receive(&mut receiver) => received?,
                () = &mut stopping => break,
            };
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

/// Waits for packets; none at the end of the stream.
async fn receive(receiver: &mut PacketReceiver) -> Result<Vec<Packet>, pktconn::Error> {
    poll_fn(|cx| {
        let mut packets = SPARE.take();
        let received = receiver.poll_recv_many(cx, &mut packets, BATCH);
        if received.is_pending() {
            SPARE.set(packets);
            return Poll::Pending;
        }
        received.map_ok(|_| packets)
    })
    .await
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
