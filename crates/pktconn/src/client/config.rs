//! What can be set on a client.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::Reason;
use crate::{ConnConfig, Error, SlowConsumer};

/// The configuration of a [`Client`](crate::Client): that of its connections, and when it connects anew.
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
}

impl ClientConfig {
    /// Soon enough for nobody to notice a server that was restarted.
    const DEFAULT_MIN_BACKOFF: Duration = Duration::from_millis(100);

    /// Seldom enough for 10,000 clients to be a thousand attempts a second at most.
    const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(30);

    /// The defaults, as each setter names them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            conn: ConnConfig::new(),
            min_backoff: Self::DEFAULT_MIN_BACKOFF,
            max_backoff: Self::DEFAULT_MAX_BACKOFF,
            max_tries: None,
        }
    }

    /// Sets the configuration of each connection.
    ///
    /// Its [`send_high_water`](ConnConfig::send_high_water) is also how many bytes the client keeps for the next
    /// connection, beside those in the send queue of the present one; its
    /// [`connect_timeout`](ConnConfig::connect_timeout) holds for each attempt. An
    /// [`idle_timeout`](ConnConfig::idle_timeout), or [keepalive](crate::TcpConfig::keepalive), is how a server that is
    /// gone without a word is noticed. Senders wait where there is no room: another
    /// [`slow_consumer`](ConnConfig::slow_consumer) than [`Block`](SlowConsumer::Block) is refused.
    #[must_use]
    pub fn conn(mut self, conn: ConnConfig) -> Self {
        self.conn = conn;
        self
    }

    /// Sets how long the client waits at least before it connects again. After each attempt that fails it waits twice
    /// as long, and each time up to twice that, at random, for clients not to come all at once.
    ///
    /// Default: 100 ms, so the first pause is one of 100 to 200 ms.
    #[must_use]
    pub fn min_backoff(mut self, delay: Duration) -> Self {
        self.min_backoff = delay;
        self
    }

    /// Sets how long the client waits at most, the random part with it. Not less than `min_backoff`.
    ///
    /// A connection is a success, after which the pauses begin anew, once a packet has come over it, or when it has
    /// lasted for so long. Default: 30 s.
    #[must_use]
    pub fn max_backoff(mut self, delay: Duration) -> Self {
        self.max_backoff = delay;
        self
    }

    /// Sets after how many attempts in a row that fail the client gives up and ends. At least 1. Default: `None`,
    /// never.
    #[must_use]
    pub fn max_tries(mut self, tries: impl Into<Option<u32>>) -> Self {
        self.max_tries = tries.into();
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.conn.check()?;
        let problem = if self.conn.slow_consumer != SlowConsumer::Block {
            "a client has no slow_consumer but Block: what it has accepted is not dropped"
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

    /// The pauses between attempts.
    pub(super) fn backoff(&self) -> Backoff {
        let builder = ExponentialBuilder::new()
            .with_min_delay(self.min_backoff)
            // The random part is up to as much again.
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
    fn a_pause_is_twice_the_one_before_and_up_to_as_much_again_but_never_over_the_most() {
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
    fn pauses_as_long_as_they_get_are_no_panic() {
        let mut backoff = ClientConfig::new().max_backoff(Duration::MAX).backoff();
        assert!((0..200).map(|_| backoff.next()).is_sorted_by(|a, b| *a / 4 <= *b));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
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
