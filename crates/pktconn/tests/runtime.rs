//! A connection whose runtime is gone, or whose transport panics, ends with an error: nothing waits for ever.

mod common;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use common::{frame, numbered, piped_and_raw};
use pktconn::{ConnConfig, Packet, PacketConn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Runs `future` on a runtime of its own, and fails where it waits for something that never comes: its paused clock jumps
/// to the timeout as soon as nothing else is left to do.
fn without_hanging<F: Future>(future: F) -> F::Output {
    let waited = async { tokio::time::timeout(Duration::from_secs(3600), future).await };
    runtime().block_on(waited).expect("it waits for ever")
}

/// A connection that holds packets which its transport has no room for, made on a runtime that is gone by now. Each packet
/// that was accepted is left to the flusher, which has run for `turns` of its scheduler.
fn orphan(turns: usize) -> (PacketConn, DuplexStream) {
    runtime().block_on(async {
        let (conn, raw) = piped_and_raw(4, ConnConfig::new().send_high_water(1000));
        for number in 0..2 {
            conn.send(numbered(number)).await.unwrap();
        }
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        (conn, raw)
    })
}

#[test]
fn a_connection_whose_runtime_is_gone_is_closed_with_an_error() {
    for turns in 0..3 {
        let (mut conn, _raw) = orphan(turns);
        let error = without_hanging(conn.close()).unwrap_err();
        assert!(error.is_io(), "after {turns} turns: {error:?}");
        assert_eq!(error.into_unsent(), [numbered(0), numbered(1)], "after {turns} turns");
    }
}

#[test]
fn who_waits_for_room_or_for_a_flush_learns_that_the_runtime_is_gone() {
    for turns in 0..3 {
        let (conn, _raw) = orphan(turns);
        let (sending, flushing) =
            without_hanging(async { tokio::join!(conn.send(vec![1; 990]), conn.flush()) });
        assert!(sending.is_err_and(|error| error.is_io() && error.unsent() == [vec![1; 990].into()]));
        assert!(flushing.unwrap_err().is_io());
        assert!(without_hanging(conn.closed()).is_io());
    }
}

#[test]
fn the_first_packet_after_the_runtime_is_gone_comes_back() {
    let (mut conn, _raw) = runtime().block_on(async { piped_and_raw(4, ConnConfig::new()) });
    let packet = Packet::from(b"nobody is there to write this");
    // Nobody knows yet that the runtime is gone.
    conn.try_send(packet.clone()).unwrap();
    let error = without_hanging(conn.close()).unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert_eq!(error.into_unsent(), [packet]);
}

#[test]
fn what_the_transport_has_room_for_is_written_when_the_runtime_is_shut_down() {
    let runtime = runtime();
    // Of some connections the runtime drops the task of the owner first, of some their own one.
    let raws = runtime.block_on(async {
        let mut raws = Vec::new();
        for _ in 0..50 {
            let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new().flush_delay(Duration::from_secs(5)));
            conn.send(b"hello").await.unwrap();
            conn.flush().await.unwrap();
            raw.read_exact(&mut [0; 9]).await.unwrap();
            tokio::spawn(async move {
                conn.send(b"goodbye").await.unwrap();
                std::future::pending::<()>().await;
            });
            raws.push(raw);
            tokio::task::yield_now().await;
        }
        raws
    });
    drop(runtime);
    for mut raw in raws {
        let mut bytes = Vec::new();
        without_hanging(raw.read_to_end(&mut bytes)).unwrap();
        assert_eq!(bytes, frame(b"goodbye"));
    }
}

#[tokio::test]
async fn a_packet_leaves_whatever_thread_it_was_sent_from() {
    let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    let (sender, _receiver) = conn.split();
    for _ in 0..3 {
        let sender = sender.clone();
        // It has no runtime of its own, and is gone when the packet is to be written.
        std::thread::spawn(move || sender.try_send(b"hello").unwrap()).join().unwrap();
        let mut bytes = [0; 9];
        raw.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..], frame(b"hello"));
    }
}

#[test]
fn a_packet_leaves_though_another_runtime_of_its_senders_thread_is_gone() {
    let home = runtime();
    let (conn, mut raw) = home.block_on(async { piped_and_raw(4096, ConnConfig::new()) });
    for _ in 0..3 {
        let other = runtime();
        let (_another, _raw) = other.block_on(async {
            // The first to send on this thread: the other runtime writes for all that do.
            let (another, raw) = piped_and_raw(4096, ConnConfig::new());
            another.try_send(b"hello").unwrap();
            tokio::task::yield_now().await;
            conn.try_send(b"hello").unwrap();
            (another, raw)
        });
        drop(other);
        let mut bytes = [0; 9];
        home.block_on(raw.read_exact(&mut bytes)).unwrap();
        assert_eq!(bytes[..], frame(b"hello"));
        conn.try_send(b"again").unwrap();
        home.block_on(raw.read_exact(&mut bytes)).unwrap();
        assert_eq!(bytes[..], frame(b"again"));
    }
}

