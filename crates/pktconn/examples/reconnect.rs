//! Sends a number per second over a client that reconnects: `cargo run --example reconnect -- 127.0.0.1:14572`. Stop
//! and restart the server to see what happens.

use std::time::Duration;

use pktconn::{Client, ClientConfig, ClientEvent, ClientState, PacketMut};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:14572".to_owned());
    let mut client = Client::new(&addr, ClientConfig::new().max_backoff(Duration::from_secs(5)))?;
    let sender = client.sender();
    tokio::spawn(async move {
        for number in 0.. {
            let mut packet = PacketMut::new();
            packet.write_u64(number);
            sender.send(packet).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        anyhow::Ok(())
    });
    let mut state = client.state();
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            if let ClientState::Waiting { error, delay, .. } = &*state.borrow_and_update() {
                println!("no connection ({error}); next attempt in {delay:.1?}");
            }
        }
    });
    while let Some(event) = client.recv().await {
        match event {
            ClientEvent::Connected => println!("connected"),
            ClientEvent::Packet(mut packet) => println!("{}", packet.read_u64()?),
            ClientEvent::Lost(lost) => {
                println!("lost the connection; delivery unknown: packets {:?}", lost.delivery_unknown);
            }
            _ => {}
        }
    }
    Ok(())
}
