//! A chat: `cargo run --example chat -- serve 127.0.0.1:4000`, and in other terminals
//! `cargo run --example chat -- join 127.0.0.1:4000 alice`.
//!
//! The first packet of a guest is its name. Each further packet is a line, which the server sends to all other guests.
//! It disconnects guests that do not read, and guests that are silent for an hour.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pktconn::{CodecConfig, ConnConfig, Group, Packet, PacketConn, PacketServer, SlowConsumer};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

/// The maximum length of a line, in bytes.
const MAX_LINE: usize = 1000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", addr] => serve(addr).await,
        ["join", addr, name] => join(addr, name).await,
        _ => bail!("usage: chat serve ADDR, or chat join ADDR NAME"),
    }
}

async fn serve(addr: &str) -> anyhow::Result<()> {
    let config = ConnConfig::new()
        .codec(CodecConfig::new().max_payload_len(MAX_LINE))
        .idle_timeout(Duration::from_secs(3600))
        .send_high_water(64 * 1024)
        .slow_consumer(SlowConsumer::Disconnect);
    let server = PacketServer::bind_with(addr, config).await?;
    println!("listening on {}", server.local_addr());

    let handle = server.handle();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.shutdown_within(Duration::ZERO);
        }
    });
    let room = Group::new();
    server.serve(move |conn| guest(conn, room.clone())).await;
    Ok(())
}

/// Serves one guest until it leaves.
async fn guest(
    mut conn: PacketConn,
    room: Group<String>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Some(name) = conn.recv().await? else { return Ok(()) };
    let name = text(&name)?.to_owned();
    room.broadcast(format!("* {name} is here").into_bytes());
    room.join(&conn, name.clone());
    // Leaves the group even if `listen` returns an error.
    let result = listen(&mut conn, &name, &room).await;
    room.leave(&conn);
    room.broadcast(format!("* {name} is gone").into_bytes());
    result?;
    Ok(conn.close().await?)
}

async fn listen(conn: &mut PacketConn, name: &str, room: &Group<String>) -> anyhow::Result<()> {
    while let Some(line) = conn.recv().await? {
        let line = format!("{name}: {}", text(&line)?);
        room.broadcast_if(line.into_bytes(), |other| other != name);
    }
    Ok(())
}

fn text(packet: &Packet) -> anyhow::Result<&str> {
    let text = std::str::from_utf8(packet.payload()).context("a line must be UTF-8 text")?;
    ensure!(!text.contains(char::is_control), "a line must not contain control characters");
    Ok(text)
}

async fn join(addr: &str, name: &str) -> anyhow::Result<()> {
    let mut conn = PacketConn::connect(addr).await.with_context(|| format!("cannot join {addr}"))?;
    conn.send(name.as_bytes().to_vec()).await?;
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            packet = conn.recv() => match packet? {
                Some(line) => println!("{}", text(&line)?),
                None => break,
            },
            line = lines.next_line() => match line? {
                Some(line) => conn.send(line.into_bytes()).await?,
                None => break,
            },
        }
    }
    Ok(conn.close().await?)
}
