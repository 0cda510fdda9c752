//! `memory_budget`: all connections of a server together stay within it. The server closes the connections that hold
//! the most bytes, and serves the others.

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{frame, tcp_addr};
use pktconn::{
    CodecConfig, ConnConfig, Error, PacketConn, PacketServer, ServerConfig, ServerHandle, TcpConfig, Timeout,
};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const BUDGET: usize = 1024 * 1024;

/// How much the server may exceed the budget: by a read per connection, and by the steps in which it counts.
const OVERSHOOT: usize = 256 * 1024;

/// The errors that ended connections.
type Errors = Arc<Mutex<Vec<Error>>>;

/// Starts an echo server. `None` leaves the kernel's send buffer at its default size.
async fn serve(send_buffer: Option<usize>) -> (std::net::SocketAddr, ServerHandle, Errors) {
    let conn = ConnConfig::new().tcp(TcpConfig::new().send_buffer(send_buffer));
    let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().conn(conn).memory_budget(BUDGET));
    let server = server.await.unwrap();
    let (addr, handle, errors) = (tcp_addr(&server), server.handle(), Errors::default());
    tokio::spawn(server.serve({
        let errors = Arc::clone(&errors);
        move |mut conn| {
            let errors = Arc::clone(&errors);
            async move {
                let echo = async {
                    while let Some(packet) = conn.recv().await? {
                        conn.send(packet).await?;
                    }
                    conn.close().await
                };
                let ended: Result<(), Error> = echo.await;
                errors.lock().unwrap().extend(ended.err());
                Ok(())
            }
        }
    }));
    (addr, handle, errors)
}

async fn connect(addr: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).await.unwrap();
    SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    stream
}

async fn assert_echoes(conn: &mut PacketConn) {
    conn.send(vec![7; 1000]).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), [7; 1000]);
}

/// Echoes over `healthy` until `done`, and returns the largest number of held bytes meanwhile.
async fn watch(healthy: &mut PacketConn, handle: &ServerHandle, done: impl Fn() -> bool) -> usize {
    let (started, mut most) = (Instant::now(), 0);
    while !done() {
        assert_echoes(healthy).await;
        most = most.max(handle.stats().held_bytes);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", handle.stats());
    }
    most
}

#[tokio::test]
async fn clients_that_never_read_are_closed_and_the_others_are_served() {
    let (addr, handle, errors) = serve(Some(4096)).await;
    let mut healthy = PacketConn::connect(addr).await.unwrap();
    // Each of them alone would fill its send queue of 1 MiB.
    let slow_clients: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = connect(addr).await;
                let packet = frame(&[7; 1000]);
                while stream.write_all(&packet).await.is_ok() {}
            })
        })
        .collect();
    let most = watch(&mut healthy, &handle, || handle.stats().closed_over_budget > 0).await;
    assert!(most <= BUDGET + OVERSHOOT, "the server held {most} bytes");
    assert!(most > BUDGET / 2, "the server held only {most} bytes");
    // The remaining clients reach the budget again.
    let most =
        watch(&mut healthy, &handle, || slow_clients.iter().filter(|task| task.is_finished()).count() >= 4)
            .await;
    assert!(most <= BUDGET + OVERSHOOT, "the server held {most} bytes");
    let errors = errors.lock().unwrap();
    assert!(errors.iter().all(Error::is_over_budget), "{errors:?}");
    slow_clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn under_pressure_new_connections_are_refused_and_frames_wait_for_room() {
    let (addr, handle, errors) = serve(None).await;
    let mut healthy = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut healthy).await;
    // Frames of 310 kB without their last 1,000 bytes. Three of them exceed three quarters of the budget.
    let large = frame(&vec![7; 310_000]);
    let (begun, end) = large.split_at(large.len() - 1000);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // A task, because the write may have to wait until the pressure ends.
        let begun = begun.to_vec();
        streams.push(tokio::spawn(async move { stream.write_all(&begun).await.map(|()| stream) }));
    }
    let is_refused = || handle.stats().refused > 0;
    let mut tries = Vec::new();
    let started = Instant::now();
    while !is_refused() && handle.stats().closed_over_budget == 0 {
        assert_echoes(&mut healthy).await;
        tries.push(TcpStream::connect(addr).await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", handle.stats());
    }
    assert!(is_refused(), "{:?}", handle.stats());
    drop(tries);
    watch(&mut healthy, &handle, || handle.stats().closed_over_budget > 0).await;
    assert_eq!(handle.stats().closed_over_budget, 1, "closing one connection is enough");
    // The other two are read again, and the server echoes their frames.
    let mut served = 0;
    for stream in streams {
        let Ok(stream) = stream.await.unwrap() else { continue };
        let (reader, mut writer) = stream.into_split();
        if writer.write_all(end).await.is_err() {
            continue;
        }
        let whole = reader.reunite(writer).unwrap();
        let mut conn = PacketConn::from_tcp(whole, ConnConfig::new()).unwrap();
        if let Ok(Some(packet)) = conn.recv().await {
            assert_eq!(packet.payload(), vec![7; 310_000]);
            served += 1;
        }
    }
    assert_eq!(served, 2);
    assert_eq!(errors.lock().unwrap().iter().filter(|error| error.is_over_budget()).count(), 1);
    assert!(PacketConn::connect(addr).await.is_ok());
    assert_echoes(&mut healthy).await;
}

