//! The public type for the process at the other end of a Unix socket.

use std::num::NonZeroU32;

/// The user, group and process of a peer over a Unix socket, as the kernel recorded them. See
/// [`PacketConn::peer_credentials`](crate::PacketConn::peer_credentials).
///
/// They are those of the moment in which the peer connected (or, for the side that connected, in which the server began
/// to listen). The process may have changed its user or ended since then, and may have passed the socket to another one.
///
/// The numbers are as this process sees them. A user that has no number in this user namespace is 65534 (`nobody`) on
/// Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    uid: u32,
    gid: u32,
    /// In four bytes, so that these credentials take no more memory than two IPv4 addresses.
    pid: Option<NonZeroU32>,
}

impl PeerCredentials {
    /// The credentials of the peer of `stream`. `None` if the system does not tell.
    #[cfg(unix)]
    pub(crate) fn of(stream: &tokio::net::UnixStream) -> Option<Self> {
        let peer = stream.peer_cred().ok()?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).and_then(NonZeroU32::new);
        Some(Self { uid: peer.uid(), gid: peer.gid(), pid })
    }

    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self { uid: 1, gid: 2, pid: NonZeroU32::new(3) }
    }

    /// The effective user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The process. `None` if the system does not tell, or if the process is not visible in this PID namespace.
    ///
    /// Do not decide by it who the peer is: another process may have the number by now.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(NonZeroU32::get)
    }
}
