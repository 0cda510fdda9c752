//! BYE: how a session ends, and what each side knows then.

use std::time::Duration;

use pktconn_session::frame::{Bye, ByeReason, ControlFrame, GoAway, GoAwayReason, RejectReason};
use pktconn_session::{Counter, EndReason, FrameRefused, Received, SessionConfig, Transmit};

use crate::pair::{Pair, packet, packets};

fn settled(own: ByeReason, peer: ByeReason) -> EndReason {
    EndReason::Settled { own, peer }
}

#[test]
fn a_close_delivers_everything_first_and_both_sides_forget_the_session() {
    let mut pair = Pair::established();
    for number in 0..2 {
        pair.client.session_mut().send(packet(number)).unwrap();
    }
    let now = pair.now;
    pair.client.session_mut().close(now);
    assert_eq!(pair.client.session_mut().send(packet(9)), Err(packet(9)));
    assert_eq!(pair.client.session_mut().recv(now), Received::End);
    assert_eq!(pair.exchange(), ["> STOP", "> data 0", "> data 1", "> BYE", "< BYE"]);
    assert!(pair.client.session().ended().is_none());
    assert_eq!(packets(pair.server().session_mut(), now), [0, 1]);
    assert_eq!(pair.server().session_mut().recv(now), Received::End);
    assert_eq!(pair.exchange(), ["< ACK", "< DONE", "> DONE"]);
    let ended = pair.client.session().ended().unwrap();
    assert_eq!(ended.reason, settled(ByeReason::Closed, ByeReason::Finished));
    assert_eq!((ended.handed_over, ended.in_doubt.is_empty()), (2, true));
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn a_side_that_has_finished_still_receives() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.client.session_mut().finish(now);
    pair.exchange();
    assert_eq!(packets(pair.server().session_mut(), now), [1]);
    assert_eq!(pair.server().session_mut().recv(now), Received::End);
    pair.server().session_mut().send(packet(2)).unwrap();
    pair.exchange();
    assert_eq!(packets(pair.client.session_mut(), now), [2]);
    assert!(pair.client.session().ended().is_none());
    pair.server().session_mut().finish(now);
    pair.exchange();
    assert_eq!(pair.client.session_mut().recv(now), Received::End);
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn packets_that_a_closed_side_does_not_take_come_back_and_are_not_in_doubt() {
    let mut pair = Pair::established();
    let now = pair.now;
    for number in 0..3 {
        pair.server().session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    assert!(matches!(pair.client.session_mut().recv(now), Received::Packet(_)));
    pair.client.session_mut().close(now);
    assert_eq!(pair.client.session().inbox_bytes(), 0);
    // One more was on its way.
    pair.server().session_mut().send(packet(3)).unwrap();
    let Some(Transmit::Data(late)) = pair.server_writes() else { panic!("no packet") };
    pair.client.receive_data(pair.conn, late).unwrap();
    assert_eq!(pair.client.session().inbox_bytes(), 0);
    pair.exchange();
    let ended = pair.server().session().ended().unwrap();
    assert_eq!((ended.handed_over, ended.in_doubt.is_empty()), (1, true));
    assert_eq!(ended.not_acknowledged, [packet(1), packet(2), packet(3)]);
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn two_sides_that_close_at_once_both_learn_what_was_handed_over() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.server().session_mut().send(packet(2)).unwrap();
    pair.client.session_mut().close(now);
    pair.server().session_mut().close(now);
    pair.exchange();
    let reason = settled(ByeReason::Closed, ByeReason::Closed);
    for ended in
        [pair.client.session().ended().unwrap(), pair.server.as_ref().unwrap().session().ended().unwrap()]
    {
        assert_eq!((ended.reason, ended.handed_over, ended.in_doubt.is_empty()), (reason, 0, true));
        assert_eq!(ended.not_acknowledged.len() + ended.unsent.len(), 1);
    }
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn a_failed_application_sends_no_more_packets() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.server().session_mut().send(packet(1)).unwrap();
    pair.server().session_mut().fail(now);
    pair.exchange();
    assert_eq!(pair.client.session_mut().recv(now), Received::End);
    let ended = pair.server().session().ended().unwrap();
    assert_eq!(ended.reason, settled(ByeReason::Failed, ByeReason::Finished));
    assert_eq!(ended.unsent, [packet(1)]);
}

#[test]
fn a_connection_that_is_lost_after_bye_is_made_again_until_both_sides_know() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.client.session_mut().close(now);
    // The packet and BYE are lost.
    while pair.client_writes().is_some() {}
    pair.lose_connection();
    assert!(pair.client.wants_connection());
    pair.connect().unwrap();
    assert_eq!(pair.exchange(), ["< WELCOME", "> STOP", "> data 1", "> BYE", "< BYE"]);
    assert_eq!(packets(pair.server().session_mut(), now), [1]);
    // The last ACK is lost.
    while pair.server_writes().is_some() {}
    pair.lose_connection();
    assert!(pair.server().session().ended().is_some() && !pair.server().session().is_over());
    assert!(pair.client.wants_connection());
    pair.resume();
    assert_eq!(pair.client.session().ended().unwrap().handed_over, 1);
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn a_close_ends_at_its_timeout_with_the_range_in_doubt() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.client.session_mut().close(now);
    while pair.client_writes().is_some() {}
    assert_eq!(pair.client.timeout(), Some(now + Duration::from_secs(5)));
    pair.pass(Duration::from_secs(5));
    let ended = pair.client.session().ended().unwrap();
    assert_eq!((ended.reason, ended.in_doubt.clone()), (EndReason::CloseTimeout, 0..1));
    assert!(pair.client.session().is_over());
}

#[test]
fn a_settled_side_waits_for_the_peer_as_long_as_a_detached_one() {
    let mut pair = Pair::established();
    let (now, conn) = (pair.now, pair.conn);
    pair.client.session_mut().finish(now);
    pair.server().session_mut().finish(now);
    while let Some(transmit) = pair.client_writes() {
        let Transmit::Control(frame) = transmit else { break };
        pair.server_reads(&frame).unwrap();
    }
    while pair.server_writes().is_some() {}
    pair.server().connection_ended(conn, now);
    assert!(pair.server().session().ended().is_some() && !pair.server().session().is_over());
    pair.pass(Duration::from_secs(119));
    assert!(!pair.server().session().is_over());
    pair.pass(Duration::from_secs(1));
    assert!(pair.server().session().is_over());
}

#[test]
fn a_session_that_the_server_has_forgotten_after_bye_is_in_doubt_only_without_an_acknowledgement() {
    for is_acknowledged in [false, true] {
        let mut pair = Pair::established();
        let now = pair.now;
        pair.client.session_mut().send(packet(1)).unwrap();
        pair.client.session_mut().close(now);
        while pair.client_writes().is_some() {}
        if is_acknowledged {
            pair.client_reads(&ControlFrame::Ack { received: 1 }).unwrap();
        }
        pair.lose_connection();
        pair.hello();
        let unknown = pktconn_session::frame::Reject { reason: RejectReason::Unknown, retry_after_ms: 0 };
        pair.client_reads(&ControlFrame::Reject(unknown)).unwrap();
        let ended = pair.client.session().ended().unwrap();
        assert_eq!(ended.in_doubt.is_empty(), is_acknowledged);
    }
}

#[test]
fn counters_of_bye_and_stop_out_of_their_bounds_end_the_session() {
    let bye = |sent| ControlFrame::Bye(Bye { reason: ByeReason::Closed, sent });
    let stop = |received| ControlFrame::Stop { received };
    for (frame, counter) in [
        (bye(3), Counter::Sent),
        (bye(1), Counter::Sent),
        (bye(u64::MAX), Counter::Sent),
        (stop(0), Counter::Received),
        (stop(2), Counter::Received),
        (stop(u64::MAX), Counter::Received),
    ] {
        let mut pair = Pair::established();
        pair.client.session_mut().send(packet(0)).unwrap();
        for number in 0..2 {
            pair.server().session_mut().send(packet(number)).unwrap();
        }
        pair.exchange();
        pair.client_reads(&ControlFrame::Ack { received: 1 }).unwrap();
        let Err(FrameRefused::Diverged(error)) = pair.client_reads(&frame) else {
            panic!("accepted {frame:?}")
        };
        assert_eq!(error.counter, counter);
        assert!(matches!(pair.client.session().ended().unwrap().reason, EndReason::Diverged(_)));
    }
}

#[test]
fn a_packet_after_bye_a_second_bye_and_another_stop_end_the_session() {
    let bye = ControlFrame::Bye(Bye { reason: ByeReason::Finished, sent: 0 });
    let mut pair = Pair::established();
    pair.client_reads(&bye).unwrap();
    let error = pair.client.receive_data(pair.conn, packet(1)).unwrap_err();
    assert_eq!(error.to_string(), "the peer states sent = 0; possible are 1 to 1");
    let mut pair = Pair::established();
    pair.client_reads(&bye).unwrap();
    assert!(pair.client_reads(&bye).is_err());
    for frame in [ControlFrame::Stop { received: 1 }, ControlFrame::Ack { received: 1 }] {
        let mut pair = Pair::established();
        pair.client.session_mut().send(packet(0)).unwrap();
        pair.exchange();
        pair.client_reads(&ControlFrame::Stop { received: 0 }).unwrap();
        assert!(pair.client_reads(&frame).is_err(), "{frame:?}");
    }
}

#[test]
fn two_sides_that_close_with_full_queues_do_not_wait_for_each_other() {
    let mut pair = Pair::established_with(SessionConfig::new().replay_bytes(400));
    let now = pair.now;
    for number in 0..10 {
        pair.client.session_mut().send(packet(number)).unwrap();
        pair.server().session_mut().send(packet(number)).unwrap();
    }
    pair.exchange();
    pair.client.session_mut().close(now);
    pair.server().session_mut().close(now);
    pair.exchange();
    for ended in
        [pair.client.session().ended().unwrap(), pair.server.as_ref().unwrap().session().ended().unwrap()]
    {
        assert_eq!(ended.reason, settled(ByeReason::Closed, ByeReason::Closed));
        assert_eq!((ended.not_acknowledged.len(), ended.unsent.len()), (2, 8));
    }
}

#[test]
fn a_peer_that_has_stopped_gets_no_new_packets() {
    let mut pair = Pair::established_with(SessionConfig::new().close_timeout(Duration::from_secs(1)));
    let now = pair.now;
    pair.client.session_mut().fail(now);
    pair.exchange();
    assert!(!pair.server().session().can_send());
    assert_eq!(pair.server().session_mut().send(packet(1)), Err(packet(1)));
}

#[test]
fn done_of_a_side_that_cannot_be_settled_is_refused_and_the_session_lives() {
    let mut pair = Pair::established();
    let refused = Err(FrameRefused::Unexpected { name: "DONE" });
    assert_eq!(pair.client_reads(&ControlFrame::Done), refused);
    assert_eq!(pair.server_reads(&ControlFrame::Done), refused);
    let now = pair.now;
    pair.client.session_mut().finish(now);
    assert!(matches!(pair.client_writes(), Some(Transmit::Control(ControlFrame::Bye(_)))));
    assert_eq!(pair.client_reads(&ControlFrame::Done), refused);
    pair.lose_connection();
    pair.resume();
    assert!(pair.client.session().ended().is_none());
}

#[test]
fn an_end_of_the_connection_says_nothing_about_the_session() {
    let mut pair = Pair::established();
    let now = pair.now;
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.client.session_mut().finish(now);
    pair.exchange();
    assert_eq!(packets(pair.server().session_mut(), now), [1]);
    pair.server().session_mut().finish(now);
    // ACK, BYE and DONE of the server are lost.
    while pair.server_writes().is_some() {}
    assert!(pair.server().session().ended().is_some());
    // Nothing follows DONE.
    pair.server_reads(&ControlFrame::Ping { data: [1; 8] }).unwrap();
    assert_eq!(pair.server_writes(), None);
    pair.lose_connection();
    assert!(!pair.server().session().is_over());
    pair.resume();
    assert_eq!(pair.client.session().ended().unwrap().handed_over, 1);
    assert!(pair.client.session().is_over() && pair.server().session().is_over());
}

#[test]
fn nothing_shortens_the_time_for_which_a_settled_side_waits() {
    let go_away = |deadline_ms| GoAway {
        reason: GoAwayReason::Load,
        deadline_ms,
        spread_ms: 0,
        address: String::new(),
    };
    for close_again in [false, true] {
        let mut pair = Pair::established();
        let (now, conn) = (pair.now, pair.conn);
        pair.server().session_mut().go_away(go_away(1000), now);
        pair.exchange();
        pair.client.session_mut().finish(now);
        pair.server().session_mut().finish(now);
        // DONE of both sides is lost.
        let Some(Transmit::Control(bye)) = pair.client_writes() else { panic!("no BYE") };
        pair.server_reads(&bye).unwrap();
        let Some(Transmit::Control(bye)) = pair.server_writes() else { panic!("no BYE") };
        pair.client_reads(&bye).unwrap();
        assert!(pair.client.session().ended().is_some() && pair.server().session().ended().is_some());
        pair.client.connection_ended(conn, now);
        pair.server().connection_ended(conn, now);
        if close_again {
            pair.client.session_mut().close(now);
            pair.server().session_mut().close(now);
        }
        for _ in 0..119 {
            pair.pass(Duration::from_secs(1));
        }
        assert!(!pair.client.session().is_over(), "close again: {close_again}");
        assert!(!pair.server().session().is_over(), "close again: {close_again}");
        pair.pass(Duration::from_secs(1));
        assert!(pair.client.session().is_over() && pair.server().session().is_over());
    }
}
