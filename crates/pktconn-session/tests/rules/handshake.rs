//! HELLO, WELCOME and REJECT.

use std::time::Duration;

use pktconn_session::frame::{
    Bye, ByeReason, ControlFrame, GoAway, GoAwayReason, Hello, Reject, RejectReason, Secret, SessionId,
    Welcome,
};
use pktconn_session::{
    ConnectionId, Counter, EndReason, FrameRefused, SessionConfig, SessionState, Transmit, check_new,
};

use crate::pair::{ID, Pair, SECRET, packet, packets};

fn reject(reason: RejectReason) -> ControlFrame {
    ControlFrame::Reject(Reject { reason, retry_after_ms: 0 })
}

#[test]
fn a_new_session_takes_four_frames() {
    let mut pair = Pair::new(SessionConfig::new());
    let hello = pair.hello();
    assert_eq!((hello.id, hello.attempt, hello.received, hello.first_held), (SessionId::NEW, 1, 0, 0));
    pair.answer(&hello).unwrap();
    assert!(!pair.server().is_established());
    assert_eq!(pair.exchange(), ["< WELCOME", "> ACK", "< ACK"]);
    assert!(pair.server().is_established());
    assert_eq!(pair.client.id(), Some(ID));
}

#[test]
fn no_packet_gets_a_number_before_both_sides_know_the_session() {
    let mut pair = Pair::new(SessionConfig::new());
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.connect().unwrap();
    let Some(Transmit::Control(welcome)) = pair.server_writes() else { panic!("no WELCOME") };
    pair.client_reads(&welcome).unwrap();
    assert_eq!(pair.client_writes(), Some(Transmit::Control(ControlFrame::Ack { received: 0 })));
    assert_eq!(pair.client_writes(), None);
    assert_eq!(pair.client.session().sent(), 0);
    pair.client_reads(&ControlFrame::Ack { received: 0 }).unwrap();
    assert_eq!(pair.client_writes(), Some(Transmit::Data(packet(1))));
}

#[test]
fn a_provisional_session_ends_with_its_connection_and_the_client_begins_another_without_loss() {
    let mut pair = Pair::new(SessionConfig::new());
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.connect().unwrap();
    let Some(Transmit::Control(welcome)) = pair.server_writes() else { panic!("no WELCOME") };
    pair.client_reads(&welcome).unwrap();
    pair.lose_connection();
    assert!(pair.server().session().is_over());
    let hello = pair.hello();
    assert_eq!((hello.id, hello.attempt), (ID, 2));
    pair.client_reads(&reject(RejectReason::Unknown)).unwrap();
    assert!(pair.client.wants_connection());
    pair.server = None;
    let hello = pair.hello();
    assert_eq!((hello.id, hello.attempt), (SessionId::NEW, 1));
    pair.answer(&hello).unwrap();
    pair.exchange();
    let now = pair.now;
    assert_eq!(packets(pair.server().session_mut(), now), [1]);
}

#[test]
fn a_client_that_resumes_a_provisional_session_establishes_it() {
    let mut pair = Pair::new(SessionConfig::new());
    pair.connect().unwrap();
    let Some(Transmit::Control(welcome)) = pair.server_writes() else { panic!("no WELCOME") };
    pair.client_reads(&welcome).unwrap();
    // The server has not seen the loss yet.
    let old = pair.conn;
    pair.client.connection_ended(old, pair.now);
    assert_eq!(pair.connect(), Ok(Some(old)));
    assert!(pair.server().is_established());
}

#[test]
fn an_unknown_session_that_was_confirmed_is_lost_with_its_range_in_doubt() {
    let mut pair = Pair::established();
    for number in 0..5 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    let now = pair.now;
    assert_eq!(packets(pair.server().session_mut(), now).len(), 5);
    pair.client_reads(&ControlFrame::Ack { received: 3 }).unwrap();
    pair.client.session_mut().send(packet(5)).unwrap();
    pair.lose_connection();
    pair.hello();
    pair.client_reads(&reject(RejectReason::Unknown)).unwrap();
    let ended = pair.client.session().ended().unwrap();
    assert_eq!(ended.reason, EndReason::Rejected(RejectReason::Unknown));
    assert_eq!((ended.handed_over, ended.in_doubt.clone()), (3, 3..5));
    assert_eq!(ended.not_acknowledged, [packet(3), packet(4)]);
    assert_eq!(ended.unsent, [packet(5)]);
    assert!(!pair.client.wants_connection());
}

