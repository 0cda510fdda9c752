//! The public configuration of a client, its checks, and the pauses between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

#[cfg(feature = "session")]
use crate::SessionConfig;
use crate::error::Reason;
use crate::{ConnConfig, Error, SlowConsumer};

/// The configuration of a [`Client`](crate::Client): its connections, and when it reconnects.
///
/// ```
/// use std::time::Duration;
/// use pktconn::{ClientConfig, ConnConfig};
///
/// let config = ClientConfig::new()
///     .conn(ConnConfig::new().idle_timeout(Duration::from_secs(60)))
///     .max_backoff(Duration::from_secs(5))
///     .max_tries(20);
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub(super) conn: ConnConfig,
    min_backoff: Duration,
    pub(super) max_backoff: Duration,
    pub(super) max_tries: Option<u32>,
    #[cfg(feature = "session")]
    pub(super) session: Option<SessionConfig>,
}

impl ClientConfig {
    /// So short that users do not notice the restart of a server.
    const DEFAULT_MIN_BACKOFF: Duration = Duration::from_millis(100);

    /// Long enough that 10,000 clients make fewer than 1,000 attempts per second.
    const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(30);

    /// A configuration with the default values. Each setter documents its default.
    #[must_use]
    pub fn new() -> Self {
        Self {
            conn: ConnConfig::new(),
            min_backoff: Self::DEFAULT_MIN_BACKOFF,
            max_backoff: Self::DEFAULT_MAX_BACKOFF,
            max_tries: None,
            #[cfg(feature = "session")]
            session: None,
        }
    }

    /// Sets the configuration of each connection.
    ///
    /// [`send_high_water`](ConnConfig::send_high_water) also limits the bytes that are queued in the client, in
    /// addition to the send queue of the current connection. [`connect_timeout`](ConnConfig::connect_timeout) applies
    /// to each attempt. To detect a server that disappears without closing the connection, set
    /// [`idle_timeout`](ConnConfig::idle_timeout) or [`keepalive`](crate::TcpConfig::keepalive). Only the policy
    /// [`Block`](SlowConsumer::Block) is allowed for [`slow_consumer`](ConnConfig::slow_consumer), because a client
    /// drops no packet that it has accepted.
    ///
    /// Default: [`ConnConfig::new`].
    #[must_use]
    pub fn conn(mut self, conn: ConnConfig) -> Self {
        self.conn = conn;
        self
    }

    /// Sets the first pause before the client reconnects.
    ///
    /// The pause doubles after each failed attempt, up to [`max_backoff`](Self::max_backoff). A random part of up to
    /// 100 % is added to each pause, so that clients do not all reconnect at once. Must not be zero. Default: 100 ms,
    /// so the first pause takes 100 to 200 ms.
    #[must_use]
    pub fn min_backoff(mut self, delay: Duration) -> Self {
        self.min_backoff = delay;
        self
    }

    /// Sets the longest pause before the client reconnects, including the random part. At least `min_backoff`.
    ///
    /// The backoff starts again with `min_backoff` after a connection over which a packet was received, or which lasted
    /// for `max_backoff`. Default: 30 s.
    #[must_use]
    pub fn max_backoff(mut self, delay: Duration) -> Self {
        self.max_backoff = delay;
        self
    }

    /// Sets after how many failed attempts in a row the client gives up and ends.
    ///
    /// A connection that ends before the backoff starts again (see [`max_backoff`](Self::max_backoff)) counts as a
    /// failed attempt. At least 1. Default: `None`, never.
    #[must_use]
    pub fn max_tries(mut self, tries: impl Into<Option<u32>>) -> Self {
        self.max_tries = tries.into();
        self
    }

    /// Sets the configuration of sessions. Packets then arrive exactly once over any number of lost connections: see
    /// [`Client`](crate::Client#sessions). Default: `None`, no sessions.
    #[cfg(feature = "session")]
    #[must_use]
    pub fn session(mut self, session: impl Into<Option<SessionConfig>>) -> Self {
        self.session = session.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.conn.check()?;
        #[cfg(feature = "session")]
        if let Some(session) = &self.session {
            session.check(&self.conn)?;
        }
        let problem = if self.conn.slow_consumer != SlowConsumer::Block {
            "a client supports only the slow_consumer Block: it never drops a packet that it has accepted"
        } else if self.min_backoff.is_zero() {
            "min_backoff must not be zero"
        } else if self.max_backoff < self.min_backoff {
            "max_backoff must not be shorter than min_backoff"
        } else if self.max_tries == Some(0) {
            "max_tries must be at least 1"
        } else {
            return Ok(());
        };
        Err(Reason::Config(problem).into())
    }

    pub(super) fn backoff(&self) -> Backoff {
        let builder = ExponentialBuilder::new()
            .with_min_delay(self.min_backoff)
            // The random part can double this.
            .with_max_delay((self.max_backoff / 2).max(self.min_backoff))
            .without_max_times()
            .with_jitter();
        Backoff { delays: builder.build(), max: self.max_backoff }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) struct Backoff {
    delays: ExponentialBackoff,
    max: Duration,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        self.delays.next().map_or(self.max, |delay| delay.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_a_random_part_up_to_the_maximum() {
        let ms = Duration::from_millis;
        for _ in 0..100 {
            let mut backoff = ClientConfig::new().max_backoff(ms(1000)).backoff();
            for least in [100, 200, 400, 500, 500, 500] {
                let delay = backoff.next();
                assert!(delay >= ms(least) && delay <= ms(2 * least), "{delay:?} after {least} ms");
            }
            let mut backoff = ClientConfig::new().min_backoff(ms(700)).max_backoff(ms(1000)).backoff();
            assert!((0..9).map(|_| backoff.next()).all(|delay| delay >= ms(700) && delay <= ms(1000)));
        }
    }

    #[test]
    fn pauses_differ_from_client_to_client() {
        let pauses: std::collections::HashSet<_> =
            (0..50).map(|_| ClientConfig::new().backoff().next()).collect();
        assert!(pauses.len() > 25, "{pauses:?}");
    }

    #[test]
    fn the_longest_possible_pauses_do_not_panic() {
        let mut backoff = ClientConfig::new().max_backoff(Duration::MAX).backoff();
        assert!((0..200).map(|_| backoff.next()).is_sorted_by(|a, b| *a / 4 <= *b));
    }

    #[test]
    fn invalid_values_are_refused_by_name() {
        let zero = Duration::ZERO;
        let cases = [
            (ClientConfig::new().conn(ConnConfig::new().send_high_water(0)), "send_high_water"),
            (
                ClientConfig::new().conn(ConnConfig::new().slow_consumer(SlowConsumer::DropOldest)),
                "slow_consumer",
            ),
            (ClientConfig::new().min_backoff(zero), "min_backoff"),
            (ClientConfig::new().max_backoff(Duration::from_millis(99)), "max_backoff"),
            (ClientConfig::new().max_tries(0), "max_tries"),
        ];
        for (config, expected) in cases {
            let error = config.check().unwrap_err();
            assert!(error.is_config() && error.to_string().contains(expected), "{error}");
        }
        assert!(ClientConfig::new().check().is_ok());
    }
}
