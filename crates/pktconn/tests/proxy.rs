//! The PROXY protocol: the server uses the client address of the header, and accepts headers only from trusted
//! networks.
#![cfg(feature = "proxy-protocol")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{frame, tcp_addr};
use pktconn::{Addr, ConnConfig, PacketConn, PacketServer, ServerConfig, ServerHandle};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 127.0.0.1 8080 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x1f\x90\0\x50";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
/// A health check of some load balancers: it has the address family, but no addresses.
const V2_LOCAL_OF_TCP: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x02??";
/// A health check with an address family that is not assigned.
const V2_LOCAL_UNASSIGNED_FAMILY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\xff\0\x02??";

/// Answers each packet with the address of the peer.
async fn reply_with_peer_addr(mut conn: PacketConn) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while conn.recv().await?.is_some() {
        conn.send(format!("{:?}", conn.peer_addr()).into_bytes()).await?;
    }
    Ok(conn.close().await?)
}

async fn serve(config: ServerConfig) -> (SocketAddr, ServerHandle) {
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    tokio::spawn(server.serve(reply_with_peer_addr));
    (addr, handle)
}

fn behind_local_proxies() -> ServerConfig {
    ServerConfig::new().proxy_protocol(["127.0.0.0/8".parse().unwrap()])
}

/// Sends `header` and a packet after it, and reads the address that the server sees.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), header: &[u8]) -> std::io::Result<String> {
    // As long as the shortest header, so that a server can tell at once if there is no header.
    stream.write_all(&[header, &frame(b"who is there?")].concat()).await?;
    let len = stream.read_u32_le().await?;
    let mut reply = vec![0; len as usize];
    stream.read_exact(&mut reply).await?;
    Ok(String::from_utf8(reply).unwrap())
}

async fn connect_and_ask(addr: SocketAddr, header: &[u8]) -> std::io::Result<String> {
    ask(&mut TcpStream::connect(addr).await?, header).await
}

#[tokio::test]
async fn the_peer_address_is_the_client_address_of_the_header() {
    let (addr, handle) = serve(behind_local_proxies()).await;
    for header in [V1, V2] {
        assert_eq!(connect_and_ask(addr, header).await.unwrap(), "Some(192.0.2.7:8080)");
    }
    // Health checks of a proxy have no client: the peer is the proxy itself.
    for header in [V2_LOCAL, V2_LOCAL_OF_TCP, V2_LOCAL_UNASSIGNED_FAMILY, b"PROXY UNKNOWN \xff\r\n"] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let itself = stream.local_addr().unwrap();
        assert_eq!(ask(&mut stream, header).await.unwrap(), format!("{:?}", Some(itself)), "{header:?}");
    }
    assert_eq!(handle.stats().handshakes_failed, 0);
}

#[tokio::test]
async fn a_connection_without_a_valid_header_is_closed() {
    let (addr, handle) = serve(behind_local_proxies()).await;
    for (count, stream) in [&b""[..], b"PROXY nonsense of some length\r\n", &V2[1..]].into_iter().enumerate()
    {
        assert!(connect_and_ask(addr, stream).await.is_err());
        assert_eq!(handle.stats().handshakes_failed, count as u64 + 1);
    }
    assert!(connect_and_ask(addr, V1).await.is_ok());
}

#[tokio::test]
async fn a_header_from_an_untrusted_address_is_refused() {
    let (addr, handle) = serve(ServerConfig::new().proxy_protocol(["10.0.0.0/8".parse().unwrap()])).await;
    assert!(connect_and_ask(addr, V1).await.is_err());
    assert_eq!(handle.stats().handshakes_failed, 1);
    // Without `proxy_protocol`, a header is an invalid frame.
    let (addr, _) = serve(ServerConfig::new()).await;
    assert!(connect_and_ask(addr, V1).await.is_err());
    let no_networks = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().proxy_protocol([])).await;
    assert!(no_networks.unwrap_err().is_config());
}

