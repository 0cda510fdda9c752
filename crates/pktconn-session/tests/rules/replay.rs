//! Lost connections: what is sent again, and what is not.

use std::time::Duration;

use pktconn_codec::Packet;
use pktconn_session::frame::ControlFrame;
use pktconn_session::{EndReason, PACKET_OVERHEAD, Received, SessionConfig, Transmit};

use crate::pair::{Pair, packet, packets};

#[test]
fn only_what_was_not_handed_over_is_replayed_before_anything_new() {
    let mut pair = Pair::established();
    for number in 0..4 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    let now = pair.now;
    assert!(matches!(pair.server().session_mut().recv(now), Received::Packet(_)));
    assert!(matches!(pair.server().session_mut().recv(now), Received::Packet(_)));
    pair.lose_connection();
    pair.client.session_mut().send(packet(4)).unwrap();
    pair.connect().unwrap();
    let frames = pair.exchange();
    assert_eq!(frames, ["< WELCOME", "> data 2", "> data 3", "> data 4"]);
    assert_eq!(packets(pair.server().session_mut(), now), [2, 3, 4]);
}

#[test]
fn packets_that_arrived_and_were_not_handed_over_are_handed_over_until_the_next_handshake() {
    let mut pair = Pair::established();
    for number in 0..3 {
        pair.server().session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    pair.lose_connection();
    let now = pair.now;
    assert!(matches!(pair.client.session_mut().recv(now), Received::Packet(_)));
    let hello = pair.hello();
    assert_eq!(hello.received, 1);
    assert_eq!(pair.client.session_mut().recv(now), Received::Nothing);
    pair.answer(&hello).unwrap();
    pair.exchange();
    assert_eq!(packets(pair.client.session_mut(), now), [1, 2]);
}

#[test]
fn a_session_resumes_a_thousand_times() {
    let mut pair = Pair::established();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for round in 0..1000_u32 {
        pair.client.session_mut().send(packet(round as u8)).unwrap();
        pair.server().session_mut().send(packet(!round as u8)).unwrap();
        // Every second round loses the connection before the packets are handed over.
        pair.exchange();
        let now = pair.now;
        if round % 2 == 0 {
            to_server.extend(packets(pair.server().session_mut(), now));
            to_client.extend(packets(pair.client.session_mut(), now));
        }
        pair.lose_connection();
        pair.resume();
    }
    let now = pair.now;
    to_server.extend(packets(pair.server().session_mut(), now));
    to_client.extend(packets(pair.client.session_mut(), now));
    assert_eq!(to_server, (0..1000_u32).map(|round| round as u8).collect::<Vec<_>>());
    assert_eq!(to_client, (0..1000_u32).map(|round| !round as u8).collect::<Vec<_>>());
    assert_eq!(pair.hello().attempt, 1002);
}

#[test]
fn packets_beyond_the_replay_bytes_wait_without_a_number_and_a_replay_does_not_wait() {
    let fits = 3 * (100 + PACKET_OVERHEAD as u32);
    let mut pair = Pair::established_with(SessionConfig::new().replay_bytes(fits));
    for number in 0..5 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    assert_eq!(pair.exchange(), ["> data 0", "> data 1", "> data 2"]);
    assert_eq!(pair.client.session().sent(), 3);
    assert_eq!(pair.client.session().unsent_bytes(), 2 * (100 + PACKET_OVERHEAD));
    pair.lose_connection();
    pair.connect().unwrap();
    assert_eq!(pair.exchange(), ["< WELCOME", "> data 0", "> data 1", "> data 2"]);
    let now = pair.now;
    packets(pair.server().session_mut(), now);
    pair.pass(Duration::from_millis(50));
    assert_eq!(pair.exchange(), ["< ACK", "> data 3", "> data 4"]);
}

#[test]
fn one_packet_of_any_size_is_admitted() {
    let mut pair = Pair::established_with(SessionConfig::new().replay_bytes(10));
    pair.client.session_mut().send(vec![0; 100_000].into()).unwrap();
    pair.client.session_mut().send(Packet::default()).unwrap();
    assert_eq!(pair.exchange(), ["> data 0"]);
    assert_eq!(pair.client.session().held_bytes(), 100_000 + PACKET_OVERHEAD);
}

#[test]
fn a_detached_session_expires_on_both_sides_with_its_range() {
    let mut pair = Pair::established_with(SessionConfig::new().ttl(Duration::from_secs(20)));
    for number in 0..3 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    pair.lose_connection();
    pair.pass(Duration::from_millis(19_999));
    assert!(pair.client.session().ended().is_none());
    assert_eq!(pair.client.timeout(), Some(pair.now + Duration::from_millis(1)));
    pair.pass(Duration::from_millis(1));
    let ended = pair.client.session().ended().unwrap();
    assert_eq!((ended.reason, ended.in_doubt.clone()), (EndReason::Expired, 0..3));
    assert_eq!(pair.server().session().ended().unwrap().reason, EndReason::Expired);
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
    assert_eq!(pair.client.session_mut().send(packet(9)), Err(packet(9)));
}

#[test]
fn the_oldest_packet_without_a_number_can_be_dropped() {
    let mut pair = Pair::new(SessionConfig::new());
    for number in 0..3 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    assert_eq!(pair.client.session_mut().drop_oldest_unsent(), Some(packet(0)));
    pair.connect().unwrap();
    pair.exchange();
    assert_eq!(pair.client.session().sent(), 2);
    assert_eq!(pair.client.session_mut().drop_oldest_unsent(), None);
    let now = pair.now;
    assert_eq!(packets(pair.server().session_mut(), now), [1, 2]);
}

#[test]
fn an_acknowledgement_of_packets_that_this_connection_has_not_carried_is_out_of_bounds() {
    let mut pair = Pair::established();
    for number in 0..3 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    pair.lose_connection();
    pair.connect().unwrap();
    let Some(Transmit::Control(welcome)) = pair.server_writes() else { panic!("no WELCOME") };
    pair.client_reads(&welcome).unwrap();
    assert_eq!(pair.client_writes(), Some(Transmit::Data(packet(0))));
    assert!(pair.client_reads(&ControlFrame::Ack { received: 1 }).is_ok());
    assert!(pair.client_reads(&ControlFrame::Ack { received: 2 }).is_err());
    assert_eq!(pair.client.session().ended().unwrap().in_doubt, 1..3);
}