#[test]
fn a_wrong_secret_is_unknown_and_touches_nothing() {
    let mut pair = Pair::established();
    let old = pair.conn;
    let mut hello = pair.hello();
    hello.secret = Secret([8; 16]);
    hello.attempt = 1000;
    assert_eq!(pair.answer(&hello).unwrap_err().reason, RejectReason::Unknown);
    assert_eq!(pair.server().session().connection(), Some(old));
    hello.secret = SECRET;
    hello.attempt = 2;
    assert_eq!(pair.answer(&hello), Ok(Some(old)));
}

#[test]
fn an_attempt_that_does_not_rise_is_superseded_and_touches_nothing() {
    let mut pair = Pair::established();
    let first = pair.conn;
    let late = pair.hello();
    let newer = pair.hello();
    assert_eq!(pair.answer(&newer), Ok(Some(first)));
    let newest = pair.conn;
    for attempt in [late.attempt, newer.attempt, 0] {
        pair.conn = ConnectionId(100);
        let hello = Hello { attempt, ..late.clone() };
        assert_eq!(pair.answer(&hello).unwrap_err().reason, RejectReason::Superseded);
        assert_eq!(pair.server().session().connection(), Some(newest));
    }
}

#[test]
fn counters_of_hello_out_of_their_bounds_end_the_session() {
    for (received, first_held, counter, value, max) in [
        (3, 0, Counter::Received, 3, 2),
        (u64::MAX, 0, Counter::Received, u64::MAX, 2),
        (0, 1, Counter::FirstHeld, 1, 0),
        (2, u64::MAX, Counter::FirstHeld, u64::MAX, 0),
    ] {
        let mut pair = Pair::established();
        for number in 0..2 {
            pair.server().session_mut().send(packet(number)).unwrap();
        }
        pair.exchange();
        pair.lose_connection();
        let hello = Hello { received, first_held, ..pair.hello() };
        assert_eq!(pair.answer(&hello).unwrap_err().reason, RejectReason::Diverged);
        let ended = pair.server().session().ended().unwrap().clone();
        let EndReason::Diverged(error) = ended.reason else { panic!("{:?}", ended.reason) };
        assert_eq!((error.counter, error.value, error.max), (counter, value, max));
        assert_eq!(ended.in_doubt, 0..2);
        assert!(pair.server().session().is_over());
        pair.client_reads(&reject(RejectReason::Diverged)).unwrap();
        assert!(pair.client.session().is_over());
    }
}

#[test]
fn a_counter_below_what_was_acknowledged_is_out_of_bounds() {
    let mut pair = Pair::established();
    for number in 0..40 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    let now = pair.now;
    packets(pair.server().session_mut(), now);
    pair.exchange();
    assert_eq!(pair.client.session().held_bytes(), 0);
    pair.lose_connection();
    pair.connect().unwrap();
    let Some(Transmit::Control(ControlFrame::Welcome(welcome))) = pair.server_writes() else {
        panic!("no WELCOME")
    };
    assert_eq!(welcome.received, 40);
    let error = pair.client_reads(&ControlFrame::Welcome(Welcome { received: 39, ..welcome })).unwrap_err();
    let FrameRefused::Diverged(error) = error else { panic!("{error}") };
    assert_eq!(error.to_string(), "the peer states received = 39; possible are 40 to 40");
    assert!(pair.client.session().is_over());
    // The server learns of it, and does not wait for the client.
    let Some(Transmit::Control(bye)) = pair.client_writes() else { panic!("no BYE") };
    pair.server_reads(&bye).unwrap();
    assert!(pair.server().session().is_over());
}

#[test]
fn a_welcome_that_does_not_fit_is_refused_and_the_session_lives() {
    let mut pair = Pair::established();
    pair.lose_connection();
    pair.connect().unwrap();
    let Some(Transmit::Control(ControlFrame::Welcome(welcome))) = pair.server_writes() else {
        panic!("no WELCOME")
    };
    type Change = fn(&mut Welcome);
    let changes: [(&str, Change); 5] = [
        ("version", |welcome| welcome.version = 0),
        ("version", |welcome| welcome.version = 2),
        ("resumed", |welcome| welcome.resumed = false),
        ("id", |welcome| welcome.id = SessionId([1; 16])),
        ("secret", |welcome| welcome.secret = Secret([1; 16])),
    ];
    for (field, change) in changes {
        let mut wrong = welcome.clone();
        change(&mut wrong);
        let refused = pair.client_reads(&ControlFrame::Welcome(wrong));
        assert_eq!(refused, Err(FrameRefused::Unfit { name: "WELCOME", field }));
        assert!(pair.client.wants_connection());
        pair.hello();
    }
    pair.client_reads(&ControlFrame::Welcome(welcome)).unwrap();
    assert_eq!(pair.client.session().state(), SessionState::Attached);
}

