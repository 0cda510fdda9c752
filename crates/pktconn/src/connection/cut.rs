//! What is left of a connection whose server did not wait for it.

use std::net::SocketAddr;

use pktconn_codec::Packet;

/// A connection that was closed because the time to shut down was over.
#[derive(Debug)]
#[non_exhaustive]
pub struct CutConn {
    /// The address of the peer.
    pub peer_addr: Option<SocketAddr>,
    /// The packets that were accepted to be sent and not wholly written, in their order. The first of these may have been
    /// written in part.
    pub unsent: Vec<Packet>,
}
