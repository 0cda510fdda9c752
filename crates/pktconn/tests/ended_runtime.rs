//! Connections whose runtime has ended or whose transport panics: they end with an error, and no call hangs.

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

/// Runs `future` on a new runtime, and fails if it hangs: the paused clock jumps to the timeout as soon as nothing else
/// can run.
fn without_hanging<F: Future>(future: F) -> F::Output {
    let waited = async { tokio::time::timeout(Duration::from_secs(3600), future).await };
    runtime().block_on(waited).expect("the future hangs")
}

/// A connection whose runtime has ended, with two queued packets that its transport has no room for. Before that, the
/// flusher has run for `yields` yields.
fn conn_without_runtime(yields: usize) -> (PacketConn, DuplexStream) {
    runtime().block_on(async {
        let (conn, raw) = piped_and_raw(4, ConnConfig::new().send_high_water(1000));
        for number in 0..2 {
            conn.send(numbered(number)).await.unwrap();
        }
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        (conn, raw)
    })
}

#[test]
fn closing_a_connection_after_its_runtime_has_ended_returns_an_error_with_the_unsent_packets() {
    for yields in 0..3 {
        let (mut conn, _raw) = conn_without_runtime(yields);
        let error = without_hanging(conn.close()).unwrap_err();
        assert!(error.is_io(), "after {yields} yields: {error:?}");
        assert_eq!(error.into_unsent(), [numbered(0), numbered(1)], "after {yields} yields");
    }
}

#[test]
fn send_flush_and_closed_return_an_error_after_the_runtime_has_ended() {
    for yields in 0..3 {
        let (conn, _raw) = conn_without_runtime(yields);
        let (sending, flushing) =
            without_hanging(async { tokio::join!(conn.send(vec![1; 990]), conn.flush()) });
        assert!(sending.is_err_and(|error| error.is_io() && error.unsent() == [vec![1; 990].into()]));
        assert!(flushing.unwrap_err().is_io());
        assert!(without_hanging(conn.closed()).is_io());
    }
}

#[test]
fn close_returns_a_packet_that_was_sent_after_the_runtime_had_ended() {
    let (mut conn, _raw) = runtime().block_on(async { piped_and_raw(4, ConnConfig::new()) });
    let packet = Packet::from(b"never written");
    // The connection has not noticed yet that its runtime has ended.
    conn.try_send(packet.clone()).unwrap();
    let error = without_hanging(conn.close()).unwrap_err();
    assert!(error.is_io(), "{error:?}");
    assert_eq!(error.into_unsent(), [packet]);
}

#[test]
fn queued_packets_are_written_when_the_runtime_is_shut_down_if_the_transport_has_room() {
    let runtime = runtime();
    // For some connections the runtime drops the owner's task first, for others the background task.
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
async fn a_packet_that_is_sent_from_a_thread_without_a_runtime_is_written() {
    let (conn, mut raw) = piped_and_raw(4096, ConnConfig::new());
    let (sender, _receiver) = conn.split();
    for _ in 0..3 {
        let sender = sender.clone();
        // The thread has no runtime, and has ended when the packet is written.
        std::thread::spawn(move || sender.try_send(b"hello").unwrap()).join().unwrap();
        let mut bytes = [0; 9];
        raw.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..], frame(b"hello"));
    }
}

#[test]
fn a_packet_is_written_even_if_another_runtime_of_the_sending_thread_has_ended() {
    let home = runtime();
    let (conn, mut raw) = home.block_on(async { piped_and_raw(4096, ConnConfig::new()) });
    for _ in 0..3 {
        let other = runtime();
        let (_another, _raw) = other.block_on(async {
            // The first send on a thread decides which runtime writes for this thread: here the other one.
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
async fn packets_of_200_connections_that_were_sent_without_yielding_are_all_written() {
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

/// A transport that panics at the first write (`writing`) or at the second read.
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
        assert!(self.writing || !self.was_read, "a test transport panics on purpose");
        self.was_read = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Panics {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.writing, "a test transport panics on purpose");
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
fn a_panic_of_the_transport_in_the_flusher_fails_the_connection() {
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
fn a_panic_of_the_transport_in_a_call_panics_only_in_the_task_of_the_caller() {
    without_hanging(async {
        for transport in [Panics::writing(), Panics::reading()] {
            let task = tokio::spawn(async {
                let mut conn = PacketConn::new(transport, ConnConfig::new()).unwrap();
                conn.send(b"unsent").await.unwrap();
                conn.recv().await
            });
            // The connection is dropped during unwinding. It must not use the transport again, which would panic twice.
            assert!(task.await.unwrap_err().is_panic());
        }
    });
}

#[test]
fn a_panic_of_the_transport_in_a_broadcast_does_not_affect_the_other_members() {
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
        // A packet this large is written at once, by the broadcast.
        let result = group.broadcast(vec![7; 100_000]);
        assert!(result.accepted >= 10, "{result:?}");
        assert!(bad.closed().await.is_io());
        for (_conn, mut there) in others {
            let mut bytes = vec![0; 100_004];
            tokio::io::AsyncReadExt::read_exact(&mut there, &mut bytes).await.unwrap();
        }
    });
}

#[test]
fn after_a_panic_of_the_transport_in_one_handle_the_other_senders_fail() {
    without_hanging(async {
        let conn = PacketConn::new(Panics::writing(), ConnConfig::new()).unwrap();
        let (sender, _receiver) = conn.split();
        let other = sender.clone();
        // A packet this large is written at once, by `send`.
        let task = tokio::spawn(async move { other.send(vec![0; 100_000]).await });
        assert!(task.await.unwrap_err().is_panic());
        assert!(sender.send(b"unsent").await.unwrap_err().is_io());
        assert!(sender.closed().await.is_io());
    });
}

#[test]
fn a_panic_of_the_transport_in_one_handle_ends_waiting_calls_even_if_the_handle_stays() {
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
        // `sender` still exists, but nothing uses it.
        for error in [closed.await.unwrap(), receiving.await.unwrap().unwrap_err()] {
            assert!(error.is_io() && error.to_string().contains("panicked"), "{error}");
        }
        drop(sender);
    });
}
