//! The options of TCP sockets.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The options of a connection's TCP socket.
///
/// ```
/// use std::time::Duration;
/// use pktconn::{ConnConfig, TcpConfig};
///
/// // A peer whose machine is gone is noticed within two minutes, also where nothing is sent.
/// let tcp = TcpConfig::new()
///     .keepalive(Duration::from_secs(60))
///     .keepalive_interval(Duration::from_secs(15))
///     .keepalive_probes(4);
/// let config = ConnConfig::new().tcp(tcp);
/// ```
#[derive(Clone, Debug, Default)]
pub struct TcpConfig {
    nagle: bool,
    keepalive: Option<Duration>,
    keepalive_interval: Option<Duration>,
    keepalive_probes: Option<u32>,
    user_timeout: Option<Duration>,
    send_buffer: Option<usize>,
    recv_buffer: Option<usize>,
    notsent_lowat: Option<usize>,
}

impl TcpConfig {
    /// The defaults, as each setter names them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `TCP_NODELAY`: whether the kernel sends what it is given at once, also while earlier bytes are not
    /// acknowledged. Packets are gathered in the send queue, and the kernel's own gathering only delays them.
    ///
    /// Default: on.
    #[must_use]
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nagle = !on;
        self
    }

    /// Has the kernel ask a peer that sends nothing whether it is still there (`SO_KEEPALIVE`), first after so long
    /// (`TCP_KEEPIDLE`; on macOS `TCP_KEEPALIVE`), in whole seconds. A peer that does not answer ends the connection, with
    /// [`is_io`](crate::Error::is_io).
    ///
    /// The peer's program is not asked: for one that hangs there is [`idle_timeout`](crate::ConnConfig::idle_timeout). From 1 s
    /// to 32,767 s. Default: `None`, off.
    #[must_use]
    pub fn keepalive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.keepalive = idle.into();
        self
    }

    /// Sets the time between two of these questions (`TCP_KEEPINTVL`), in whole seconds. From 1 s to
    /// 32,767 s.
    ///
    /// Default: the system's; on Linux 75 s.
    #[must_use]
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.keepalive_interval = Some(interval);
        self
    }

    /// Sets how many of these questions without an answer end the connection (`TCP_KEEPCNT`). From 1 to 127.
    ///
    /// Default: the system's; on Linux 9.
    #[must_use]
    pub fn keepalive_probes(mut self, probes: u32) -> Self {
        self.keepalive_probes = Some(probes);
        self
    }

    /// Sets how long bytes that were sent may stay unacknowledged (`TCP_USER_TIMEOUT`), in milliseconds; Linux and Android
    /// alone. Beyond it the connection ends, with [`is_io`](crate::Error::is_io).
    ///
    /// Protects from a peer whose machine or network is gone, which Linux notices after a quarter of an hour else. From
    /// 1 ms to 24 days. Default: `None`, the system's.
    #[must_use]
    pub fn user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = timeout.into();
        self
    }

    /// Sets the kernel's buffer for what is sent (`SO_SNDBUF`), in bytes; Linux takes twice as much, for its own needs.
    ///
    /// At least 1. Default: `None`, the system's, which grows with the traffic; one that is set does not grow.
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.send_buffer = bytes.into();
        self
    }

    /// Sets the kernel's buffer for what arrives (`SO_RCVBUF`), in bytes, as [`send_buffer`](Self::send_buffer) does for
    /// the other direction.
    #[must_use]
    pub fn recv_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.recv_buffer = bytes.into();
        self
    }

    /// Sets how many bytes the kernel takes before they can be sent (`TCP_NOTSENT_LOWAT`), on Linux and Android alone. What it
    /// does not take waits in the send queue, where packets can still be dropped.
    ///
    /// The kernel takes up to 64 KiB more when it gathers bytes to one segment. What was sent and not read stands in the peer's
    /// receive buffer, and cannot be seen from here. At least 1. Default: `None`, which is 16 KiB where a
    /// [`slow_consumer`](crate::ConnConfig::slow_consumer) other than `Block` is set, and the system's (no limit) otherwise.
    #[must_use]
    pub fn notsent_lowat(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.notsent_lowat = bytes.into();
        self
    }

    /// The options of a connection whose packets may be dropped: the kernel is to hold few of them.
    pub(crate) fn with_few_unsent(mut self) -> Self {
        /// Enough to keep a link of 100 Mbit/s busy for a millisecond, which is how soon a task is woken to write more.
        const FEW: usize = 16 * 1024;
        self.notsent_lowat.get_or_insert(FEW);
        self
    }

    /// What cannot work.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let second = Duration::from_secs(1);
        // What Linux takes; it refuses more when the connection is there already.
        let seconds = second..=Duration::from_secs(32_767);
        if self.keepalive.is_some_and(|idle| !seconds.contains(&idle)) {
            return Err("keepalive must be from 1 s to 32,767 s");
        }
        if self.keepalive_interval.is_some_and(|interval| !seconds.contains(&interval)) {
            return Err("keepalive_interval must be from 1 s to 32,767 s");
        }
        if self.keepalive_probes.is_some_and(|probes| !(1..=127).contains(&probes)) {
            return Err("keepalive_probes must be from 1 to 127");
        }
        if self.keepalive.is_none() && (self.keepalive_interval.is_some() || self.keepalive_probes.is_some())
        {
            return Err("keepalive_interval and keepalive_probes have no meaning without a keepalive");
        }
        let millis = Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);
        if self.user_timeout.is_some_and(|timeout| !millis.contains(&timeout)) {
            return Err("user_timeout must be from 1 ms to 2^31 - 1 ms");
        }
        if self.user_timeout.is_some() && !cfg!(any(target_os = "linux", target_os = "android")) {
            return Err("user_timeout is there on Linux and Android alone");
        }
        let sizes = 1..=i32::MAX as usize;
        if self.notsent_lowat.is_some_and(|bytes| !sizes.contains(&bytes)) {
            return Err("notsent_lowat must be from 1 to 2^31 - 1 bytes");
        }
        if self.notsent_lowat.is_some() && !cfg!(any(target_os = "linux", target_os = "android")) {
            return Err("notsent_lowat is there on Linux and Android alone");
        }
        if self.send_buffer.is_some_and(|bytes| !sizes.contains(&bytes)) {
            return Err("send_buffer must be from 1 to 2^31 - 1 bytes");
        }
        if self.recv_buffer.is_some_and(|bytes| !sizes.contains(&bytes)) {
            return Err("recv_buffer must be from 1 to 2^31 - 1 bytes");
        }
        Ok(())
    }

    /// Sets what a socket must have before it connects or listens, for TCP to agree on a window of that size.
    pub(crate) fn set_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.recv_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }

    /// Sets everything on a socket that is connected.
    pub(crate) fn set_all(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(!self.nagle)?;
        let socket = SockRef::from(stream);
        self.set_buffers(&socket)?;
        if let Some(idle) = self.keepalive {
            let mut keepalive = TcpKeepalive::new().with_time(idle);
            if let Some(interval) = self.keepalive_interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(probes) = self.keepalive_probes {
                keepalive = keepalive.with_retries(probes);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(timeout))?;
        }
        self.set_notsent_lowat(stream)
    }

    pub(crate) fn set_notsent_lowat(&self, stream: &TcpStream) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(bytes) = self.notsent_lowat {
            SockRef::from(stream).set_tcp_notsent_lowat(bytes as u32)?;
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = stream;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnConfig, PacketConn};

    #[tokio::test]
    async fn a_connection_has_the_options_that_were_asked_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let connect = |tcp| async move {
            let stream = TcpStream::connect(addr).await.unwrap().into_std().unwrap();
            let socket = stream.try_clone().unwrap();
            let stream = TcpStream::from_std(stream).unwrap();
            (PacketConn::from_tcp(stream, ConnConfig::new().tcp(tcp)).unwrap(), socket)
        };

        let (_conn, socket) = connect(TcpConfig::new()).await;
        let socket = SockRef::from(&socket);
        assert!(socket.tcp_nodelay().unwrap() && !socket.keepalive().unwrap());

        let secs = Duration::from_secs;
        let tcp = TcpConfig::new()
            .nodelay(false)
            .keepalive(secs(60))
            .keepalive_interval(secs(15))
            .keepalive_probes(4)
            .send_buffer(100_000)
            .recv_buffer(50_000);
        #[cfg(target_os = "linux")]
        let tcp = tcp.user_timeout(secs(20));
        let (_conn, socket) = connect(tcp).await;
        let socket = SockRef::from(&socket);
        assert!(!socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), secs(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        // Linux doubles them.
        assert!([100_000, 200_000].contains(&socket.send_buffer_size().unwrap()));
        assert!([50_000, 100_000].contains(&socket.recv_buffer_size().unwrap()));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(secs(20)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        let cases = [
            (TcpConfig::new().keepalive(ms(999)), "keepalive must"),
            (TcpConfig::new().keepalive(secs(1)).keepalive_interval(ms(999)), "keepalive_interval must"),
            (TcpConfig::new().keepalive(secs(1)).keepalive_probes(0), "keepalive_probes must"),
            (TcpConfig::new().keepalive_probes(1), "without a keepalive"),
            (TcpConfig::new().user_timeout(Duration::from_micros(999)), "user_timeout"),
            (TcpConfig::new().keepalive(secs(86_400)), "keepalive must"),
            (TcpConfig::new().keepalive(secs(1)).keepalive_probes(128), "keepalive_probes must"),
            (TcpConfig::new().send_buffer(usize::MAX), "send_buffer"),
            (TcpConfig::new().send_buffer(0), "send_buffer"),
            (TcpConfig::new().recv_buffer(0), "recv_buffer"),
        ];
        for (config, expected) in cases {
            let problem = config.check().unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        assert!(TcpConfig::new().check().is_ok());
    }
}
