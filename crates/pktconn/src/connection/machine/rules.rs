//! The part of the configuration that the machine uses.

use std::time::Duration;

use pktconn_codec::PacketCodec;

use super::age::MaxAge;
use super::min_rate::MinRate;

/// What to do with a packet when the send queue has no room, because the peer reads too slowly.
///
/// Set it with [`ConnConfig::slow_consumer`](crate::ConnConfig::slow_consumer). Default: [`Block`](Self::Block).
///
/// The queue has no room if it would hold more than [`send_high_water`](crate::ConnConfig::send_high_water) bytes, or
/// if the peer lags behind by more than [`send_max_lag`](crate::ConnConfig::send_max_lag).
///
/// With any policy except `Block`, pktconn sets [`notsent_lowat`](crate::TcpConfig::notsent_lowat) on TCP sockets on
/// Linux. The kernel then holds few unsent bytes, which no policy can drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowConsumer {
    /// `send` waits for room, and `try_send` fails. No packet is lost, and the sender slows down to the speed of the
    /// peer.
    #[default]
    Block,
    /// `send` drops the new packet and does not wait. `try_send` gives the packet back. Use it for packets that are
    /// worthless when late, if earlier packets must still be delivered.
    DropNewest,
    /// The oldest packets are dropped until there is room. A packet that is partly written is never dropped. Use it if
    /// each packet contains the whole current state, so that the peer needs only the latest.
    DropOldest,
    /// The connection ends with an error for which [`is_slow_consumer`](crate::Error::is_slow_consumer) is true. Use it
    /// if losing a single packet is worse than a lost connection, and peers can reconnect and start over.
    Disconnect,
}

/// The timeouts of an established connection.
#[derive(Clone, Debug)]
pub(crate) struct Timeouts {
    pub(crate) close: Duration,
    /// How long a close waits for the peer to close, too, after the peer's kernel has acknowledged everything.
    pub(crate) close_grace: Duration,
    pub(crate) frame: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) write: Option<Duration>,
}

/// The limits on peers that keep within the timeouts. All are off by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) first_packet: Option<Duration>,
    pub(crate) recv_rate: Option<MinRate>,
    pub(crate) send_rate: Option<MinRate>,
    pub(crate) max_age: Option<MaxAge>,
}

/// The settings that all connections with the same configuration share.
pub(crate) struct Rules {
    /// The codec in its initial state, as at the start of a stream.
    pub(crate) codec: PacketCodec,
    pub(crate) timeouts: Timeouts,
    /// `None` if all limits are off.
    pub(crate) limits: Option<Box<Limits>>,
    /// Whether a wait between frames may have a deadline: there is an `idle_timeout` or a `first_packet_timeout`.
    pub(crate) times_silence: bool,
    pub(crate) slow_consumer: SlowConsumer,
    pub(crate) send_high_water: usize,
    /// Whether this side may keep sending after the peer has closed its side.
    pub(crate) half_close: bool,
}

impl Rules {
    /// Whether a wait for the rest of a frame has a deadline.
    #[inline]
    pub(crate) fn times_frames(&self) -> bool {
        self.timeouts.frame.is_some() || self.recv_rate().is_some()
    }

    #[inline]
    pub(crate) fn first_packet(&self) -> Option<Duration> {
        self.limits.as_ref()?.first_packet
    }

    #[inline]
    pub(crate) fn recv_rate(&self) -> Option<MinRate> {
        self.limits.as_ref()?.recv_rate
    }

    #[inline]
    pub(crate) fn send_rate(&self) -> Option<MinRate> {
        self.limits.as_ref()?.send_rate
    }
}
