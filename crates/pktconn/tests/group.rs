//! `Group`: a broadcast reaches all members and never waits. Also tags, policies, and the latest packet per key.

mod common;

use common::{frame, piped_and_raw, piped_pair};
use pktconn::{
    Broadcast, Checksum, CodecConfig, ConnConfig, Group, HeaderFormat, Packet, PacketConn, PacketMut,
    SlowConsumer,
};
use tokio::io::AsyncReadExt;

fn counts(broadcast: Broadcast) -> (usize, usize, usize) {
    (broadcast.accepted, broadcast.dropped, broadcast.gone)
}

#[tokio::test]
async fn a_broadcast_reaches_members_with_whole_and_split_connections() {
    let group = Group::new();
    let (whole, mut first) = piped_pair(4096, ConnConfig::new());
    let (conn, mut second) = piped_pair(4096, ConnConfig::new());
    let (sender, _receiver) = conn.split();
    group.join(&whole, ());
    group.join(&sender, ());
    group.join(&sender, ());
    assert_eq!(group.len(), 2, "a connection that joins twice is one member");
    for payload in [&b"one"[..], b"two"] {
        assert_eq!(counts(group.broadcast(payload.to_vec())), (2, 0, 0));
        for peer in [&mut first, &mut second] {
            assert_eq!(peer.recv().await.unwrap().unwrap().payload(), payload);
        }
    }
    assert!(group.leave(&whole) && !group.leave(&whole));
    assert_eq!(counts(group.broadcast(b"three")), (1, 0, 0));
}

#[tokio::test]
async fn broadcast_if_selects_members_by_their_tag() {
    let group = Group::new();
    let mut peers = Vec::new();
    for name in ["alice", "bob", "carol"] {
        let (conn, peer) = piped_pair(4096, ConnConfig::new());
        group.join(&conn, name);
        peers.push((conn, peer));
    }
    assert_eq!(counts(group.broadcast_if(b"to two", |name| *name != "bob")), (2, 0, 0));
    group.broadcast(b"to all");
    for (index, expected) in [b"to two", b"to all", b"to two"].into_iter().enumerate() {
        assert_eq!(peers[index].1.recv().await.unwrap().unwrap().payload(), expected);
    }
    // A new tag replaces the old one.
    group.join(&peers[1].0, "robert");
    assert_eq!(counts(group.broadcast_if(b"", |name| *name == "bob")), (0, 0, 0));
}

#[tokio::test]
async fn a_group_does_not_keep_connections_open_and_removes_them_at_the_next_broadcast() {
    let group = Group::new();
    let (dropped, mut peer) = piped_pair(4096, ConnConfig::new());
    let (mut closed, mut other) = piped_pair(4096, ConnConfig::new());
    group.join(&dropped, ());
    group.join(&closed, ());
    drop(dropped);
    assert!(peer.recv().await.unwrap().is_none(), "the group must not keep the connection open");
    let (here, there) = tokio::join!(closed.close(), async {
        assert!(other.recv().await.unwrap().is_none());
        other.close().await
    });
    assert!(here.is_ok() && there.is_ok());
    assert_eq!(group.len(), 2, "the group notices only at the next broadcast");
    assert_eq!(counts(group.broadcast(b"")), (0, 0, 2));
    assert!(group.is_empty());
    assert_eq!(counts(group.broadcast(b"")), (0, 0, 0));
}

#[tokio::test]
async fn members_that_have_ended_are_removed_even_without_broadcasts() {
    let group = Group::new();
    for number in 0..10_000 {
        let (conn, _peer) = piped_and_raw(64, ConnConfig::new());
        group.join(&conn, number);
        assert!(group.len() <= 128);
    }
}

