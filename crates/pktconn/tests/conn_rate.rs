//! The limit on new connections per second and client network, at a clock that stands still.

mod common;

use std::net::SocketAddr;
use std::sync::mpsc;

use common::{frame, serve_echo};
use pktconn::{ConnRate, PacketServer, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// With paused time, tokio moves the clock while it waits for sockets, but not while a blocking task runs. Dropping this
/// ends the task.
fn stop_the_clock() -> mpsc::Sender<()> {
    let (running, end) = mpsc::channel();
    tokio::task::spawn_blocking(move || end.recv());
    running
}

/// Whether a new connection that sends `header` and a packet gets the packet back.
async fn is_served(addr: SocketAddr, header: &[u8]) -> bool {
    // The reset of a refused connection may arrive before `connect` returns.
    let Ok(mut stream) = TcpStream::connect(addr).await else { return false };
    if stream.write_all(&[header, &frame(b"x")].concat()).await.is_err() {
        return false;
    }
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await.is_ok() && reply[..] == frame(b"x")
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_reset_and_counted() {
    let _stopped = stop_the_clock();
    let (addr, handle) =
        serve_echo(ServerConfig::new().conn_rate_per_ip(ConnRate::per_second(1).burst(3))).await;
    for number in 0..20 {
        assert_eq!(is_served(addr, &[]).await, number < 3, "connection {number}");
    }
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.refused, stats.refused_over_rate), (20, 17, 17));
    let refused = async { TcpStream::connect(addr).await?.read(&mut [0; 1]).await };
    assert_eq!(refused.await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    while handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
}

/// Only Linux has all of 127.0.0.0/8 without a configuration.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn another_address_is_served_during_a_flood() {
    let _stopped = stop_the_clock();
    let (addr, handle) =
        serve_echo(ServerConfig::new().conn_rate_per_ip(ConnRate::per_second(1).burst(3))).await;
    for _ in 0..50 {
        is_served(addr, &[]).await;
    }
    for _ in 0..3 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        stream.write_all(&frame(b"x")).await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
    }
    assert_eq!(handle.stats().refused_over_rate, 47);
}

#[cfg(feature = "proxy-protocol")]
mod behind_a_proxy {
    use std::time::Duration;

    use tokio::time::advance;

    use pktconn::ServerHandle;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn serve_behind_a_proxy(rate: ConnRate) -> (SocketAddr, ServerHandle) {
        let config = ServerConfig::new().proxy_protocol(["127.0.0.0/8".parse().unwrap()]);
        serve_echo(config.conn_rate_per_ip(rate)).await
    }

    /// How many of `count` connections of `client` are served.
    async fn served(addr: SocketAddr, client: &str, count: usize) -> usize {
        let header = match client.contains(':') {
            true => format!("PROXY TCP6 {client} ::1 8080 80\r\n"),
            false => format!("PROXY TCP4 {client} 127.0.0.1 8080 80\r\n"),
        };
        let mut served = 0;
        for _ in 0..count {
            served += usize::from(is_served(addr, header.as_bytes()).await);
        }
        served
    }

    /// Otherwise a peer that is no proxy could make the server start any number of handshakes.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_no_proxy_counts_like_a_client() {
        let _stopped = stop_the_clock();
        let config = ServerConfig::new().proxy_protocol(["192.0.2.0/24".parse().unwrap()]);
        let (addr, handle) = serve_echo(config.conn_rate_per_ip(ConnRate::per_second(1).burst(3))).await;
        for _ in 0..20 {
            assert!(!is_served(addr, &[]).await);
        }
        assert_eq!((handle.stats().handshakes_failed, handle.stats().refused_over_rate), (3, 17));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_gets_its_burst_its_rate_and_then_a_cool_down() {
        let _stopped = stop_the_clock();
        let rate = ConnRate::per_second(2).burst(3).cool_down(60 * SECOND);
        let (addr, handle) = serve_behind_a_proxy(rate).await;
        assert_eq!(served(addr, "192.0.2.1", 5).await, 3, "the burst, and 2 refusals");
        assert_eq!(served(addr, "192.0.2.2", 3).await, 3, "another client");
        advance(SECOND).await;
        assert_eq!(served(addr, "192.0.2.1", 3).await, 2, "the rate, and 1 refusal");
        assert_eq!(served(addr, "192.0.2.1", 3).await, 0, "the last of these begins the cool-down");
        advance(59 * SECOND).await;
        assert_eq!(served(addr, "192.0.2.1", 1).await, 0, "the cool-down");
        assert_eq!(served(addr, "192.0.2.2", 3).await, 3, "another client");
        advance(SECOND).await;
        assert_eq!(served(addr, "192.0.2.1", 4).await, 3, "it starts again");
        let stats = handle.stats();
        assert_eq!((stats.refused_over_rate, stats.handshakes_failed), (8, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_client_is_its_64_and_all_networks_of_a_48_together_get_16_rates() {
        let _stopped = stop_the_clock();
        let (addr, _) = serve_behind_a_proxy(ConnRate::per_second(1).burst(2)).await;
        assert_eq!(served(addr, "2001:db8:1:1::1", 2).await, 2);
        assert_eq!(served(addr, "2001:db8:1:1:ffff::2", 2).await, 0, "the same /64");
        let mut in_56 = 0;
        for subnet in 2..8 {
            in_56 += served(addr, &format!("2001:db8:1:{subnet}::1"), 2).await;
        }
        assert_eq!(in_56, 6, "the /56 gets 8");
        let mut in_48 = 0;
        for subnet in 1..20 {
            in_48 += served(addr, &format!("2001:db8:1:{subnet}00::1"), 2).await;
        }
        assert_eq!(in_48, 24, "the /48 gets 32");
        assert_eq!(served(addr, "2001:db8:2:1::1", 2).await, 2, "another /48");
    }
}

#[cfg(feature = "tls")]
#[tokio::test(start_paused = true)]
async fn the_rate_limits_tls_handshakes() {
    let _stopped = stop_the_clock();
    let dir = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [chain, key] = ["chain.pem", "key.pem"].map(|name| dir.path().join(name));
    std::fs::write(&chain, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let config = ServerConfig::new().tls(pktconn::TlsServerConfig::new(chain, key));
    let (addr, handle) = serve_echo(config.conn_rate_per_ip(ConnRate::per_second(1).burst(3))).await;
    for _ in 0..10 {
        // The server refuses the packet, because it is no ClientHello.
        assert!(!is_served(addr, &[]).await);
    }
    let stats = handle.stats();
    assert_eq!((stats.handshakes_failed, stats.refused_over_rate, stats.refused), (3, 7, 7));
}

#[tokio::test]
async fn a_rate_or_a_burst_of_0_is_refused() {
    for rate in [ConnRate::per_second(0), ConnRate::per_second(0).burst(1), ConnRate::per_second(1).burst(0)]
    {
        let config = ServerConfig::new().conn_rate_per_ip(rate);
        let error = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err();
        assert!(error.is_config() && error.to_string().contains("conn_rate_per_ip"), "{error}");
    }
}
