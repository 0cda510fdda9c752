//! The public setting of how fast a client network may open connections.

use std::time::Duration;

use crate::Error;
use crate::error::Reason;

/// How fast one client network may open connections. For [`conn_rate_per_ip`](crate::ServerConfig::conn_rate_per_ip).
///
/// A network may open [`per_second`](Self::per_second) connections per second, and [`burst`](Self::burst) connections
/// at once after a quiet time: in `t` seconds never more than `burst + per_second * t`. A network within its rate is
/// never refused. Of a faster one, the connections above the rate are refused.
///
/// A network that is refused as often as [`burst`](Self::burst) allows, and that goes on at more than twice its rate, is
/// refused altogether for [`cool_down`](Self::cool_down). After that it starts again.
///
/// ```
/// use std::time::Duration;
/// use pktconn::{ConnRate, ServerConfig};
///
/// let rate = ConnRate::per_second(20).burst(200).cool_down(Duration::from_secs(30));
/// let config = ServerConfig::new().conn_rate_per_ip(rate);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnRate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
    pub(crate) cool_down: Duration,
}

impl ConnRate {
    /// The default burst, in seconds of the rate.
    const BURST_SECONDS: u32 = 5;

    /// Twice the time in which an empty default burst is full again, so that a network has a full burst after it.
    const COOL_DOWN: Duration = Duration::from_secs(10);

    /// `connections` new connections per second. At least 1.
    #[must_use]
    pub fn per_second(connections: u32) -> Self {
        let burst = connections.saturating_mul(Self::BURST_SECONDS);
        Self { per_second: connections, burst, cool_down: Self::COOL_DOWN }
    }

    /// Sets how many connections a network may open at once after a quiet time.
    ///
    /// It should be as large as the number of clients that share one address, because they all reconnect at once after
    /// a restart of the server.
    ///
    /// At least 1. Default: 5 times the rate.
    #[must_use]
    pub fn burst(mut self, connections: u32) -> Self {
        self.burst = connections;
        self
    }

    /// Sets how long a network that goes on above its rate is refused altogether.
    ///
    /// Use it so that a flood gets nothing: without it, a flood still gets `per_second` connections, for example with a
    /// TLS handshake each. [`Duration::ZERO`] turns it off.
    ///
    /// Default: 10 s.
    #[must_use]
    pub fn cool_down(mut self, cool_down: Duration) -> Self {
        self.cool_down = cool_down;
        self
    }

    /// Refuses invalid values.
    pub(crate) fn check(self) -> Result<(), Error> {
        if self.per_second == 0 || self.burst == 0 {
            return Err(Reason::Config("conn_rate_per_ip must have a rate and a burst of at least 1").into());
        }
        Ok(())
    }
}