#[tokio::test]
async fn a_broadcast_follows_the_slow_consumer_policy_of_each_member() {
    let group = Group::new();
    let slow = |policy| piped_and_raw(64, ConnConfig::new().send_high_water(104).slow_consumer(policy));
    let policies =
        [SlowConsumer::Block, SlowConsumer::DropNewest, SlowConsumer::DropOldest, SlowConsumer::Disconnect];
    let conns = policies.map(|policy| {
        let (conn, peer) = slow(policy);
        group.join(&conn, policy);
        (conn, peer)
    });
    assert_eq!(counts(group.broadcast(vec![1; 100])), (4, 0, 0));
    // After a yield, the pipes hold 64 bytes of the packet, and the send queues the rest.
    tokio::task::yield_now().await;
    assert_eq!(counts(group.broadcast(vec![2; 100])), (1, 2, 1));
    assert_eq!(counts(group.broadcast(vec![3; 100])), (1, 2, 0));
    let dropped = conns.each_ref().map(|(conn, _)| conn.stats().packets_dropped);
    assert_eq!(dropped, [2, 2, 1, 0]);
    assert!(conns[3].0.close_reason().unwrap().is_slow_consumer());
}

#[tokio::test]
async fn a_payload_over_the_limit_of_a_member_is_dropped_only_for_that_member() {
    let group = Group::new();
    let (large, _peer) = piped_pair(4096, ConnConfig::new());
    let small = ConnConfig::new().codec(CodecConfig::new().max_payload_len(10));
    let (small, _other) = piped_pair(4096, small);
    group.join(&large, ());
    group.join(&small, ());
    assert_eq!(counts(group.broadcast(vec![7; 11])), (1, 1, 0));
    assert_eq!(small.stats().packets_dropped, 1);
    assert!(small.close_reason().is_none());
}

#[tokio::test]
async fn each_member_gets_the_packet_in_its_own_format() {
    let group = Group::new();
    let formats = [
        (CodecConfig::new(), frame(b"news")),
        (CodecConfig::new().header(HeaderFormat::U16Be), b"\0\x04news".to_vec()),
        (CodecConfig::new().checksum(Checksum::Crc32), b"\x04\0\0\0news\xdf\x97\xff\xdd".to_vec()),
    ];
    let mut conns = Vec::new();
    for (codec, expected) in formats.iter().chain(&formats) {
        let (conn, peer) = piped_and_raw(4096, ConnConfig::new().codec(*codec));
        group.join(&conn, ());
        conns.push((conn, peer, expected));
    }
    // A packet without a frame, and one that is already encoded in the first format.
    let mut ready = PacketMut::new();
    ready.write_bytes(b"news");
    let packets = [Packet::from(b"news"), ready.freeze()];
    for packet in packets {
        assert_eq!(counts(group.broadcast(packet)), (6, 0, 0));
        for (_, peer, expected) in &mut conns {
            let mut bytes = vec![0; expected.len()];
            peer.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, **expected);
        }
    }
}

/// A tag that broadcasts when it is dropped.
struct Uses(Option<Group<Uses>>);

impl Drop for Uses {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            group.broadcast(b"from a drop");
        }
    }
}

#[tokio::test]
async fn a_filter_and_the_drop_of_a_tag_may_use_the_group() {
    let group = Group::new();
    let (conn, _peer) = piped_pair(4096, ConnConfig::new());
    group.join(&conn, Uses(Some(group.clone())));
    group.broadcast_if(b"", |_| group.len() == 1);
    group.join(&conn, Uses(Some(group.clone())));
    assert!(group.leave(&conn));
    for _ in 0..200 {
        let (conn, _peer) = piped_pair(64, ConnConfig::new());
        group.join(&conn, Uses(Some(group.clone())));
    }
    group.broadcast(b"");
}

#[tokio::test]
async fn a_broadcast_writes_a_full_queue_before_it_drops_a_packet() {
    let group = Group::new();
    let config = ConnConfig::new().send_high_water(1000);
    let conns: Vec<_> = (0..200)
        .map(|_| {
            let (conn, peer) = piped_and_raw(1024 * 1024, config.clone());
            group.join(&conn, ());
            (conn, peer)
        })
        .collect();
    // The test does not yield, so only the broadcasts themselves write.
    for _ in 0..10 {
        assert_eq!(counts(group.broadcast(vec![7; 900])), (200, 0, 0));
    }
    drop(conns);
}