/// Connects from another network than [`connect`]. Only Linux has all of 127.0.0.0/8 without a configuration.
#[cfg(target_os = "linux")]
async fn connect_from_elsewhere(addr: std::net::SocketAddr) -> PacketConn {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    PacketConn::from_tcp(socket.connect(addr).await.unwrap(), ConnConfig::new()).unwrap()
}

/// Keeps `conns` connections to `addr` that each send a large frame without its end, and connect again when they are
/// closed.
#[cfg(target_os = "linux")]
fn flood(addr: std::net::SocketAddr, conns: usize) -> tokio::task::JoinSet<()> {
    let begun = Arc::new(frame(&vec![7; 900_000])[..800_000].to_vec());
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..conns {
        let begun = Arc::clone(&begun);
        flood.spawn(async move {
            loop {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                let _ = stream.write_all(&begun).await;
                // Until the server closes the connection.
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    flood
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_flood_from_one_network_does_not_shut_out_the_clients_of_others() {
    let (addr, handle, errors) = serve(None).await;
    let mut healthy = connect_from_elsewhere(addr).await;
    let flood = flood(addr, 20);
    let mut most = watch(&mut healthy, &handle, || handle.stats().budget_pauses > 0).await;
    let started = Instant::now();
    for number in 0..300 {
        // Half of the clients need some memory.
        let len = if number % 2 == 0 { 1000 } else { 50_000 };
        let mut client = connect_from_elsewhere(addr).await;
        client.send(vec![7; len]).await.unwrap();
        assert_eq!(client.recv().await.unwrap().unwrap().len(), len, "client {number}");
        client.close().await.unwrap();
        assert_echoes(&mut healthy).await;
        most = most.max(handle.stats().held_bytes);
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", handle.stats());
    }
    assert!(most <= BUDGET + OVERSHOOT, "the server held {most} bytes");
    drop(flood);
    assert!(errors.lock().unwrap().iter().all(|error| error.is_over_budget() || error.is_truncated()));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_connections_of_the_heaviest_network_are_closed_first() {
    let (addr, handle, _) = serve(None).await;
    let mut light = connect_from_elsewhere(addr).await;
    // It holds a part of a frame, more than each single connection of the flood.
    let frame_of_light = tokio::net::TcpSocket::new_v4().unwrap();
    frame_of_light.bind("127.0.0.3:0".parse().unwrap()).unwrap();
    let mut half = frame_of_light.connect(addr).await.unwrap();
    half.write_all(&frame(&vec![7; 200_000])[..150_000]).await.unwrap();
    assert_echoes(&mut light).await;
    // The server refuses the last ones, and closes others, at the latest after a second without progress.
    let begun = &frame(&vec![7; 100_000])[..80_000];
    let mut flood = Vec::new();
    for _ in 0..2 * BUDGET / begun.len() {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let _ = stream.write_all(begun).await;
        flood.push(stream);
    }
    watch(&mut light, &handle, || handle.stats().closed_over_budget > 0).await;
    half.write_all(&frame(&vec![7; 200_000])[150_000..]).await.unwrap();
    let mut echoed = PacketConn::from_tcp(half, ConnConfig::new()).unwrap();
    assert_eq!(echoed.recv().await.unwrap().unwrap().len(), 200_000);
}

/// Its packets are received one by one for some seconds, so it is never idle.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_network_that_is_never_idle_does_not_make_idle_clients_of_others_end() {
    let config = ServerConfig::new().memory_budget(BUDGET);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    tokio::spawn(server.serve_conn(async |conn: &mut PacketConn| {
        while let Some(packet) = conn.recv().await? {
            if packet.len() < 1000 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            conn.send(packet).await?;
        }
        Ok(())
    }));
    // It waits for the rest of a frame, as over a bad radio link.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut idle = socket.connect(addr).await.unwrap();
    let large = frame(&[7; 30_000]);
    idle.write_all(&large[..20_000]).await.unwrap();
    while handle.stats().held_bytes < 20_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let small_packets = frame(&[7; 100]).repeat(600);
    let mut busy = Vec::new();
    while handle.stats().budget_pauses == 0 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(&small_packets).await.unwrap();
        busy.push(stream);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(busy.len() < 100, "{:?}", handle.stats());
    }
    let started = Instant::now();
    while handle.stats().closed_over_budget == 0 && started.elapsed() < Duration::from_millis(2500) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(handle.stats().closed_over_budget, 0);
    idle.write_all(&large[20_000..]).await.unwrap();
    let mut idle = PacketConn::from_tcp(idle, ConnConfig::new()).unwrap();
    assert_eq!(idle.recv().await.unwrap().unwrap().len(), 30_000);
}

/// None of the networks is above its share, and each holds as much as it may without ever being too heavy.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_clients_of_many_networks_that_each_hold_a_little_are_closed() {
    let (addr, handle, _) = serve(None).await;
    // While it is read it counts one and a half times: 4 KiB.
    let begun = frame(&[7; 5000])[..2700].to_vec();
    let mut idle = Vec::new();
    for network in 1..=200 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((std::net::Ipv4Addr::new(127, 0, 1, network), 0).into()).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        stream.write_all(&begun).await.unwrap();
        idle.push(stream);
    }
    let started = Instant::now();
    while handle.stats().closed_idle_over_budget == 0 || handle.stats().held_bytes > BUDGET / 8 * 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", handle.stats());
    }
    assert_eq!(handle.stats().closed_idle_over_budget, 40);
}

#[tokio::test]
async fn a_pause_does_not_stop_the_deadlines_of_a_frame_and_of_the_first_packet() {
    let limit = Duration::from_millis(300);
    assert_ends_in_a_pause(ConnConfig::new().frame_timeout(limit), Timeout::Frame).await;
    let first = ConnConfig::new().frame_timeout(None).first_packet_timeout(limit);
    assert_ends_in_a_pause(first, Timeout::FirstPacket).await;
}

/// A client that sends a part of a frame ends for `timeout` while its network is paused.
async fn assert_ends_in_a_pause(conn: ConnConfig, timeout: Timeout) {
    let config = ServerConfig::new().conn(conn.tcp(TcpConfig::new().send_buffer(4096))).memory_budget(BUDGET);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (pass, mut passed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |conn| {
        let _ = pass.send(conn);
        async { Ok(()) }
    }));
    let mut begun = TcpStream::connect(addr).await.unwrap();
    let mut receiving = passed.recv().await.unwrap();
    begun.write_all(&frame(&[7; 20_000])[..10_000]).await.unwrap();
    let receiving = tokio::spawn(async move { receiving.recv().await });
    // Packets for another client of the same network bring the pressure, below the limit of the budget.
    let _slow = connect(addr).await;
    let holder = passed.recv().await.unwrap();
    holder.send(vec![7; 900_000]).await.unwrap();
    assert_eq!(handle.stats().budget_pauses, 1);
    let ended = tokio::time::timeout(Duration::from_millis(900), receiving).await;
    let error = ended.expect("the deadline has stopped").unwrap().unwrap_err();
    assert_eq!(error.timeout(), Some(timeout));
    assert_eq!(handle.stats().closed_over_budget, 0);
}

