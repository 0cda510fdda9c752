//! What is configured, as far as the machine looks at it.

use std::time::Duration;

use pktconn_codec::PacketCodec;

/// What to do with a packet that finds no room in the send queue: see
/// [`ConnConfig::slow_consumer`](crate::ConnConfig::slow_consumer).
///
/// There is no room where the queue would hold more than [`send_high_water`](crate::ConnConfig::send_high_water) bytes,
/// or where the peer lags behind by more than [`send_max_lag`](crate::ConnConfig::send_max_lag).
///
/// With any policy but `Block`, a TCP socket on Linux is given [`notsent_lowat`](crate::TcpConfig::notsent_lowat), so
/// that few unsent bytes stand in the kernel, where no policy reaches them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowConsumer {
    /// `send` waits, and `try_send` refuses. Nothing is lost; the sender goes at the peer's pace.
    #[default]
    Block,
    /// `send` drops the new packet and does not wait; `try_send` gives it back. For packets that are worth nothing when
    /// they come late, and where earlier packets must still be delivered.
    DropNewest,
    /// The oldest packets that the transport has taken nothing of are dropped until there is room. For a state that
    /// each packet tells anew: the peer gets the latest.
    DropOldest,
    /// The connection ends, with [`is_slow_consumer`](crate::Error::is_slow_consumer). For peers that may come back and
    /// start over, where losing one packet would be worse.
    Disconnect,
}

/// The deadlines of a connection that was made.
#[derive(Clone, Debug)]
pub(crate) struct Timeouts {
    pub(crate) close: Duration,
    /// How long a close waits for the peer's own, once its kernel has everything.
    pub(crate) close_grace: Duration,
    pub(crate) frame: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) write: Option<Duration>,
}

/// What holds for all connections of one configuration.
pub(crate) struct Rules {
    /// At the start of a stream.
    pub(crate) codec: PacketCodec,
    pub(crate) timeouts: Timeouts,
    pub(crate) slow_consumer: SlowConsumer,
    pub(crate) send_high_water: usize,
    /// Whether sending goes on after the peer has closed its side.
    pub(crate) half_close: bool,
}
