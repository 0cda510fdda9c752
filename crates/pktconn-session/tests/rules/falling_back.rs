//! When a server counts as one without sessions.

use std::time::{Duration, Instant};

use pktconn_session::{Fallback, NoAnswer};

#[test]
fn two_silent_tries_or_four_failed_ones_mean_no_sessions() {
    use NoAnswer::{Ended, Silence};
    let now = Instant::now();
    for (tries, is_legacy) in [
        (&[Silence][..], false),
        (&[Silence, Silence], true),
        (&[Ended, Ended, Ended], false),
        (&[Ended, Ended, Ended, Ended], true),
        (&[Ended, Silence, Ended], false),
        (&[Ended, Silence, Ended, Ended], true),
    ] {
        let mut fallback = Fallback::default();
        for why in tries {
            fallback.failed(*why, now);
        }
        assert_eq!(fallback.is_legacy(now), is_legacy, "{tries:?}");
    }
}

#[test]
fn after_ten_minutes_hello_is_tried_again() {
    let mut fallback = Fallback::default();
    let now = Instant::now();
    for _ in 0..4 {
        fallback.failed(NoAnswer::Ended, now);
    }
    assert!(fallback.is_legacy(now + Duration::from_secs(599)));
    let later = now + Duration::from_secs(600);
    assert!(!fallback.is_legacy(later));
    // It needs as many failures as before.
    fallback.failed(NoAnswer::Ended, later);
    assert!(!fallback.is_legacy(later));
}

#[test]
fn a_server_that_has_answered_once_is_never_taken_for_one_without_sessions() {
    let mut fallback = Fallback::default();
    let now = Instant::now();
    fallback.failed(NoAnswer::Silence, now);
    fallback.answered();
    for _ in 0..1000 {
        fallback.failed(NoAnswer::Ended, now);
        fallback.failed(NoAnswer::Silence, now);
    }
    assert!(!fallback.is_legacy(now));
}
