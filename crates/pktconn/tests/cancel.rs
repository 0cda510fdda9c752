//! Any public future can be dropped at any poll: no packet is lost, doubled or torn. (That of `close` is in `close.rs`.)

mod common;

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use common::{drop_after, numbered, piped_pair, tcp_addr};
use pktconn::{ConnConfig, PacketConn, PacketServer};

const PACKETS: u32 = 60;

/// A pipe so small that a packet takes many reads and writes, each of them a poll.
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
                // The dropped future woke nobody; let the sender go on.
                tokio::task::yield_now().await;
            }
        });
    }
}

#[tokio::test]
async fn send_dropped_at_any_poll_sends_whole_packets_or_none() {
    for polls in 1..40 {
        let (here, mut there) = narrow_pair();
        tokio::join!(
            async {
                for number in 0..PACKETS {
                    // What was dropped was not accepted: sending it again must not double it.
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
            // One poll: the next would come with the end.
            assert!(drop_after(1, here.closed()).await.is_none());
        }
    };
    tokio::join!(sending, receive_all(&mut there));
    drop(there);
    here.send(b"into the void").await.unwrap();
    assert!(here.closed().await.is_io());
}

#[tokio::test]
async fn a_wait_that_is_dropped_leaves_no_waker_behind() {
    struct Woken;
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {}
    }
    // Nobody reads at the other end, so that everything waits.
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
async fn a_send_behind_one_that_is_not_polled_ends_with_the_connection() {
    let (here, _there) = narrow_pair();
    let (here, _receiver) = here.split();
    here.send(vec![1; 500]).await.unwrap();
    let mut first = Box::pin(here.send(b"first in the line"));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let (second, _) = tokio::join!(here.send(b"second"), drop_after(1, here.close()));
    assert!(second.unwrap_err().is_local_close());
}

#[tokio::test]
async fn connect_bind_and_serve_dropped_at_any_poll_leave_the_next_try_alone() {
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
    // Dropped, it listens no more, so that the port is free.
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
                // The dropped future woke nobody; let the sender go on.
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
async fn send_many_dropped_at_any_poll_keeps_what_was_not_accepted() {
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
