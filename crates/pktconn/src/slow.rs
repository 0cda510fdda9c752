//! What becomes of packets that a peer is too slow for.

use std::time::Duration;

use pktconn_codec::PacketCodec;
use tokio::time::Instant;

use crate::ConnConfig;
use crate::error::Reason;
use crate::state::State;

/// What becomes of a packet that finds no room in the outbox: see [`ConnConfig::slow_consumer`].
///
/// There is no room where the outbox would hold more than [`send_high_water`](ConnConfig::send_high_water) bytes, or where
/// the peer lags behind by more than [`send_max_lag`](ConnConfig::send_max_lag).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowConsumer {
    /// `send` waits, and `try_send` refuses. Nothing is lost; the sender goes at the peer's pace.
    #[default]
    Block,
    /// The packet itself is dropped by `send`, which does not wait; `try_send` gives it back. For packets that are worth
    /// nothing when they come late, and where those that were sent before are to be delivered.
    DropNewest,
    /// The oldest packets that the transport has taken nothing of are dropped until there is room. For a state that each
    /// packet tells anew: the peer gets the latest.
    DropOldest,
    /// The connection ends, with [`is_slow_consumer`](crate::Error::is_slow_consumer). For peers that may come back and
    /// begin anew, where losing one packet would be worse.
    Disconnect,
}

/// Since when a peer lags behind, and for how long it may.
#[derive(Debug)]
pub(crate) struct Lag {
    max: Duration,
    /// Since when the transport has not taken all that was there for it.
    since: Option<Instant>,
}

impl Lag {
    /// `None` where it does not matter.
    pub(crate) fn new(config: &ConnConfig) -> Option<Self> {
        Some(Self { max: config.send_max_lag?, since: None })
    }

    /// The transport was offered what there was.
    pub(crate) fn wrote(&mut self, all: bool) {
        if all {
            self.since = None;
        } else {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// When it is too much. A time beyond what the clock can say is none.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.since?.checked_add(self.max)
    }
}

impl State {
    /// Whether the peer lags behind for longer than it may.
    pub(crate) fn lags(&self) -> bool {
        self.lag.as_ref().and_then(|lag| lag.due()).is_some_and(|due| due <= Instant::now())
    }

    /// When the connection ends because its peer lags behind.
    pub(crate) fn lag_due(&self) -> Option<Instant> {
        self.lag.as_ref().filter(|_| self.slow_consumer == SlowConsumer::Disconnect)?.due()
    }

    /// Makes room for a frame of `len` bytes that has none, where that can be had or the policy makes it. [`Reason::Full`]
    /// where it is to wait or to be dropped.
    #[cold]
    pub(crate) fn make_room(&mut self, len: usize, codec: &PacketCodec) -> Result<(), Reason> {
        // Nobody is slow who was not offered what there is.
        self.write_all_now();
        self.check_open()?;
        if self.has_room(len) {
            return Ok(());
        }
        match self.slow_consumer {
            SlowConsumer::Block | SlowConsumer::DropNewest => Err(Reason::Full),
            SlowConsumer::DropOldest => {
                let target = if self.lags() { 0 } else { self.send_high_water.saturating_sub(len) };
                let dropped = self.outbox.drop_oldest(target, codec, |packet| self.later.drop(packet));
                self.dropped(dropped);
                Ok(())
            }
            SlowConsumer::Disconnect => Err(self.disconnect_slow()),
        }
    }

    /// Ends the connection of a peer that is too slow.
    pub(crate) fn disconnect_slow(&mut self) -> Reason {
        let reason = Reason::SlowConsumer { queued: self.outbox.len() };
        self.fail(reason.clone());
        self.end();
        reason
    }
}