/// The memory of a packet that panics when it is freed.
struct Panics(Vec<u8>);

impl AsRef<[u8]> for Panics {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        panic!("the memory of a test packet panics on purpose");
    }
}

#[tokio::test]
async fn a_member_stays_in_the_group_if_dropping_its_old_packet_panics() {
    const LEN: usize = 100_000;
    let policy = ConnConfig::new().send_high_water(2 * LEN).slow_consumer(SlowConsumer::DropOldest);
    let (conn, mut peer) = piped_and_raw(64, policy);
    let group = Group::new();
    group.join(&conn, ());
    assert_eq!(counts(group.broadcast(vec![1; LEN])), (1, 0, 0));
    let old = Packet::from(bytes::Bytes::from_owner(Panics(vec![2; LEN - 10])));
    conn.try_send(old).unwrap();
    assert_eq!(counts(group.broadcast(vec![3; LEN - 10])), (1, 0, 0), "it replaces the old packet");
    assert_eq!((group.len(), conn.stats().packets_dropped), (1, 1));
    let mut bytes = vec![0; 4 + LEN + 4];
    peer.read_exact(&mut bytes).await.unwrap();
    let mut last = vec![0; LEN - 10];
    peer.read_exact(&mut last).await.unwrap();
    assert!(last.iter().all(|byte| *byte == 3));
}

/// The payloads that `peer` receives until the end.
async fn all_payloads(peer: &mut pktconn::PacketConn) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let Some(packet) = peer.recv().await.unwrap() {
        payloads.push(packet.payload().to_vec());
    }
    peer.close().await.unwrap();
    payloads
}

#[tokio::test]
async fn a_slow_member_gets_the_latest_packet_of_each_key() {
    let (mut conn, mut peer) = piped_pair(64, ConnConfig::new().send_high_water(1000));
    let group = Group::new();
    group.join(&conn, ());
    // The send queue is full and stays full.
    assert_eq!(counts(group.broadcast(vec![0; 996])), (1, 0, 0));
    tokio::task::yield_now().await;
    for state in 1..=100_u8 {
        for key in [7, 8] {
            assert_eq!(counts(group.broadcast_latest(key, vec![state, key as u8])), (1, 0, 0));
        }
    }
    assert_eq!(counts(group.broadcast(vec![1; 96])), (0, 1, 0));
    assert_eq!(conn.stats().packets_dropped, 2 * 99 + 1);
    assert_eq!(conn.stats().queued_bytes, 1000 - 64 + 2 * 6);
    let (payloads, closed) = tokio::join!(all_payloads(&mut peer), async {
        conn.flush().await.unwrap();
        assert_eq!(conn.queued_bytes(), 0);
        group.broadcast_latest(7, "a new one");
        conn.close().await
    });
    closed.unwrap();
    assert_eq!(payloads, [vec![0; 996], vec![100, 7], vec![100, 8], b"a new one".to_vec()]);
}

#[tokio::test]
async fn the_latest_packet_is_copied_once_per_format_and_refused_by_members_with_a_lower_limit() {
    const LEN: usize = 10_000;
    let checked = CodecConfig::new().checksum(Checksum::Crc32);
    let group = Group::new();
    let mut pairs = Vec::new();
    for number in 0..60 {
        let codec = match number {
            0 => CodecConfig::new().max_payload_len(LEN - 1),
            1 => checked.max_payload_len(LEN - 1),
            _ if number % 2 == 0 => CodecConfig::new(),
            _ => checked,
        };
        let config = ConnConfig::new().codec(codec);
        let (conn, raw) = piped_and_raw(64, config.clone());
        let peer_codec = codec.max_payload_len(2 * LEN);
        let peer = PacketConn::new(raw, config.codec(peer_codec)).unwrap();
        // Larger than the pipe, so that it stays queued, and the keyed packet waits behind it.
        conn.send(vec![0; 100]).await.unwrap();
        group.join(&conn, ());
        pairs.push((conn, peer));
    }
    tokio::task::yield_now().await;
    let mut sent = None;
    let counted = allocation_counter::measure(|| sent = Some(group.broadcast_latest(7, vec![1; LEN])));
    assert_eq!(counts(sent.unwrap()), (58, 2, 0));
    assert!(counted.bytes_total < 10 * LEN as u64, "{} bytes for 58 members", counted.bytes_total);
    for (conn, peer) in &mut pairs[2..] {
        assert_eq!(peer.recv().await.unwrap().unwrap().payload(), vec![0; 100]);
        assert_eq!(peer.recv().await.unwrap().unwrap().payload(), vec![1; LEN]);
        assert_eq!(conn.queued_bytes(), 0);
    }
}

