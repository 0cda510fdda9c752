//! `PacketServer`: failures of handlers, limits, statistics, several addresses, and shutdown reports.

mod common;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{frame, numbered, tcp_addr};
use pktconn::{ConnConfig, PacketConn, PacketServer, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Echoes. The packet `fail` makes it return an error, and `panic` makes it panic.
async fn echo(mut conn: PacketConn) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while let Some(packet) = conn.recv().await? {
        match packet.payload() {
            b"fail" => return Err("the client asked for it".into()),
            b"panic" => panic!("the client asked for it"),
            _ => conn.send(packet).await?,
        }
    }
    Ok(conn.close().await?)
}

async fn assert_echoes(conn: &mut PacketConn) {
    conn.send(b"ping").await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"ping");
}

#[tokio::test]
async fn a_handler_that_fails_or_panics_ends_only_its_own_connection() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    tokio::spawn(server.serve(echo));
    let mut other = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut other).await;
    for trigger in [b"fail" as &[u8], b"panic"] {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        conn.send(trigger).await.unwrap();
        assert!(conn.recv().await.unwrap().is_none(), "the connection must be closed");
        assert_echoes(&mut other).await;
    }
    let mut next = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut next).await;
}

/// However many connections wait to be accepted.
#[tokio::test]
async fn open_connections_are_served_between_accepts() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let mut client = std::net::TcpStream::connect(addr).unwrap();
    client.write_all(&frame(b"ping")).unwrap();
    let _waiting: Vec<_> = (0..120).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(server.serve(move |mut conn| {
        let (handle, tell) = (handle.clone(), tell.clone());
        async move {
            conn.recv().await?;
            tell.send(handle.stats().accepted).await?;
            Ok(())
        }
    }));
    let accepted = told.recv().await.unwrap();
    assert!(accepted <= 64, "{accepted} connections were accepted before a packet was received");
}

#[tokio::test]
async fn after_a_shutdown_no_connection_is_accepted_and_the_handlers_finish() {
    let config = ServerConfig::new().drain_on_shutdown(false);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(echo));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut conn).await;

    handle.shutdown();
    handle.stopping().await;
    while PacketConn::connect(addr).await.is_ok() {
        // Lets the task of the server run.
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        assert_echoes(&mut conn).await;
    }
    assert!(!serving.is_finished());
    conn.close().await.unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn handlers_can_wait_for_the_shutdown() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let watching = handle.clone();
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let watching = watching.clone();
        async move {
            conn.send(b"welcome").await?;
            watching.stopping().await;
            conn.send(b"goodbye").await?;
            Ok(conn.close().await?)
        }
    }));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"welcome");
    handle.shutdown();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"goodbye");
    conn.close().await.unwrap();
    serving.await.unwrap();
}

#[tokio::test]
async fn dropping_the_server_ends_its_handlers() {
    struct Gone(Arc<AtomicUsize>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicUsize::new(0));
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    let counter = Arc::clone(&gone);
    let serving = tokio::spawn(server.serve(move |conn| {
        let guard = Gone(Arc::clone(&counter));
        async move {
            let _guard = guard;
            echo(conn).await
        }
    }));
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        conns.push(conn);
    }
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    for conn in &mut conns {
        assert!(conn.recv().await.unwrap().is_none());
    }
    assert_eq!(gone.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn bind_fails_for_a_port_in_use_and_for_an_invalid_configuration() {
    let first = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let error = PacketServer::bind(first.local_addr()).await.unwrap_err();
    assert!(error.is_io());
    let config = ConnConfig::new().send_high_water(0);
    assert!(PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err().is_config());
}

#[tokio::test]
async fn a_peer_that_half_closes_still_gets_its_replies() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    tokio::spawn(server.serve(echo));
    let mut raw = tokio::net::TcpStream::connect(addr).await.unwrap();
    // More than the send queue and the socket buffers hold, so that the server must wait until this side reads.
    let requests: Vec<u8> = (0..40_000).flat_map(|number| frame(numbered(number).payload())).collect();
    let (mut reader, mut writer) = raw.split();
    let sending = async {
        writer.write_all(&requests).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut replies = Vec::new();
    let (received, ()) = tokio::join!(reader.read_to_end(&mut replies), sending);
    received.unwrap();
    assert!(replies == requests);
}

#[tokio::test]
async fn a_server_refuses_and_counts_connections_beyond_its_limits() {
    for config in [ServerConfig::new().max_conns(2), ServerConfig::new().max_conns_per_ip(2)] {
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (tcp_addr(&server), server.handle());
        tokio::spawn(server.serve(echo));
        let mut first = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut first).await;
        let mut second = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut second).await;
        for _ in 0..3 {
            let mut refused = PacketConn::connect(addr).await.unwrap();
            assert!(!matches!(refused.recv().await, Ok(Some(_))), "the connection must be closed");
        }
        assert_echoes(&mut first).await;
        let stats = handle.stats();
        assert_eq!((stats.accepted, stats.refused, stats.open), (5, 3, 2));

        // After one has ended, the next one is accepted.
        first.close().await.unwrap();
        while handle.stats().open == 2 {
            tokio::task::yield_now().await;
        }
        let mut next = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut next).await;
    }
}

