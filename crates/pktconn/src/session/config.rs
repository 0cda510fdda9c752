//! The public configuration of sessions, its checks, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use pktconn_session::frame::WireFormat;

use crate::error::Reason;
use crate::{ConnConfig, Error};

/// Whether a peer must have sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionMode {
    /// Peers without sessions are served, too. What they send and receive can be lost with their connection.
    #[default]
    Auto,
    /// A connection without a session is refused.
    Required,
}

/// The configuration of sessions.
///
/// ```
/// use std::time::Duration;
/// use pktconn::{ServerConfig, SessionConfig};
///
/// let sessions = SessionConfig::new().ttl(Duration::from_secs(60)).replay_bytes(256 * 1024);
/// let config = ServerConfig::new().sessions(sessions);
/// ```
#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub(crate) mode: SessionMode,
    replay_bytes: u32,
    pub(crate) recv_bytes: usize,
    ttl: Duration,
    ping_interval: Duration,
    ping_timeout: Duration,
    min_ping_interval: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) hello_wait: Duration,
    pub(crate) hello_timeout: Duration,
    pub(crate) max_sessions: usize,
    pub(crate) max_detached: usize,
    pub(crate) resume_at: String,
}

impl SessionConfig {
    /// With 3 MiB each at most, 30 GiB if a hostile client fills each of them. A public server sets less.
    const DEFAULT_MAX_SESSIONS: usize = 10_000;

    /// A peer acknowledges at the latest after a quarter of 4 KiB. With less, a sender would wait for its timer.
    const MIN_BYTES: usize = 4096;

