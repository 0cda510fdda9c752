//! PING, PONG, and silence.

use std::time::Duration;

use pktconn_session::frame::ControlFrame;
use pktconn_session::{SessionConfig, SessionState, Transmit};

use crate::pair::{Pair, packet};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn silence_is_answered_with_ping_and_the_answer_gives_the_round_trip_time() {
    let mut pair = Pair::established();
    pair.pass(15 * SECOND);
    let Some(Transmit::Control(ControlFrame::Ping { data })) = pair.client_writes() else {
        panic!("no PING")
    };
    assert_eq!(pair.client_writes(), None);
    pair.server_reads(&ControlFrame::Ping { data }).unwrap();
    assert_eq!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Pong { data })));
    pair.now += Duration::from_millis(40);
    // The data of another PING says nothing.
    pair.client_reads(&ControlFrame::Pong { data: [0xEE; 8] }).unwrap();
    assert_eq!(pair.client.session().rtt(), None);
    pair.client_reads(&ControlFrame::Pong { data }).unwrap();
    assert_eq!(pair.client.session().rtt(), Some(Duration::from_millis(40)));
    pair.client_reads(&ControlFrame::Pong { data }).unwrap();
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut pair = Pair::established();
    pair.now += 14 * SECOND;
    pair.client.heard(pair.conn, pair.now);
    pair.pass(14 * SECOND);
    assert_eq!(pair.client_writes(), None);
    pair.pass(SECOND);
    assert!(matches!(pair.client_writes(), Some(Transmit::Control(ControlFrame::Ping { .. }))));
}

#[test]
fn a_silent_connection_is_lost_and_the_session_is_detached() {
    let mut pair = Pair::established();
    pair.client.session_mut().send(packet(1)).unwrap();
    for _ in 0..2 {
        pair.pass(15 * SECOND);
        while pair.client_writes().is_some() {}
    }
    pair.now += 15 * SECOND;
    assert_eq!(pair.client.timeout(), Some(pair.now));
    assert_eq!(pair.client.handle_timeout(pair.now), Some(pair.conn));
    assert_eq!(pair.client.session().state(), SessionState::Detached { since: Some(pair.now) });
    assert!(pair.client.wants_connection());
}

#[test]
fn only_the_newest_of_many_pings_is_answered() {
    let mut pair = Pair::established();
    for number in 0..100_000_u64 {
        pair.server_reads(&ControlFrame::Ping { data: number.to_le_bytes() }).unwrap();
    }
    let data = 99_999_u64.to_le_bytes();
    assert_eq!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Pong { data })));
    assert_eq!(pair.server_writes(), None);
}

#[test]
fn a_client_pings_no_more_often_than_the_server_wants() {
    let config = SessionConfig::new().ping_interval(SECOND).min_ping_interval(5 * SECOND);
    let mut pair = Pair::established_with(config);
    pair.pass(4 * SECOND);
    assert_eq!(pair.client_writes(), None);
    assert!(matches!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Ping { .. }))));
    pair.pass(SECOND);
    assert!(matches!(pair.client_writes(), Some(Transmit::Control(ControlFrame::Ping { .. }))));
}

#[test]
fn a_longer_interval_that_the_server_wants_does_not_lose_the_connection() {
    let mut pair = Pair::established_with(SessionConfig::new().min_ping_interval(60 * SECOND));
    pair.pass(59 * SECOND);
    assert_eq!(pair.client.session().state(), SessionState::Attached);
    pair.pass(SECOND);
    assert!(matches!(pair.client_writes(), Some(Transmit::Control(ControlFrame::Ping { .. }))));
}
