//! Runs the examples `gateway`, `device_fleet`, `requests` and `go_port` with many clients, and with failures.

mod common;

#[path = "../examples/gateway.rs"]
#[allow(dead_code, reason = "the parts that only its `main` uses")]
mod gateway;

#[path = "../examples/device_fleet.rs"]
#[allow(dead_code, reason = "the parts that only its `main` uses")]
mod device_fleet;

#[path = "../examples/requests.rs"]
#[allow(dead_code, reason = "the parts that only its `main` uses")]
mod requests;

#[path = "../examples/go_port.rs"]
#[allow(dead_code, reason = "the parts that only its `main` uses")]
mod go_port;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{HANG_GUARD, numbered, tcp_addr};
use pktconn::{ClientConfig, ConnConfig, Error, PacketConn, PacketServer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Starts a gateway and its backend. Returns the address and handle of the gateway, and both tasks.
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

/// Sends `count` packets of up to `size` bytes, and checks that they come back. Skips the broadcasts of the backend.
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
        let received = receiver.recv().await.unwrap().expect("the gateway closed the connection");
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
async fn the_gateway_serves_players_and_disconnects_one_that_does_not_read() {
    let (addr, handle, gateway, _backend) = start_gateway().await;
    let slow = PacketConn::connect(addr).await.unwrap();
    let flooding = tokio::spawn(async move {
        // Replies and broadcasts fill the queue of this player, so the gateway disconnects it.
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
async fn the_gateway_ends_with_its_backend_and_closes_the_connections_of_its_players() {
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
async fn the_port_from_go_counts_the_packets_of_each_connection() {
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
                // This player drops its connection, which must not affect the others.
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
    timeout(HANG_GUARD, world).await.expect("the world must end with the last connection").unwrap();
}

/// Binds the address of a server that has just stopped.
async fn bind_again(addr: std::net::SocketAddr, config: ConnConfig) -> PacketServer {
    timeout(HANG_GUARD, async {
        loop {
            match PacketServer::bind_with(addr, config.clone()).await {
                Ok(server) => return server,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    })
    .await
    .expect("the port did not become free")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_many_tasks_get_their_responses_while_the_server_restarts() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    let mut serving = tokio::spawn(server.serve_conn(requests::serve));
    let config =
        ClientConfig::new().min_backoff(Duration::from_millis(10)).max_backoff(Duration::from_millis(50));
    let caller = requests::Caller::new(addr, config).unwrap();
    let unknown = Arc::new(AtomicUsize::new(0));
    let call = |task: u32| {
        let (caller, unknown) = (caller.clone(), Arc::clone(&unknown));
        async move {
            for number in 0..100 {
                let (request, expected) =
                    (format!("task {task}, {number}"), format!("TASK {task}, {number}"));
                // The request has no side effects, so it is safe to repeat.
                loop {
                    match caller.call(request.as_bytes(), HANG_GUARD).await {
                        Ok(response) => break assert_eq!(response.unread(), expected.as_bytes()),
                        Err(error) if error.to_string().contains("may have received") => {
                            unknown.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => panic!("{error:#}"),
                    }
                }
            }
        }
    };
    let tasks: Vec<_> = (0..30).map(|task| tokio::spawn(call(task))).collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Drops the server with all connections, without a shutdown.
        serving.abort();
        let _ = serving.await;
        serving = tokio::spawn(bind_again(addr, ConnConfig::new()).await.serve_conn(requests::serve));
    }
    for task in tasks {
        timeout(HANG_GUARD, task).await.unwrap().unwrap();
    }
    let unknown = unknown.load(Ordering::Relaxed);
    assert!(
        unknown < 3 * 100,
        "{unknown} unknown deliveries; only requests in progress at a restart may be unknown"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_device_fleet_stores_each_reading_once_while_its_servers_restart() {
    let store = device_fleet::Store::default();
    let serve = |server: PacketServer| {
        let (handle, store) = (server.handle(), Arc::clone(&store));
        let handler = async move |conn: &mut PacketConn| device_fleet::collect(conn, &store).await;
        (handle, tokio::spawn(server.serve_conn(handler)))
    };
    let (mut addrs, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let server = PacketServer::bind_with("127.0.0.1:0", device_fleet::config()).await.unwrap();
        addrs.push(tcp_addr(&server));
        servers.push(serve(server));
    }
    let readings = |device: u32| (0..1000).map(|number| device * 7919 + number).collect::<Vec<_>>();
    let addresses: Vec<pktconn::Addr> = addrs.iter().map(|addr| (*addr).into()).collect();
    let start = |device| tokio::spawn(device_fleet::report(device, addresses.clone(), readings(device)));
    let devices: Vec<_> = (0..40).map(start).collect();
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let (handle, serving) = servers.remove(0);
        // In turn: a shutdown with time to drain, one without, and a crash.
        match round % 3 {
            0 => handle.shutdown_within(Duration::from_secs(10)),
            1 => handle.shutdown_within(Duration::ZERO),
            _ => serving.abort(),
        }
        let _ = timeout(HANG_GUARD, serving).await.unwrap();
        servers.push(serve(bind_again(addrs[round % 2], device_fleet::config()).await));
    }
    for device in devices {
        timeout(HANG_GUARD, device).await.unwrap().unwrap().unwrap();
    }
    let store = store.lock().unwrap();
    assert_eq!(store.len(), 40);
    for (device, stored) in store.iter() {
        assert!(*stored == readings(*device), "device {device}");
    }
}
