//! A connection in two halves, used by many tasks on both of tokio's runtimes.

mod common;

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
        assert_eq!(number, next[id as usize], "of sender {id}");
        assert_eq!(packet.unread(), vec![id as u8; (number % 300) as usize]);
        next[id as usize] += 1;
    }
    assert_eq!(next, [PACKETS; SENDERS as usize]);
}

async fn many_tasks_send_over_one_connection() {
    // Small enough that senders have to wait for room.
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
async fn packets_sent_from_a_thread_without_a_runtime_leave() {
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
async fn a_close_by_a_sender_ends_a_receiver_that_waits() {
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
async fn senders_go_on_without_the_receiver_and_it_without_them() {
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
async fn the_last_handle_to_be_dropped_closes_the_connection() {
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
async fn every_task_that_waits_is_woken() {
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
async fn closing_a_sender_as_a_sink_waits_for_the_end() {
    let (here, mut raw) = piped_and_raw(10, ConnConfig::new());
    let (mut sink, receiver) = here.split();
    drop(receiver);
    sink.feed(vec![1; 96].into()).await.unwrap();
    assert!(drop_after(1, SinkExt::close(&mut sink)).await.is_none());
    let mut bytes = Vec::new();
    let reading = async {
        raw.read_to_end(&mut bytes).await.unwrap();
        raw.shutdown().await.unwrap();
    };
    let (closed, ()) = tokio::join!(SinkExt::close(&mut sink), reading);
    closed.unwrap();
    assert_eq!(bytes.len(), 100);
}

#[tokio::test]
async fn the_first_reason_is_told_to_every_handle() {
    let (here, raw) = piped_and_raw(4096, ConnConfig::new());
    let (sender, mut receiver) = here.split();
    let other = sender.clone();
    let waiting = tokio::spawn(async move { other.closed().await });
    drop(raw);
    assert!(receiver.recv().await.unwrap().is_none());
    assert!(waiting.await.unwrap().is_remote_close());
    // The pipe is gone in the other direction too: a failure that comes second.
    sender.send(b"nobody there").await.unwrap();
    sender.flush().await.unwrap_err();
    assert!(sender.close_reason().unwrap().is_remote_close());
    // It is what ended sending, which the peer's clean close did not.
    assert!(sender.send(b"again").await.unwrap_err().is_io());
}
