//! The echo itself.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use pktconn::{Packet, PacketConn, PacketServer, ServerHandle};

use crate::say;
use crate::tally::{Board, Totals, connections};

/// Packets that are taken at a time, if so many have arrived.
const BATCH: usize = 64;

/// Serves until the server is shut down and its connections have finished.
pub(crate) async fn serve(server: PacketServer, board: Arc<Board>) {
    let handle = server.handle();
    server.serve(move |conn| echo(conn, Arc::clone(&board), handle.clone())).await;
}

/// One connection. The handler itself, and not a function that a handler calls: a future in a future holds all that was
/// passed on twice.
async fn echo(
    mut conn: PacketConn,
    board: Arc<Board>,
    server: ServerHandle,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tally = board.open();
    let mut stopping = pin!(server.stopping());
    let mut packets = Vec::new();
    loop {
        // What has arrived is answered before the stop is looked at. A peer that never pauses cannot put it off for ever:
        // tokio has each task wait once in a while, but not for this stop.
        let count = tokio::select! {
            biased;
            received = conn.recv_many(&mut packets, BATCH) => received?,
            () = &mut stopping => break,
        };
        if count == 0 {
            break;
        }
        let payload_len = packets.iter().map(Packet::len).sum();
        conn.send_many(&mut packets).await?;
        tally.add(count, payload_len);
        // A connection that idles holds next to nothing.
        packets.shrink_to(1);
    }
    Ok(conn.close().await?)
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