#[tokio::test]
async fn without_yielding_a_packet_replaces_the_last_one_if_it_has_the_same_key() {
    let (mut conn, mut peer) = piped_pair(1000, ConnConfig::new());
    conn.try_send_latest(1, "old").unwrap();
    conn.try_send_latest(1, "new").unwrap();
    conn.try_send("between").unwrap();
    conn.try_send_latest(1, "newer").unwrap();
    let (payloads, closed) = tokio::join!(all_payloads(&mut peer), conn.close());
    closed.unwrap();
    assert_eq!(payloads, [&b"new"[..], b"between", b"newer"]);
}

#[tokio::test]
async fn keyed_packets_are_written_without_another_call() {
    let (conn, mut peer) = piped_pair(1000, ConnConfig::new());
    conn.try_send_latest(1, "state").unwrap();
    assert_eq!(peer.recv().await.unwrap(), Some("state".into()));
    // Also after the queue was full.
    conn.send(vec![0; 5000]).await.unwrap();
    tokio::task::yield_now().await;
    conn.try_send_latest(1, "older").unwrap();
    conn.try_send_latest(1, "latest").unwrap();
    assert_eq!(peer.recv().await.unwrap().unwrap().len(), 5000);
    assert_eq!(peer.recv().await.unwrap(), Some("latest".into()));
}

#[tokio::test]
async fn keyed_packets_are_limited_by_the_high_water_mark_and_returned_when_the_connection_fails() {
    let (mut conn, raw) = piped_and_raw(10, ConnConfig::new().send_high_water(1000));
    conn.send(vec![0; 996]).await.unwrap();
    tokio::task::yield_now().await;
    let accepted = (0..100).filter(|key| conn.try_send_latest(*key, vec![1; 96]).is_ok()).count();
    assert_eq!(accepted, 10);
    let error = conn.try_send_latest(77, "no room").unwrap_err();
    assert!(error.is_full() && error.into_unsent() == [Packet::from("no room")]);
    // A waiting packet can still be replaced.
    conn.try_send_latest(3, vec![3; 96]).unwrap();
    drop(raw);
    let unsent = conn.close().await.unwrap_err().into_unsent();
    assert_eq!(unsent.len(), 11);
    assert_eq!(unsent[4], vec![3; 96].into());
    assert!(conn.try_send_latest(3, "late").unwrap_err().is_local_close());
}

#[tokio::test]
async fn the_policy_of_a_group_overrides_those_of_its_members() {
    let config = ConnConfig::new().send_high_water(1000);
    let (conn, _peer) = piped_pair(64, config.clone());
    let group = Group::new().slow_consumer(SlowConsumer::Disconnect);
    group.join(&conn, ());
    assert_eq!(counts(group.broadcast(vec![0; 996])), (1, 0, 0));
    assert_eq!(counts(group.broadcast(vec![1; 96])), (0, 0, 1));
    assert!(conn.close_reason().unwrap().is_slow_consumer());

    // The group does not disconnect, although the connection would.
    let (conn, _peer) = piped_pair(64, config.slow_consumer(SlowConsumer::Disconnect));
    let group = group.clone().slow_consumer(SlowConsumer::Block);
    group.join(&conn, ());
    assert_eq!(counts(group.broadcast(vec![0; 996])), (1, 0, 0));
    assert_eq!(counts(group.broadcast(vec![1; 96])), (0, 1, 0));
    assert!(conn.close_reason().is_none());
}