#[tokio::test]
async fn a_connection_counts_as_open_until_its_last_handle_is_dropped() {
    let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().max_conns(1)).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (pass, mut passed) = tokio::sync::mpsc::channel(1);
    tokio::spawn(server.serve(move |conn| {
        let pass = pass.clone();
        async move { Ok(pass.send(conn).await?) }
    }));
    let _conn = PacketConn::connect(addr).await.unwrap();
    let elsewhere = passed.recv().await.unwrap();
    let mut refused = PacketConn::connect(addr).await.unwrap();
    assert!(!matches!(refused.recv().await, Ok(Some(_))));
    assert_eq!(handle.stats().open, 1);
    drop(elsewhere);
    while handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
    let _conn = PacketConn::connect(addr).await.unwrap();
    passed.recv().await.unwrap();
}

#[tokio::test]
async fn the_traffic_of_a_server_includes_connections_that_have_ended() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(echo));
    let mut stays = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut stays).await;
    for _ in 0..3 {
        let mut goes = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut goes).await;
        goes.close().await.unwrap();
    }
    while handle.stats().open > 1 {
        tokio::task::yield_now().await;
    }
    let traffic = handle.traffic();
    assert_eq!((traffic.packets_received, traffic.packets_sent), (4, 4));
    assert_eq!((traffic.bytes_received, traffic.bytes_sent), (4 * 8, 4 * 8));
    stays.close().await.unwrap();
    handle.shutdown();
    serving.await.unwrap();
    assert_eq!(handle.traffic(), traffic);
}

#[tokio::test]
async fn connection_limits_of_0_are_refused() {
    for config in [ServerConfig::new().max_conns(0), ServerConfig::new().max_conns_per_ip(0)] {
        assert!(PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err().is_config());
    }
}

#[tokio::test]
async fn the_shutdown_report_has_drained_and_cut_connections_with_their_unsent_packets() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let watching = handle.clone();
    let (pass, mut passed) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(server.serve(move |conn| {
        let (watching, pass) = (watching.clone(), pass.clone());
        async move {
            let (sender, mut receiver) = conn.split();
            match receiver.recv().await?.expect("each client sends a packet").payload() {
                b"drain" => watching.stopping().await,
                // More than the kernel buffers for a peer that does not read.
                b"slow" => {
                    pass.send(sender.clone()).await?;
                    for number in 0..20 {
                        sender.send(vec![number; 1024 * 1024]).await?;
                    }
                }
                _ => std::future::pending().await,
            }
            drop(receiver);
            Ok(sender.close().await?)
        }
    }));
    let mut peers = Vec::new();
    for request in ["drain", "drain", "slow", "stuck"] {
        let conn = PacketConn::connect(addr).await.unwrap();
        conn.send(request.as_bytes().to_vec()).await.unwrap();
        peers.push(conn);
    }
    while handle.stats().open < 4 {
        tokio::task::yield_now().await;
    }
    // Waits until the kernel accepts no more bytes for the slow client.
    let sender = passed.recv().await.unwrap();
    let mut last = sender.stats();
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = sender.stats();
        if now.queued_bytes > 0 && now == last {
            break;
        }
        last = now;
    }
    drop(sender);
    let slow = peers[2].local_addr();

    handle.shutdown_within(Duration::from_secs(3600));
    for mut drained in peers.drain(..2) {
        assert!(drained.recv().await.unwrap().is_none());
        drained.close().await.unwrap();
    }
    while handle.stats().open > 2 {
        tokio::task::yield_now().await;
    }
    assert!(!serving.is_finished());
    // The last call decides the deadline.
    handle.shutdown_within(Duration::ZERO);
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (2, 2));
    let of = |peer| report.cut.iter().find(|cut| cut.peer_addr == peer).unwrap();
    let unsent = &of(slow).unsent;
    assert_eq!(unsent.len(), 1, "the send queue has room for one packet of this size");
    assert!(of(peers[1].local_addr()).unsent.is_empty());

    // The slow client receives all packets before the unsent one.
    let mut slow = peers.swap_remove(0);
    let mut received = 0;
    while let Ok(Some(packet)) = slow.recv().await {
        assert_eq!(packet.payload()[0], received);
        received += 1;
    }
    assert_eq!(unsent[0].payload()[0], received);
}