#[tokio::test]
async fn held_bytes_is_0_after_all_connections_have_ended() {
    let (addr, handle, _) = serve(Some(4096)).await;
    for part in [0, 3, 20_000, 100_000, 100_004] {
        let mut stream = connect(addr).await;
        stream.write_all(&frame(&[7; 100_000])[..part]).await.unwrap();
        // The server counts in steps of 2 KiB, and the kernel has a part of the echo.
        let least = (part / 2).saturating_sub(2048).max(part.min(1));
        while handle.stats().held_bytes < least {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    while handle.stats().open > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(handle.stats().held_bytes, 0);
}

#[tokio::test]
async fn held_bytes_does_not_include_received_bytes_after_a_half_close() {
    let server =
        PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().memory_budget(BUDGET)).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(server.serve(move |mut conn| {
        let tell = tell.clone();
        async move {
            while conn.recv().await?.is_some() {}
            // The connection stays open: it could still send.
            tell.send(()).await?;
            std::future::pending().await
        }
    }));
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(&frame(&[7; 500_000])).await.unwrap();
    stream.shutdown().await.unwrap();
    told.recv().await.unwrap();
    assert_eq!((handle.stats().held_bytes, handle.stats().open), (0, 1));
}

#[tokio::test]
async fn a_budget_of_less_than_1_mib_is_refused() {
    let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().memory_budget(BUDGET - 1)).await;
    assert!(server.unwrap_err().is_config());
}

#[tokio::test]
async fn a_batch_that_begins_with_too_large_a_packet_leaves_no_buffer() {
    let conn = ConnConfig::new().codec(CodecConfig::new().max_payload_len(1000));
    let config = ServerConfig::new().conn(conn.clone()).memory_budget(BUDGET);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let held = handle.clone();
    tokio::spawn(server.serve(move |mut conn| {
        let held = held.clone();
        async move {
            while let Some(packet) = conn.recv().await? {
                let mut batch = vec![vec![0; 1001].into(), vec![0; 500].into()];
                assert!(conn.send_many(&mut batch).await.is_err());
                assert_eq!(held.stats().held_bytes, 0);
                conn.send(packet).await?;
            }
            Ok(())
        }
    }));
    let mut client = PacketConn::connect_with(addr, conn).await.unwrap();
    assert_echoes(&mut client).await;
    assert_eq!(handle.stats().held_bytes, 0);
}