#[tokio::test]
async fn a_member_is_found_by_its_tag_and_replaced_by_the_next_one() {
    let group = Group::new();
    let (first, mut first_peer) = piped_pair(4096, ConnConfig::new());
    let (second, mut second_peer) = piped_pair(4096, ConnConfig::new());
    assert!(group.get(&"alice").is_none());
    assert!(group.join_as(&first, "alice").is_none());
    assert_eq!(group.get(&"alice").unwrap().id(), first.id());
    assert!(group.join_as(&first, "alice").is_none(), "a member does not replace itself");

    let replaced = group.join_as(&second, "alice").unwrap();
    assert_eq!((replaced.id(), group.len()), (first.id(), 1));
    replaced.send("you logged in elsewhere").await.unwrap();
    group.get(&"alice").unwrap().send("welcome").await.unwrap();
    assert_eq!(first_peer.recv().await.unwrap(), Some("you logged in elsewhere".into()));
    assert_eq!(second_peer.recv().await.unwrap(), Some("welcome".into()));

    // After a new tag, or after leaving, the old tag is free.
    group.join(&second, "bob");
    assert!(group.get(&"alice").is_none());
    assert!(group.join_as(&first, "alice").is_none());
    assert!(group.leave(&first));
    assert!(group.get(&"alice").is_none());
    assert!(group.join_as(&first, "alice").is_none(), "the member had left");
    drop((first, replaced));
    assert!(group.get(&"alice").is_none(), "the connection has ended");
}

#[tokio::test]
async fn the_tags_of_members_that_have_ended_are_dropped() {
    let group = Group::new();
    let tag = std::sync::Arc::new(());
    for number in 0..2000 {
        let (conn, _peer) = piped_pair(64, ConnConfig::new());
        group.join_as(&conn, (number, tag.clone()));
        if number % 2 == 0 {
            group.leave(&conn);
        }
    }
    assert!(std::sync::Arc::strong_count(&tag) < 400, "{} tags are kept", std::sync::Arc::strong_count(&tag));
}

#[tokio::test]
async fn the_policy_of_a_group_applies_while_a_sender_of_the_member_waits() {
    for (policy, expected) in [
        (SlowConsumer::Disconnect, (0, 0, 1)),
        (SlowConsumer::DropOldest, (1, 0, 0)),
        (SlowConsumer::DropNewest, (0, 1, 0)),
    ] {
        let (conn, _peer) = piped_pair(64, ConnConfig::new().send_high_water(1000));
        let group = Group::new().slow_consumer(policy);
        group.join(&conn, ());
        conn.send(vec![0; 496]).await.unwrap();
        conn.send(vec![1; 396]).await.unwrap();
        let waiting = tokio::spawn({
            let sender = conn.sender();
            async move { sender.send(vec![2; 900]).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(counts(group.broadcast(vec![3; 300])), expected, "{policy:?}");
        waiting.abort();
    }
}

/// A tag that calls its group when it is dropped.
struct UsesGroup(u32, Group<UsesGroup>);

impl PartialEq for UsesGroup {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for UsesGroup {}

impl std::hash::Hash for UsesGroup {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Drop for UsesGroup {
    fn drop(&mut self) {
        let _ = self.1.len();
    }
}

#[tokio::test]
async fn a_tag_that_is_replaced_may_use_the_group_when_it_is_dropped() {
    let group = Group::new();
    let tag = |number| UsesGroup(number, group.clone());
    let (first, _peer) = piped_pair(64, ConnConfig::new());
    let (second, _peer) = piped_pair(64, ConnConfig::new());
    // The tag belongs to a member, to one that has left, and to one whose connection has ended.
    group.join_as(&first, tag(1));
    assert!(group.join_as(&second, tag(1)).is_some());
    assert!(group.leave(&second));
    assert!(group.join_as(&first, tag(1)).is_none());
    group.join(&first, tag(2));
    assert!(group.join_as(&second, tag(1)).is_none());
    for number in 0..300 {
        let (conn, _peer) = piped_pair(64, ConnConfig::new());
        group.join_as(&conn, tag(number));
    }
    assert!(group.get(&tag(299)).is_none());
}
