//! A fleet of devices reports readings while the servers restart one after the other. `cargo run --example
//! device_fleet`
//!
//! ```text
//!   device -- sequence number, reading --> collector -- number of stored readings --> device
//! ```
//!
//! A device keeps each reading until the collector has stored it. After a lost connection it sends the unstored
//! readings again, and the collector ignores a reading that is not the next one. So every reading is stored exactly
//! once. A server that stops drains its connections: it stores the readings that have arrived and answers. Its devices
//! connect to another server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use pktconn::{
    Addr, Client, ClientConfig, ClientEvent, ConnConfig, HandlerResult, PacketConn, PacketMut, PacketServer,
};

/// The readings of each device, in order. All collectors share it, like a database.
pub(crate) type Store = Arc<Mutex<HashMap<u32, Vec<u32>>>>;

/// A connection ends after this time without a byte from the other side. Both sides send heartbeats three times as
/// often.
const IDLE: Duration = Duration::from_secs(30);

/// How many unstored readings a device sends before it waits for an answer.
const WINDOW: usize = 100;

/// The configuration of both sides.
pub(crate) fn config() -> ConnConfig {
    ConnConfig::new().heartbeat(IDLE / 3).skip_empty(true).idle_timeout(IDLE)
}

/// Collects the readings of one device, until it closes or the server stops.
pub(crate) async fn collect(conn: &mut PacketConn, store: &Store) -> HandlerResult {
    let Some(mut hello) = conn.recv().await? else { return Ok(()) };
    let device = hello.read_u32()?;
    while let Some(mut packet) = conn.recv().await? {
        let (sequence, reading) = (packet.read_u32()?, packet.read_u32()?);
        let stored = {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let readings = store.entry(device).or_default();
            if sequence as usize == readings.len() {
                readings.push(reading);
            }
            readings.len() as u32
        };
        let mut answer = PacketMut::new();
        answer.write_u32(stored);
        conn.send(answer).await?;
    }
    Ok(())
}

/// A device: reports `readings` and returns when all of them are stored. It tries the `servers` in turn.
pub(crate) async fn report(device: u32, servers: Vec<Addr>, readings: Vec<u32>) -> anyhow::Result<()> {
    let next = Arc::new(Mutex::new(device as usize % servers.len()));
    let connect = move |config| {
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next + 1) % servers.len();
        let server = servers[*next].clone();
        async move {
            let conn = PacketConn::connect_with(server, config).await?;
            let mut hello = PacketMut::new();
            hello.write_u32(device);
            conn.send(hello).await?;
            Ok(conn)
        }
    };
    let backoff =
        ClientConfig::new().min_backoff(Duration::from_millis(20)).max_backoff(Duration::from_secs(5));
    let mut client = Client::with_connector(backoff.conn(config()), connect)?;
    // How many readings are stored, and how many were sent or need not be sent over this connection.
    let (mut stored, mut sent, mut is_connected) = (0, 0, false);
    while stored < readings.len() {
        match client.recv().await.context("the client has ended")? {
            ClientEvent::Connected => (sent, is_connected) = (stored, true),
            ClientEvent::Packet(mut answer) => stored = stored.max(answer.read_u32()? as usize),
            _ => is_connected = false,
        }
        // The window prevents a deadlock in which both sides send and none of them reads.
        while is_connected && sent < readings.len().min(stored + WINDOW) {
            let mut packet = PacketMut::new();
            packet.write_u32(sent as u32);
            packet.write_u32(readings[sent]);
            client.send(packet).await?;
            sent += 1;
        }
    }
    // All readings are stored, so a connection that fails now, with its server, loses nothing.
    let _ = client.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let store = Store::default();
    let (mut servers, mut handles, mut serving) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let server = PacketServer::bind_with("127.0.0.1:0", config()).await?;
        servers.push(server.local_addr());
        handles.push(server.handle());
        let store = store.clone();
        let handler = async move |conn: &mut PacketConn| collect(conn, &store).await;
        serving.push(tokio::spawn(server.serve_conn(handler)));
    }
    let start = |device| tokio::spawn(report(device, servers.clone(), vec![device; 1000]));
    let devices: Vec<_> = (0..100).map(start).collect();
    handles[0].shutdown_within(Duration::from_secs(10));
    println!("the first collector has stopped: {:?}", serving.remove(0).await?);
    for device in devices {
        device.await??;
    }
    println!("{} devices are complete", store.lock().unwrap_or_else(PoisonError::into_inner).len());
    Ok(())
}