#[tokio::test]
async fn a_trusted_network_may_be_an_ipv4_mapped_ipv6_network() {
    let trusting = |network: &str| ServerConfig::new().proxy_protocol([network.parse().unwrap()]);
    let (addr, _) = serve(trusting("::ffff:127.0.0.0/104")).await;
    assert_eq!(connect_and_ask(addr, V1).await.unwrap(), "Some(192.0.2.7:8080)");
    let error = PacketServer::bind_with("127.0.0.1:0", trusting("::ffff:127.0.0.0/8")).await.unwrap_err();
    assert!(
        error.is_config() && error.to_string().ends_with("write it as IPv4, such as 127.0.0.0/8"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_header_ends_the_connection_at_the_handshake_timeout() {
    let conn = ConnConfig::new().handshake_timeout(Duration::from_millis(100));
    let (addr, handle) = serve(behind_local_proxies().conn(conn)).await;
    for start in [&b""[..], &V1[..20], &V2[..20]] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(start).await.unwrap();
        assert!(!matches!(stream.read(&mut [0; 1]).await, Ok(1..)));
    }
    assert_eq!((handle.stats().handshakes_failed, handle.stats().open), (3, 0));
}

#[tokio::test]
async fn max_conns_per_ip_counts_client_addresses_and_not_the_proxy() {
    let (addr, handle) = serve(behind_local_proxies().max_conns_per_ip(2)).await;
    let mut streams = Vec::new();
    for client in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let header = format!("PROXY TCP4 {client} 127.0.0.1 8080 80\r\n");
        assert!(ask(&mut stream, header.as_bytes()).await.is_ok());
        streams.push(stream);
    }
    assert!(connect_and_ask(addr, b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n").await.is_err());
    assert_eq!((handle.stats().refused, handle.stats().handshakes_failed), (1, 0));
    drop(streams);
    while handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
    assert!(connect_and_ask(addr, b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n").await.is_ok());
}

/// A header of version 2 with TLVs, and the connection from 192.0.2.7:8080 to 127.0.0.1:80.
fn v2_with(tlvs: &[u8]) -> Vec<u8> {
    let mut header = [V2, tlvs].concat();
    header[15] = 12 + tlvs.len() as u8;
    header
}

#[tokio::test]
async fn the_handler_gets_what_the_proxy_says() {
    let server = PacketServer::bind_with("127.0.0.1:0", behind_local_proxies()).await.unwrap();
    let addr = tcp_addr(&server);
    let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |mut conn| {
        let sent = sent.clone();
        async move {
            sent.send((conn.proxy_header().cloned(), conn.peer_addr())).unwrap();
            Ok(conn.close().await?)
        }
    }));
    let mut check = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let (header, peer) = received.recv().await.unwrap();
        (header.unwrap(), peer.unwrap(), stream.local_addr().unwrap())
    };
    let client: SocketAddr = "192.0.2.7:8080".parse().unwrap();
    let (header, peer, proxy) = check(&v2_with(b"\x01\0\x02h2\x02\0\x0bexample.org\x05\0\x0217")).await;
    assert_eq!((header.source(), peer, header.proxy_addr()), (Some(client), client, Some(proxy)));
    assert_eq!(header.destination(), Some("127.0.0.1:80".parse().unwrap()));
    assert_eq!(
        (header.alpn(), header.authority(), header.unique_id(), header.netns()),
        (Some(&b"h2"[..]), Some(&b"example.org"[..]), Some(&b"17"[..]), None)
    );
    let (header, peer, _) = check(V1).await;
    assert_eq!(
        (header.version(), header.source(), peer, header.tlvs().count()),
        (1, Some(client), client, 0)
    );
    let (header, peer, proxy) = check(V2_LOCAL).await;
    assert_eq!((header.is_local(), header.source(), peer), (true, None, proxy));
    // Without the protocol there is none.
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    assert!(PacketConn::connect(server.local_addr()).await.unwrap().proxy_header().is_none());
}

#[tokio::test]
async fn a_header_with_a_client_address_that_cannot_be_or_wrong_bytes_is_refused() {
    let (addr, handle) = serve(behind_local_proxies()).await;
    let refused: [&[u8]; 6] = [
        b"PROXY TCP4 0.0.0.0 127.0.0.1 8080 80\r\n",
        b"PROXY TCP6 ff02::1 ::1 8080 80\r\n",
        b"PROXY TCP4 255.255.255.255 127.0.0.1 8080 80\r\n",
        // A wrong checksum, a TLV that is too long, and a block that is too long.
        &v2_with(b"\x03\0\x04\0\0\0\0"),
        &v2_with(b"\x01\0\x02h"),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ];
    for (count, header) in refused.into_iter().enumerate() {
        assert!(connect_and_ask(addr, header).await.is_err(), "{header:?}");
        assert_eq!(handle.stats().handshakes_failed, count as u64 + 1);
    }
    assert!(connect_and_ask(addr, V2).await.is_ok());
}

#[cfg(unix)]
#[tokio::test]
async fn a_proxy_may_connect_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = PacketServer::bind_with(Addr::unix(&path), behind_local_proxies()).await.unwrap();
    tokio::spawn(server.serve(async |mut conn| {
        let header = conn.proxy_header().ok_or("no header")?;
        let facts = (conn.peer_addr(), header.proxy_addr(), conn.peer_credentials().is_some());
        conn.send(format!("{facts:?}")).await?;
        Ok(conn.close().await?)
    }));
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(&mut stream, V2).await.unwrap(), "(Some(192.0.2.7:8080), None, true)");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn the_header_is_read_before_the_tls_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&chain, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let tls = pktconn::TlsServerConfig::new(&chain, &key);
    let (addr, _) = serve(behind_local_proxies().tls(tls)).await;
    // A proxy that sends a header and then forwards all bytes.
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = proxy.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut server = TcpStream::connect(addr).await.unwrap();
        server.write_all(V2).await.unwrap();
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    });
    let config = ConnConfig::new().tls(pktconn::TlsClientConfig::new().ca(&chain));
    let mut conn = PacketConn::connect_with(("localhost", port), config).await.unwrap();
    conn.send(b"who?").await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"Some(192.0.2.7:8080)");
    conn.close().await.unwrap();
}
