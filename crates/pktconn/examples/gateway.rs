//! A gateway between many players and one backend. `cargo run --example gateway`
//!
//! ```text
//!   player --.                                      .-- frame: id of the player, payload --.
//!   player ---+-- frame: payload -- gateway -- backend                                     |
//!   player --'          '-- one player, or all of them (id 0) <----------------------------'
//! ```
//!
//! The gateway never waits for a player: it disconnects a player that reads too slowly. It does wait for the backend,
//! so a slow backend slows the players down. Payloads are not copied.

use anyhow::{Context, ensure};
use bytes::Bytes;
use pktconn::{
    Addr, ConnConfig, Group, Packet, PacketConn, PacketMut, PacketServer, ServerConfig, ShutdownReport,
    SlowConsumer,
};

/// The id that addresses all players.
const EVERYBODY: u64 = 0;

/// Serves players until the backend closes its connection or `server` is shut down.
pub(crate) async fn gateway(server: PacketServer, backend: PacketConn) -> anyhow::Result<ShutdownReport> {
    let (handle, to_backend) = (server.handle(), backend.sender());
    let players = Group::new().slow_consumer(SlowConsumer::Disconnect);
    let serving = server.serve_conn({
        let players = players.clone();
        async move |conn: &mut PacketConn| {
            let id = u64::from(conn.id());
            players.join_as(&*conn, id);
            let id = Bytes::copy_from_slice(&id.to_le_bytes());
            while let Some(packet) = conn.recv().await? {
                to_backend.send_parts(&[id.clone(), packet.into_payload()]).await?;
            }
            Ok(())
        }
    });
    let routing = tokio::spawn(async move {
        let routed = route(backend, players).await;
        handle.shutdown_within(std::time::Duration::from_secs(5));
        routed
    });
    let report = serving.await;
    routing.abort();
    match routing.await {
        Ok(routed) => routed.map(|()| report),
        Err(_aborted) => Ok(report),
    }
}

/// Sends the packets of the backend to the players that they are for.
async fn route(mut backend: PacketConn, players: Group<u64>) -> anyhow::Result<()> {
    while let Some(mut packet) = backend.recv().await? {
        let player = packet.read_u64()?;
        let payload = packet.read_bytes(packet.unread().len())?;
        if player == EVERYBODY {
            players.broadcast(payload);
        } else if let Some(player) = players.get(&player) {
            if player.try_send(payload).is_err() {
                // The player is too slow, or its connection has ended.
                tokio::spawn(async move { player.close().await });
            }
        }
    }
    Ok(())
}

/// A backend that returns each packet to its player. After every fourth packet, it sends the number of packets to all
/// players.
pub(crate) async fn backend(mut gateway: PacketConn) -> anyhow::Result<()> {
    let mut seen = 0_u32;
    while let Some(packet) = gateway.recv().await? {
        ensure!(packet.len() >= 8, "packet of {} bytes has no player id of 8 bytes", packet.len());
        gateway.send(packet).await?;
        seen += 1;
        if seen % 4 == 0 {
            let mut news = PacketMut::new();
            news.write_u64(EVERYBODY);
            news.write_bytes(format!("{seen} packets so far").as_bytes());
            gateway.send(news).await?;
        }
    }
    Ok(gateway.close().await?)
}

/// A player that sends five packets, and prints all received packets until those five came back.
async fn player(gateway: Addr, name: &str) -> anyhow::Result<()> {
    let mut conn = PacketConn::connect(gateway).await?;
    for number in 1..=5 {
        conn.send(format!("{name} {number}")).await?;
    }
    let mut own = 0;
    while own < 5 {
        let packet: Packet = conn.recv().await?.context("the gateway closed the connection")?;
        println!("{name} received: {}", String::from_utf8_lossy(packet.payload()));
        own += u32::from(packet.payload().starts_with(name.as_bytes()));
    }
    Ok(conn.close().await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let backends = PacketServer::bind("127.0.0.1:0").await?;
    let to_backend = PacketConn::connect(backends.local_addr()).await?;
    tokio::spawn(backends.serve(|conn| async { Ok(backend(conn).await?) }));

    let config = ServerConfig::new().conn(ConnConfig::new().send_high_water(64 * 1024));
    let server = PacketServer::bind_with("127.0.0.1:0", config).await?;
    let (addr, handle) = (server.local_addr(), server.handle());
    let serving = tokio::spawn(gateway(server, to_backend));
    tokio::try_join!(player(addr.clone(), "alice"), player(addr, "bob"))?;
    handle.shutdown();
    println!("{:?}", serving.await??);
    Ok(())
}
