//! All connections together hold no more than the server grants: who holds the most gives way, and the others go on.

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{frame, tcp_addr};
use pktconn::{ConnConfig, Error, PacketConn, PacketServer, ServerConfig, ServerHandle, TcpConfig};
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const BUDGET: usize = 1024 * 1024;

/// What a server may hold beyond it: a read for each connection, and what is not told apart.
const MORE: usize = 256 * 1024;

/// The errors with which connections ended.
type Ends = Arc<Mutex<Vec<Error>>>;

/// An echo server, of which the kernel holds so much for a client, or what it likes.
async fn serve(send_buffer: Option<usize>) -> (std::net::SocketAddr, ServerHandle, Ends) {
    let conn = ConnConfig::new().tcp(TcpConfig::new().send_buffer(send_buffer));
    let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().conn(conn).memory_budget(BUDGET));
    let server = server.await.unwrap();
    let (addr, handle, ends) = (tcp_addr(&server), server.handle(), Ends::default());
    tokio::spawn(server.serve({
        let ends = Arc::clone(&ends);
        move |mut conn| {
            let ends = Arc::clone(&ends);
            async move {
                let echo = async {
                    while let Some(packet) = conn.recv().await? {
                        conn.send(packet).await?;
                    }
                    conn.close().await
                };
                let ended: Result<(), Error> = echo.await;
                ends.lock().unwrap().extend(ended.err());
                Ok(())
            }
        }
    }));
    (addr, handle, ends)
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

/// Echoes, and looks at what the server holds, until `done`.
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
async fn clients_that_never_read_are_closed_and_others_do_not_notice() {
    let (addr, handle, ends) = serve(Some(4096)).await;
    let mut healthy = PacketConn::connect(addr).await.unwrap();
    // Each alone would fill its send queue, of 1 MiB.
    let hungry: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = connect(addr).await;
                let packet = frame(&[7; 1000]);
                while stream.write_all(&packet).await.is_ok() {}
            })
        })
        .collect();
    let most = watch(&mut healthy, &handle, || handle.stats().closed_over_budget > 0).await;
    assert!(most <= BUDGET + MORE, "{most} bytes");
    assert!(most > BUDGET / 2, "it was not even near: {most} bytes");
    // Those who are left go on until it is reached again.
    let most =
        watch(&mut healthy, &handle, || hungry.iter().filter(|task| task.is_finished()).count() >= 4).await;
    assert!(most <= BUDGET + MORE, "{most} bytes");
    let ends = ends.lock().unwrap();
    assert!(ends.iter().all(Error::is_over_budget), "{ends:?}");
    hungry.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn under_pressure_nobody_is_admitted_and_frames_wait_until_there_is_room() {
    let (addr, handle, ends) = serve(None).await;
    let mut healthy = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut healthy).await;
    // Frames of 400 kB, of which all but the end arrives.
    let large = frame(&vec![7; 400_000]);
    let (begun, end) = large.split_at(large.len() - 1000);
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        // Where the kernel does not take all of it, the rest waits for the pressure to be off.
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
    assert_eq!(handle.stats().closed_over_budget, 1, "as many as it takes");
    // The others are read again, and their frames come back.
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
            assert_eq!(packet.payload(), vec![7; 400_000]);
            served += 1;
        }
    }
    assert_eq!(served, 2);
    assert_eq!(ends.lock().unwrap().iter().filter(|error| error.is_over_budget()).count(), 1);
    assert!(PacketConn::connect(addr).await.is_ok());
    assert_echoes(&mut healthy).await;
}

#[tokio::test]
async fn nothing_is_held_when_all_are_gone() {
    let (addr, handle, _) = serve(Some(4096)).await;
    for part in [0, 3, 20_000, 100_000, 100_004] {
        let mut stream = connect(addr).await;
        stream.write_all(&frame(&[7; 100_000])[..part]).await.unwrap();
        // Less than some KiB makes no difference, and the kernel has a part of what is echoed.
        while handle.stats().held_bytes < (part / 2).saturating_sub(2048) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    while handle.stats().open > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(handle.stats().held_bytes, 0);
}

#[tokio::test]
async fn a_peer_that_has_closed_its_side_holds_nothing() {
    let server =
        PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().memory_budget(BUDGET)).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(server.serve(move |mut conn| {
        let tell = tell.clone();
        async move {
            while conn.recv().await?.is_some() {}
            // It goes on sending, as it may.
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
async fn a_budget_too_small_to_work_is_refused() {
    let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().memory_budget(BUDGET - 1)).await;
    assert!(server.unwrap_err().is_config());
}
