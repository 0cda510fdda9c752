//! A server outlives its handlers' failures, and stops when it is told to.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{frame, numbered, tcp_addr};
use pktconn::{ConnConfig, PacketConn, PacketServer, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Echoes, except for two payloads.
async fn moody(mut conn: PacketConn) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while let Some(packet) = conn.recv().await? {
        match packet.payload() {
            b"fail" => return Err("as it was asked to".into()),
            b"panic" => panic!("as it was asked to"),
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
async fn a_handler_that_fails_or_panics_ends_its_own_connection_alone() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    tokio::spawn(server.serve(moody));
    let mut bystander = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut bystander).await;
    for trigger in [b"fail" as &[u8], b"panic"] {
        let mut conn = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut conn).await;
        conn.send(trigger).await.unwrap();
        assert!(conn.recv().await.unwrap().is_none(), "its connection is closed");
        assert_echoes(&mut bystander).await;
    }
    let mut next = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut next).await;
}

#[tokio::test]
async fn a_shutdown_accepts_no_more_and_lets_the_handlers_finish() {
    let config = ServerConfig::new().drain_on_shutdown(false);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(moody));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut conn).await;

    handle.shutdown();
    handle.stopping().await;
    while PacketConn::connect(addr).await.is_ok() {
        // Until the server's task has run.
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
async fn handlers_learn_of_the_shutdown() {
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
            moody(conn).await
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
async fn a_port_in_use_is_an_io_error() {
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
    tokio::spawn(server.serve(moody));
    let mut raw = tokio::net::TcpStream::connect(addr).await.unwrap();
    // More than the send queue and the sockets' buffers hold, so that the server has to wait for this side to read.
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
async fn beyond_its_limits_a_server_closes_what_it_accepts_and_counts_it() {
    for config in [ServerConfig::new().max_conns(2), ServerConfig::new().max_conns_per_ip(2)] {
        let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
        let (addr, handle) = (tcp_addr(&server), server.handle());
        tokio::spawn(server.serve(moody));
        let mut first = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut first).await;
        let mut second = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut second).await;
        for _ in 0..3 {
            let mut refused = PacketConn::connect(addr).await.unwrap();
            assert!(!matches!(refused.recv().await, Ok(Some(_))), "it is closed");
        }
        assert_echoes(&mut first).await;
        let stats = handle.stats();
        assert_eq!((stats.accepted, stats.refused, stats.open), (5, 3, 2));

        // With room again, the next one stays.
        first.close().await.unwrap();
        while handle.stats().open == 2 {
            tokio::task::yield_now().await;
        }
        let mut next = PacketConn::connect(addr).await.unwrap();
        assert_echoes(&mut next).await;
    }
}

#[tokio::test]
async fn a_connection_counts_until_its_last_handle_is_dropped_whatever_became_of_its_handler() {
    let server = PacketServer::bind_with("127.0.0.1:0", ServerConfig::new().max_conns(1)).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (give, mut taken) = tokio::sync::mpsc::channel(1);
    tokio::spawn(server.serve(move |conn| {
        let give = give.clone();
        async move { Ok(give.send(conn).await?) }
    }));
    let _conn = PacketConn::connect(addr).await.unwrap();
    let elsewhere = taken.recv().await.unwrap();
    let mut refused = PacketConn::connect(addr).await.unwrap();
    assert!(!matches!(refused.recv().await, Ok(Some(_))));
    assert_eq!(handle.stats().open, 1);
    drop(elsewhere);
    while handle.stats().open > 0 {
        tokio::task::yield_now().await;
    }
    let _conn = PacketConn::connect(addr).await.unwrap();
    taken.recv().await.unwrap();
}

#[tokio::test]
async fn its_traffic_is_that_of_all_connections_those_that_have_ended_among_them() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(moody));
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
async fn limits_of_nothing_are_refused() {
    for config in [ServerConfig::new().max_conns(0), ServerConfig::new().max_conns_per_ip(0)] {
        assert!(PacketServer::bind_with("127.0.0.1:0", config).await.unwrap_err().is_config());
    }
}

