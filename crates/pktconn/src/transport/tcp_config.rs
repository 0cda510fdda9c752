//! Socket options of TCP connections: the public configuration, its checks, and how it is applied.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Socket options of a TCP connection.
///
/// Pass it to [`ConnConfig::tcp`](crate::ConnConfig::tcp). Other transports ignore it. A value that is out of range, or
/// that this system does not support, is refused when the connection or the server is made, with
/// [`is_config`](crate::Error::is_config).
///
/// ```
/// use std::time::Duration;
/// use pktconn::{ConnConfig, TcpConfig};
///
/// // Detects within two minutes that the peer's machine is gone, even if nothing is sent.
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
    /// Whether an accepted socket has inherited `TCP_NODELAY` from the listening socket.
    inherits_nodelay: bool,
}

impl TcpConfig {
    /// A configuration with the default values. Each setter documents its default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `TCP_NODELAY`: whether the kernel sends small writes at once, instead of waiting until earlier bytes are
    /// acknowledged (Nagle's algorithm).
    ///
    /// Leave it on: the send queue already combines packets into large writes, so Nagle's algorithm only adds delay.
    /// Default: on.
    #[must_use]
    pub fn nodelay(mut self, on: bool) -> Self {
        self.nagle = !on;
        self
    }

    /// Enables TCP keepalive (`SO_KEEPALIVE`) and sets the idle time before the first probe (`TCP_KEEPIDLE`; on macOS
    /// `TCP_KEEPALIVE`).
    ///
    /// If the peer's kernel does not answer the probes, the connection ends with [`is_io`](crate::Error::is_io). The
    /// kernel answers even if the peer's program hangs; to detect that, use
    /// [`idle_timeout`](crate::ConnConfig::idle_timeout). From 1 s to 32,767 s; fractions of a second are dropped.
    /// Default: `None`, off.
    #[must_use]
    pub fn keepalive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.keepalive = idle.into();
        self
    }

    /// Sets the time between two keepalive probes (`TCP_KEEPINTVL`).
    ///
    /// Requires [`keepalive`](Self::keepalive). From 1 s to 32,767 s; fractions of a second are dropped. Default: that
    /// of the system; on Linux 75 s.
    #[must_use]
    pub fn keepalive_interval(mut self, interval: Duration) -> Self {
        self.keepalive_interval = Some(interval);
        self
    }

    /// Sets how many unanswered keepalive probes end the connection (`TCP_KEEPCNT`).
    ///
    /// Requires [`keepalive`](Self::keepalive). From 1 to 127. Default: that of the system; on Linux 9.
    #[must_use]
    pub fn keepalive_probes(mut self, probes: u32) -> Self {
        self.keepalive_probes = Some(probes);
        self
    }

    /// Sets how long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`), on Linux and Android only.
    ///
    /// After that time the connection ends with [`is_io`](crate::Error::is_io). Use it to detect a peer whose machine
    /// or network is gone; without it Linux takes about 15 minutes. From 1 ms to 2^31 - 1 ms (24 days); fractions of a
    /// millisecond are dropped. Default: `None`, that of the system.
    #[must_use]
    pub fn user_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = timeout.into();
        self
    }

    /// Sets the size of the kernel's send buffer (`SO_SNDBUF`), in bytes.
    ///
    /// Linux doubles the value for its own overhead. A buffer whose size is set does not grow with the traffic. From 1
    /// to 2^31 - 1. Default: `None`, that of the system, which grows with the traffic.
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.send_buffer = bytes.into();
        self
    }

    /// Sets the size of the kernel's receive buffer (`SO_RCVBUF`), in bytes.
    ///
    /// Linux doubles the value for its own overhead. A buffer whose size is set does not grow with the traffic. From 1
    /// to 2^31 - 1. Default: `None`, that of the system, which grows with the traffic.
    #[must_use]
    pub fn recv_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.recv_buffer = bytes.into();
        self
    }

    /// Sets how many unsent bytes the kernel accepts (`TCP_NOTSENT_LOWAT`), on Linux and Android only.
    ///
    /// All other bytes wait in the send queue, where a [`slow_consumer`](crate::ConnConfig::slow_consumer) policy can
    /// still drop packets. The kernel may accept up to 64 KiB more while it combines bytes into one segment. The limit
    /// does not count bytes that were sent and that the peer has not read yet: they are in the peer's receive buffer.
    ///
    /// From 1 to 2^31 - 1. Default: `None`, which means 16 KiB with any `slow_consumer` other than `Block`, and
    /// otherwise the value of the system (usually no limit).
    #[must_use]
    pub fn notsent_lowat(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.notsent_lowat = bytes.into();
        self
    }

    /// Applies the default limit on unsent bytes in the kernel, for a connection whose policy may drop packets.
    pub(crate) fn with_few_unsent(mut self) -> Self {
        /// Keeps a 100 Mbit/s link busy for 1.3 ms. A task is woken within 1 ms to write more.
        const DEFAULT_NOTSENT_LOWAT: usize = 16 * 1024;
        self.notsent_lowat.get_or_insert(DEFAULT_NOTSENT_LOWAT);
        self
    }

    /// Refuses values that no system accepts, or that this system does not support.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let second = Duration::from_secs(1);
        // The limits of Linux. Without this check they would show only when the connection has been made.
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
            return Err(
                "keepalive_interval and keepalive_probes have no effect without a keepalive; set it too",
            );
        }
        let millis = Duration::from_millis(1)..=Duration::from_millis(i32::MAX as u64);
        if self.user_timeout.is_some_and(|timeout| !millis.contains(&timeout)) {
            return Err("user_timeout must be from 1 ms to 2^31 - 1 ms");
        }
        if self.user_timeout.is_some() && !cfg!(any(target_os = "linux", target_os = "android")) {
            return Err("user_timeout is supported only on Linux and Android");
        }
        let sizes = 1..=i32::MAX as usize;
        if self.notsent_lowat.is_some_and(|bytes| !sizes.contains(&bytes)) {
            return Err("notsent_lowat must be from 1 to 2^31 - 1 bytes");
        }
        if self.notsent_lowat.is_some() && !cfg!(any(target_os = "linux", target_os = "android")) {
            return Err("notsent_lowat is supported only on Linux and Android");
        }
        if self.send_buffer.is_some_and(|bytes| !sizes.contains(&bytes)) {
            return Err("send_buffer must be from 1 to 2^31 - 1 bytes");
        }
        if self.recv_buffer.is_some_and(|bytes| !sizes.contains(&bytes)) {
            return Err("recv_buffer must be from 1 to 2^31 - 1 bytes");
        }
        Ok(())
    }

    /// Sets the buffer sizes. Call it before the socket connects or listens: TCP negotiates the window scale then.
    pub(crate) fn set_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.recv_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }

    /// Sets the options that accepted sockets inherit from a listening socket.
    pub(crate) fn set_inherited(&self, socket: &SockRef<'_>) -> io::Result<()> {
        self.set_buffers(socket)?;
        if Self::NODELAY_IS_INHERITED { socket.set_tcp_nodelay(!self.nagle) } else { Ok(()) }
    }

    /// Linux copies it to each accepted socket. POSIX does not require that.
    const NODELAY_IS_INHERITED: bool = cfg!(any(target_os = "linux", target_os = "android"));

    /// The configuration of the connections that a listening socket accepts, after it was passed to
    /// [`set_inherited`](Self::set_inherited) with that socket. Saves a system call per connection.
    pub(crate) fn for_accepted(mut self) -> Self {
        self.inherits_nodelay = Self::NODELAY_IS_INHERITED;
        self
    }

    /// Sets all options on a connected socket.
    pub(crate) fn set_all(&self, stream: &TcpStream) -> io::Result<()> {
        if !self.inherits_nodelay {
            stream.set_nodelay(!self.nagle)?;
        }
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
    async fn a_connection_has_the_configured_options() {
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

    /// Accepted sockets must have it without a system call of their own.
    #[tokio::test]
    async fn accepted_sockets_have_the_nodelay_of_their_configuration() {
        for nodelay in [true, false] {
            let config = TcpConfig::new().nodelay(nodelay);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            config.set_inherited(&SockRef::from(&listener)).unwrap();
            let addr = listener.local_addr().unwrap();
            let (_client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
            let (stream, _) = accepted.unwrap();
            config.for_accepted().set_all(&stream).unwrap();
            assert_eq!(stream.nodelay().unwrap(), nodelay);
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
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
