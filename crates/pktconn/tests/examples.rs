//! The examples of whole applications, under load and with faults.

mod common;

#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "the parts that only its `main` uses")]
mod gateway;

#[path = "../examples/go_port.rs"]
#[allow(dead_code, reason = "the parts that only its `main` uses")]
mod go_port;

use std::time::Duration;

use common::{HANG_GUARD, numbered, tcp_addr};
use pktconn::{ConnConfig, Error, PacketConn, PacketServer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A gateway and its backend. Returns the server's handle and what the gateway ends with.
async fn start_gateway() -> (std::net::SocketAddr, pktconn::ServerHandle, GatewayTask, JoinHandle<()>) {
    let backends = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let to_backend = PacketConn::connect(backends.local_addr()).await.unwrap();
    let backend = tokio::spawn(async move {
        backends.serve(|conn| async { Ok(gateway::backend(conn).await?) }).await;
    });
    let config = ConnConfig::new().send_high_water(256 * 1024);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    (addr, handle, tokio::spawn(gateway::gateway(server, to_backend)), backend)
}

type GatewayTask = JoinHandle<anyhow::Result<pktconn::ShutdownReport>>;

/// Sends `count` packets, and receives them again among the news. In packets of up to `size` bytes.
async fn play(addr: std::net::SocketAddr, player: u32, count: u32, size: usize) {
    let (sender, mut receiver) = PacketConn::connect(addr).await.unwrap().split();
    let packet = move |number: u32| {
        let mut payload = numbered(number ^ player << 16).payload().to_vec();
        payload.resize(payload.len().max(number as usize * 7919 % size), number as u8);
        payload
    };
    let sending = tokio::spawn(async move {
        for number in 0..count {
            sender.send(packet(number)).await.unwrap();
        }
        sender
    });
    let mut next = 0;
    while next < count {
        let received = receiver.recv().await.unwrap().expect("the gateway goes on");
        if received.payload().ends_with(b" packets so far") {
            continue;
        }
        assert!(received.payload() == packet(next), "player {player}, packet {next}");
        next += 1;
    }
    drop(receiver);
    sending.await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_keeps_players_apart_and_drops_one_that_does_not_read() {
    let (addr, handle, gateway, _backend) = start_gateway().await;
    let slow = PacketConn::connect(addr).await.unwrap();
    let flooding = tokio::spawn(async move {
        // Its replies and the news fill its queue. It is disconnected, and nobody waits for it.
        loop {
            if let Err(error) = slow.send(vec![7; 50_000]).await {
                return error;
            }
        }
    });
    let players = (1..=20).map(|player| tokio::spawn(play(addr, player, 100, 60_000)));
    for player in players.collect::<Vec<_>>() {
        timeout(HANG_GUARD, player).await.unwrap().unwrap();
    }
    let error: Error = timeout(HANG_GUARD, flooding).await.unwrap().unwrap();
    assert!(error.is_io(), "{error}");
    handle.shutdown_within(Duration::from_secs(1));
    let report = timeout(HANG_GUARD, gateway).await.unwrap().unwrap().unwrap();
    assert!(report.cut.is_empty(), "{report:?}");
}

#[tokio::test]
async fn a_gateway_ends_with_its_backend_and_says_so_to_its_players() {
    let (addr, _handle, gateway, backend) = start_gateway().await;
    let mut player = PacketConn::connect(addr).await.unwrap();
    player.send("one").await.unwrap();
    assert_eq!(player.recv().await.unwrap(), Some("one".into()));
    backend.abort();
    let _ended = timeout(HANG_GUARD, gateway).await.unwrap().unwrap();
    assert!(!matches!(timeout(HANG_GUARD, player.recv()).await.unwrap(), Ok(Some(_))));
    assert!(PacketConn::connect(addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_from_go_counts_the_packets_of_each_connection() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    let (to_world, messages) = mpsc::channel(1024);
    let world = tokio::spawn(go_port::world(messages));
    let serving = tokio::spawn(go_port::serve(server, to_world));
    let player = |name: u32| async move {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        for count in 1..=500 {
            conn.send(format!("player {name}")).await.unwrap();
            let reply = conn.recv().await.unwrap().unwrap();
            assert_eq!(reply.payload(), format!("{count}: player {name}").as_bytes());
            if name == 3 && count == 100 {
                // One that breaks off is nobody else's matter.
                return;
            }
        }
        conn.close().await.unwrap();
    };
    let players = (0..30).map(|name| tokio::spawn(player(name)));
    for player in players.collect::<Vec<_>>() {
        timeout(HANG_GUARD, player).await.unwrap().unwrap();
    }
    serving.abort();
    let _ = serving.await;
    timeout(HANG_GUARD, world).await.expect("no connection is left").unwrap();
}
