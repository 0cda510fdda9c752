//! What a session takes while nothing happens.

use pktconn_session::{ClientSession, ServerSession};

#[test]
fn a_session_without_packets_is_one_value_of_less_than_a_kilobyte() {
    assert!(size_of::<ServerSession>() <= 768, "{} bytes", size_of::<ServerSession>());
    assert!(size_of::<ClientSession>() <= 768, "{} bytes", size_of::<ClientSession>());
}
