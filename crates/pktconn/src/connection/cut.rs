//! The remains of a connection that the server closed at the end of its shutdown time.

use std::net::SocketAddr;

use pktconn_codec::Packet;

/// A connection that the server closed by force because the time to shut down was over.
#[derive(Debug)]
#[non_exhaustive]
pub struct CutConn {
    /// The address of the peer. `None` if it is unknown, or if the connection does not use IP.
    pub peer_addr: Option<SocketAddr>,
    /// The accepted packets that were not completely written, in the order of sending. The first one may have been
    /// partly written.
    pub unsent: Vec<Packet>,
}
