//! How much memory sessions take. Allocations are counted per thread: the server runs on this one, its clients on another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;

use pktconn::{PacketServer, ServerConfig, SessionConfig};
use tokio::runtime::{Builder, Runtime};

use super::legacy::hello;
use super::{ms, soon};

const COUNT: usize = 200;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A client with a session that sends nothing.
fn attach(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(&hello()).unwrap();
    // WELCOME, without an address.
    stream.read_exact(&mut [0; 6 + 67]).unwrap();
    stream.write_all(&[0x03, 0xFF, 0xFF, 0xFF, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    stream.read_exact(&mut [0; 14]).unwrap();
    stream
}

/// The memory of a server, per client, in bytes. `clients` runs on another thread; when it has ended, the result is taken.
fn memory_per_client(has_sessions: bool, connect: fn(SocketAddr) -> TcpStream, drops: bool) -> f64 {
    let runtime = runtime();
    let (tell_addr, addr) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let (connected, mut are_connected) = tokio::sync::mpsc::channel(1);
    let clients = std::thread::spawn(move || {
        let addr = addr.recv().unwrap();
        // Warms up what the thread keeps.
        let mut conns = vec![connect(addr)];
        connected.blocking_send(()).unwrap();
        is_done.recv().unwrap();
        conns.extend((0..COUNT).map(|_| connect(addr)));
        if drops {
            conns.drain(1..);
        }
        connected.blocking_send(()).unwrap();
        let _ = is_done.recv();
    });
    runtime.block_on(async {
        let config = ServerConfig::new().sessions(SessionConfig::new());
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        tell_addr.send(server.local_addr().socket_addr().unwrap()).unwrap();
        if has_sessions {
            // In batches, as `pktecho`. A handler takes as much memory as its future.
            tokio::spawn(server.serve_sessions(|mut session| async move {
                loop {
                    let mut packets = Vec::new();
                    if session.recv_many(&mut packets, 64).await? == 0 {
                        return Ok(session.close().await?);
                    }
                    session.send_many(&mut packets).await?;
                }
            }));
        } else {
            tokio::spawn(server.serve(|mut conn| async move {
                while let Some(packet) = conn.recv().await? {
                    conn.send(packet).await?;
                }
                Ok(conn.close().await?)
            }));
        }
        soon(are_connected.recv()).await.unwrap();
    });
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            done.send(()).unwrap();
            soon(are_connected.recv()).await.unwrap();
            tokio::time::sleep(ms(200)).await;
        });
    });
    drop(done);
    clients.join().unwrap();
    counted.bytes_current as f64 / COUNT as f64
}

#[test]
fn an_idle_session_takes_little_memory() {
    let conn = memory_per_client(false, |addr| TcpStream::connect(addr).unwrap(), false);
    let session = memory_per_client(true, attach, false);
    println!("connection {conn:.0} B, with a session {session:.0} B");
    assert!(session - conn <= 2.5 * 1024.0, "{session} B, a connection alone {conn} B");
}

#[test]
fn a_session_without_a_connection_takes_little_memory() {
    let session = memory_per_client(true, attach, true);
    println!("detached session {session:.0} B");
    assert!(session <= 1024.0, "{session} B");
}
