//! Cancel safety: a future dropped after any poll neither loses, duplicates nor truncates a packet. `close.rs` tests
//! `close`.

mod common;

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use common::{drop_after, numbered, piped_pair, tcp_addr};
use pktconn::{ConnConfig, PacketConn, PacketServer};

const PACKETS: u32 = 60;

/// A pipe so small that each packet needs many reads and writes, and each of them a poll.
fn narrow_pair() -> (PacketConn, PacketConn) {
    piped_pair(16, ConnConfig::new().send_high_water(200))
}

async fn send_all(conn: &PacketConn) {
    for number in 0..PACKETS {
        conn.send(numbered(number)).await.unwrap();
    }
}

async fn receive_all(conn: &mut PacketConn) {
    for number in 0..PACKETS {
        assert_eq!(conn.recv().await.unwrap(), Some(numbered(number)));
    }
}

#[tokio::test]
async fn recv_dropped_at_any_poll_loses_nothing() {
    for polls in 1..40 {
        let (here, mut there) = narrow_pair();
        tokio::join!(send_all(&here), async {
            let mut next = 0;
            while next < PACKETS {
                if let Some(packet) = drop_after(polls, there.recv()).await {
                    assert_eq!(packet.unwrap(), Some(numbered(next)), "dropped after {polls} polls");
                    next += 1;
                }
                // Let the sender run.
                tokio::task::yield_now().await;
            }
        });
    }
}

#[tokio::test]
async fn send_dropped_at_any_poll_sends_the_whole_packet_or_nothing() {
    for polls in 1..40 {
        let (here, mut there) = narrow_pair();
        tokio::join!(
            async {
                for number in 0..PACKETS {
                    // The dropped send did not accept the packet: sending it again must not duplicate it.
                    while drop_after(polls, here.send(numbered(number))).await.is_none() {
                        tokio::task::yield_now().await;
                    }
                }
            },
            receive_all(&mut there)
        );
    }
}

#[tokio::test]
async fn flush_dropped_at_any_poll_changes_nothing() {
    for polls in 1..40 {
        let (here, mut there) = narrow_pair();
        tokio::join!(
            async {
                for number in 0..PACKETS {
                    here.send(numbered(number)).await.unwrap();
                    drop_after(polls, here.flush()).await;
                }
                here.flush().await.unwrap();
                assert_eq!(here.stats().queued_bytes, 0);
            },
            receive_all(&mut there)
        );
    }
}

#[tokio::test]
async fn closed_dropped_while_it_waits_changes_nothing() {
    let (here, mut there) = narrow_pair();
    let sending = async {
        for number in 0..PACKETS {
            here.send(numbered(number)).await.unwrap();
            // One poll: the second one would be after the end of the connection.
            assert!(drop_after(1, here.closed()).await.is_none());
        }
    };
    tokio::join!(sending, receive_all(&mut there));
    drop(there);
    here.send(b"never read").await.unwrap();
    assert!(here.closed().await.is_io());
}

#[tokio::test]
async fn a_dropped_pending_future_leaves_no_waker() {
    struct Woken;
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {}
    }
    // The peer does not read, so all these calls wait.
    let (here, _there) = narrow_pair();
    here.send(vec![1; 500]).await.unwrap();
    let counted = Arc::new(Woken);
    let waker = Waker::from(Arc::clone(&counted));
    let mut cx = Context::from_waker(&waker);
    for _ in 0..10 {
        let mut send = Box::pin(here.send(b"second"));
        let mut next = Box::pin(here.send(b"third"));
        let (mut flush, mut closed) = (Box::pin(here.flush()), Box::pin(here.closed()));
        assert!(send.as_mut().poll(&mut cx).is_pending());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert!(flush.as_mut().poll(&mut cx).is_pending());
        assert!(closed.as_mut().poll(&mut cx).is_pending());
    }
    drop(waker);
    assert_eq!(Arc::strong_count(&counted), 1);
}

#[tokio::test]
async fn a_send_queued_after_an_unpolled_one_ends_with_the_connection() {
    let (here, _there) = narrow_pair();
    let (here, _receiver) = here.split();
    here.send(vec![1; 500]).await.unwrap();
    let mut first = Box::pin(here.send(b"first in the line"));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let (second, _) = tokio::join!(here.send(b"second"), drop_after(1, here.close()));
    assert!(second.unwrap_err().is_local_close());
}

#[tokio::test]
async fn connect_bind_and_serve_work_after_one_was_dropped_at_any_poll() {
    let server = PacketServer::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp_addr(&server);
    let serving = tokio::spawn(server.serve(|mut conn| async move {
        while let Some(packet) = conn.recv().await? {
            conn.send(packet).await?;
        }
        Ok(conn.close().await?)
    }));
    for polls in 1..5 {
        drop_after(polls, PacketConn::connect(addr)).await;
        let mut conn = PacketConn::connect(addr).await.unwrap();
        conn.send(b"still there").await.unwrap();
        assert_eq!(conn.recv().await.unwrap().unwrap().payload(), b"still there");
        conn.close().await.unwrap();

        drop_after(polls, PacketServer::bind("127.0.0.1:0")).await;
    }
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    // The dropped server no longer listens, so the port is free.
    PacketServer::bind(addr).await.unwrap();
}

#[tokio::test]
async fn recv_many_dropped_at_any_poll_loses_nothing() {
    for polls in 1..40 {
        let (here, mut there) = narrow_pair();
        tokio::join!(send_all(&here), async {
            let mut packets = Vec::new();
            while packets.len() < PACKETS as usize {
                if let Some(count) = drop_after(polls, there.recv_many(&mut packets, 2)).await {
                    assert!((1..=2).contains(&count.unwrap()));
                }
                // Let the sender run.
                tokio::task::yield_now().await;
            }
            assert_eq!(
                packets,
                (0..PACKETS).map(numbered).collect::<Vec<_>>(),
                "dropped after {polls} polls"
            );
        });
    }
}

#[tokio::test]
async fn send_many_dropped_at_any_poll_leaves_the_packets_that_were_not_accepted() {
    for polls in 1..40 {
        let (here, mut there) = narrow_pair();
        tokio::join!(
            async {
                let mut packets: Vec<_> = (0..PACKETS).map(numbered).collect();
                while !packets.is_empty() {
                    drop_after(polls, here.send_many(&mut packets)).await;
                    tokio::task::yield_now().await;
                }
            },
            receive_all(&mut there)
        );
    }
}