#[test]
fn a_welcome_of_a_new_session_has_an_id_and_no_counters() {
    type Change = fn(&mut Welcome);
    let changes: [(&str, Change); 4] = [
        ("id", |welcome| welcome.id = SessionId::NEW),
        ("resumed", |welcome| welcome.resumed = true),
        ("received", |welcome| welcome.received = 1),
        ("received", |welcome| welcome.first_held = 1),
    ];
    for (field, change) in changes {
        let mut pair = Pair::new(SessionConfig::new());
        pair.connect().unwrap();
        let Some(Transmit::Control(ControlFrame::Welcome(mut welcome))) = pair.server_writes() else {
            panic!("no WELCOME")
        };
        change(&mut welcome);
        let refused = pair.client_reads(&ControlFrame::Welcome(welcome));
        assert_eq!(refused, Err(FrameRefused::Unfit { name: "WELCOME", field }));
        assert_eq!(pair.client.id(), None);
        assert_eq!(pair.hello().id, SessionId::NEW);
    }
}

#[test]
fn a_hello_of_a_new_session_has_no_counters() {
    let good = Pair::new(SessionConfig::new()).hello();
    assert_eq!(check_new(&good), Ok(()));
    for (field, hello) in [
        ("secret", Hello { secret: SECRET, ..good.clone() }),
        ("attempt", Hello { attempt: 0, ..good.clone() }),
        ("attempt", Hello { attempt: 2, ..good.clone() }),
        ("received", Hello { received: 1, ..good.clone() }),
        ("first_held", Hello { first_held: 1, ..good.clone() }),
    ] {
        assert_eq!(check_new(&hello), Err(FrameRefused::Unfit { name: "HELLO", field }));
    }
}

#[test]
fn versions_are_negotiated() {
    let mut pair = Pair::new(SessionConfig::new());
    let mut hello = pair.hello();
    hello.version = 0;
    assert_eq!(pair.answer(&hello).unwrap_err().reason, RejectReason::Version);
    hello.version = 9;
    hello.features = u32::MAX;
    pair.answer(&hello).unwrap();
    let Some(Transmit::Control(ControlFrame::Welcome(welcome))) = pair.server_writes() else {
        panic!("no WELCOME")
    };
    assert_eq!((welcome.version, welcome.features), (1, 0));
    pair.client_reads(&reject(RejectReason::Version)).unwrap();
    assert!(pair.client.session().is_over());
}

#[test]
fn a_superseded_client_ends_and_does_not_reconnect() {
    let mut pair = Pair::established();
    pair.client_reads(&reject(RejectReason::Superseded)).unwrap();
    assert_eq!(pair.client.session().ended().unwrap().reason, EndReason::Rejected(RejectReason::Superseded));
    assert!(!pair.client.wants_connection());
}

#[test]
fn a_superseded_connection_that_the_client_has_left_has_no_effect() {
    let mut pair = Pair::established();
    let old = pair.conn;
    pair.connect().unwrap();
    let superseded = reject(RejectReason::Superseded);
    pair.client.receive_control(old, &superseded, 0, pair.now).unwrap();
    pair.exchange();
    assert_eq!(pair.client.session().state(), SessionState::Attached);
}

#[test]
fn frames_of_an_older_connection_have_no_effect() {
    let mut pair = Pair::established();
    let old = pair.conn;
    pair.connect().unwrap();
    let now = pair.now;
    pair.server().receive_data(old, packet(9)).unwrap();
    pair.server().receive_control(old, &ControlFrame::Ack { received: 7 }, now).unwrap();
    pair.server().connection_ended(old, now);
    assert_eq!(pair.server().transmit(old, now), None);
    pair.exchange();
    assert_eq!(packets(pair.server().session_mut(), now), [0; 0]);
    assert_eq!(pair.server().session().state(), SessionState::Attached);
}

#[test]
fn a_busy_or_draining_server_is_tried_again_and_the_session_lives() {
    for reason in [RejectReason::Busy, RejectReason::Draining, RejectReason::Other(77)] {
        let mut pair = Pair::established();
        pair.lose_connection();
        pair.hello();
        let retry_after_ms = 700;
        pair.client_reads(&ControlFrame::Reject(Reject { reason, retry_after_ms })).unwrap();
        assert_eq!(pair.client.retry_at(), Some(pair.now + Duration::from_millis(700)));
        assert!(pair.client.wants_connection());
        pair.resume();
        assert_eq!(pair.client.session().state(), SessionState::Attached);
    }
}

