//! What a session takes while nothing happens.

use pktconn_session::{ClientSession, ServerSession};

#[test]
fn a_session_without_packets_is_one_value_of_less_than_a_kilobyte() {
    assert!(size_of::<ServerSession>() <= 448, "{} bytes", size_of::<ServerSession>());
    assert!(size_of::<ClientSession>() <= 512, "{} bytes", size_of::<ClientSession>());
}
