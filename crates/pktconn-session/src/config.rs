//! The settings of a session.

use std::time::Duration;

/// The settings of one side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    pub(crate) replay_bytes: u32,
    pub(crate) ttl: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_timeout: Duration,
    pub(crate) min_ping_interval: Duration,
    pub(crate) close_timeout: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionConfig {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            replay_bytes: 1024 * 1024,
            ttl: Duration::from_secs(120),
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(45),
            min_ping_interval: Duration::from_secs(1),
            close_timeout: Duration::from_secs(5),
        }
    }

    /// Sets how many bytes of packets are held until the peer has acknowledged them; each packet counts its payload and
    /// [`PACKET_OVERHEAD`](crate::PACKET_OVERHEAD). Default: 1 MiB.
    ///
    /// When it is full, packets wait without a number. One packet is always held, whatever its size.
    #[must_use]
    pub fn replay_bytes(mut self, bytes: u32) -> Self {
        self.replay_bytes = bytes;
        self
    }

    /// Sets how long a server keeps a session without a connection. Default: 2 minutes. A client uses the server's value.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets after how long without a byte from the peer a PING is sent. Default: 15 s. A client uses the server's
    /// [`min_ping_interval`](Self::min_ping_interval) if that is longer.
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// Sets after how long without a byte from the peer the connection counts as lost. Default: 45 s.
    #[must_use]
    pub fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.ping_timeout = timeout;
        self
    }

    /// Sets the shortest interval of PINGs that a server asks its clients for. Default: 1 s.
    #[must_use]
    pub fn min_ping_interval(mut self, interval: Duration) -> Self {
        self.min_ping_interval = interval;
        self
    }

    /// Sets how long a closed session waits for the peer, also for a lost connection to be made again. Default: 5 s.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }
}

/// In whole milliseconds, as frames state it.
pub(crate) fn millis(time: Duration) -> u32 {
    time.as_millis().try_into().unwrap_or(u32::MAX)
}