#[tokio::test]
async fn packets_of_more_connections_than_a_turn_writes_all_leave() {
    let pairs: Vec<_> = (0..200).map(|_| piped_and_raw(4096, ConnConfig::new())).collect();
    for (conn, _) in &pairs {
        conn.try_send(b"hello").unwrap();
    }
    let mut bytes = [0; 9];
    for (_, mut raw) in pairs.into_iter().rev() {
        raw.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..], frame(b"hello"));
    }
}

/// Panics at the first write, or else at the second read.
struct Panics {
    writing: bool,
    was_read: bool,
}

impl Panics {
    fn writing() -> Self {
        Self { writing: true, was_read: false }
    }

    fn reading() -> Self {
        Self { writing: false, was_read: false }
    }
}

impl AsyncRead for Panics {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        assert!(self.writing || !self.was_read, "a panic of the transport, which this test wants");
        self.was_read = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Panics {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.writing, "a panic of the transport, which this test wants");
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_transport_that_panics_under_the_flusher_fails_its_connection() {
    without_hanging(async {
        let mut conn = PacketConn::new(Panics::writing(), ConnConfig::new()).unwrap();
        conn.send(b"unsent").await.unwrap();
        assert!(conn.closed().await.is_io());
        let error = conn.close().await.unwrap_err();
        assert!(error.is_io(), "{error:?}");
        assert_eq!(error.into_unsent(), [Packet::from(b"unsent")]);
    });
}

#[test]
fn a_transport_that_panics_under_a_handle_panics_in_its_task_alone() {
    without_hanging(async {
        for transport in [Panics::writing(), Panics::reading()] {
            let task = tokio::spawn(async {
                let mut conn = PacketConn::new(transport, ConnConfig::new()).unwrap();
                conn.send(b"unsent").await.unwrap();
                conn.recv().await
            });
            // The connection is dropped while the panic unwinds, and the transport would panic once more.
            assert!(task.await.unwrap_err().is_panic());
        }
    });
}

#[test]
fn a_transport_that_panics_is_no_matter_of_those_who_are_sent_the_same() {
    without_hanging(async {
        let group = pktconn::Group::new();
        let bad = PacketConn::new(Panics::writing(), ConnConfig::new()).unwrap();
        group.join(&bad, ());
        let mut others = Vec::new();
        for _ in 0..10 {
            let (here, there) = tokio::io::duplex(1024 * 1024);
            let conn = PacketConn::new(here, ConnConfig::new()).unwrap();
            group.join(&conn, ());
            others.push((conn, there));
        }
        // So much is written at once.
        let told = group.broadcast(vec![7; 100_000]);
        assert!(told.accepted >= 10, "{told:?}");
        assert!(bad.closed().await.is_io());
        for (_conn, mut there) in others {
            let mut bytes = vec![0; 100_004];
            tokio::io::AsyncReadExt::read_exact(&mut there, &mut bytes).await.unwrap();
        }
    });
}

#[test]
fn a_transport_that_panicked_under_one_handle_fails_the_senders() {
    without_hanging(async {
        let conn = PacketConn::new(Panics::writing(), ConnConfig::new()).unwrap();
        let (sender, _receiver) = conn.split();
        let other = sender.clone();
        // So much is written at once, by the one who sends it.
        let task = tokio::spawn(async move { other.send(vec![0; 100_000]).await });
        assert!(task.await.unwrap_err().is_panic());
        assert!(sender.send(b"unsent").await.unwrap_err().is_io());
        assert!(sender.closed().await.is_io());
    });
}

#[test]
fn a_transport_that_panics_under_a_handle_that_stays_is_told_to_those_who_wait() {
    without_hanging(async {
        let conn = PacketConn::new(Panics::writing(), ConnConfig::new()).unwrap();
        let (sender, mut receiver) = conn.split();
        let sender = std::sync::Arc::new(sender);
        let [closed, sends] = [(); 2].map(|()| std::sync::Arc::clone(&sender));
        let closed = tokio::spawn(async move { closed.closed().await });
        let receiving = tokio::spawn(async move { receiver.recv().await });
        tokio::task::yield_now().await;
        let task = tokio::spawn(async move { sends.send(vec![0; 100_000]).await });
        assert!(task.await.unwrap_err().is_panic());
        // Nobody uses the sender any more, which is still there.
        for error in [closed.await.unwrap(), receiving.await.unwrap().unwrap_err()] {
            assert!(error.is_io() && error.to_string().contains("panicked"), "{error}");
        }
        drop(sender);
    });
}
