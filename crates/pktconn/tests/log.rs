//! What a server says of its connections, and that it is quiet unless it is asked.

mod common;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use common::{frame, tcp_addr};
use pktconn::{PacketConn, PacketServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::Level;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Serves a client that closes, one that breaks off in mid-frame and one whose handler fails; returns what was logged from
/// `level` on, and the addresses of the clients.
fn logged(level: Level) -> (String, Vec<String>) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clients = tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
            let (addr, handle) = (tcp_addr(&server), server.handle());
            let serving = tokio::spawn(server.serve(|mut conn: PacketConn| async move {
                while let Some(packet) = conn.recv().await? {
                    if packet.payload() == b"fail" {
                        return Err("as it was asked to".into());
                    }
                }
                Ok(conn.close().await?)
            }));
            let mut clients = Vec::new();
            for bytes in [frame(b"one"), frame(b"two")[..5].to_vec(), frame(b"fail")] {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                clients.push(stream.local_addr().unwrap().to_string());
            }
            while handle.stats().accepted < 3 || handle.stats().open > 0 {
                tokio::task::yield_now().await;
            }
            handle.shutdown();
            serving.await.unwrap();
            clients
        })
    });
    let lines = lines.0.lock().unwrap();
    (String::from_utf8(lines.clone()).unwrap(), clients)
}

#[test]
fn each_connection_tells_its_peer_and_the_reason_of_its_end_to_who_debugs() {
    let (lines, clients) = logged(Level::DEBUG);
    let ends = [
        "the peer closed the connection\" packets_received=1",
        "in the middle of a frame: the stream ended after 5 of the 7 bytes of a frame\" packets_received=0",
        "the connection was closed on this side\" packets_received=1",
    ];
    for (client, end) in clients.iter().zip(ends) {
        let span = format!("connection{{peer={client}}}");
        let line = lines.lines().find(|line| line.contains(&span) && line.contains("has finished"));
        assert!(line.is_some_and(|line| line.contains(end)), "{client}: {end:?} is not in {lines}");
    }
}

#[test]
fn otherwise_a_handler_that_fails_is_all_that_is_told() {
    let (lines, clients) = logged(Level::INFO);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    for part in ["WARN", "the connection's handler failed", "as it was asked to", &clients[2]] {
        assert!(lines.contains(part), "{part:?} is not in {lines}");
    }
}
