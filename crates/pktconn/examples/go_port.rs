//! The port of a Go server that uses channels. `cargo run --example go_port`
//!
//! ```go
//! for packet := range conn.RecvChan() {         // one goroutine for each connection
//!     world <- Message{conn, packet}            // one channel for all of them
//! }
//! ```
//!
//! A connection becomes a pair of channels, and a task per connection forwards its packets to the channel of the world.
//! If a channel is full, the connection is not read, and its peer must wait. Each channel costs a task switch per batch
//! of packets. The example `fan_in` needs one channel less.

use std::collections::HashMap;

use anyhow::Context;
use pktconn::{Addr, ConnId, Packet, PacketConn, PacketServer};
use tokio::sync::mpsc;

/// An event of a connection.
pub(crate) enum Message {
    /// A new connection, and the channel for sending to it.
    Joined(ConnId, mpsc::Sender<Packet>),
    /// A packet was received.
    Packet(ConnId, Packet),
    /// The connection has ended.
    Left(ConnId),
}

/// Accepts connections, and sends their events to `world`.
pub(crate) async fn serve(server: PacketServer, world: mpsc::Sender<Message>) {
    let handler = move |conn: PacketConn| {
        let world = world.clone();
        async move {
            let id = conn.id();
            let (outgoing, mut incoming) = conn.into_channels(16);
            world.send(Message::Joined(id, outgoing)).await?;
            let mut result = Ok(());
            while let Some(received) = incoming.recv().await {
                match received {
                    Ok(packet) => world.send(Message::Packet(id, packet)).await?,
                    Err(error) => result = Err(error.into()),
                }
            }
            // The world then drops its sender, which closes the connection.
            world.send(Message::Left(id)).await?;
            result
        }
    };
    server.serve(handler).await;
}

/// The loop that owns all state. It counts the packets of each connection and answers with the count.
pub(crate) async fn world(mut messages: mpsc::Receiver<Message>) {
    let mut players = HashMap::new();
    while let Some(message) = messages.recv().await {
        match message {
            Message::Joined(id, outgoing) => {
                players.insert(id, (outgoing, 0_u32));
            }
            Message::Packet(id, packet) => {
                let Some((outgoing, count)) = players.get_mut(&id) else { continue };
                *count += 1;
                let reply = format!("{count}: {}", String::from_utf8_lossy(packet.payload()));
                // The loop must not wait for a player, so a player that does not read loses replies.
                let _ = outgoing.try_send(reply.into());
            }
            Message::Left(id) => {
                players.remove(&id);
            }
        }
    }
}

async fn player(server: Addr, name: &str) -> anyhow::Result<()> {
    let mut conn = PacketConn::connect(server).await?;
    for _ in 0..3 {
        conn.send(name).await?;
        let reply = conn.recv().await?.context("the server closed the connection")?;
        println!("{}", String::from_utf8_lossy(reply.payload()));
    }
    Ok(conn.close().await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = PacketServer::bind("127.0.0.1:0").await?;
    let addr = server.local_addr();
    let (to_world, messages) = mpsc::channel(1024);
    tokio::spawn(world(messages));
    tokio::spawn(serve(server, to_world));
    tokio::try_join!(player(addr.clone(), "alice"), player(addr, "bob"))?;
    Ok(())
}
