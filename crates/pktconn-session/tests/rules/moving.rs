//! GOAWAY.

use std::time::Duration;

use pktconn_session::frame::{ByeReason, ControlFrame, GoAway, GoAwayReason};
use pktconn_session::{EndReason, Received, Transmit};

use crate::pair::{Pair, packet, packets};

fn go_away(deadline_ms: u32, spread_ms: u32) -> GoAway {
    GoAway { reason: GoAwayReason::Shutdown, deadline_ms, spread_ms, address: "other:1".into() }
}

#[test]
fn a_client_moves_without_a_packet_in_doubt_and_keeps_what_it_has_not_sent() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.server().session_mut().go_away(go_away(30_000, 0), now);
    pair.client.session_mut().send(packet(0)).unwrap();
    pair.exchange();
    pair.pass(Duration::ZERO);
    // From here on packets wait for the next session.
    pair.client.session_mut().send(packet(1)).unwrap();
    assert_eq!(pair.exchange(), ["> BYE"]);
    assert_eq!(packets(pair.server().session_mut(), now), [0]);
    assert_eq!(pair.server().session_mut().recv(now), Received::End);
    assert_eq!(pair.server().session().peer_bye(), Some(ByeReason::Moved));
    // The handler still answers.
    pair.server().session_mut().send(packet(7)).unwrap();
    pair.server().session_mut().finish(now);
    pair.exchange();
    assert_eq!(packets(pair.client.session_mut(), now), [7]);
    pair.exchange();
    let ended = pair.client.session().ended().unwrap();
    assert_eq!(ended.reason, EndReason::Settled { own: ByeReason::Moved, peer: ByeReason::Finished });
    assert_eq!((ended.handed_over, ended.in_doubt.is_empty()), (1, true));
    assert_eq!(ended.unsent, [packet(1)]);
    assert_eq!(pair.client.go_away().unwrap().address, "other:1");
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn the_moment_is_random_within_the_spread_and_only_becomes_earlier() {
    let mut pair = Pair::established();
    let now = pair.now;
    let at = |millis| Some(now + Duration::from_millis(millis));
    let conn = pair.conn;
    pair.client.receive_control(conn, &ControlFrame::GoAway(go_away(30_000, 10_000)), u32::MAX, now).unwrap();
    assert_eq!(pair.client.timeout(), at(10_000));
    pair.client
        .receive_control(conn, &ControlFrame::GoAway(go_away(30_000, 10_000)), u32::MAX / 2, now)
        .unwrap();
    assert!(pair.client.timeout() < at(5_001));
    pair.client.receive_control(conn, &ControlFrame::GoAway(go_away(60_000, 60_000)), u32::MAX, now).unwrap();
    assert!(pair.client.timeout() < at(5_001));
    // A spread beyond the deadline ends at the deadline.
    let mut pair = Pair::established();
    let frame = ControlFrame::GoAway(go_away(100, u32::MAX));
    pair.client.receive_control(pair.conn, &frame, u32::MAX, now).unwrap();
    assert!(pair.client.timeout() <= Some(pair.now + Duration::from_millis(100)));
}

#[test]
fn a_resumed_session_gets_goaway_again_with_the_time_that_is_left() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.server().session_mut().go_away(go_away(10_000, 9_000), now);
    assert!(matches!(pair.server_writes(), Some(Transmit::Control(ControlFrame::GoAway(_)))));
    pair.lose_connection();
    pair.pass(Duration::from_secs(4));
    pair.connect().unwrap();
    assert!(matches!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Welcome(_)))));
    let Some(Transmit::Control(ControlFrame::GoAway(again))) = pair.server_writes() else {
        panic!("no GOAWAY")
    };
    assert_eq!((again.deadline_ms, again.spread_ms), (6000, 6000));
}

#[test]
fn at_the_deadline_both_sides_close_with_exact_ranges() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.server().session_mut().go_away(go_away(1000, 1000), now);
    for number in 0..3 {
        pair.server().session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    assert!(matches!(pair.client.session_mut().recv(now), Received::Packet(_)));
    pair.pass(Duration::from_secs(1));
    pair.exchange();
    let ended = pair.server().session().ended().unwrap();
    assert_eq!((ended.handed_over, ended.in_doubt.is_empty()), (1, true));
    assert_eq!(ended.not_acknowledged, [packet(1), packet(2)]);
    assert!(pair.client.session().is_over());
}
