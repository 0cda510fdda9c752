//! One loop handles the packets of many connections, as in a game server: `cargo run --example fan_in`.
//!
//! ```text
//!   connection --.                                     .--> connection
//!   connection ---+--> events --> one loop, all state --+--> connection
//!   connection --'                                     '--> connection
//! ```
//!
//! Each connection has a task that only receives. The loop owns all state, without a lock, and sends through the
//! senders of the connections. Packets that it sends to a connection without awaiting in between are written in one
//! write.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Context;
use pktconn::{Addr, Packet, PacketConn, PacketMut, PacketSender, PacketServer};
use tokio::sync::mpsc;

enum Event {
    Joined(SocketAddr, PacketSender),
    Said(SocketAddr, Packet),
    Left(SocketAddr),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = PacketServer::bind("127.0.0.1:0").await?;
    let addr = server.local_addr();

    // The channel is bounded: if the loop falls behind, the connections are not read, and their peers must wait.
    let (events, queue) = mpsc::channel(1024);
    tokio::spawn(world(queue));
    tokio::spawn(server.serve(move |conn| {
        let events = events.clone();
        async move { Ok(forward(conn, events).await?) }
    }));

    let players = (0..3).map(|id| tokio::spawn(play(addr.clone(), id)));
    for player in players.collect::<Vec<_>>() {
        player.await??;
    }
    Ok(())
}

/// Receives the packets of one connection and sends them to the channel of the loop.
async fn forward(conn: PacketConn, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let peer = conn.peer_addr().context("the connection has no peer address")?;
    let (sender, mut receiver) = conn.split();
    events.send(Event::Joined(peer, sender)).await?;
    let result = loop {
        match receiver.recv().await {
            Ok(Some(packet)) => events.send(Event::Said(peer, packet)).await?,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    events.send(Event::Left(peer)).await?;
    result
}

/// The loop: adds up the numbers of all players, and sends the total to all of them.
async fn world(mut queue: mpsc::Receiver<Event>) {
    let mut players: HashMap<SocketAddr, PacketSender> = HashMap::new();
    let mut total = 0;
    while let Some(event) = queue.recv().await {
        match event {
            Event::Joined(peer, sender) => {
                players.insert(peer, sender);
            }
            Event::Left(peer) => {
                players.remove(&peer);
            }
            Event::Said(peer, mut packet) => {
                let Ok(number) = packet.read_u32() else {
                    // Invalid packet: close the connection. The loop must not wait for that.
                    if let Some(invalid) = players.remove(&peer) {
                        tokio::spawn(async move { invalid.close().await });
                    }
                    continue;
                };
                total += number;
                let mut news = PacketMut::new();
                news.write_u32(total);
                // Encodes the packet once for all players.
                let news = news.freeze();
                // A player with a full send queue is too slow: it misses this total. Other errors remove the player.
                players.retain(|_, player| match player.try_send(news.clone()) {
                    Ok(()) => true,
                    Err(error) => error.is_full(),
                });
            }
        }
    }
}

/// A client that sends three numbers and then waits until the total includes those of all players.
async fn play(addr: Addr, id: u32) -> anyhow::Result<()> {
    let mut conn = PacketConn::connect(addr).await?;
    for number in [1_u32, 10, 100] {
        let mut packet = PacketMut::new();
        packet.write_u32(number);
        conn.send(packet).await?;
    }
    let mut total = 0;
    while total < 3 * 111 {
        total = conn.recv().await?.context("the server closed the connection")?.read_u32()?;
        println!("player {id}: the total is {total}");
    }
    conn.close().await?;
    Ok(())
}