    /// A configuration with the default values. Each setter documents its default.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mode: SessionMode::Auto,
            replay_bytes: 1024 * 1024,
            recv_bytes: 4 * 1024 * 1024,
            ttl: Duration::from_secs(120),
            ping_interval: Duration::from_secs(15),
            ping_timeout: Duration::from_secs(45),
            min_ping_interval: Duration::from_secs(1),
            close_timeout: Duration::from_secs(5),
            hello_wait: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(5),
            max_sessions: Self::DEFAULT_MAX_SESSIONS,
            max_detached: Self::DEFAULT_MAX_SESSIONS,
            resume_at: String::new(),
        }
    }

    /// Sets whether peers without sessions are served. Default: [`SessionMode::Auto`].
    #[must_use]
    pub fn mode(mut self, mode: SessionMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets how many bytes of sent packets are kept until the peer has acknowledged them, 64 bytes per packet included.
    /// At least 4 KiB. Default: 1 MiB.
    ///
    /// When they are full, further packets wait in the send queue. One packet is always kept, whatever its size.
    #[must_use]
    pub fn replay_bytes(mut self, bytes: u32) -> Self {
        self.replay_bytes = bytes;
        self
    }

    /// Sets how many bytes of packets may wait to be received, 64 bytes per packet included. At least 4 KiB. Default:
    /// 4 MiB.
    ///
    /// A session reads on while its application is slow, because acknowledgements come behind packets. The peer's
    /// `replay_bytes` limits how much waits. If it is larger than this, the peer can exceed this limit, and the session
    /// ends then.
    #[must_use]
    pub fn recv_bytes(mut self, bytes: usize) -> Self {
        self.recv_bytes = bytes;
        self
    }

    /// Sets how long a session lives without a connection. A server tells its clients. Default: 2 min.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets after how long without a byte from the peer a PING is sent. Default: 15 s.
    #[must_use]
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// Sets after how long without a byte from the peer its connection is given up. Longer than the interval. Default:
    /// 45 s.
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

    /// Sets how long [`close`](crate::Session::close) waits for the peer, also for one that has lost its connection.
    /// Default: 5 s.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how long a server waits for the first frame of a connection. Default: 1 s.
    ///
    /// A client that is silent for so long has no sessions. With [`SessionMode::Auto`] its handler begins then, so a
    /// server that speaks first does so after this time.
    #[must_use]
    pub fn hello_wait(mut self, wait: Duration) -> Self {
        self.hello_wait = wait;
        self
    }

    /// Sets how long a client waits for the answer to HELLO. Default: 5 s.
    ///
    /// With [`SessionMode::Auto`], a server that has not answered twice within this time has no sessions.
    #[must_use]
    pub fn hello_timeout(mut self, timeout: Duration) -> Self {
        self.hello_timeout = timeout;
        self
    }

    /// Sets the maximum number of a server's sessions. For one more, a session without a connection expires before its time;
    /// if all have one, the client is told to try again. Default: 10,000.
    #[must_use]
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// Sets the maximum number of a server's sessions that have no connection. Beyond it, the one that would expire first
    /// does so. Default: 10,000.
    #[must_use]
    pub fn max_detached(mut self, sessions: usize) -> Self {
        self.max_detached = sessions;
        self
    }

    /// Sets the address at which a server's clients resume their sessions, for servers behind a balancer that have an
    /// address of their own each. At most 255 bytes. Default: empty, the address to which they connected.
    #[must_use]
    pub fn resume_at(mut self, addr: impl Into<String>) -> Self {
        self.resume_at = addr.into();
        self
    }

    /// Checks it for connections with this configuration.
    pub(crate) fn check(&self, conn: &ConnConfig) -> Result<(), Error> {
        let too_small = (self.replay_bytes as usize).min(self.recv_bytes) < Self::MIN_BYTES;
        let problem = if too_small {
            "replay_bytes and recv_bytes of sessions must be at least 4096"
        } else if [self.ttl, self.ping_interval, self.hello_wait, self.hello_timeout]
            .contains(&Duration::ZERO)
        {
            "ttl, ping_interval, hello_wait and hello_timeout of sessions must not be zero"
        } else if self.ping_timeout <= self.ping_interval {
            "ping_timeout of sessions must be longer than ping_interval"
        } else if self.max_sessions == 0 {
            "max_sessions must be at least 1"
        } else if self.resume_at.len() > u8::MAX.into() {
            "resume_at must not be longer than 255 bytes"
        } else if conn.heartbeat.is_some() || conn.skips_empty() {
            "heartbeat and skip_empty cannot be used with sessions, which send PING instead"
        } else if conn.send_max_lag.is_some() {
            "send_max_lag cannot be used with sessions"
        } else {
            return match WireFormat::new(&conn.codec) {
                Ok(_) => Ok(()),
                Err(error) => Err(Reason::BadValue(error.to_string().into()).into()),
            };
        };
        Err(Reason::Config(problem).into())
    }

    /// For the state machine.
    pub(crate) fn machine(&self) -> Arc<pktconn_session::SessionConfig> {
        let config = pktconn_session::SessionConfig::new()
            .replay_bytes(self.replay_bytes)
            .ttl(self.ttl)
            .ping_interval(self.ping_interval)
            .ping_timeout(self.ping_timeout)
            .min_ping_interval(self.min_ping_interval)
            .close_timeout(self.close_timeout);
        Arc::new(config)
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SlowConsumer;
    use crate::{CodecConfig, HeaderFormat};

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let (ms, conn) = (Duration::from_millis, ConnConfig::new);
        let new = SessionConfig::new;
        let cases = [
            (new().replay_bytes(4095), conn(), "replay_bytes"),
            (new().recv_bytes(4095), conn(), "recv_bytes"),
            (new().ttl(ms(0)), conn(), "ttl"),
            (new().ping_interval(ms(0)), conn(), "ping_interval"),
            (new().hello_wait(ms(0)), conn(), "hello_wait"),
            (new().hello_timeout(ms(0)), conn(), "hello_timeout"),
            (new().ping_interval(ms(45_000)), conn(), "ping_timeout"),
            (new().max_sessions(0), conn(), "max_sessions"),
            (new().resume_at("a".repeat(256)), conn(), "resume_at"),
            (new(), conn().heartbeat(ms(100)), "heartbeat"),
            (new(), conn().skip_empty(true), "skip_empty"),
            (new(), conn().slow_consumer(SlowConsumer::DropOldest).send_max_lag(ms(100)), "send_max_lag"),
            (new(), conn().codec(CodecConfig::new().header(HeaderFormat::U16Le)), "u32 header"),
            (new(), conn().codec(CodecConfig::new().max_payload_len(0xFFFF_FF00)), "payload limit"),
        ];
        for (sessions, conn, expected) in cases {
            let error = sessions.check(&conn).unwrap_err();
            assert!(error.is_config() && error.to_string().contains(expected), "{error}");
        }
        assert!(new().check(&conn()).is_ok());
    }
}