#[test]
fn frames_that_the_peer_must_not_send_end_the_connection_and_not_the_session() {
    let mut pair = Pair::established();
    let hello = ControlFrame::Hello(pair.hello());
    pair.resume();
    let go_away = ControlFrame::GoAway(GoAway {
        reason: GoAwayReason::Load,
        deadline_ms: 1,
        spread_ms: 1,
        address: String::new(),
    });
    for frame in [&hello, &go_away, &reject(RejectReason::Superseded)] {
        assert_eq!(pair.server_reads(frame), Err(FrameRefused::Unexpected { name: frame.name() }));
    }
    for frame in [&hello, &reject(RejectReason::Busy), &reject(RejectReason::Unknown)] {
        assert_eq!(pair.client_reads(frame), Err(FrameRefused::Unexpected { name: frame.name() }));
    }
    pair.lose_connection();
    pair.resume();
    assert_eq!(pair.client.session().state(), SessionState::Attached);
}

#[test]
fn before_welcome_data_is_discarded_and_other_frames_are_refused() {
    let mut pair = Pair::new(SessionConfig::new());
    let hello = pair.hello();
    pair.client.receive_data(pair.conn, packet(1)).unwrap();
    let ack = ControlFrame::Ack { received: 0 };
    assert_eq!(pair.client_reads(&ack), Err(FrameRefused::Unexpected { name: "ACK" }));
    assert_eq!(pair.client.session().inbox_bytes(), 0);
    assert_eq!(hello.received, 0);
    assert!(pair.client.wants_connection());
}

#[test]
fn a_hello_without_an_answer_is_given_up() {
    let mut pair = Pair::new(SessionConfig::new());
    pair.hello();
    assert_eq!(pair.client.timeout(), Some(pair.now + Duration::from_secs(5)));
    let conn = pair.conn;
    pair.now += Duration::from_secs(5);
    assert_eq!(pair.client.handle_timeout(pair.now), Some(conn));
    assert!(pair.client.wants_connection());
}

#[test]
fn a_provisional_session_writes_nothing_after_welcome() {
    // Any frame would confirm the session to a client whose first frame may still be lost.
    let mut pair = Pair::new(SessionConfig::new());
    pair.connect().unwrap();
    let now = pair.now;
    let go_away =
        GoAway { reason: GoAwayReason::Load, deadline_ms: 60_000, spread_ms: 1, address: String::new() };
    pair.server().session_mut().go_away(go_away, now);
    pair.server().session_mut().send(packet(1)).unwrap();
    assert!(matches!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Welcome(_)))));
    pair.pass(Duration::from_secs(20));
    assert_eq!(pair.server_writes(), None);
    pair.server_reads(&ControlFrame::Ack { received: 0 }).unwrap();
    assert_eq!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Ack { received: 0 })));
}

#[test]
fn an_unconfirmed_session_does_not_expire_by_the_clients_clock() {
    let mut pair = Pair::new(SessionConfig::new());
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.connect().unwrap();
    let Some(Transmit::Control(welcome)) = pair.server_writes() else { panic!("no WELCOME") };
    pair.client_reads(&welcome).unwrap();
    pair.lose_connection();
    pair.pass(Duration::from_secs(100_000));
    assert_eq!(pair.client.session().state(), SessionState::Detached { since: None });
    assert_eq!(pair.hello().id, ID);
}

#[test]
fn a_first_frame_that_ends_the_session_establishes_nothing() {
    for (frame, is_refused) in [
        (ControlFrame::Bye(Bye { reason: ByeReason::Diverged, sent: 0 }), false),
        (ControlFrame::Ack { received: 5 }, true),
    ] {
        let mut pair = Pair::new(SessionConfig::new());
        pair.connect().unwrap();
        assert!(matches!(pair.server_writes(), Some(Transmit::Control(ControlFrame::Welcome(_)))));
        assert_eq!(pair.server_reads(&frame).is_err(), is_refused);
        assert!(!pair.server().is_established(), "{frame:?}");
        // The client is told, if it was not the client that ended the session.
        let bye = pair.server_writes();
        assert_eq!(bye.is_some(), is_refused, "{frame:?}: {bye:?}");
        pair.lose_connection();
        assert!(pair.server().session().is_over());
    }
}
