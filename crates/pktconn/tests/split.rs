//! `PacketConn::split`: senders and the receiver in different tasks and threads, on both of tokio's runtimes.

mod common;

use std::pin::{Pin, pin};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use common::{drop_after, numbered, piped_and_raw, piped_pair, tcp_pair};
use futures::SinkExt;
use pktconn::{ConnConfig, PacketConn, PacketMut, PacketSender};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SENDERS: u32 = 8;
const PACKETS: u32 = 2_000;

async fn send_from_many_tasks(sender: PacketSender) {
    let tasks: Vec<_> = (0..SENDERS)
        .map(|id| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for number in 0..PACKETS {
                    let mut packet = PacketMut::new();
                    packet.write_u32(id);
                    packet.write_u32(number);
                    packet.write_bytes(&vec![id as u8; (number % 300) as usize]);
                    sender.send(packet).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    sender.close().await.unwrap();
}

async fn receive_each_senders_packets_in_order(conn: &mut PacketConn) {
    let mut next = [0; SENDERS as usize];
    while let Some(mut packet) = conn.recv().await.unwrap() {
        let id = packet.read_u32().unwrap();
        let number = packet.read_u32().unwrap();
        assert_eq!(number, next[id as usize], "packets of sender {id} are out of order");
        assert_eq!(packet.unread(), vec![id as u8; (number % 300) as usize]);
        next[id as usize] += 1;
    }
    assert_eq!(next, [PACKETS; SENDERS as usize]);
}

async fn many_tasks_send_over_one_connection() {
    // Small enough that senders must wait for room.
    let (here, mut there) = tcp_pair(ConnConfig::new().send_high_water(4096)).await;
    let (sender, receiver) = here.split();
    drop(receiver);
    let sending = tokio::spawn(send_from_many_tasks(sender));
    receive_each_senders_packets_in_order(&mut there).await;
    there.close().await.unwrap();
    sending.await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn many_tasks_send_on_the_current_thread_runtime() {
    many_tasks_send_over_one_connection().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_send_on_the_multi_thread_runtime() {
    many_tasks_send_over_one_connection().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_handed_to_a_second_task_are_echoed_in_order() {
    let (here, mut there) = tcp_pair(ConnConfig::new()).await;
    let (sender, mut receiver) = here.split();
    let (queue, mut queued) = tokio::sync::mpsc::channel::<pktconn::Packet>(16);
    tokio::spawn(async move {
        while let Some(packet) = receiver.recv().await.unwrap() {
            queue.send(packet).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(packet) = queued.recv().await {
            sender.send(packet).await.unwrap();
        }
        sender.close().await.unwrap();
    });
    for number in 0..5_000 {
        there.send(numbered(number)).await.unwrap();
        assert_eq!(there.recv().await.unwrap().unwrap(), numbered(number));
    }
    there.close().await.unwrap();
}

#[tokio::test]
async fn packets_sent_from_a_thread_without_a_runtime_are_written() {
    let (here, mut there) = tcp_pair(ConnConfig::new()).await;
    let (sender, _receiver) = here.split();
    let thread = std::thread::spawn(move || {
        for number in 0..10 {
            sender.try_send(numbered(number)).unwrap();
        }
        sender
    });
    for number in 0..10 {
        assert_eq!(there.recv().await.unwrap().unwrap(), numbered(number));
    }
    thread.join().unwrap();
}

#[tokio::test]
async fn a_close_by_a_sender_ends_a_waiting_receiver() {
    let (here, mut there) = piped_pair(4096, ConnConfig::new());
    let (sender, mut receiver) = here.split();
    let other = sender.clone();
    let receiving = tokio::spawn(async move { receiver.recv().await });
    tokio::task::yield_now().await;
    let peer = tokio::spawn(async move {
        assert!(there.recv().await.unwrap().is_none());
        there.close().await.unwrap();
    });
    sender.close().await.unwrap();
    assert!(receiving.await.unwrap().unwrap_err().is_local_close());
    assert!(other.send(b"late").await.unwrap_err().is_local_close());
    assert!(other.closed().await.is_local_close());
    peer.await.unwrap();
}

#[tokio::test]
async fn senders_work_without_the_receiver_and_the_receiver_works_without_senders() {
    let (here, mut there) = piped_pair(4096, ConnConfig::new());
    let (sender, receiver) = here.split();
    drop(receiver);
    sender.send(b"one way").await.unwrap();
    assert_eq!(there.recv().await.unwrap().unwrap().payload(), b"one way");

    let (here, there) = piped_pair(4096, ConnConfig::new());
    let (sender, mut receiver) = here.split();
    drop(sender);
    there.send(b"the other way").await.unwrap();
    assert_eq!(receiver.recv().await.unwrap().unwrap().payload(), b"the other way");
}

#[tokio::test]
async fn dropping_the_last_handle_closes_the_connection() {
    let (here, mut raw) = piped_and_raw(4096, ConnConfig::new());
    let (sender, receiver) = here.split();
    let last = sender.clone();
    drop(sender);
    drop(receiver);
    assert!(last.close_reason().is_none());
    drop(last);
    assert_eq!(raw.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn every_waiting_task_is_woken() {
    let (here, mut raw) = piped_and_raw(10, ConnConfig::new());
    let (sender, receiver) = here.split();
    sender.send(vec![1; 96]).await.unwrap();
    let flushes =
        [sender.clone(), sender.clone()].map(|sender| tokio::spawn(async move { sender.flush().await }));
    let ends =
        [sender.clone(), sender.clone()].map(|sender| tokio::spawn(async move { sender.closed().await }));
    tokio::task::yield_now().await;
    raw.read_exact(&mut [0; 100]).await.unwrap();
    for flush in flushes {
        flush.await.unwrap().unwrap();
    }
    drop(raw);
    drop(receiver);
    sender.close().await.unwrap();
    for end in ends {
        end.await.unwrap();
    }
}

#[tokio::test]
async fn closing_a_sink_writes_all_packets_and_waits_for_the_peer_to_close() {
    let (here, mut raw) = piped_and_raw(10, ConnConfig::new());
    let (sender, receiver) = here.split();
    drop(receiver);
    let mut sink = sender.into_sink();
    sink.feed(vec![1; 96].into()).await.unwrap();
    assert!(drop_after(1, sink.close()).await.is_none());
    let mut bytes = Vec::new();
    let reading = async {
        raw.read_to_end(&mut bytes).await.unwrap();
        raw.shutdown().await.unwrap();
    };
    let (closed, ()) = tokio::join!(sink.close(), reading);
    closed.unwrap();
    assert_eq!(bytes.len(), 100);
}

#[tokio::test]
async fn every_handle_reports_the_first_reason() {
    let (here, raw) = piped_and_raw(4096, ConnConfig::new());
    let (sender, mut receiver) = here.split();
    let other = sender.clone();
    let waiting = tokio::spawn(async move { other.closed().await });
    drop(raw);
    assert!(receiver.recv().await.unwrap().is_none());
    assert!(waiting.await.unwrap().is_remote_close());
    // The peer has dropped the pipe, so writing fails, too. That is the second reason.
    sender.send(b"never read").await.unwrap();
    sender.flush().await.unwrap_err();
    assert!(sender.close_reason().unwrap().is_remote_close());
    // `send` reports the second reason: the clean close of the peer did not end sending, but the failure did.
    assert!(sender.send(b"again").await.unwrap_err().is_io());
}

#[tokio::test]
async fn the_receiver_reports_a_failure_before_a_local_close() {
    let (here, raw) = piped_and_raw(4096, ConnConfig::new());
    let (sender, mut receiver) = here.split();
    drop(raw);
    sender.send(b"never read").await.unwrap();
    assert!(sender.flush().await.unwrap_err().is_io());
    assert!(sender.close().await.unwrap_err().is_io());
    assert!(receiver.recv().await.unwrap_err().is_io());
}

#[tokio::test]
async fn a_sink_does_not_starve_a_waiting_sender() {
    let (here, mut there) = piped_pair(1000, ConnConfig::new().send_high_water(10_000));
    let (sender, _receiver) = here.split();
    let mut sink = sender.clone().into_sink();
    let feeding = tokio::spawn(async move {
        for _ in 0..10_000 {
            sink.feed(vec![1; 100].into()).await.unwrap();
        }
    });
    let reading = tokio::spawn(async move {
        let mut before = 0;
        while there.recv().await.unwrap().unwrap().len() != 6000 {
            before += 1;
        }
        before
    });
    tokio::task::yield_now().await;
    sender.send(vec![2; 6000]).await.unwrap();
    let before = reading.await.unwrap();
    assert!(before < 1000, "{before} packets of the sink arrived before that of the waiting sender");
    feeding.abort();
}

/// Runs `test` on a new thread, and fails if it hangs. A thread that waits for its own lock cannot be cancelled.
fn without_deadlock(test: impl FnOnce() + Send + 'static) {
    let (done, finished) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match finished.recv_timeout(Duration::from_secs(60)) {
        Err(RecvTimeoutError::Timeout) => panic!("the test hangs: deadlock"),
        _ => thread.join().unwrap(),
    }
}

/// The memory of a packet that sends a packet when it is freed.
struct SendsWhenDropped(Vec<u8>, PacketSender);

impl AsRef<[u8]> for SendsWhenDropped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for SendsWhenDropped {
    fn drop(&mut self) {
        self.1.try_send(b"written").unwrap();
    }
}

#[test]
fn the_memory_of_a_packet_may_use_the_connection_when_it_is_dropped() {
    without_deadlock(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (here, mut there) = piped_pair(100_000, ConnConfig::new());
            let (sender, _receiver) = here.split();
            let memory = Bytes::from_owner(SendsWhenDropped(vec![1; 10_000], sender.clone()));
            sender.send(memory).await.unwrap();
            assert_eq!(there.recv().await.unwrap().unwrap(), vec![1; 10_000].into());
            assert_eq!(there.recv().await.unwrap().unwrap(), b"written".into());
        });
    });
}

/// A task that is its own waker, as in simple executors.
struct Task(Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn dropping_the_last_waker_of_a_task_may_drop_a_handle_of_the_connection() {
    without_deadlock(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (conn, _raw) = runtime.block_on(async { piped_and_raw(100, ConnConfig::new()) });
        let (sender, _receiver) = conn.split();
        let other = sender.clone();
        let task = Arc::new(Task(Mutex::new(Box::pin(async move { drop(other.closed().await) }))));
        let waker = Waker::from(Arc::clone(&task));
        assert!(task.0.lock().unwrap().as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop((waker, task));
        let mut closing = pin!(sender.close());
        assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    });
}