#[tokio::test]
async fn a_shutdown_reports_who_drained_and_who_was_cut_with_what_was_not_sent() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let watching = handle.clone();
    let (give, mut taken) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(server.serve(move |conn| {
        let (watching, give) = (watching.clone(), give.clone());
        async move {
            let (sender, mut receiver) = conn.split();
            match receiver.recv().await?.expect("each sends one").payload() {
                b"drain" => watching.stopping().await,
                // More than the kernel holds for a peer that does not read.
                b"hungry" => {
                    give.send(sender.clone()).await?;
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
    for request in ["drain", "drain", "hungry", "stuck"] {
        let conn = PacketConn::connect(addr).await.unwrap();
        conn.send(request.as_bytes().to_vec()).await.unwrap();
        peers.push(conn);
    }
    while handle.stats().open < 4 {
        tokio::task::yield_now().await;
    }
    // Until the kernel takes no more for the hungry one.
    let sender = taken.recv().await.unwrap();
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
    let hungry = peers[2].local_addr();

    handle.shutdown_within(Duration::from_secs(3600));
    for mut drained in peers.drain(..2) {
        assert!(drained.recv().await.unwrap().is_none());
        drained.close().await.unwrap();
    }
    while handle.stats().open > 2 {
        tokio::task::yield_now().await;
    }
    assert!(!serving.is_finished());
    // The last call counts.
    handle.shutdown_within(Duration::ZERO);
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (2, 2));
    let of = |peer| report.cut.iter().find(|cut| cut.peer_addr == peer).unwrap();
    let unsent = &of(hungry).unsent;
    assert_eq!(unsent.len(), 1, "the send queue holds one of that size");
    assert!(of(peers[1].local_addr()).unsent.is_empty());

    // What came through before is a prefix, and the end is no clean one.
    let mut hungry = peers.swap_remove(0);
    let mut received = 0;
    while let Ok(Some(packet)) = hungry.recv().await {
        assert_eq!(packet.payload()[0], received);
        received += 1;
    }
    assert_eq!(unsent[0].payload()[0], received);
}

#[tokio::test]
async fn a_shutdown_in_which_all_finish_in_time_cuts_nobody() {
    let config = ServerConfig::new().drain_on_shutdown(false);
    let server = PacketServer::bind_with("127.0.0.1:0", config).await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let serving = tokio::spawn(server.serve(moody));
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
async fn a_server_serves_on_when_it_cannot_listen_on_one_more_address() {
    let mut server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    assert!(server.add_addr(addr).await.unwrap_err().is_io());
    assert!(server.add_addr("localhost").await.unwrap_err().is_config());
    assert_eq!(server.local_addrs(), [addr.into()]);
    tokio::spawn(server.serve(moody));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_echoes(&mut conn).await;
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_server_listens_on_several_addresses_with_limits_in_common() {
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
    let serving = tokio::spawn(server.serve(moody));
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
async fn a_shutdown_with_a_deadline_closes_what_handlers_have_passed_on() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (give, mut taken) = tokio::sync::mpsc::channel(2);
    let serving = tokio::spawn(server.serve(move |conn| {
        let give = give.clone();
        async move { Ok(give.send(conn).await?) }
    }));
    let (_first, mut second) =
        (PacketConn::connect(addr).await.unwrap(), PacketConn::connect(addr).await.unwrap());
    let (ends, stays) = (taken.recv().await.unwrap(), taken.recv().await.unwrap());
    handle.shutdown_within(Duration::from_secs(3600));
    while PacketConn::connect(addr).await.is_ok() {
        // Until the server's task has run.
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
async fn who_has_sent_all_and_waits_for_the_peers_close_is_not_cut() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let (addr, handle) = (tcp_addr(&server), server.handle());
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(server.serve(move |mut conn| {
        let tell = tell.clone();
        async move {
            conn.send(b"goodbye").await?;
            let closed = conn.close().await;
            tell.send(closed.is_ok()).await?;
            Ok(())
        }
    }));
    let mut conn = PacketConn::connect(addr).await.unwrap();
    assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"goodbye");
    assert!(conn.recv().await.unwrap().is_none(), "FIN");
    handle.shutdown_within(Duration::from_millis(50));
    let report = serving.await.unwrap();
    assert_eq!((report.drained, report.cut.len()), (1, 0));
    // Its handler was dropped, or has heard of a clean close: not of a failure.
    assert_ne!(told.try_recv().ok(), Some(false));
}