#[tokio::test]
async fn a_shutdown_cuts_no_connection_if_all_handlers_finish_in_time() {
    let config = ServerConfig::new().drain_on_shutdown(false);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(echo));
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        conns.push(conn);
    }
    handle.shutdown_within(Duration::from_secs(3600));
    for mut conn in conns {
        assert_echoes(&mut conn).await;
        conn.close().await.unwrap();
    }
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (3, 0));
}

#[tokio::test]
async fn a_server_still_works_after_add_addr_has_failed() {
    let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    assert!(server.add_addr(addr).await.unwrap_err().is_io());
    assert!(server.add_addr("localhost").await.unwrap_err().is_config());
    assert_eq!(server.local_addrs(), [addr.into()]);
    tokio::spawn(server.serve(echo));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut conn).await;
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_server_with_several_addresses_applies_its_limits_to_all_of_them() {
    let config = ServerConfig::new().max_conns(4).drain_on_shutdown(false);
    let mut server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    server.add_addr("127.0.0.1:0").await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let third = listener.local_addr().unwrap();
    server.add_listener(listener).unwrap();
    assert_eq!(server.local_addrs()[0], server.local_addr());
    let (addrs, handle) =
        (server.local_addrs().iter().map(|addr| addr.socket_addr().unwrap()), server.handle());
    let addrs: Vec<_> = addrs.collect();
    assert_eq!((addrs.len(), addrs[2]), (3, third));
    let serving = tokio::spawn(server.serve(echo));
    let mut conns = Vec::new();
    for addr in [addrs[0], addrs[1], addrs[2], addrs[1]] {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        assert_eq!(conn.peer_addr(), Some(addr));
        conns.push(conn);
    }
    for addr in &addrs {
        let mut refused = PacketConn::connect(addr).await.unwrap();
        assert!(!matches!(refused.recv().await, Ok(Some(_))));
    }
    assert_eq!(handle.stats().refused, 3);
    handle.shutdown_within(Duration::ZERO);
    assert_eq!(serving.await.unwrap().cut.len(), 4);
    for addr in addrs {
        assert!(PacketConn::connect(addr).await.is_err());
    }
}

#[tokio::test]
async fn a_shutdown_with_a_deadline_closes_connections_that_were_moved_out_of_their_handlers() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (pass, mut passed) = tokio::sync::mpsc::channel(2);
    let serving = tokio::spawn(server.serve(move |conn| {
        let pass = pass.clone();
        async move { Ok(pass.send(conn).await?) }
    }));
    let (_first, mut second) =
        (PacketConn::connect(addr).await.unwrap(), PacketConn::connect(addr).await.unwrap());
    let (ends, stays) = (passed.recv().await.unwrap(), passed.recv().await.unwrap());
    handle.shutdown_within(Duration::from_secs(3600));
    while PacketConn::connect(addr).await.is_ok() {
        // Lets the task of the server run.
        tokio::task::yield_now().await;
    }
    drop(ends);
    assert!(!serving.is_finished());
    handle.shutdown_within(Duration::from_millis(50));
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (1, 1));
    assert!(stays.close_reason().unwrap().is_local_close());
    assert!(second.recv().await.unwrap().is_none());
}

#[tokio::test]
async fn a_connection_that_has_sent_everything_and_waits_for_the_peer_to_close_is_not_cut() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (report, mut reported) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let report = report.clone();
        async move {
            conn.send(b"goodbye").await?;
            let closed = conn.close().await;
            report.send(closed.is_ok()).await?;
            Ok(())
        }
    }));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"goodbye");
    assert!(conn.recv().await.unwrap().is_none(), "the server has closed its side");
    handle.shutdown_within(Duration::from_millis(50));
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (1, 0));
    // Either the handler was dropped, or its `close` succeeded.
    assert_ne!(reported.try_recv().ok(), Some(false));
}
