//! When ACK is sent, and which ACK is refused.

use std::time::Duration;

use pktconn_session::frame::{ByeReason, ControlFrame, RejectReason};
use pktconn_session::{EndReason, FrameRefused, SessionConfig, Transmit};

use crate::pair::{Pair, packet, packets};

#[test]
fn an_ack_is_due_after_32_packets_a_quarter_of_the_replay_bytes_or_50_ms() {
    for (replay_bytes, count, is_due) in [
        (1_000_000, 31, false),
        (1_000_000, 32, true),
        (8000, 19, false),
        (8000, 20, true),
        (1, 10, false),
        (1, 11, true),
    ] {
        let mut pair = Pair::established();
        // Only what the peer announces counts.
        pair.lose_connection();
        let mut hello = pair.hello();
        hello.replay_bytes = replay_bytes;
        pair.answer(&hello).unwrap();
        pair.exchange();
        for _ in 0..count {
            pair.client.session_mut().send(packet(0)).unwrap();
        }
        pair.exchange();
        let now = pair.now;
        assert_eq!(packets(pair.server().session_mut(), now).len(), count);
        let ack = Some(Transmit::Control(ControlFrame::Ack { received: count as u64 }));
        let due_at = now + Duration::from_millis(50);
        assert_eq!(pair.server().timeout(), Some(due_at));
        assert_eq!(pair.server_writes(), ack.clone().filter(|_| is_due), "{replay_bytes} {count}");
        pair.now = due_at;
        assert_eq!(pair.server_writes(), ack.filter(|_| !is_due), "{replay_bytes} {count}");
        assert_eq!(pair.server_writes(), None);
    }
}

#[test]
fn an_ack_that_is_10_ms_old_goes_before_data() {
    for (age, expected) in [(9, vec!["< data 9"]), (10, vec!["< ACK", "< data 9"])] {
        let mut pair = Pair::established();
        pair.client.session_mut().send(packet(1)).unwrap();
        pair.exchange();
        let now = pair.now;
        packets(pair.server().session_mut(), now);
        pair.pass(Duration::from_millis(age));
        assert_eq!(pair.exchange(), [""; 0], "no frame without data");
        pair.server().session_mut().send(packet(9)).unwrap();
        assert_eq!(pair.exchange(), expected, "{age} ms");
    }
}

#[test]
fn a_packet_that_was_not_handed_over_is_not_acknowledged() {
    let mut pair = Pair::established();
    for _ in 0..100 {
        pair.client.session_mut().send(packet(0)).unwrap();
    }
    pair.exchange();
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.server_writes(), None);
}

#[test]
fn an_ack_out_of_its_bounds_ends_the_session_on_both_sides() {
    for received in [2, 4, u64::MAX] {
        let mut pair = Pair::established();
        for number in 0..3 {
            pair.client.session_mut().send(packet(number)).unwrap();
        }
        pair.exchange();
        pair.client_reads(&ControlFrame::Ack { received: 3 }).unwrap();
        let refused = pair.client_reads(&ControlFrame::Ack { received });
        assert!(
            matches!(refused, Err(FrameRefused::Diverged(error)) if (error.value, error.min, error.max) == (received, 3, 3))
        );
        let Some(Transmit::Control(bye)) = pair.client_writes() else { panic!("no BYE") };
        assert!(matches!(&bye, ControlFrame::Bye(bye) if bye.reason == ByeReason::Diverged));
        assert_eq!(pair.client_writes(), None);
        pair.server_reads(&bye).unwrap();
        let reason = pair.server().session().ended().unwrap().reason;
        assert_eq!(reason, EndReason::Rejected(RejectReason::Diverged));
    }
}

#[test]
fn an_idle_session_is_acknowledged_completely() {
    let mut pair = Pair::established_with(SessionConfig::new());
    pair.client.session_mut().send(packet(1)).unwrap();
    pair.exchange();
    let now = pair.now;
    packets(pair.server().session_mut(), now);
    pair.pass(Duration::from_millis(50));
    pair.exchange();
    assert_eq!(pair.client.session().held_bytes(), 0);
    assert!(pair.client.session().ended().is_none());
}
